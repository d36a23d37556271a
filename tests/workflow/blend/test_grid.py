"""Grids of points and rules that choose one."""

import pytest

from cusa.errors import ConfigError
from cusa.workflow.blend.grid import Choice, not_dominated, parse, parse_choice


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0:1:0.1", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("0:1:0.4", [0.0, 0.4, 0.8]),
        ("0.5:0.5:1", [0.5]),
        ("1, 0,0.25,1", [0.0, 0.25, 1.0]),
        ("0.3", [0.3]),
        ("0:1:0.001", [number / 1000 for number in range(1001)]),
    ],
)
def test_parse__gives_decimal_points_rising(text: str, points: list[float]) -> None:
    assert list(parse(text)) == points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no point"),
        (",", "holds no point"),
        ("1:0:0.1", "holds no point"),
        ("0:1:0", "step is not above 0"),
        ("0:1:-0.1", "step is not above 0"),
        ("0:1.2:0.4", "1.2 lies outside"),
        ("-0.1,0.5", "-0.1 lies outside"),
        ("0:1:0.00001", "more than 1,001"),
        ("0:1:1e-999999", "more than 1,001"),
        ("0:1e9999999:0.1", "lies outside"),
        ("nan", "not numbers"),
        ("0:inf:0.1", "not numbers"),
        ("0:1", "not numbers"),
        ("half", "not numbers"),
    ],
)
def test_parse__refuses_what_is_no_grid(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_parse_choice__takes_a_point_or_a_rule() -> None:
    assert parse_choice("") is None
    assert parse_choice("0.5") == Choice(alpha=0.5)
    assert parse_choice("best") == Choice()
    assert parse_choice("keep:1.5") == Choice(most_lost=1.5)
    for text in ("1.5", "-0.1", "nan", "inf", "keep", "keep:", "keep:-1", "worst"):
        with pytest.raises(ConfigError, match="neither a point from 0 to 1"):
            parse_choice(text)


def test_number__chooses_by_the_rule_and_the_nearest_to_the_base_of_equals() -> None:
    alphas = (0.0, 0.5, 0.75, 1.0)
    values = [(10.0, 50.0), (30.0, 49.5), (30.0, 49.0), (40.0, 20.0)]
    assert Choice().number(values, alphas) == 3
    assert Choice(most_lost=1).number(values, alphas) == 1
    assert Choice(most_lost=0).number(values, alphas) == 0
    assert Choice(alpha=0.75).number(values, alphas) == 2


def test_not_dominated__is_the_frontier_of_all_numbers() -> None:
    assert not_dominated([(1, 5, 5), (2, 4, 5), (2, 4, 4), (3, 0, 0)]) == [True, True, False, True]
    assert not_dominated([(1, 1), (1, 1)]) == [True, True]
