"""Two writers of every stage: one does its work, the other is refused by name, and what is there is as if alone.

`CUSA_ROUNDS` says how often each stage is raced; ten for a report, few in the everyday suite.
"""

import os
from collections.abc import Mapping

import pytest

from tests.pipeline import racing

ROUNDS = int(os.environ.get("CUSA_ROUNDS", "1"))


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, racing.Raced]:
    """Return what came of every stage; one helper process, which imports everything once, races them all."""
    return racing.race(list(racing.STAGES), tmp_path_factory.mktemp("racing"), rounds=ROUNDS)


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("stage", racing.STAGES)
def test_stage__of_two_writers_one_works_and_the_other_is_refused(
    raced: Mapping[str, racing.Raced], stage: str
) -> None:
    done = raced[stage]
    assert (done.words, done.differ, done.stray_files) == ((), (), ())
    assert (done.one_worked, done.other_refused_by_name, done.same_bytes) == (ROUNDS, ROUNDS, ROUNDS)
