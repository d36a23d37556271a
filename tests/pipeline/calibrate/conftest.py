"""A world with known matches and a calibration fitted on it, made once for all tests of this folder."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import calibrate
from cusa.pipeline.config import CalibrateConfig
from tests.pipeline.audited import teach
from tests.worlds import COLOURS, make_work

CONFIG = CalibrateConfig(neighbours=4, pairs=300, background=100)


def write_truth(work: Path, name: str) -> None:
    """Pair every image with every caption that names its colour, and of every fourth caption with nothing else."""
    split, colours = Split(work, name), list(COLOURS)
    start = 0 if name == "val" else 12
    rows = [
        (image, caption)
        for row, image in enumerate(split.image_keys)
        for number, (caption, text) in enumerate(zip(split.caption_keys, split.texts, strict=True))
        if split.caption_owner[number] == row or (colours[(row + start) % 4] in text and number % 4)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table)


@pytest.fixture(scope="package")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("calibrate"), images=12, splits=("val", "test"))
    for name in ("val", "test"):
        teach(work, split=name, image="colours", text="words")
        write_truth(work, name)
    return work


@pytest.fixture(scope="package")
def fitted(work: Path) -> str:
    """A calibration file's text, fitted once."""
    out = work / "calibration.json"
    calibrate.run(CONFIG, split=Split(work, "val"), out=out)
    return out.read_text()


@pytest.fixture
def out(fitted: str, tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(fitted)
    return path
