"""Which captions and images count as right for each other."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.encode import encode
from cusa.eval.tasks import cross_modal
from cusa.eval.tasks.task import TaskResult
from cusa.manifests import schemas
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer
from tests.eval.tasks.seeing import CONFIG, see
from tests.manifests.judgements.test_verdicts import make
from tests.manifests.test_languages import write
from tests.worlds import make_work


def test_matched__a_row_that_is_listed_twice_counts_once() -> None:
    """R is the number of right items: doubled, R-Precision would look at twice the places."""
    pairs = {"image_key": ["a", "b", "a", "a", "z"], "caption_key": ["a#0", "a#0", "b#0", "a#0", "a#0"]}
    of_image, of_caption = cross_modal.matched(pairs, ["a", "b"], ["a#0", "a#1", "b#0"])
    assert [rows.tolist() for rows in of_image] == [[0, 2], [0]]
    assert [rows.tolist() for rows in of_caption] == [[0, 1], [], [0]]


def test_owned__captions_in_any_order_belong_to_their_image() -> None:
    of_image, of_caption = cross_modal.owned(np.array([2, 0, 2, 0]), 3)
    assert [rows.tolist() for rows in of_image] == [[1, 3], [], [0, 2]]
    assert [rows.tolist() for rows in of_caption] == [[2], [0], [2], [0]]


def test_first_captions__of_each_image_in_the_data_set_s_order() -> None:
    owner = np.array([1, 0, 1, 1, 0, 1])
    assert cross_modal.first_captions(owner, 2).tolist() == [0, 1, 2, 4]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path, images=4, captions=3, splits=("test",)), "test")


SCORES = np.random.default_rng(4).permutation(48).reshape(4, 12).astype(np.float32)  # no two alike
WAYS = ("image-to-text", "text-to-image")


def _ranked(way: str, query: int, right: set[int], captions: list[int]) -> tuple[list[int], list[int]]:
    """Return the gallery's rows best first, and the places of the right ones."""
    column = dict(enumerate(SCORES[:, query])) if way == WAYS[1] else {}
    row = {caption: SCORES[query, caption] for caption in captions} if way == WAYS[0] else column
    order = sorted(row, key=lambda item: -row[item])
    return order, [place for place, item in enumerate(order, 1) if item in right]


def _right(pairs: set[tuple[int, int]], way: str, query: int) -> set[int]:
    return {c for i, c in pairs if i == query} if way == WAYS[0] else {i for i, c in pairs if c == query}


def _check(
    result: TaskResult, split: Split, pairs: set[tuple[int, int]], captions: list[int], *, recall: bool, matches: bool
) -> None:
    """Compare a task's numbers and its table with plain loops."""
    metrics, table = dict(result.summary["metrics"]), result.table.to_pylist()
    assert result.summary["space"] == "given scores"
    rows = iter(table)
    total = 0.0
    for way in WAYS:
        queries = list(range(4)) if way == WAYS[0] else captions
        keys = (split.image_keys, split.caption_keys) if way == WAYS[0] else (split.caption_keys, split.image_keys)
        every, precision, average, best = [], [], [], []
        for query in queries:
            right = _right(pairs, way, query)
            order, places = _ranked(way, query, right, captions)
            row = next(rows)
            assert (row["task"], row["direction"], row["query_key"]) == (result.task, way, keys[0][query])
            assert (row["rank"], row["positives"]) == (places[0] if places else 0, len(right))
            assert row["top_keys"] == [keys[1][item] for item in order[:3]]
            every.append(places)
            if places:
                best.append(places[0])
                inside = [place for place in places if place <= len(right)]
                precision.append(len(inside) / len(right))
                average.append(sum(hits / place for hits, place in enumerate(inside, 1)) / len(right))
                if matches:
                    assert row["r_precision"] == pytest.approx(precision[-1])
        known = every if recall else [places for places in every if places]
        for k in (1, 3) if recall else (1,):
            value = 100 * sum(bool(places) and places[0] <= k for places in known) / len(known)
            total += value
            assert metrics.pop(f"{way}/r@{k}") == pytest.approx(value, abs=1e-4)
            low, high = result.summary["intervals"][f"{way}/r@{k}"]
            assert low <= value <= high
            assert result.summary["chance"][f"{way}/r@{k}"] is not None
        if recall:
            assert metrics.pop(f"{way}/median_rank") == np.median(best)
        if matches:
            assert metrics.pop(f"{way}/r_precision") == pytest.approx(100 * np.mean(precision), abs=1e-4)
            assert metrics.pop(f"{way}/map_at_r") == pytest.approx(100 * np.mean(average), abs=1e-4)
            assert f"{way}/map_at_r" in result.summary["intervals"]
    if recall:
        assert metrics.pop("rsum") == pytest.approx(total, abs=1e-3)
        assert "rsum" in result.summary["intervals"]
    assert (metrics, list(rows)) == ({}, []), "nothing else"
    assert result.summary["queries"] == 4 + len(captions)


