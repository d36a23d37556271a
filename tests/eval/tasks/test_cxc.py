"""CxC's ratings: cut official files against plain loops, the package's matches, and a correlation that is known."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.tasks import cxc
from cusa.eval.tasks.metrics import of_ranking
from cusa.manifests.judgements import cxc_ratings, eccv_truth
from cusa.manifests.judgements.cxc_ratings import CxcRatings
from cusa.manifests.samples import CocoIds, Split
from tests.eval.tasks.seeing import CONFIG as SMALL
from tests.eval.tasks.seeing import see
from tests.worlds import make_work

CONFIG = EvalConfig(ks=(1, 5), block=64, top=3)


@pytest.fixture(scope="module")
def ratings(shared: Path) -> dict[str, CxcRatings]:
    found = cxc_ratings.files(shared / "data/coco-mini/cxc", "test")
    return {what: cxc_ratings.read(path) for what, path in found.items()}


def _ids(ratings: Mapping[str, CxcRatings]) -> tuple[list[int], list[int]]:
    images = sorted({*ratings["image-to-text"].first, *ratings["image-to-image"].first})
    return images, sorted({*ratings["image-to-text"].second})


def test_read__ratings_of_three_or_more_are_the_package_s_matches(shared: Path, ratings: dict[str, CxcRatings]) -> None:
    truths = eccv_truth.read(shared / "data/coco-mini/eccv_caption")
    theirs = {(image, caption) for image, captions in truths.image_to_text["cxc"].items() for caption in captions}
    rated = ratings["image-to-text"]
    ours = {
        (image, caption)
        for image, caption, score in zip(rated.first, rated.second, rated.score, strict=True)
        if score >= cxc_ratings.MATCH
    }
    assert ours == theirs
    assert {what: len(one.score) for what, one in ratings.items()} == {
        "text-to-text": 1039,
        "image-to-image": 108,
        "image-to-text": 1043,
    }


@pytest.mark.parametrize("what", ["image-to-image", "text-to-text"])
def test_retrieval__equals_plain_loops(ratings: dict[str, CxcRatings], what: str) -> None:
    image_ids, caption_ids = _ids(ratings)
    rng = np.random.default_rng(0)
    owner_of = dict(zip(ratings["image-to-text"].second, ratings["image-to-text"].first, strict=True))
    owner = np.array([image_ids.index(owner_of[number]) for number in caption_ids])
    ids = image_ids if what == "image-to-image" else caption_ids
    rows = rng.standard_normal((len(ids), 6)).astype(np.float32)
    rated = cxc.rows_of(ratings, image_ids, caption_ids)
    ranking, asked, members = cxc.retrieval(what, rows, rated, owner, CONFIG)
    found = {f"{what}/{name}": value for name, value in of_ranking(ranking, "pairs", CONFIG.ks).items()}
    right: dict[int, set[int]] = {number: set() for number in ids}
    for one, other, score in zip(ratings[what].first, ratings[what].second, ratings[what].score, strict=True):
        if score >= 3:
            right[one].add(other)
            right[other].add(one)
    if what == "text-to-text":
        for one in ids:
            right[one] |= {other for other in ids if owner_of[other] == owner_of[one]}
    ranks = []
    for at, number in enumerate(ids):
        right[number].discard(number)
        if right[number]:
            order = sorted((g for g in range(len(ids)) if g != at), key=lambda g: -float(rows[at] @ rows[g]))
            ranks.append(min(order.index(ids.index(other)) for other in right[number]) + 1)
    assert len(asked) == len(ranks)
    assert len(members) == len(ids)
    for k in CONFIG.ks:
        assert found[f"{what}/r@{k}"] == pytest.approx(100 * np.mean([place <= k for place in ranks]))
    assert 0 < found[f"{what}/r@5"] < 100


def test_correlation__equals_the_definition_drawn_in_plain_python() -> None:
    """Half of the queries, one rated pair of each, the mean over many draws: any generator comes to the same."""
    rng = np.random.default_rng(1)
    first = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    rating = rng.integers(0, 6, len(first)).astype(float)
    score = rating + rng.normal(0, 2.0, len(first))
    estimates = cxc.correlation(first, rating, score, seed=0)
    plain = []
    other = np.random.default_rng(2)
    for _ in range(3000):
        queries = other.choice(60, 30, replace=False)
        pairs = [int(other.choice(np.flatnonzero(first == query))) for query in queries]
        plain.append(100 * spearmanr(rating[pairs], score[pairs]).statistic)
    assert len(estimates) == 1000
    assert estimates.mean() == pytest.approx(np.mean(plain), abs=1.5)
    assert estimates.std() == pytest.approx(np.std(plain), rel=0.15)
    mean, interval = cxc.mean_interval(estimates)
    assert interval is not None
    assert interval[0] < mean < interval[1]
    assert cxc.mean_interval(np.full(5, np.nan))[1] is None


def test_correlation__one_pair_a_query_and_a_perfect_model() -> None:
    score = np.arange(40.0)
    np.testing.assert_allclose(cxc.correlation(np.arange(40), score, 2 * score, seed=0), 100)


def test_rows_of__a_split_that_lacks_something_is_refused(ratings: dict[str, CxcRatings]) -> None:
    image_ids, caption_ids = _ids(ratings)
    with pytest.raises(DataError, match=r"199 of the 200 images and 1,000 of the 1,000 captions"):
        cxc.rows_of(ratings, image_ids[1:], caption_ids)


@pytest.mark.parametrize("line", ["a,b", "COCO_1.jpg,COCO_2.jpg,six,x", "COCO_1.jpg,COCO_2.jpg,7.5,x"])
def test_read__a_line_that_is_no_rating_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "sis_test.csv"
    path.write_text(f"image1,image2,agg_score,sampling_method\nCOCO_1.jpg,COCO_2.jpg,3.0,x\n{line}\n")
    with pytest.raises(DataError, match=r"sis_test.csv:3 is no rating"):
        cxc_ratings.read(path)


FILES = {
    "sis_test.csv": ["10,12,4", "12,11,3", "13,10,2.9", "11,11,5"],
    "sts_test.csv": ["100,104,3.5", "103,105,1", "102,107,3", "106,100,0"],
    "sits_test.csv": ["100,10,4", "101,12,2", "103,11,5", "106,13,1", "105,10,3"],
}
IMAGES, CAPTIONS = [10, 11, 12, 13], [*range(100, 108)]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Return a split of four images and eight captions that bear COCO's numbers, 0 among them."""
    split = Split(make_work(tmp_path, images=4, captions=2, splits=("test",)), "test")
    split.coco_ids = CocoIds(images=IMAGES, captions=CAPTIONS)
    return split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lines in FILES.items():
        head = "caption,image" if name.startswith("sits") else "one,two"
        mark = {"sis": ("", ""), "sts": (":", ":"), "sits": (":", "")}[name.partition("_")[0]]
        rows = []
        for line in lines:
            one, other, score = line.split(",")
            rows.append(f"{mark[0]}{one},{mark[1]}{other},{score},x")
        (tmp_path / "cxc").mkdir(exist_ok=True)
        (tmp_path / "cxc" / name).write_text("\n".join([f"{head},agg_score,m", *rows]))
    return tmp_path / "cxc"


