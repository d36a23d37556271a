"""The wheel: every module and data file of the package is in it, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

from tests.conftest import ROOT


@pytest.mark.skipif(int(setuptools.__version__.split(".")[0]) < 77, reason="the build needs setuptools 77")
def test_the_wheel_holds_the_package_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "cusa", source / "cusa", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    packed = {name for name in names if ".dist-info/" not in name}
    files = {path.relative_to(source).as_posix() for path in (source / "cusa").rglob("*") if path.is_file()}
    assert packed == files
    assert "cusa = cusa.cli:main" in entry_points