OWN = {(caption // 3, caption) for caption in range(12)}


def test_own_pairs__equals_plain_loops(split: Split) -> None:
    result = cross_modal.own_pairs(see(split, SCORES))
    _check(result, split, OWN, list(range(12)), recall=True, matches=False)
    assert result.task == "cross-modal"
    chance = result.summary["chance"]
    assert (chance["image-to-text/r@1"], chance["text-to-image/r@1"]) == (25.0, 25.0)
    assert chance["text-to-image/r@3"] == 75.0
    assert result.summary["protocol"].endswith("all captions: every caption of the split is ranked")


def test_first_five__of_images_with_more(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, captions=3, splits=("test",)), "test")
    whole = cross_modal.first_five(see(split, SCORES))
    _check(whole, split, OWN, list(range(12)), recall=True, matches=False)
    assert "(there are none here)" in whole.summary["protocol"]
    split.caption_owner = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3])
    pairs = {(int(owner), caption) for caption, owner in enumerate(split.caption_owner)} - {(0, 5), (0, 6)}
    result = cross_modal.first_five(see(split, SCORES))
    _check(result, split, pairs, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11], recall=True, matches=False)
    assert "(2 captions here)" in result.summary["protocol"]
    assert result.task == "cross-modal-first-five"


def test_known_matches__every_known_one_counts(split: Split) -> None:
    seen = see(split, SCORES)
    assert "truth.parquet does not exist" in cross_modal.known_matches(seen).summary["unavailable"]
    pairs = {*OWN, (0, 4), (0, 9), (2, 1)} - {(3, 9), (3, 10), (3, 11)}
    rows = [{"image_key": split.image_keys[i], "caption_key": split.caption_keys[c]} for i, c in sorted(pairs)]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(rows, schema=schemas.TRUTH))
    result = cross_modal.known_matches(see(split, SCORES))
    _check(result, split, pairs, list(range(12)), recall=False, matches=True)
    assert result.task == "cross-modal-truth"


def test_audited__own_pairs_and_those_that_people_judged_to_match(split: Split) -> None:
    assert "nobody has judged a pair" in cross_modal.audited(see(split, SCORES)).summary["unavailable"]
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for number, (image, caption, word) in enumerate([(0, 4, "match"), (2, 1, "match"), (3, 0, "no match")]):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    result = cross_modal.audited(see(split, SCORES))
    _check(result, split, {*OWN, (0, 4), (2, 1)}, list(range(12)), recall=True, matches=True)
    assert "and 2 more that people judged to match" in result.summary["protocol"]
    assert result.task == "audited"


@pytest.mark.parametrize("task", ["own_pairs", "first_five", "known_matches", "audited"])
def test_tasks__a_model_of_texts_alone_has_no_numbers(split: Split, task: str) -> None:
    result = getattr(cross_modal, task)(see(split, None))
    assert result.summary == {"unavailable": "the model embeds texts alone"}
    assert (result.table.num_rows, result.table.schema) == (0, schemas.PER_QUERY)


def test_recall_names__are_those_that_recalls_gives(split: Split) -> None:
    of_image, of_caption = cross_modal.owned(split.caption_owner, 4)
    both = cross_modal.rank_both_ways(see(split, SCORES).scores, of_image, of_caption, CONFIG)  # type: ignore[arg-type]
    assert sorted(cross_modal.recalls(both)) == sorted(cross_modal.recall_names())
    assert sorted(cross_modal.recalls(both, (2,))) == sorted(cross_modal.recall_names((2,)))
    assert set(cross_modal.recall_names()) >= {f"{way}/r@{k}" for way in WAYS for k in (1, 5, 10)}


def test_by_language__each_language_is_a_retrieval_of_its_own(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=7, captions=3), "test")
    config = EvalConfig(batch_size=5, block=4, ks=(1, 3), top=2, bootstrap=20)
    # The first captions are English, but for the last image, which has none; the others German, one unknown.
    codes = ["en" if row % 3 == 0 and row < 18 else "und" if row == 1 else "de" for row in range(21)]
    without = evaluating.run(config, load=Seer, split=split, out=tmp_path / "eval", tasks=["cross-modal"])
    assert "by_language" not in without["tasks"]["cross-modal"]
    write(split, codes)
    result = evaluating.run(config, load=Seer, split=split, out=tmp_path / "eval", tasks=["cross-modal"])
    assert result["fresh"], "languages are among the inputs"
    task = result["tasks"]["cross-modal"]
    assert task["metrics"] == without["tasks"]["cross-modal"]["metrics"]
    seen = encode(Seer(), split, config)
    scores = seen.text["cross"] @ seen.image["cross"].T
    assert list(task["by_language"]) == ["de", "en"]
    for code, summary in task["by_language"].items():
        rows = [row for row in range(21) if codes[row] == code]
        images = sorted({int(split.caption_owner[row]) for row in rows})
        hits = [
            sum(scores[row, image] >= scores[row, split.caption_owner[row]] for image in images) <= 1 for row in rows
        ]
        assert summary["captions"] == len(rows)
        assert summary["queries"] == len(rows) + len(images)
        assert summary["metrics"]["text-to-image/r@1"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
        asked = []
        for image in images:
            own = max(scores[row, image] for row in rows if split.caption_owner[row] == image)
            asked.append(all(scores[row, image] < own for row in rows if split.caption_owner[row] != image))
        assert summary["metrics"]["image-to-text/r@1"] == pytest.approx(100 * np.mean(asked), abs=1e-3)
        assert summary["intervals"]["rsum"] is not None
    alone = task["by_language"]["en"]
    assert alone["queries"] == 12, "six images that have an English caption, and these"
