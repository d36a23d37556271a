"""Teacher rows joined to webdataset's samples; our tars and tables in `datasets` and DuckDB; the docs' recipes."""

import pickle
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cusa
from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from tests.conftest import ROOT
from tests.integrations.small import make_taught

# webdataset leaves the tars that it read to the garbage collector, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

PAGE = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_taught(tmp_path_factory.mktemp("taught"))


def _shards(work: Path) -> list[str]:
    return sorted(str(path) for path in (work / "train").glob("*.tar"))


def test_every_pair_gets_its_own_rows(taught: Path) -> None:
    import webdataset

    teachers = cusa.teacher_rows(taught, split="train")
    assert teachers.names == {"image": "colours", "text": "words"}
    dataset = webdataset.WebDataset(_shards(taught), shardshuffle=False).decode("pil").compose(teachers)
    samples = list(dataset)
    split = Split(taught, "train")
    images, texts = (tables.read_teacher(split, name) for name in ("colours", "words"))
    expected = {
        key: (images.embeddings[owner], texts.embeddings[row])
        for row, (key, owner) in enumerate(zip(split.caption_keys, split.caption_owner, strict=True))
    }
    assert [sample["caption_key"] for sample in samples] == split.caption_keys
    for sample in samples:
        image, text = expected[sample["caption_key"]]
        np.testing.assert_array_equal(sample["teacher_image"], image.astype(np.float32))
        np.testing.assert_array_equal(sample["teacher_text"], text.astype(np.float32))
        assert sample["jpg"].size == (48, 40)
        assert sample["caption"] == split.texts[split.caption_row[sample["caption_key"]]]
        assert split.image_keys[sample["image_id"]] == sample["__key__"]


def test_batches_of_a_loader_feed_the_loss(taught: Path) -> None:
    import webdataset

    teachers = cusa.teacher_rows(taught)
    dataset = (
        webdataset.WebDataset(_shards(taught), shardshuffle=False)  # no decoder: the stage reads the JSON itself
        .compose(pickle.loads(pickle.dumps(teachers)))
        .to_tuple("caption", "teacher_image", "teacher_text", "image_id")
        .batched(12)
    )
    caption, teacher_image, teacher_text, image_ids = next(iter(dataset))
    assert len(caption) == 12
    rows = {"teacher_image": torch.as_tensor(teacher_image), "teacher_text": torch.as_tensor(teacher_text)}
    embeddings = {name: torch.randn(12, 4) for name in ("image", "text", "image_uni", "text_uni")}
    terms = cusa.CUSALoss()(**embeddings, **rows, image_ids=torch.as_tensor(image_ids))
    assert torch.isfinite(terms["loss"])


def test_a_read_only_folder_is_read(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cusa.teacher_rows(taught).at([0, 1], [3, 2])
    monkeypatch.setattr("os.access", lambda *_: False)
    given = cusa.teacher_rows(taught).at([0, 1], [3, 2])
    for name, value in given.items():
        assert torch.equal(value, expected[name])


def test_what_does_not_belong_is_named(taught: Path) -> None:
    teachers = cusa.teacher_rows(taught)
    with pytest.raises(DataError, match="no caption 'mini/nobody#1'"):
        teachers.rows([teachers.split.image_keys[0]], ["mini/nobody#1"])
    with pytest.raises(DataError, match="no image 'other/1'"):
        list(teachers([{"__key__": "other/1", "json": b'{"captions": [{"caption_key": "other/1#0", "text": "a"}]}'}]))
    with pytest.raises(DataError, match="no json member"):
        list(teachers([{"__key__": "other/1", "jpg": b""}]))
    with pytest.raises(DataError, match="Row 99 of the text teacher"):
        teachers.at([0], [99])
    with pytest.raises(DataError, match="it has words"):
        cusa.teacher_rows(taught, text="phrases")


def _blocks(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.mark.parametrize("heading", ["webdataset", "datasets", "DuckDB", "The loop, by key"])
def test_the_recipes_of_the_page_run(taught: Path, heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = taught.parent / "here/work"
    if not place.exists():
        place.mkdir(parents=True)
        (place / "coco").symlink_to(taught, target_is_directory=True)
    monkeypatch.chdir(place.parent)
    space: dict[str, Any] = {}
    blocks = _blocks(heading)
    assert blocks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries
        for block in blocks:
            exec(block, space)
    if heading == "webdataset":
        assert space["seen"] == 36
    elif heading == "datasets":
        assert space["pictures"] == 12
        assert space["sample"]["json"]["captions"][0]["text"].startswith("A ")
    elif heading == "DuckDB":
        assert [row[1] for row in space["longest"]]


def test_the_plain_loop_and_lightning_learn(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightning's own
        for name in ("open_clip_loop", "lightning_module"):
            main = runpy.run_path(str(ROOT / f"examples/{name}.py"))["main"]
            first, last = main([str(taught), "--steps", "40", "--batch", "12", "--tiny"])
            assert last < first, name
