"""The stage that looks for wrong pairs of the data set itself."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements.own_pairs import FOLDER, TABLE
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import PairsConfig
from cusa.pipeline.own_pairs import gallery, issues
from cusa.pipeline.own_pairs.better import better_captions
from cusa.pipeline.own_pairs.caption_faults import images_with_the_words
from cusa.pipeline.own_pairs.features import NEIGHBOURS, PairEvidence
from cusa.pipeline.own_pairs.planted import WrongPairs, find_wrong_pairs
from cusa.pipeline.own_pairs.reasons import reasons
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, digests, open_neighbourhoods

_FLOAT_COLUMNS = ("sibling_mean", "sibling_best", "caption_neighbours", "image_neighbours", "cross_modal")

WAYS: Mapping[str, str] = {
    "caption_alone": "One caption is from anywhere",
    "look_alike": "One caption is of an image that looks alike",
    "whole_image": "All captions of an image are from elsewhere",
}
"""The ways of being wrong, in words."""


def run(
    config: PairsConfig,
    *,
    split: Split,
    encoders: Encoders = Encoders(),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write `audit/pairs/pairs.parquet` (the most probably wrong first), `gallery.html` and `summary.json` of a split.

    Reads `issues.parquet`, which `cusa.pipeline.own_pairs.issues.run` writes, for the faults among the reasons.

    Args:
        config: how many better captions are named, and how many pairs are shown.
        split: the split; `cusa index` has run on its teachers.
        encoders: which teachers to use, see `cusa.pipeline.pairs.neighbourhoods.choose`; a student is not used.
        force: look again even if nothing changed.
        on_event: called at the start and the end.

    Returns:
        The outcome; counts has the pairs and those more probably wrong than not; notes are the summary in sentences.

    Raises:
        DataError: if there is no text teacher, the split has no caption, or a table is missing or broken.
        StaleError: if a neighbour or teacher table belongs to another state of the split.
    """
    folder = split.folder / FOLDER
    chosen = choose(split, Encoders(encoders.image, encoders.text))
    if not chosen.text:
        raise DataError(
            f"{split.folder} has no text teacher, and captions cannot be compared without one. Run `cusa "
            f"extract-teachers {split.work} --text TEACHER`, then `cusa index {split.work}`.",
            split=split.name,
        )
    if not split.num_captions:
        raise DataError(f"{split.folder} has no captions, so it has no pairs to look at.", split=split.name)
    inputs = {"split": split.digest, **digests(split, chosen), "issues": store.sha256_file(folder / issues.TABLE)}
    parameters = {**config.model_dump(), **asdict(chosen)}
    stage = StageRun("pairs", folder / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse(notes=sentences(store.read_json(folder / "summary.json")))
    with stage.begin(unless_held=split.locks):
        what = f"pairs of {split.name}"
        on_event(what, 0, split.num_captions)
        owner = split.caption_owner
        opened = open_neighbourhoods(split, chosen, depth=NEIGHBOURS)
        assert opened.texts is not None
        evidence = PairEvidence(owner, num_images=split.num_images, images=opened.images, texts=opened.texts)
        near = opened.images.near if opened.images is not None else None
        wrong = find_wrong_pairs(evidence, owner, num_images=split.num_images, near_images=near, seed=config.seed)
        better = better_captions(wrong, evidence, owner, near_images=near, number=config.better)
        named = reasons(wrong, _faults(split))
        order = np.argsort(-np.nan_to_num(wrong.p_wrong_M), kind="stable")
        metadata = {"split": split.digest, "image_teacher": chosen.image, "text_teacher": chosen.text}
        table = _table(split, wrong, better, named, order).replace_schema_metadata(metadata)
        files = [folder / name for name in (TABLE, "summary.json", "gallery.html")]
        store.write_table(files[0], table)
        summary = summarise(split, wrong, teachers={"image": chosen.image, "text": chosen.text})
        store.write_json(files[1], summary)
        shown = [_card(split, wrong, better, named, int(row)) for row in order[: config.gallery]]
        gallery.write(files[2], split=split, cards=shown, summary=summary, sentences=sentences(summary))
        on_event(what, split.num_captions, split.num_captions)
        counts = {"pairs": split.num_captions, "probably_wrong": summary["probably_wrong"]}
        return stage.finish(outputs=files, counts=counts, notes=sentences(summary))


def summarise(split: Split, wrong: WrongPairs, *, teachers: Mapping[str, str]) -> dict[str, Any]:
    """Return what the probabilities come to: the expected number of wrong pairs and where they lie."""
    known = wrong.p_wrong_M[np.isfinite(wrong.p_wrong_M)]
    ways = {name: getattr(wrong, name) for name in WAYS}
    sources = split.source_rows if len(split.source_rows) > 1 else {}
    return {
        "pairs": split.num_captions,
        "images": split.num_images,
        "teachers": {modality: name or None for modality, name in teachers.items()},
        "expected_wrong": float(known.sum()) if len(known) else None,
        "probably_wrong": int((known > 0.5).sum()),
        "histogram": np.histogram(known, bins=10, range=(0, 1))[0].tolist(),
        "by_source": {source: _of_source(wrong.p_wrong_M[rows]) for source, rows in sources.items()},
        "ways": {
            name: None if way is None else {"share": way.share, "separation": way.separation}
            for name, way in ways.items()
        },
        "folder": str(split.folder / FOLDER),
        "command": f"cusa review {split.work} --split {split.name} --pairs",
    }


def _of_source(p_wrong: np.ndarray) -> dict[str, float | None]:
    known = p_wrong[np.isfinite(p_wrong)]
    return {
        "pairs": len(p_wrong),
        "expected_wrong": float(known.sum()) if len(known) else None,
        "probably_wrong": int((known > 0.5).sum()),
    }


def sentences(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a summary in full sentences, for a person."""
    if summary["expected_wrong"] is None:
        return ("The split is too small to tell wrong pairs from right ones; evidence and faults are listed.",)
    ways = summary["ways"]
    out = [
        f"Of {summary['pairs']:,} pairs about {summary['expected_wrong']:,.0f} are wrong "
        f"({summary['expected_wrong'] / summary['pairs']:.2%}); {summary['probably_wrong']:,} are more probably wrong "
        f"than right. Look at {summary['folder']}/gallery.html, or judge them with `{summary['command']}`."
    ]
    parts = [
        f"{source} {of_source['expected_wrong']:,.0f} of {of_source['pairs']:,} "
        f"({of_source['expected_wrong'] / of_source['pairs']:.2%})"
        for source, of_source in summary.get("by_source", {}).items()
        if of_source["expected_wrong"] is not None
    ]
    if parts:
        out.append(f"By the source of the caption about so many are wrong: {', '.join(parts)}.")
    out += [
        f"{words}: {ways[name]['share']:.2%} of them, told from pairs made wrong so with an area under the curve of "
        f"{ways[name]['separation']:.3f}."
        for name, words in WAYS.items()
        if ways[name] is not None
    ]
    if summary["teachers"]["image"] is None:
        out.append("No image teacher was used: captions are compared with their siblings alone.")
    return tuple(out)


def _faults(split: Split) -> dict[int, list[str]]:
    """Return the faults of each caption and of its picture, by caption row."""
    table = store.read_table(split.folder / FOLDER / issues.TABLE, columns=["modality", "key", "issue"])
    of_image: dict[str, list[str]] = {}
    faults: dict[int, list[str]] = {}
    for modality, key, issue in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        if modality == "image":
            of_image.setdefault(key, []).append(issue)
        else:
            faults.setdefault(split.caption_row[key], []).append(issue)
    if of_image:
        for row, owner in enumerate(split.caption_owner.tolist()):
            if split.image_keys[owner] in of_image:
                faults.setdefault(row, []).extend(of_image[split.image_keys[owner]])
    return faults


def _table(
    split: Split, wrong: WrongPairs, better: Mapping[int, np.ndarray], named: list[list[str]], order: np.ndarray
) -> pa.Table:
    keys = pa.array(split.caption_keys, pa.string())
    repeated = images_with_the_words(split.caption_owner, issues.cleaned_words(split))
    columns: dict[str, Any] = {
        "image_key": pa.array(split.image_keys, pa.string()).take(pa.array(split.caption_owner[order])),
        "caption_key": keys.take(pa.array(order)),
        "p_wrong": pa.array(wrong.p_wrong_M[order], pa.float32(), from_pandas=True),
        "reasons": pa.array([named[row] for row in order.tolist()], pa.list_(pa.string())),
    }
    for name in _FLOAT_COLUMNS:
        values = wrong.evidence_MF[order, wrong.names.index(name)] if name in wrong.names else [None] * len(order)
        columns[name] = pa.array(values, pa.float32(), from_pandas=True)
    columns["images_with_words"] = pa.array(repeated[order])
    columns["better_caption_keys"] = pa.array(
        [[split.caption_keys[other] for other in better.get(row, ())] for row in order.tolist()], pa.list_(pa.string())
    )
    return pa.table(columns, schema=schemas.PAIRS)


def _card(
    split: Split, wrong: WrongPairs, better: Mapping[int, np.ndarray], named: list[list[str]], row: int
) -> gallery.Card:
    return gallery.Card(row, float(wrong.p_wrong_M[row]), tuple(named[row]), tuple(better.get(row, ())))
