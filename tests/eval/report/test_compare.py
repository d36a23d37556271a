"""Differences between runs: the values by hand, and intervals that behave."""

import numpy as np
import pyarrow as pa
import pytest

from cusa.eval.metrics import recall_at_k
from cusa.eval.report.compare import Difference, paired
from cusa.manifests import schemas


def _table(ranks: dict[str, int], *, by_matches: bool = True) -> pa.Table:
    rows = [
        {
            "task": "cross-modal",
            "direction": "text-to-image",
            "query_key": key,
            "rank": rank,
            "positives": 1 if rank else 0,
            "r_precision": float(rank == 1) if rank and by_matches else None,
            "average_precision": 1 / rank if rank and by_matches else None,
        }
        for key, rank in ranks.items()
    ]
    return pa.Table.from_pylist(rows, schema=schemas.PER_QUERY)


FIRST = {"d/1#0": 1, "d/1#1": 3, "d/2#0": 8, "d/3#0": 20, "d/4#0": 0}
SECOND = {"d/1#0": 1, "d/1#1": 1, "d/2#0": 4, "d/3#0": 30, "d/4#0": 0}


def test_paired__values_by_hand() -> None:
    differences = paired(_table(FIRST), _table(SECOND))
    # Query d/4#0 has no right item and is left out: four queries remain.
    assert differences["cross-modal/text-to-image/r@1"].value == pytest.approx(25)
    assert differences["cross-modal/text-to-image/r@5"].value == pytest.approx(25)
    assert differences["cross-modal/text-to-image/r@10"].value == pytest.approx(0)
    assert differences["cross-modal/rsum"].value == pytest.approx(50)
    gain = 100 * ((1 - 1 / 3) + (1 / 4 - 1 / 8) + (1 / 30 - 1 / 20)) / 4
    assert differences["cross-modal/text-to-image/map_at_r"].value == pytest.approx(gain)


def test_paired__by_the_own_pairs_a_query_without_a_right_item_is_a_miss_as_in_the_metric_itself() -> None:
    first, second = _table(FIRST, by_matches=False), _table(SECOND, by_matches=False)
    differences = paired(first, second)
    assert set(differences) == {*(f"cross-modal/text-to-image/r@{k}" for k in (1, 5, 10)), "cross-modal/rsum"}
    for k, value in ((1, 20), (5, 20), (10, 0)):
        name = f"cross-modal/text-to-image/r@{k}"
        assert differences[name].value == pytest.approx(value)
        recalls = [recall_at_k(np.array(list(ranks.values())), k) for ranks in (FIRST, SECOND)]
        assert differences[name].value == pytest.approx(recalls[1] - recalls[0])


def test_paired__where_nothing_is_right_there_is_no_difference() -> None:
    assert paired(_table({"d/1#0": 0, "d/2#0": 0}), _table({"d/1#0": 0, "d/2#0": 0})) == {}


def test_paired__a_run_against_itself_differs_in_nothing() -> None:
    for difference in paired(_table(FIRST), _table(FIRST)).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_paired__the_interval_holds_the_value_and_narrows_with_more_images() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for images in (60, 960):
        one = {f"d/{i}#{c}": int(rng.integers(1, 12)) for i in range(images) for c in range(2)}
        two = {key: max(1, rank - int(rng.integers(0, 3))) for key, rank in one.items()}
        difference = paired(_table(one), _table(two))["cross-modal/rsum"]
        assert difference.low < difference.value < difference.high
        widths.append(difference.high - difference.low)
    assert widths[1] < widths[0] / 2.5  # a sixteenth of the images: four times the width


def test_paired__captions_of_one_image_count_as_one_draw() -> None:
    """Ten copies of every caption tell nothing new, so the interval must not shrink."""
    rng = np.random.default_rng(1)
    ranks = rng.integers(1, 3, size=(2, 40))
    single = [{f"d/{i}#0": int(ranks[run, i]) for i in range(40)} for run in range(2)]
    tenfold = [{f"d/{i}#{c}": int(ranks[run, i]) for i in range(40) for c in range(10)} for run in range(2)]
    one = paired(_table(single[0]), _table(single[1]))["cross-modal/text-to-image/r@1"]
    ten = paired(_table(tenfold[0]), _table(tenfold[1]))["cross-modal/text-to-image/r@1"]
    assert ten.value == pytest.approx(one.value)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_paired__other_queries_are_not_compared() -> None:
    """Neither fewer nor as many: rows of other images, or in another order, are not subtracted from each other."""
    assert paired(_table(FIRST), _table({"d/9#0": 1})) == {}
    assert paired(_table(FIRST), _table({f"e{key}": rank for key, rank in FIRST.items()})) == {}
    assert paired(_table(FIRST), _table(dict(reversed(FIRST.items())))) == {}


