"""Fixtures every test may use: where the shared real data lies, and a network that is off."""

import os
from pathlib import Path

import pytest

from tests.browser import browser  # noqa: F401 (a fixture)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported, by whichever test does
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; see cusa/cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data and golden numbers; skip without it, but never on CI."""
    folder = Path(os.environ.get("CUSA_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the shared data; {folder} has none. Set CUSA_SHARED.")
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Return the folder of numbers computed with the reference implementations."""
    return shared / "golden"