RNG = np.random.default_rng(7)
UNI = {"image": RNG.normal(size=(4, 3)).astype(np.float32), "text": RNG.normal(size=(8, 3)).astype(np.float32)}
PAIR_SCORES = RNG.normal(size=(4, 8)).astype(np.float32)


def _pairs(name: str) -> list[tuple[int, int, float]]:
    return [(int(one), int(other), float(score)) for one, other, score in (line.split(",") for line in FILES[name])]


def test_uni_modal_task__equals_plain_loops(split: Split, folder: Path) -> None:
    result = cxc.uni_modal_task(see(split, PAIR_SCORES, uni=UNI, ratings=folder))
    metrics, table = dict(result.summary["metrics"]), result.table.to_pylist()
    queries = 0
    for what, ids, rows, keys, name in (
        ("image-to-image", IMAGES, UNI["image"], split.image_keys, "sis_test.csv"),
        ("text-to-text", CAPTIONS, UNI["text"], split.caption_keys, "sts_test.csv"),
    ):
        right: dict[int, set[int]] = {one: set() for one in ids}
        for one, other, score in _pairs(name):
            if score >= 3 and one != other:
                right[one].add(other)
                right[other].add(one)
        if what == "text-to-text":
            for one in ids:
                right[one].add(ids[(ids.index(one)) ^ 1])
        best = []
        for one in ids:
            if not right[one]:
                continue
            at = ids.index(one)
            order = sorted((o for o in ids if o != one), key=lambda o: -float(rows[at] @ rows[ids.index(o)]))
            best.append(min(order.index(other) for other in right[one]) + 1)
            row = table.pop(0)
            assert (row["task"], row["direction"], row["query_key"]) == ("cxc-uni-modal", what, keys[at])
            assert (row["rank"], row["positives"]) == (best[-1], len(right[one]))
            assert row["top_keys"] == [keys[ids.index(other)] for other in order[:3]]
        queries += len(best)
        for k in (1, 3):
            value = 100 * sum(place <= k for place in best) / len(best)
            assert metrics.pop(f"{what}/r@{k}") == pytest.approx(value, abs=1e-4)
            assert f"{what}/r@{k}" in result.summary["intervals"]
        assert metrics.pop(f"{what}/median_rank") == np.median(best)
    assert (metrics, table, result.summary["queries"]) == ({}, [], queries)
    assert result.summary["space"] == "given rows"