def test_paired__other_queries_of_the_same_number_are_not_subtracted_row_by_row() -> None:
    other = {f"e/{number}#0": rank for number, rank in enumerate(SECOND.values())}
    assert len(other) == len(FIRST)
    assert paired(_table(FIRST), _table(other)) == {}
    turned = dict(list(SECOND.items())[::-1])
    assert paired(_table(FIRST), _table(turned)) == {}


def test_paired__where_every_query_gains_the_same_images_with_more_captions_widen_nothing() -> None:
    captions = {1: 1, 2: 7, 3: 2, 4: 5}
    keys = [f"d/{image}#{number}" for image, count in captions.items() for number in range(count)]
    differences = paired(_table(dict.fromkeys(keys, 2)), _table(dict.fromkeys(keys, 1)))
    gained = differences["cross-modal/text-to-image/r@1"]
    assert (gained.value, gained.low, gained.high) == pytest.approx((100, 100, 100))
    mean = differences["cross-modal/text-to-image/map_at_r"]
    assert (mean.value, mean.low, mean.high) == pytest.approx((50, 50, 50))


def _both_ways(ranks: np.ndarray, *, task: str = "cross-modal", images: int = 6) -> pa.Table:
    """Return a table of six images and twelve captions by their ranks (18,), image to text first."""
    rows = [
        {
            "task": task,
            "direction": "image-to-text" if query < images else "text-to-image",
            "query_key": f"d/{query}" if query < images else f"d/{(query - images) // 2}#{(query - images) % 2}",
            "rank": int(rank),
            "positives": 1,
        }
        for query, rank in enumerate(ranks)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.PER_QUERY)


def test_paired__equals_resampled_images_written_out() -> None:
    """Both directions, R@1 and R@5 and their sum: each image as often as it was drawn, with all its captions."""
    rng = np.random.default_rng(5)
    one, two = rng.integers(1, 9, 18), rng.integers(1, 7, 18)
    others = [_both_ways(rng.integers(1, 9, 18), task="coco-5k") for _ in range(2)]
    first, second = (
        pa.concat_tables([other, _both_ways(ranks)]) for other, ranks in zip(others, (one, two), strict=True)
    )
    found = paired(first, second, ks=(1, 5), samples=50, seed=9)
    image_of = np.array([*range(6), *(query // 2 for query in range(12))])
    draws = np.random.default_rng(9).multinomial(6, np.full(6, 1 / 6), size=50)
    total, total_drawn = 0.0, np.zeros(50)
    for direction, queries in (("image-to-text", range(6)), ("text-to-image", range(6, 18))):
        for k in (1, 5):
            gains = {query: 100 * (int(two[query] <= k) - int(one[query] <= k)) for query in queries}
            drawn = []
            for times in draws:
                picked = [gain for query, gain in gains.items() for _ in range(times[image_of[query]])]
                drawn.append(sum(picked) / len(picked))
            value = sum(gains.values()) / len(gains)
            one_found = found[f"cross-modal/{direction}/r@{k}"]
            expected = (value, *np.quantile(drawn, [0.025, 0.975]))
            assert (one_found.value, one_found.low, one_found.high) == pytest.approx(expected)
            total, total_drawn = total + value, total_drawn + drawn
    rsum = found["cross-modal/rsum"]
    assert (rsum.value, rsum.low, rsum.high) == pytest.approx((total, *np.quantile(total_drawn, [0.025, 0.975])))
    assert len(found) == 9, "the other task has its four, and no sum"


def test_difference__its_trend_and_its_words() -> None:
    told = {(1.0, 0.5, 2.0): "up", (-1.0, -2.0, -0.5): "down", (1.0, 0.0, 2.0): "", (-1.0, -2.0, 0.0): ""}
    assert {numbers: Difference(*numbers).trend for numbers in told} == told
    assert str(Difference(1.25, -0.5, 3.0)) == "+1.25 (-0.50 to +3.00)"
