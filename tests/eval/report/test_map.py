"""The maps: a point an item with its picture and words, the same each time."""

import re
import shutil
from pathlib import Path

import numpy as np

from cusa.eval import cache
from cusa.eval.config import EMBEDDINGS
from cusa.eval.report import runs
from cusa.eval.report import stage as report
from cusa.eval.report.map import _embeddings, _layout
from cusa.manifests.samples import Split
from tests.eval.report.test_stage import Tags


def test_maps__every_point_has_its_picture_and_words_without_a_script(
    evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    work, run = evaluated
    path = report.run([run], out=tmp_path / "r.html", work=work).out
    page = path.read_text()
    tags = Tags(page)
    points = [attributes for tag, attributes in tags.tags if tag == "b" and "pt" in (attributes.get("class") or "")]
    assert len(points) == 2 * 16
    for point in points:
        places = [float(value) for value in re.findall(r":([\d.]+)%", point["style"] or "")]
        assert all(0 <= place <= 100 for place in places)
        assert point["tabindex"] == "0"
    assert len(re.findall(r"\.p\d+\{background-image:url\(data:image/jpeg;base64,", page)) == 16
    assert not [tag for tag, _ in tags.tags if tag == "script"]
    assert "Maps of the embeddings" in tags.text
    # Without the kept embeddings there is nothing to draw, and the page says nothing of it.
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / EMBEDDINGS)
    again = report.run([alone], out=tmp_path / "s.html", work=work).out
    assert "Maps of the embeddings" not in again.read_text()


def test_maps__damaged_embeddings_are_named_and_stay(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    work, run = evaluated
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (texts,) = copy.glob(f"{EMBEDDINGS}/*/text-*.parquet")
    (images,) = copy.glob(f"{EMBEDDINGS}/*/image-*.parquet")
    for file, panels in ((texts, 1), (images, 0)):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        done = report.run([copy], out=tmp_path / f"{file.stem}.html", work=work)
        tags = Tags(done.out.read_text())
        assert "Maps of the embeddings" in tags.text
        assert len([tag for tag, attributes in tags.tags if tag == "figure" and "map" in str(attributes)]) == panels
        (note,) = done.notes
        assert f"cusa eval {copy} ... --force" in note
        assert note.replace(str(copy), copy.name) in " ".join(tags.text.split())  # the page is read elsewhere
        assert file.read_bytes() == bytes(data), "a report removes nothing"
    assert "2 files of its kept embeddings are not as they were written" in note


def test_embeddings__are_those_of_the_uni_modal_tasks(evaluated: tuple[Path, Path]) -> None:
    work, folder = evaluated
    run, split = runs.read(folder), Split(work, "test")
    rows = np.arange(split.num_images)
    contents = [bytes.fromhex(sha256) for sha256 in split.samples["sha256"].to_pylist()]
    at, blocks = cache.kept(folder / EMBEDDINGS / run.result["embeddings"], "image", contents, damaged=[])
    assert not np.allclose(blocks["uni"], blocks["cross"])
    embedded = _embeddings(run, split, "image", rows, [])
    assert embedded is not None
    np.testing.assert_array_equal(embedded[at], blocks["uni"])


def test_layout__the_same_rows_give_the_same_map() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    np.testing.assert_array_equal(_layout(rows), _layout(rows))
