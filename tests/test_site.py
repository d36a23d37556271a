"""The documentation: pictures are those of their script, blocks and notebooks run, the site's pages are all there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import ROOT
from tests.worlds import Colours, write_karpathy

DOCS = ROOT / "docs"


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_pictures_are_those_of_the_script() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tools/draw_concepts.py"), "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_blocks_of_how_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from cusa.manifests.samples import Split

    teacher, reader, metric = _blocks("how-to.md")
    monkeypatch.chdir(tmp_path)
    source = write_karpathy(tmp_path / "drawn", images=3, splits=("train",), captions=2)
    rows = json.loads(source.read_text())["images"]
    lines = ["|".join([f"drawn/train/{row['filename']}", *(one["raw"] for one in row["sentences"])]) for row in rows]
    Path("captions.txt").write_text("\n".join([*lines, "lonely.jpg"]))
    space: dict[str, Any] = {}
    for block in (teacher, reader, metric):
        exec(block, space)
    split = Split(Path("work/mine"), "train")
    assert (split.num_images, split.num_captions) == (3, 6)
    assert pq.read_table("work/mine/train/drops.parquet")["reason"].to_pylist() == ["bad-row"]
    from PIL import Image

    pictures = [Image.open(tmp_path / "drawn/train" / row["filename"]) for row in rows]
    assert (space["MeanColour"]().encode(pictures) == Colours().encode(pictures)).all()
    import numpy as np

    class Judged:
        rank = np.array([1, 4, 0])

    assert space["reciprocal_rank"].of_queries(Judged, 1).tolist() == [1.0, 0.25, 0.0]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples/notebooks").glob("*.ipynb")))
def test_the_notebooks_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import run_notebooks  # type: ignore[import-not-found, unused-ignore]

    notebook = run_notebooks.run(ROOT / f"examples/notebooks/{name}.ipynb")
    printed = ["".join(cell["outputs"][0]["text"]) for cell in notebook["cells"] if cell.get("outputs")]
    assert any(text.strip() for text in printed)
    if name == "loss":
        shares = [float(share) for share in re.findall(r"true match: ([\d.]+)", "".join(printed))]
        assert shares[1] > shares[0] + 2, "InfoNCE, CUSA"


def test_the_site_has_every_page_and_the_hook_its_notebooks() -> None:
    pytest.importorskip("mkdocs")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = yaml.safe_load(re.sub(r"!!python/name:\S+", "''", text))

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for each in (entry if isinstance(entry, list) else entry.values()) for page in pages(each)]

    listed = set(pages(settings["nav"]))
    assert {path.name for path in DOCS.glob("*.md")} <= listed
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "examples/notebooks").glob("*.ipynb")}
    assert notebooks == {page for page in listed if page.startswith("notebooks/")}
    assert settings["strict"] is True
