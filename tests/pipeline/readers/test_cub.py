"""CUB's tables: classes divide and name."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import images


def test_read__classes_divide_and_name(shared: Path) -> None:
    folder = shared / "data/cub-mini/CUB_200_2011"
    reading = readers.read("cub", folder, None, ReadConfig(train_classes="1-5"))
    assert not reading.drops
    assert images(reading) == {"train": 282, "test": 261}
    assert len({record.label for record in reading.images}) == 10
    assert "001.Black_footed_Albatross" in {record.label for record in reading.images}
    with pytest.raises(ConfigError, match=r"--train-classes '5'.*1-100"):
        readers.read("cub", folder, None, ReadConfig(train_classes="5"))
