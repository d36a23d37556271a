"""Composition and robustness of a student whose embeddings are known, against plain loops."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.encode import embed_texts, encode
from cusa.eval.tasks import metrics
from cusa.eval.tasks.composition import edits, preferences
from cusa.manifests.storage import store
from cusa.models.edits.rules import RULES, TITLES
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer

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
