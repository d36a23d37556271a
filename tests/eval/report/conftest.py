"""An evaluated run that the tests of several sections read."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.eval.config import EMBEDDINGS, EvalConfig
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a work folder whose pictures are true of all captions of their colour, and an evaluated run."""
    folder = tmp_path_factory.mktemp("evaluated")
    work = worlds.make_work(folder, images=16, captions=2)
    split = Split(work, "test")
    colour = [int(key.rpartition("_")[2]) % 4 for key in split.image_keys]
    pairs = [
        {"image_key": image, "caption_key": caption}
        for row, image in enumerate(split.image_keys)
        for caption, owner in zip(split.caption_keys, split.caption_owner, strict=True)
        if colour[owner] == colour[row]
    ]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(pairs, schemas.TRUTH))
    config = EvalConfig(bootstrap=0, ks=(1, 5))
    run = folder / "run"
    evaluating.run(
        config,
        load=lambda: Seer(noise=0.6),
        student_digest="1",
        split=split,
        out=run / "eval",
        cache=run / EMBEDDINGS,
    )
    return work, run
