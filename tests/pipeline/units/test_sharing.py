"""Which units a process shall make, in a user's words."""

import pytest

from cusa.errors import ConfigError
from cusa.pipeline.engine import Workers
from cusa.pipeline.units.sharing import Sharing, UnitRange, current, sharing


@pytest.mark.parametrize(
    ("words", "units"), [("0:4", [0, 1, 2, 3]), ("3:4", [3]), ("0/2", [0, 1, 2]), ("1/2", [3, 4, 5, 6])]
)
def test_of__names_units(words: str, units: list[int]) -> None:
    assert list(UnitRange(words).of(7)) == units


@pytest.mark.parametrize("number", [1, 2, 7, 100])
@pytest.mark.parametrize("shares", [1, 3, 16])
def test_of__shares_neither_overlap_nor_leave_a_hole(number: int, shares: int) -> None:
    made = [unit for share in range(shares) for unit in UnitRange(f"{share}/{shares}").of(number)]
    assert made == list(range(number))


@pytest.mark.parametrize(
    "words", ["", "4", "4:4", "4:3", "2/2", "-1:3", "a:b", "0:4 ", "all", "٠:٣", "0:²", "0/٣", "0:" + "9" * 5000]
)
def test_unit_range__refuses_what_names_no_units(words: str) -> None:
    with pytest.raises(ConfigError, match=r"names no units.*FIRST:STOP.*K/N.*merge"):
        UnitRange(words)


def test_of__more_units_than_there_are() -> None:
    with pytest.raises(ConfigError, match="this stage has 7 units, and 0:7 is the whole range"):
        UnitRange("5:8").of(7)
    with pytest.raises(ConfigError, match=r"this stage has 1 unit, and 0:1 is"):
        UnitRange("0:2").of(1)


def test_sharing__holds_within_its_block() -> None:
    assert current() == Sharing()
    with sharing(Workers(3), UnitRange("merge")):
        assert current() == Sharing(Workers(3), UnitRange("merge"))
        assert UnitRange("merge").merges
    assert current() == Sharing()
