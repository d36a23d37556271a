"""What several commands' tests read."""

from pathlib import Path

import pytest

from tests.worlds import make_work


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder of two images a split that no test writes into."""
    return make_work(tmp_path_factory.mktemp("small"), images=2, captions=1)
