"""A tiny world that can be trained on in a second: 12 pictures of four colours, 3 captions each, two teachers."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.manifests import ledger, tables
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.train import loop
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.validation import Validate
from tests import worlds

STUDENT = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)
TRAIN = TrainConfig(batch=8, steps=10, lr=3e-3, min_lr=0, validate_every=4, log_every=3, checkpoint_every=2, workers=1)
LOSS = LossConfig(alpha=0.5, beta=0.5)


def make_world(folder: Path) -> Path:
    """Draw, shard (7 images a tar) and teach a small world; return the work folder."""
    work = worlds.make_work(
        folder, config=ShardConfig(workers=1, max_images=7), images=12, captions=3, splits=("train",)
    )
    for teacher, modality in ((worlds.Colours(), "image"), (worlds.Words(), "text")):
        extract.run(
            ExtractConfig(transform="none" if modality == "text" else "clean"),
            split=Split(work, "train"),
            teacher=teacher.name,
            modality=modality,
            load=lambda name, modality, teacher=teacher: teacher,
        )
    return work


def replace_row(work: Path, teacher: str) -> None:
    """Negate the first embedding of a teacher, in a table with the same metadata, as another extraction might."""
    part = work / "train" / "teachers" / teacher / "00000.parquet"
    table = pq.read_table(part)
    rows = tables.embedding_matrix(table).copy()
    rows[0] = -rows[0]
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    place = table.schema.get_field_index("embedding")
    store.write_table(part, table.set_column(place, table.schema.field(place), column))
    assert pq.read_schema(part).metadata == table.schema.metadata
    ledger.withdraw(part.parent / "ledger.json")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a world that tests only read (the teachers' cache apart)."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def own_world(tmp_path: Path) -> Path:
    """Return a world that a test may damage."""
    return make_world(tmp_path / "own")


Train = Callable[..., loop.Trained]


@pytest.fixture
def train(world: Path) -> Train:
    """Return a function that trains in a world: `train(out, train={...}, **fields of Start or Callbacks)`."""

    def run(
        out: Path,
        *,
        work: Path = world,
        train: dict[str, Any] | None = None,
        loss: LossConfig = LOSS,
        student: students.Student | None = None,
        validate: Validate | None = None,
        **options: Any,
    ) -> loop.Trained:
        split = Split(work, "train")
        config = TRAIN.model_copy(update=train or {})
        student = student or students.create(STUDENT, captions=split.texts, uni=loss.beta > 0, seed=config.seed)
        names = {field.name for field in fields(Callbacks)}
        callbacks = Callbacks(**{name: options.pop(name) for name in names & {*options}})
        return loop.run(
            config,
            loss,
            student=student,
            data=loop.TrainingSplit(split),
            out=out,
            start=loop.Start(**options),
            validate=validate,
            callbacks=callbacks,
        )

    return run
