"""The data set `scenes` as files: read by the ordinary reader, the same whenever drawn, its truth complete."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from cusa.errors import ConfigError, DataError
from cusa.pipeline import readers
from cusa.pipeline.config import ScenesConfig
from cusa.pipeline.scenes import stage as scenes
from cusa.pipeline.scenes.captions import draw_captions
from cusa.pipeline.scenes.meaning import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, is_true, truth_matrix

SMALL = ScenesConfig(train=12, val=3, test=6)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    assert scenes.run(SMALL, out=out) == out / "dataset_scenes.json"
    return out


def test_it_is_a_data_set_like_any_other(drawn: Path) -> None:
    reading = readers.read("karpathy", drawn / "dataset_scenes.json", drawn)
    assert reading.dataset == "scenes"
    assert reading.drops == []
    assert [record.split for record in reading.images] == ["train"] * 12 + ["val"] * 3 + ["test"] * 6
    assert [record.key for record in reading.images] == [f"scenes/{n:012d}" for n in range(21)]
    for record in reading.images:
        assert len(record.captions) == 5
        with Image.open(drawn / record.source) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (96, 96), "RGB")
    ids = [caption.caption_id for record in reading.images for caption in record.captions]
    assert ids == [str(n) for n in range(105)]


def test_the_annotation_has_karpathys_schema(drawn: Path) -> None:
    content = json.loads((drawn / "dataset_scenes.json").read_text())
    assert set(content) == {"images", "dataset"}
    for row in content["images"]:
        assert set(row) == {"filepath", "filename", "imgid", "split", "sentids", "sentences"}
        assert row["sentids"] == [sentence["sentid"] for sentence in row["sentences"]]
        for sentence in row["sentences"]:
            assert set(sentence) == {"tokens", "raw", "imgid", "sentid"}
            assert sentence["imgid"] == row["imgid"]
            assert " ".join(sentence["tokens"]) == "".join(c for c in sentence["raw"].lower() if c not in ",.")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(drawn: Path, tmp_path: Path) -> None:
    scenes.run(SMALL, out=tmp_path / "again")
    scenes.run(SMALL.model_copy(update={"seed": 1}), out=tmp_path / "other")
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*") if path.is_file())
    assert len(files) == 21 + 2
    for file in files:
        assert (drawn / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (drawn / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_another_training_size_leaves_the_test_images_as_they_were(drawn: Path, tmp_path: Path) -> None:
    scenes.run(ScenesConfig(train=5, val=1, test=6), out=tmp_path)
    before = [path.read_bytes() for path in sorted((drawn / "images/test").iterdir())]
    assert [path.read_bytes() for path in sorted((tmp_path / "images/test").iterdir())] == before


def test_truth_has_every_true_pair_and_no_other(drawn: Path) -> None:
    numbers, shown, claims = scenes.load_meanings(drawn, "train")
    table = scenes.load_truth(drawn, "train")
    expected = [
        (f"scenes/{number:012d}", f"scenes/{owner:012d}#{position}")
        for number, scene in zip(numbers, shown, strict=True)
        for owner, own in zip(numbers, claims, strict=True)
        for position, claim in enumerate(own)
        if is_true(claim, scene)
    ]
    found = list(zip(*(table[name].to_pylist() for name in ("image_key", "caption_key")), strict=True))
    assert found == expected
    assert table.column_names == ["image_key", "caption_key"]
    assert {(image, f"{image}#{n}") for image, _ in found for n in range(5)} <= set(found)


def test_blocks_of_rows_find_what_the_whole_matrix_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(9)
    shown = [scenes.draw_meaning(rng) for _ in range(23)]
    claims = [claim for scene in shown for _, claim in draw_captions(scene, rng)]
    monkeypatch.setattr(scenes, "_ROWS_A_BLOCK", 7)
    rows, columns = scenes.true_pairs(shown, claims)
    expected = np.nonzero(truth_matrix(shown, claims))
    assert (rows == expected[0]).all()
    assert (columns == expected[1]).all()


def test_a_batch_of_128_has_one_to_five_false_negatives_a_row() -> None:
    """Measured as training meets them: random pairs of the default training split's size, several batches."""
    rng = Random(0)
    shown = [scenes.draw_meaning(rng) for _ in range(4000)]
    claims = [[claim for _, claim in draw_captions(scene, rng)] for scene in shown]
    counts = []
    for _ in range(40):
        batch = rng.sample(range(4000), 128)
        truth = truth_matrix([shown[i] for i in batch], [rng.choice(claims[i]) for i in batch])
        assert truth.diagonal().all()
        counts.append((truth.sum() - 128) / 128)
    assert 1.5 < np.mean(counts) < 4.5  # 3.0 when written
    assert min(counts) > 1
    assert max(counts) < 5


def test_progress_is_told(tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []
    scenes.run(SMALL, out=tmp_path, on_event=lambda *event: events.append(event))
    assert events[0] == ("draw", 0, 21)
    assert events[-1] == ("draw", 21, 21)


def test_an_unknown_split_or_a_broken_file_is_named(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        scenes.load_truth(drawn, "tests")
    with pytest.raises(DataError, match=r"meanings\.jsonl does not exist"):
        scenes.load_truth(tmp_path, "test")
    (tmp_path / "meanings.jsonl").write_text((drawn / "meanings.jsonl").read_text()[:1000])
    with pytest.raises(DataError, match="broken"):
        scenes.load_truth(tmp_path, "train")


def test_drawing_needs_no_torch() -> None:
    code = "import sys, cusa.pipeline.scenes.stage; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_data_set_is_the_same_in_every_version(drawn: Path) -> None:
    """Figures on `scenes` are compared across versions, so what is drawn and said there must not change unseen.

    Pictures are left out: their last bits are the JPEG library's.
    """
    digests = {
        "meanings.jsonl": "1b7553e5e82586c0e8d32ca6c76aa106564b0689abcb468de092a5784bdf8597",
        "dataset_scenes.json": "f246e3b05ce2751373aa57328417cdeef939ccc3e809c3d7b55fec43ca7af467",
    }
    assert {name: hashlib.sha256((drawn / name).read_bytes()).hexdigest() for name in digests} == digests


def test_common_things_are_common() -> None:
    """As often as their weights say, in tens of thousands of things."""
    rng = Random(1)
    shown = [scenes.draw_meaning(rng) for _ in range(9000)]
    things = [thing for scene in shown for thing in scene.things]
    assert len(things) / len(shown) == pytest.approx(2, abs=0.05)
    for values, names, weights in (
        ([thing.shape for thing in things], SHAPES, (22, 18, 15, 13, 11, 9, 7, 5)),
        ([thing.colour for thing in things], COLOURS, (22, 18, 15, 13, 11, 9, 7, 5)),
        ([thing.texture for thing in things], TEXTURES, (46, 18, 18, 18)),
        ([thing.size for thing in things], SIZES, (50, 50)),
        ([scene.background for scene in shown], BACKGROUNDS, (24, 21, 17, 15, 13, 10)),
    ):
        shares = [100 * values.count(name) / len(values) for name in names]
        assert shares == pytest.approx(list(weights), abs=1.5)
