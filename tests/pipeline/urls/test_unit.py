"""Units of URLs: what lies there of one counts only for the URLs and settings that it was fetched for."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.manifests import schemas
from cusa.manifests.storage import store
from cusa.pipeline.urls.unit import Done, Unit, is_due, read_done


def _finished(out: Path, *, digest: str = "plan-1", dropped: int = 0, retry: bool = False, tar: bytes = b"tar") -> Unit:
    """Write what a finished unit leaves, and return it."""
    unit = Unit(out, 3, 0, digest, retry)
    store.make_folder(unit.table.parent)
    unit.tar(0).write_bytes(tar)
    metadata = {
        **{"plan": "plan-1", "kept": "4", "dropped": str(dropped)},
        **{"tar": unit.tar(0).relative_to(out).as_posix(), "sha256": store.sha256_file(unit.tar(0))},
    }
    store.write_table(unit.table, schemas.FETCHED.empty_table().replace_schema_metadata(metadata))
    return unit


def test_read_done__what_lies_there(tmp_path: Path) -> None:
    unit = _finished(tmp_path, dropped=2)
    assert read_done(unit) == Done(4, 2, "fetched/00003.tar", store.sha256_file(unit.tar(0)))


@pytest.mark.parametrize("harm", ["another plan", "another tar", "no tar", "no table", "no metadata"])
def test_read_done__nothing_where_anything_differs(tmp_path: Path, harm: str) -> None:
    unit = _finished(tmp_path, digest="plan-2" if harm == "another plan" else "plan-1")
    if harm == "another tar":
        unit.tar(0).write_bytes(b"rat")
    elif harm == "no tar":
        unit.tar(0).unlink()
    elif harm == "no table":
        unit.table.unlink()
    elif harm == "no metadata":
        store.write_table(unit.table, pa.table({"key": ["a"]}))
    assert read_done(unit) is None
    assert is_due(unit)


@pytest.mark.parametrize(
    ("dropped", "retry", "due"), [(0, False, False), (2, False, False), (0, True, False), (2, True, True)]
)
def test_is_due__what_failed_is_tried_again_only_when_asked(
    tmp_path: Path, dropped: int, retry: bool, due: bool
) -> None:
    assert is_due(_finished(tmp_path, dropped=dropped, retry=retry)) == due
