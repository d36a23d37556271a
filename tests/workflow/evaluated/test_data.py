"""What data folders are called in the results, and a list of images that a split must consist of."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.judgements import flickr8k
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.workflow.evaluated.data import DataFolders, refuse_other_images, result_names, sort_by_kind
from tests.manifests.judgements.test_altered_captions import ROCOCO, SUGARCREPE, write
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


def _folder(folder: Path, kind: str) -> Path:
    """Make a folder of a kind, with what shows it and nothing else."""
    if kind == "work":
        return make_work(folder, images=2, splits=("test",), captions=1)
    files = {
        "layout": ["dataset_coco.json"],
        "sts": ["STS/STS12-en-test/STS.input.MSRpar.txt"],
        "truth": ["coco_test_ids.npy", "eccv_image_to_caption.json"],
        "ratings": ["sis_test.csv"],
        "flickr8k": [flickr8k.EXPERTS],
    }
    for name in files[kind]:
        store.write_text(folder / name, "picture_0000.jpg\tpicture_0001.jpg#0\t1\t2\t3\n")
    return folder


def test_sort_by_kind__each_folder_by_what_it_holds(tmp_path: Path) -> None:
    kinds = ("sts", "flickr8k", "layout", "truth", "work", "ratings")
    made = {kind: _folder(tmp_path / kind, kind) for kind in kinds}
    other = _folder(tmp_path / "more", "work")
    found = sort_by_kind([*made.values(), other])
    assert found == DataFolders(
        work=(made["work"], other),
        layout=(made["layout"],),
        sts=(made["sts"],),
        truth=made["truth"],
        ratings=made["ratings"],
        flickr8k=made["flickr8k"],
    )
    assert found.retrieval == (made["work"], other, made["layout"])
    assert found.of_kinds(["sts", "work"]) == [("sts", made["sts"]), ("work", made["work"]), ("work", other)]
    assert found.of_kinds([]) == []
    assert sort_by_kind([made["layout"]]) == DataFolders((), (made["layout"],), (), None, None, None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("truth", "a ground truth of COCO's"), ("ratings", "CxC's ratings"), ("flickr8k", "Flickr8k's judgements")],
)
def test_sort_by_kind__judgements_need_data_and_there_is_one_of_them(tmp_path: Path, kind: str, words: str) -> None:
    one, other, work = (_folder(tmp_path / name, what) for name, what in (("a", kind), ("b", kind), ("w", "work")))
    with pytest.raises(ConfigError, match=rf"a is {words}.*: give one, and the work folder it is for"):
        sort_by_kind([one])
    with pytest.raises(ConfigError, match=rf"b is {words}.*: give one"):
        sort_by_kind([one, work, other])
    sort_by_kind([one, work])
    sort_by_kind([one, _folder(tmp_path / "l", "layout")])


def test_sort_by_kind__judged_pictures_are_data_themselves_unless_a_work_folder_has_them(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "flickr8k", "flickr8k")
    store.write_text(folder / flickr8k.TOKENS, "")
    assert sort_by_kind([folder]).layout == (folder,)
    work = _folder(tmp_path / "w", "work")
    assert sort_by_kind([folder, work]).layout == (), "picture_0000.jpg is in the work folder"
    store.write_text(folder / flickr8k.EXPERTS, "other.jpg\tother.jpg#0\t1\t2\t3\n")
    found = sort_by_kind([folder, work])
    assert (found.layout, found.work, found.flickr8k) == ((folder,), (work,), folder)


@pytest.mark.parametrize(
    ("name", "words"), [("file", "is a file"), ("none", "does not exist"), ("empty", "holds noth")]
)
def test_sort_by_kind__what_is_nothing_to_evaluate_on(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"{name} {words}.* Give a work folder"):
        sort_by_kind([tmp_path / name])


def test_sort_by_kind__official_files_of_altered_captions_serve_a_work_folder(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("test",), captions=1)
    sugar = write(tmp_path / "sugar", swap_att=SUGARCREPE)
    folders = sort_by_kind([work, sugar, write(tmp_path / "rococo", danger=ROCOCO)])
    assert [(one.whose, one.folder.name) for one in folders.altered] == [("sugarcrepe", "sugar"), ("rococo", "rococo")]
    assert folders.retrieval == (work,)
    with pytest.raises(ConfigError, match="SugarCrepe's captions of COCO: give one, and the work folder"):
        sort_by_kind([sugar])
