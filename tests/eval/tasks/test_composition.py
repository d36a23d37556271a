"""Composition and robustness of a student whose embeddings are known, against plain loops."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.encode import embed_texts, encode
from cusa.eval.evidence import Evidence
from cusa.eval.scores import Table
from cusa.eval.tasks import metrics
from cusa.eval.tasks.composition import composition, edits, preferences
from cusa.eval.tasks.task import Embedded
from cusa.manifests.judgements.altered_captions import AlteredCaptions
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.edits.rules import RULES, TITLES
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer
from tests.manifests.judgements.test_altered_captions import ROCOCO, write

CONFIG = EvalConfig(batch_size=7, block=5, ks=(1, 3), top=4, bootstrap=30)


def test_composition__equals_plain_loops(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=9, captions=3), "test")
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", tasks=["composition"])
    task = result["tasks"]["composition"]

    student = Seer()
    seen = encode(student, split, CONFIG)
    own = {image: np.flatnonzero(split.caption_owner == image).tolist() for image in range(9)}
    made, shares = [], {}
    for kind, rule in RULES.items():
        won = []
        for image, captions in own.items():
            row = next((row for row in captions if rule(split.texts[row])), None)
            if row is None:
                continue
            words = rule(split.texts[row])
            edited = embed_texts(student, [words], CONFIG)["cross"][0]
            made.append(edited)
            picture = seen.image["cross"][image]
            won.append(float(picture @ seen.text["cross"][row]) > float(picture @ edited))
        if won:
            shares[kind] = 100 * sum(won) / len(won)
    assert set(shares) >= {"colour"}, "a world that a rule fits"
    for kind, share in shares.items():
        assert task["metrics"][f"{kind}/preferred"] == pytest.approx(share, abs=1e-3)
        low, high = task["intervals"][f"{kind}/preferred"]
        assert low <= share <= high
    assert task["metrics"]["preferred"] == pytest.approx(np.mean(list(shares.values())), abs=1e-3)

    hits, false = [], []
    for image, captions in own.items():
        picture = seen.image["cross"][image]
        right = max(float(picture @ seen.text["cross"][row]) for row in captions)
        others = [float(picture @ rows) for row, rows in enumerate(seen.text["cross"]) if row not in captions]
        wrong = [float(picture @ edited) for edited in made]
        hits.append(all(right > score for score in others + wrong))
        false.append(max(wrong) > max([right, *others]))
    assert task["metrics"]["among-edits/r@1"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
    assert task["metrics"]["among-edits/false_first"] == pytest.approx(100 * np.mean(false), abs=1e-3)
    assert task["metrics"]["among-edits/r@1"] <= task["metrics"]["among-edits/r@3"]
    rows = pq.read_table(tmp_path / "eval" / "per_query.parquet").to_pylist()
    assert len(rows) == 9
    assert any("~colour" in key for row in rows for key in row["top_keys"])
    for name in task["metrics"]:
        assert metrics.named(name).metric in metrics.METRICS, name
        assert metrics.title(name)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_composition__one_edited_caption_that_stands_first_is_counted(tmp_path: Path, which: int) -> None:
    """Whichever of them: the first one's number in the gallery is that of all captions."""
    split = worlds.open_split(worlds.make_work(tmp_path, images=4, captions=2), "test")
    made = edits(split)
    image_ID, caption_CD = np.eye(4, dtype=np.float32), np.full((8, 4), 0.1, np.float32)
    edit_ED = np.zeros((len(made), 4), np.float32)
    edit_ED[which] = image_ID[split.caption_owner[made[which].caption]]
    seen = Embedded(
        *(CONFIG, Evidence.open(split), {"cross": image_ID}, {"cross": caption_CD}),
        **{"scores": Table(image_ID @ caption_CD.T), "score": "cosines", "uni": "cross", "uni_words": ""},
        texts={"composition": edit_ED},
    )
    assert composition(seen).summary["metrics"]["among-edits/false_first"] == 25


def test_edits__are_of_each_picture_the_first_caption_that_fits(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=4, captions=2), "test")
    colours = [edit for edit in edits(split) if edit.kind == "colour"]
    assert [int(split.caption_owner[edit.caption]) for edit in colours] == [0, 1, 2, 3]
    assert [edit.caption % 2 for edit in colours] == [0, 0, 0, 0]
    assert all(edit.text != split.texts[edit.caption] for edit in colours)


def test_preferences__a_kind_of_few_edits_counts_as_much_in_the_mean() -> None:
    preferred = np.array([True, True, True, False])
    kinds = np.array(["colour", "colour", "colour", "swap"])
    numbers, spans, chances = preferences(preferred, kinds, np.array([4, 7, 9, 4]), CONFIG)
    assert numbers == {"colour/preferred": 100.0, "swap/preferred": 0.0, "preferred": 50.0}
    assert spans["colour/preferred"] == [100.0, 100.0]
    assert set(chances.values()) == {50.0}