def test_ratings_task__each_correlation_and_their_mean(split: Split, folder: Path) -> None:
    seen = see(split, PAIR_SCORES, uni=UNI, ratings=folder)
    result = cxc.ratings_task(seen)
    metrics, spans = result.summary["metrics"], result.summary["intervals"]
    expected = {}
    for what, name in (("text-to-text", "sts"), ("image-to-image", "sis"), ("image-to-text", "sits")):
        pairs = _pairs(f"{name}_test.csv")
        if name == "sits":
            score = [PAIR_SCORES[IMAGES.index(image), CAPTIONS.index(caption)] for caption, image, _ in pairs]
        else:
            ids, rows = (IMAGES, UNI["image"]) if name == "sis" else (CAPTIONS, UNI["text"])
            score = [float(rows[ids.index(one)] @ rows[ids.index(other)]) for one, other, _ in pairs]
        first = np.array([one for one, _, _ in pairs])
        rating = np.array([rated for _, _, rated in pairs])
        drawn = cxc.correlation(first, rating, np.array(score), seed=SMALL.seed)
        expected[f"{what}/spearman"] = np.nanmean(drawn)
        assert spans[f"{what}/spearman"] == [round(float(q), 4) for q in np.nanquantile(drawn, [0.025, 0.975])]
    assert metrics.pop("mean") == pytest.approx(np.mean(list(expected.values())), abs=1e-3)
    assert metrics == pytest.approx(expected, abs=1e-3)
    assert result.summary["queries"] == sum(map(len, FILES.values()))
    assert result.summary["space"] == "given rows; image-to-text: given scores"
    assert result.table.num_rows == 0


def test_tasks__do_what_the_model_and_the_files_allow(split: Split, folder: Path) -> None:
    texts = see(split, None, uni={"text": UNI["text"]}, ratings=folder)
    ratings = cxc.ratings_task(texts).summary
    assert (ratings["metrics"].keys(), ratings["space"]) == ({"text-to-text/spearman"}, "given rows")
    assert {name.partition("/")[0] for name in cxc.uni_modal_task(texts).summary["metrics"]} == {"text-to-text"}
    (folder / "sts_test.csv").unlink()
    some = cxc.ratings_task(see(split, PAIR_SCORES, uni=UNI, ratings=folder)).summary
    assert some["metrics"].keys() == {"image-to-image/spearman", "image-to-text/spearman"}
    for task in (cxc.uni_modal_task, cxc.ratings_task):
        assert (
            "no ratings of the test split were given" in task(see(split, PAIR_SCORES, uni=UNI)).summary["unavailable"]
        )
        split.coco_ids = CocoIds(images=[10, 11, 12, -1], captions=CAPTIONS)
        lacking = task(see(split, PAIR_SCORES, uni=UNI, ratings=folder)).summary["unavailable"]
        assert "the split has 3 of the 4 images" in lacking


def test_rows_of__the_number_0_is_one_as_well() -> None:
    rated = {"image-to-image": CxcRatings([0], [5], np.array([3.0]))}
    found = cxc.rows_of(rated, [5, -1, 0], [])
    assert (found.images.tolist(), found.captions.tolist()) == ([0, 2], [])
    assert [end.tolist() for end in found.pairs["image-to-image"]] == [[2], [0], [3.0]]


def test_correlation__of_two_or_three_queries_draws_one() -> None:
    """Half of the queries, rounded down, but one: a rank correlation of one pair is none."""
    for queries in (1, 2, 3):
        first = np.arange(queries)
        assert np.isnan(cxc.correlation(first, first * 1.0, first * 1.0, seed=0)).all()
    assert not np.isnan(cxc.correlation(np.arange(4), np.arange(4.0), np.arange(4.0), seed=0)).any()
