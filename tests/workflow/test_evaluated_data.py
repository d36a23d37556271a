"""What data folders are called in the results, and a list of images that a split must consist of."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.workflow.evaluated_data import refuse_other_images, result_names
from tests.worlds import make_work


def test_result_names__two_folders_never_share_one(tmp_path: Path) -> None:
    folders = [tmp_path / place for place in ("a/work", "b/work", "b/other", "c/../b/x/work")]
    names = result_names(folders)
    assert names[2] == "other"
    assert len(set(names)) == 4
    assert all(name.startswith("work-") for name in (names[0], names[1], names[3]))
    assert result_names(folders[:1]) == ["work"]
    assert result_names(folders)[0] == result_names([folders[0], folders[1]])[0], "the same whoever stands beside it"


def test_refuse_other_images__neither_missing_nor_more(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("test",), captions=1), "test")
    ids = tmp_path / "ids.txt"
    store.write_text(ids, "\n".join([*reversed(split.image_keys), ""]))
    refuse_other_images(split, ids)
    store.write_text(ids, "\n".join(split.image_keys[:2]))
    with pytest.raises(DataError, match=r"0 of 2 images are missing and 1 are others"):
        refuse_other_images(split, ids)
    store.write_text(ids, "\n".join([*split.image_keys, "mini/more"]))
    with pytest.raises(DataError, match=r"1 of 4 images are missing and 0 are others \('mini/more' is missing\)"):
        refuse_other_images(split, ids)
    with pytest.raises(DataError, match="cannot be read"):
        refuse_other_images(split, tmp_path / "nowhere.txt")
