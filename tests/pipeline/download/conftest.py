"""The server that the tests of downloading ask."""

from collections.abc import Iterator

import pytest

from tests.pipeline.download.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()
