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