def test_composition__sentences_that_no_rule_fits_say_so(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=3), "test")
    rows = [{**row, "text": "Etwas anderes."} for row in split.captions.to_pylist()]
    store.write_table(split.folder / "captions.parquet", split.captions.from_pylist(rows, split.captions.schema))
    split = worlds.open_split(split.work, "test")
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", tasks=["composition"])
    assert "no caption fits a rule" in result["tasks"]["composition"]["unavailable"]


def test_titles__every_kind_of_edit_may_stand_before_a_metric() -> None:
    assert set(TITLES) <= set(metrics.WAYS)
    assert metrics.title("colour/preferred") == "another colour: true caption preferred"


def _coco(folder: Path) -> Split:
    """Return a test split whose images are called as COCO's, 12 to 17."""
    split = worlds.open_split(worlds.make_work(folder, images=6, captions=5), "test")
    new = [f"coco/{12 + row:012d}" for row in range(6)]
    samples = [{**row, "key": key} for row, key in zip(split.samples.to_pylist(), new, strict=True)]
    owner = split.caption_owner.tolist()
    captions = [
        {**row, "key": new[owner[at]], "caption_key": f"{new[owner[at]]}#{row['position']}"}
        for at, row in enumerate(split.captions.to_pylist())
    ]
    for name, rows, table in (("samples", samples, split.samples), ("captions", captions, split.captions)):
        store.write_table(split.folder / f"{name}.parquet", table.from_pylist(rows, table.schema))
    return worlds.open_split(split.work, "test")


def test_sugarcrepe__equals_plain_loops(tmp_path: Path) -> None:
    split, student = _coco(tmp_path), Seer()
    colours = list(worlds.COLOURS)
    files = {
        kind: {
            str(n): {
                "filename": f"{12 + n % 7:012d}.jpg",  # 18 is no image of the split
                "caption": f"A {colours[n % 4]} wall, {kind} {n}.",
                "negative_caption": f"A {colours[(n + 1) % 4]} wall, {kind} {n}.",
            }
            for n in range(number)
        }
        for kind, number in (("swap_att", 9), ("add_obj", 5))
    }
    altered = AlteredCaptions(write(tmp_path / "files", **files), "sugarcrepe")
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", altered=[altered])
    task = result["tasks"]["sugarcrepe"]
    pictures = encode(student, split, CONFIG).image["cross"]
    shares = {}
    for kind, entries in files.items():
        won = []
        for entry in entries.values():
            image = int(entry["filename"][:-4]) - 12
            if image < 6:
                true, false = embed_texts(student, [entry["caption"], entry["negative_caption"]], CONFIG)["cross"]
                won.append(float(pictures[image] @ true) > float(pictures[image] @ false))
        shares[kind] = 100 * sum(won) / len(won)
    assert {f"{kind}/preferred": share for kind, share in shares.items()}.items() <= {
        name: pytest.approx(value, abs=1e-3) for name, value in task["metrics"].items()
    }.items()
    assert task["metrics"]["preferred"] == pytest.approx(np.mean(list(shares.values())), abs=1e-3)
    assert "13 of 14 entries are of images of this split" in task["protocol"]


def test_rococo__equals_plain_loops(tmp_path: Path) -> None:
    split, student = _coco(tmp_path), Seer()
    colours = list(worlds.COLOURS)
    file = [
        {
            "image": f"val2014/COCO_val2014_{12 + n:012d}.jpg",
            "caption": [f"A {colours[n % 4]} wall, {n} {k}." for k in range(5)]
            + [f"A {colours[(n + k) % 4]} weapon, {n} {k}." for k in range(5)],
        }
        for n in range(6)
    ]
    altered = AlteredCaptions(write(tmp_path / "files", danger=file), "rococo")
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", altered=[altered], tasks=["rococo"])
    pictures = encode(student, split, CONFIG).image["cross"]
    rows = embed_texts(student, [text for entry in file for text in entry["caption"]], CONFIG)["cross"]
    hits, false = [], []
    for image in range(6):
        scores = (rows @ pictures[image]).tolist()
        own = range(10 * image, 10 * image + 5)
        best = max(scores[at] for at in own)
        hits.append(all(best > score for at, score in enumerate(scores) if at not in own))
        false.append(int(np.argmax(scores)) % 10 >= 5)
    found = result["tasks"]["rococo"]["metrics"]
    assert found["danger/r@1"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
    assert found["danger/false_first"] == pytest.approx(100 * np.mean(false), abs=1e-3)
    assert all(metrics.named(name).metric in metrics.METRICS for name in found)


def test_official_files__that_are_not_given_or_of_other_images_are_said(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=3), "test")
    altered = AlteredCaptions(write(tmp_path / "files", danger=ROCOCO), "rococo")
    names = ["sugarcrepe", "rococo"]
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", altered=[altered], tasks=names)
    assert "its files were not given: --data FOLDER with add_obj.json" in result["tasks"]["sugarcrepe"]["unavailable"]
    assert "none of its images" in result["tasks"]["rococo"]["unavailable"]
