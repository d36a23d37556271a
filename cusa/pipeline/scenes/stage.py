"""The embedded data set `scenes`: drawn images whose every true caption is known.

It is written in the layout of a data set that was downloaded: JPEG files and Karpathy's JSON. Beside them lie the
meanings of all images and captions, from which `load_truth` finds every true pair, own or not.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import keys, schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.storage import store
from cusa.pipeline.config import ScenesConfig
from cusa.pipeline.scenes.captions import CAPTIONS, draw_captions
from cusa.pipeline.scenes.meaning import (
    BACKGROUNDS,
    COLOURS,
    MOST_THINGS,
    SHAPES,
    SIZES,
    TEXTURES,
    Claim,
    Scene,
    Thing,
    claim_from_json,
    claim_to_json,
    scene_from_json,
    scene_to_json,
    truth_matrix,
)
from cusa.pipeline.scenes.pictures import draw_scene

DATASET = "scenes"
ANNOTATION = "dataset_scenes.json"
MEANINGS = "meanings.jsonl"

_JPEG_QUALITY = 90
_ROWS_A_BLOCK = 200
# Some shapes, colours and backgrounds are common and some are rare, as in photographs; common ones make the false
# negatives: about two in a row of 128.
_SHAPE_WEIGHTS = (22, 18, 15, 13, 11, 9, 7, 5)
_COLOUR_WEIGHTS = (22, 18, 15, 13, 11, 9, 7, 5)
_BACKGROUND_WEIGHTS = (24, 21, 17, 15, 13, 10)
_TEXTURE_WEIGHTS = (46, 18, 18, 18)


def run(config: ScenesConfig, *, out: Path, on_event: OnEvent = ignore) -> Path:
    """Draw the data set into a folder.

    An image depends on the seed, its split and its number in the split and on nothing else: a smaller training split
    leaves the test split as it was.

    Args:
        config: seed, images a split, pixels a side.
        out: the folder to fill: `images/<split>/<imgid>.jpg`, `dataset_scenes.json`, `meanings.jsonl`.
        on_event: called with ("draw", images drawn, images in all).

    Returns:
        The annotation file, as `cusa shard karpathy` takes it; its images start from `out`.
    """
    total = config.train + config.val + config.test
    rows: list[dict[str, Any]] = []
    meanings: list[str] = []
    on_event("draw", 0, total)
    for imgid, (split, number) in enumerate(_numbered(config)):
        rng = Random(f"scenes/{config.seed}/{split}/{number}")
        scene = draw_meaning(rng)
        captions = draw_captions(scene, rng)
        picture = draw_scene(scene, size=config.size, rng=rng)
        path = out / "images" / split / f"{imgid:012d}.jpg"
        if number == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=_JPEG_QUALITY, subsampling=0)
        rows.append(_annotation(imgid, split, path.name, [text for text, _ in captions]))
        meanings.append(_meaning_line(imgid, split, scene, [claim for _, claim in captions]))
        if (imgid + 1) % 100 == 0 or imgid + 1 == total:
            on_event("draw", imgid + 1, total)
    store.write_text(out / MEANINGS, "".join(meanings))
    annotation = json.dumps({"images": rows, "dataset": DATASET}, separators=(",", ":"))
    store.write_text(out / ANNOTATION, annotation + "\n")
    return out / ANNOTATION


def draw_meaning(rng: Random) -> Scene:
    """Draw what a scene shows: one to three things in different cells, a background.

    Args:
        rng: the scene's own source of chance.
    """
    number = rng.randint(1, MOST_THINGS)
    cells = rng.sample([(column, row) for row in range(3) for column in range(3)], number)
    things = tuple(
        Thing(
            _choose(SHAPES, _SHAPE_WEIGHTS, rng),
            _choose(COLOURS, _COLOUR_WEIGHTS, rng),
            rng.choice(SIZES),
            _choose(TEXTURES, _TEXTURE_WEIGHTS, rng),
            column,
            row,
        )
        for column, row in cells
    )
    return Scene(things, _choose(BACKGROUNDS, _BACKGROUND_WEIGHTS, rng))


def load_meanings(folder: Path, split: str) -> tuple[list[int], list[Scene], list[list[Claim]]]:
    """Read what the images of a split show and what their captions claim.

    Args:
        folder: the folder `run` filled.
        split: `train`, `val` or `test`.

    Returns:
        Per image its number, its scene and its five claims, in the data set's order.

    Raises:
        DataError: if the file is missing or broken.
        ConfigError: if there is no such split.
    """
    path = folder / MEANINGS
    numbers, scenes, claims, seen = [], [], [], set()
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                seen.add(row["split"])
                if row["split"] == split:
                    numbers.append(int(row["imgid"]))
                    scenes.append(scene_from_json(row["scene"]))
                    claims.append([claim_from_json(claim) for claim in row["claims"]])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Draw it: `cusa download scenes`.", path=path) from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is broken ({error!r}). Draw it again: `cusa download scenes --force`.", path=path
        ) from error
    if not numbers:
        raise ConfigError(f"There is no split {split!r} in {path}. {nearest(split, seen)}", split=split)
    return numbers, scenes, claims


def load_truth(folder: Path, split: str) -> pa.Table:
    """Find every true pair of an image and a caption of one split, the images' own captions included.

    Args:
        folder: the folder `run` filled.
        split: `train`, `val` or `test`.

    Returns:
        image_key, caption_key (schema `TRUTH`), ordered by image and then by caption.

    Raises:
        DataError: if the meanings are missing or broken.
        ConfigError: if there is no such split.
    """
    numbers, scenes, claims = load_meanings(folder, split)
    image_keys = [keys.image_key(DATASET, f"{number:012d}") for number in numbers]
    caption_keys = [
        keys.caption_key(key, position)
        for key, own in zip(image_keys, claims, strict=True)
        for position in range(len(own))
    ]
    rows, columns = true_pairs(scenes, [claim for own in claims for claim in own])
    table = {
        "image_key": pa.array(image_keys, pa.string()).take(pa.array(rows)),
        "caption_key": pa.array(caption_keys, pa.string()).take(pa.array(columns)),
    }
    return pa.table(table, schema=schemas.TRUTH)


def true_pairs(scenes: Sequence[Scene], claims: Sequence[Claim]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns where `truth_matrix` is true, in row blocks that need little memory."""
    rows, columns = [], []
    for start in range(0, len(scenes), _ROWS_A_BLOCK):
        true = np.nonzero(truth_matrix(scenes[start : start + _ROWS_A_BLOCK], claims))
        rows.append(true[0] + start)
        columns.append(true[1])
    return np.concatenate(rows), np.concatenate(columns)


def _numbered(config: ScenesConfig) -> Iterator[tuple[str, int]]:
    for split, count in (("train", config.train), ("val", config.val), ("test", config.test)):
        for number in range(count):
            yield split, number


def _choose(names: Sequence[str], weights: Sequence[int], rng: Random) -> str:
    return rng.choices(names, weights)[0]


def _annotation(imgid: int, split: str, filename: str, texts: Sequence[str]) -> dict[str, Any]:
    sentids = [imgid * CAPTIONS + position for position in range(CAPTIONS)]
    return {
        "filepath": f"images/{split}",
        "filename": filename,
        "imgid": imgid,
        "split": split,
        "sentids": sentids,
        "sentences": [
            {
                "tokens": text.lower().replace(",", "").rstrip(".").split(),
                "raw": text,
                "imgid": imgid,
                "sentid": sentid,
            }
            for text, sentid in zip(texts, sentids, strict=True)
        ],
    }


def _meaning_line(imgid: int, split: str, scene: Scene, claims: Sequence[Claim]) -> str:
    value = {
        "imgid": imgid,
        "split": split,
        "scene": scene_to_json(scene),
        "claims": [claim_to_json(claim) for claim in claims],
    }
    return json.dumps(value, separators=(",", ":")) + "\n"
