"""Tables of what there is to choose from, and of what a work folder holds."""

from pathlib import Path

import pytest

from cusa import recipe as recipes
from cusa.errors import ConfigError
from cusa.manifests import datasets, tables
from cusa.manifests.origin import write_origin
from cusa.manifests.records import REASONS
from cusa.models.teachers.catalogue import CATALOGUE
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.readers import READERS
from cusa.workflow.catalogue import catalogue
from tests.worlds import write_karpathy


def test_catalogue__what_the_package_knows() -> None:
    header, rows = catalogue("datasets")
    assert header == ("name", "what it is", "counts", "licence")
    assert [row[0] for row in rows] == ["scenes", *datasets.names()]
    coco = datasets.load("coco")
    (shown,) = [row for row in rows if row[0] == "coco"]
    images = f"train {coco.counts['train'].images:,}"
    assert shown[1] == coco.title
    assert images in shown[2]
    assert shown[3] == coco.licence
    layouts = dict(catalogue("layouts")[1])
    assert list(layouts) == list(READERS)
    assert all(words and "\n" not in words for words in layouts.values())
    assert READERS["karpathy"].__doc__ is not None
    assert READERS["karpathy"].__doc__.startswith(f"{layouts['karpathy']}\n")
    assert catalogue("teachers") == (("name", "what it is"), list(CATALOGUE.items()))
    assert catalogue("drop-reasons")[1] == list(REASONS.items())
    header, rows = catalogue("recipes")
    assert header == ("name", "what it is", "expected")
    assert [row[0] for row in rows] == recipes.packaged()
    (shown,) = [row for row in rows if row[0] == "clip-vit-b-32/coco/cusa"]
    recipe = recipes.load("clip-vit-b-32/coco/cusa")
    assert shown[1] == recipe.description
    main = {name for name in recipe.expected if name.endswith(("rsum", "average"))}
    assert shown[2].split(", ") == [f"{name} {value}" for name, value in recipe.expected.items() if name in main]
    with pytest.raises(ConfigError, match="There is no list of 'recipe'"):
        catalogue("recipe")


def test_catalogue__what_a_work_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_karpathy(tmp_path / "raw", images=3, captions=2, splits=("train", "val"))
    for number in (0, 1, 4):
        (picture,) = (tmp_path / "raw").glob(f"*/picture_{number:04d}.jpg")
        picture.write_bytes(b"no picture") if number else picture.unlink()
    work = tmp_path / "work"
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=work)
    header, rows = catalogue("drop-reasons", work)
    assert header == ("split", "kind", "reason", "rows")
    assert rows == sorted(rows)
    counted = {(split, kind): 0 for split in ("train", "val") for kind in ("image", "caption")}
    for split, kind, _, number in rows:
        counted[split, kind] += int(number)
    assert counted == {("train", "image"): 2, ("train", "caption"): 4, ("val", "image"): 1, ("val", "caption"): 2}
    assert len({row[2] for row in rows if row[:2] == ("train", "image")}) == 2, "missing and broken are two reasons"
    for split in ("train", "val"):
        (work / split / "teachers/mine").mkdir(parents=True)
    write_origin(work / "val/teachers/mine", "/models/mine")
    monkeypatch.setattr(tables, "teachers", lambda split, **more: {"mine": "text"})
    assert catalogue("teachers", work) == (
        ("split", "teacher", "modality", "made from"),
        [("train", "mine", "text", "not written down"), ("val", "mine", "text", "/models/mine")],
    )
    with pytest.raises(ConfigError, match="--data does not go with 'recipes'"):
        catalogue("recipes", work)
