"""The table of metrics: every number an evaluation gives has a row, chance is what random rankings get."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pytest

from cusa.eval.ranking import Ranking, rank
from cusa.eval.tasks import metrics
from cusa.eval.tasks.chance import Pool
from cusa.eval.tasks.metrics import METRICS


def _ranking(ranks: list[int]) -> Ranking:
    hits = [1.0 if one == 1 else np.nan if one == 0 else 0.0 for one in ranks]
    positives = np.array([int(one > 0) for one in ranks])
    number = len(ranks)
    top = np.zeros((number, 1))
    return Ranking(np.array(ranks), positives, np.array(hits), np.array(hits), top.astype(np.int64), top)


def test_metrics__are_described_and_none_twice() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.definition.endswith(".")
        assert metric.title
        assert metric.unit
        assert (metric.better == "lower") == (metric.name in ("median_rank", "false_first"))
        assert metric.kinds == () or metric.of_queries is not None


@pytest.mark.parametrize(
    ("name", "title", "short"),
    [
        ("rsum", "RSUM", "RSUM"),
        ("image-to-text/r@10", "image to text: R@10", "R@10 i2t"),
        ("text-to-image/r_precision", "text to image: R-Precision", "R-P t2i"),
        ("map_at_r", "mAP@R", "mAP@R"),
        ("release_r@1", "R@1 by the release's rule", "R@1 by the release's rule"),
        ("text-to-text/spearman", "text to text: Spearman's correlation with the ratings", None),
        ("SICK-R", "SICK-R", "SICK-R"),
        ("experts-foreign/auc", "experts, foreign pairs: AUC", "AUC experts"),
        ("crowd-all/tau_b", "crowd, all pairs: Kendall's tau-b", "tau-b crowd, all"),
        ("ndcg", "ndcg", "ndcg"),
        ("crowd-foreign/auc_without_error", "crowd, foreign pairs: AUC without error", "AUC without error crowd"),
        ("experts-all/average_precision", "experts, all pairs: average precision", "AP experts, all"),
        ("image-to-image/pmrp", "image to image: PMRP", "PMRP i2i"),
        ("text-to-text/r@5", "text to text: R@5", "R@5 t2t"),
        ("other-way/r@5", "other way: R@5", None),
    ],
)
def test_title__of_every_kind_of_name(name: str, title: str, short: str | None) -> None:
    assert metrics.title(name) == title
    assert short is None or metrics.short_title(f"cross-modal/{name}") == short


def test_named__the_order_is_that_of_papers_and_an_unknown_metric_stands_at_the_end() -> None:
    wanted = [
        "rsum",
        "image-to-text/r@1",
        "image-to-text/r@5",
        "image-to-text/r@10",
        "image-to-text/r_precision",
        "image-to-text/map_at_r",
        "image-to-text/median_rank",
        "text-to-image/r@1",
        "text-to-image/median_rank",
        "image-to-image/spearman",
        "image-to-text/ndcg",
        "zeal",
    ]
    assert sorted(wanted[::-1], key=lambda name: metrics.named(name).place) == wanted
    assert metrics.named("image-to-text/ndcg").title == "ndcg"


def test_of_ranking__a_query_without_a_right_item_is_a_miss_by_own_pairs_and_left_out_by_known_matches() -> None:
    ranking = _ranking([1, 3, 0, 8])
    assert metrics.of_ranking(ranking, "pairs", (1, 3)) == {"r@1": 25.0, "r@3": 50.0, "median_rank": 3.0}
    expected = {"r@3": 200 / 3, "r_precision": 100 / 3, "map_at_r": 100 / 3}
    assert metrics.of_ranking(ranking, "matches", (3,)) == pytest.approx(expected)


def _of_every_order(gallery: int, right: int, ks: tuple[int, ...]) -> Mapping[str, float]:
    """Return the mean of each metric over all orders of a gallery."""
    scores = np.array([order for order in permutations(range(gallery))], np.float32)
    ranking = rank([scores], [np.arange(right)] * len(scores), top=1)
    pairs = metrics.of_ranking(ranking, "pairs", ks)
    return {**pairs, **metrics.of_ranking(ranking, "matches", ks)}


@pytest.mark.parametrize(("gallery", "right"), [(5, 1), (6, 2), (6, 4), (4, 4)])
def test_chance__is_the_mean_over_every_order_of_a_gallery(gallery: int, right: int) -> None:
    pool = [Pool(gallery, right)]
    found = _of_every_order(gallery, right, (1, 2, 3, 4))
    assert len(found) == 7
    for name, value in found.items():
        assert metrics.chance(f"image-to-text/{name}", pool) == pytest.approx(value), name


def test_chance__of_rsum_is_the_sum_of_both_ways() -> None:
    pools = [Pool(25_000, 5), Pool(5000, 1)]
    parts = [metrics.chance(f"image-to-text/r@{k}", [pool]) for pool in pools for k in (1, 5, 10)]
    assert metrics.chance("rsum", pools) == pytest.approx(sum(part or 0.0 for part in parts))
    assert metrics.chance("rsum", pools) == pytest.approx(0.64, abs=0.001)
    assert metrics.chance("STS12", []) == 0.0
    assert metrics.chance("ndcg", pools) is None


def test_chances_of_rankings__are_what_random_scores_get_on_average() -> None:
    rng = np.random.default_rng(0)
    relevant = [np.arange(size) for size in (1, 3, 3, 0, 5, 20)]
    rankings = [rank([rng.random((6, 20), np.float32)], relevant, top=1) for _ in range(4000)]
    for kind, ks in (("pairs", (1, 5)), ("matches", (1, 10))):
        levels = metrics.chances_of_rankings({"image-to-text": (rankings[0], 20)}, kind, ks, prefix=True, rsum=True)
        levels.pop("rsum")
        seen = [metrics.of_ranking(one, kind, ks) for one in rankings]
        for name, level in levels.items():
            if name.endswith("median_rank"):
                assert level is None  # the queries differ
            else:
                mean = np.mean([one[name.removeprefix("image-to-text/")] for one in seen])
                assert level == pytest.approx(mean, abs=0.9), (kind, name)


def test_chances_of_rankings__of_equal_queries_is_that_of_one_and_rsum_adds_both_ways() -> None:
    some = rank([np.zeros((4, 30), np.float32)], [np.arange(5)] * 4, top=1)
    levels = metrics.chances_of_rankings({"image-to-text": (some, 30)}, "pairs", (1, 5, 10), prefix=True, rsum=True)
    assert levels["image-to-text/median_rank"] == metrics.chance("median_rank", [Pool(30, 5)])
    assert levels["rsum"] == pytest.approx(metrics.chance("rsum", [Pool(30, 5)]), abs=1e-3)
    nothing = rank([np.zeros((2, 3), np.float32)], [np.array([], np.int64)] * 2, top=1)
    levels = metrics.chances_of_rankings({"image-to-image": (nothing, 3)}, "matches", (1,))
    assert levels == dict.fromkeys(("r@1", "r_precision", "map_at_r"))


def test_chance_in__the_summary_s_level_or_the_table_s_constant() -> None:
    assert metrics.chance_in({"chance": {"image-to-text/r@1": 2.5}}, "image-to-text/r@1") == 2.5
    assert metrics.chance_in({}, "image-to-text/r@1") is None
    assert metrics.chance_in({}, "STS12") == 0.0


def test_metrics__a_row_is_all_that_a_new_one_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    reciprocal = metrics.Metric(
        "mrr",
        "MRR",
        "%",
        "higher",
        "The mean reciprocal rank.",
        kinds=("pairs",),
        of_queries=lambda judged, k: np.where(judged.rank > 0, 1 / np.maximum(judged.rank, 1), 0.0),
    )
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, reciprocal))
    assert metrics.of_ranking(_ranking([1, 2, 0, 4]), "pairs", ())["mrr"] == 100 * (1 + 0.5 + 0.25) / 4
    assert metrics.title("text-to-image/mrr") == "text to image: MRR"


def test_short_title__of_a_task_that_is_one_direction() -> None:
    assert metrics.short_title("image-to-image/r@1") == "i2i R@1"
    assert metrics.short_title("text-to-text/map_at_r") == "t2t mAP@R"
    assert metrics.short_title("sts/STS12") == "STS12"


def test_directions_and_ways__as_papers_name_them() -> None:
    names = {"image": "i", "text": "t"}
    for way, (title, short) in metrics.DIRECTIONS.items():
        one, other = way.split("-to-")
        assert (title, short) == (f"{one} to {other}", f"{names[one]}2{names[other]}")
    judged = ["experts-foreign", "experts-all", "crowd-foreign", "crowd-all"]
    assert list(metrics.WAYS)[: len(metrics.DIRECTIONS) + 4] == [*metrics.DIRECTIONS, *judged]


def test_is_main__one_number_a_task() -> None:
    assert [metric.name for metric in METRICS if metrics.is_main(metric.name)] == ["rsum", "average"]


def test_chances_of_rankings__by_hand_to_four_digits() -> None:
    """Of 7 items: a query with 1 right one is hit by chance at 1/7, one with 3 at 3/7, one with none never."""
    some = rank([np.zeros((4, 7), np.float32)], [np.arange(size) for size in (1, 3, 3, 0)], top=1)
    levels = metrics.chances_of_rankings({"image-to-text": (some, 7)}, "pairs", (1,))
    assert levels == {"r@1": round(100 * (1 + 3 + 3 + 0) / 7 / 4, 4), "median_rank": None}
    levels = metrics.chances_of_rankings({"image-to-text": (some, 7)}, "matches", (1,))
    assert levels["r@1"] == round(100 * (1 + 3 + 3) / 7 / 3, 4)
    assert levels["r_precision"] == round(100 * (1 + 3 + 3) / 7 / 3, 4)
    assert metrics.chances_of_rankings({"image-to-text": (some, 2)}, "pairs", (1,))["r@1"] is None, "3 of 2 items"
