"""The file of a batch's calibration: whole, of the right teachers, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import batch_calibration
from cusa.manifests.batch_calibration import BatchCalibration

TEXT = {
    "teacher": "words",
    "revision": "1",
    "weights_sha256": "ab",
    "preprocessing": "words",
    "transform": "clean",
}
IMAGE = {**TEXT, "teacher": "colours", "weights_sha256": "", "preprocessing": "rgb"}


def made(**fields: Any) -> BatchCalibration:
    """Return a calibration of both teachers."""
    told = {
        "teachers": {"image": IMAGE, "text": TEXT},
        "cosines": {"image": 1.0, "text": 2.0},
        "levels": {"image": 0.0, "text": -1.0},
        "intercept": -3.0,
        "about": {"fitted": {}},
    }
    return BatchCalibration(**{**told, **fields})


def test_read__what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made())
    assert batch_calibration.read(path) == made()
    assert batch_calibration.read(path).digest == made(about={"other": 1}).digest
    assert made(intercept=-3.5).digest != made().digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "cusa calibration 2"}, "it is a 'cusa calibration 2'. Make it with `cusa calibrate --in-batch`"),
        ({"intercept": None}, "broken calibration"),
        ({"intercept": float("nan")}, "numbers do not fit together"),
        ({"cosines": {"text": 1.0}}, "numbers do not fit together"),
        ({"teachers": {}, "cosines": {}, "levels": {}}, "numbers do not fit together"),
        ({"levels": {"image": 0, "text": "much"}}, "broken calibration"),
    ],
)
def test_read__refuses_what_is_none(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=words):
        batch_calibration.read(path)


def test_read__a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no calibration .*cusa calibrate --in-batch"):
        batch_calibration.read(tmp_path / "none.json")


def test_misfit__teachers_by_their_weights_others_by_name_and_revision() -> None:
    assert not made().misfit({"image": IMAGE, "text": {**TEXT, "teacher": "another folder", "revision": "2"}})
    assert "weights_sha256 is 'ab' there and 'cd' here" in made().misfit(
        {"image": IMAGE, "text": {**TEXT, "weights_sha256": "cd"}}
    )
    assert "revision" in made().misfit({"image": {**IMAGE, "revision": "2"}, "text": TEXT})
    assert "needs an image teacher" in made().misfit({"text": TEXT})
    text_only = made(teachers={"text": TEXT}, cosines={"text": 2.0}, levels={"text": 0.0})
    assert not text_only.misfit({"image": {}, "text": TEXT})
    with pytest.raises(StaleError, match="was fitted on other teachers"):
        made().refuse_others({"text": TEXT}, "c.json")


@pytest.mark.parametrize(
    "change",
    [
        {"intercept": -3.5},
        {"cosines": {"image": 1.0, "text": 2.5}},
        {"levels": {"image": 0.0, "text": -1.5}},
        {"levels": {"image": -1.0, "text": 0.0}},
        {"teachers": {"image": IMAGE, "text": {**TEXT, "preprocessing": "letters"}}},
    ],
)
def test_digest__is_of_every_number_and_teacher(change: dict[str, Any]) -> None:
    assert made(**change).digest != made().digest


@pytest.mark.parametrize("key", ["weights_sha256", "preprocessing", "transform"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_misfit__a_teacher_that_reads_otherwise_is_another_one(modality: str, key: str) -> None:
    teachers = {"image": IMAGE, "text": TEXT}
    teachers[modality] = {**teachers[modality], key: "other"}
    assert f"{key} is {dict(image=IMAGE, text=TEXT)[modality][key]!r} there and 'other' here" in made().misfit(teachers)


def test_write__every_number_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made())
    assert json.loads(path.read_text()) == {
        "format": "cusa batch calibration 1",
        "teachers": {"image": IMAGE, "text": TEXT},
        **{"cosines": {"image": 1.0, "text": 2.0}, "levels": {"image": 0.0, "text": -1.0}, "intercept": -3.0},
        "about": {"fitted": {}},
    }


@pytest.mark.parametrize("content", [[], "x", {"format": 3}, {}])
def test_read__another_file_is_none_of_ours(tmp_path: Path, content: object) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"is no calibration of a batch's pairs \(cusa batch calibration 1\): it is none"
    ):
        batch_calibration.read(path)


@pytest.mark.parametrize("name", ["teachers", "cosines", "levels", "intercept", "about"])
def test_read__a_file_that_lacks_anything_is_broken(tmp_path: Path, name: str) -> None:
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made())
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))
    with pytest.raises(DataError, match="is a broken calibration"):
        batch_calibration.read(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cosines", "levels"])
def test_read__numbers_that_are_none_or_of_another_teacher(tmp_path: Path, name: str, bad: float) -> None:
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made(**{name: {"image": 1.0, "text": bad}}))
    with pytest.raises(DataError, match="its numbers do not fit together"):
        batch_calibration.read(path)
    third = {"teachers": {"image": IMAGE, "sound": TEXT}, "cosines": {"image": 1, "sound": 1}}
    batch_calibration.write(path, made(**third, levels={"image": 1, "sound": 1}))
    with pytest.raises(DataError, match="its numbers do not fit together"):
        batch_calibration.read(path)


@pytest.mark.parametrize("key", ["teacher", "revision", "preprocessing", "transform", "weights_sha256"])
def test_misfit__without_a_digest_of_the_weights_name_and_revision_count(key: str) -> None:
    """The image teacher of a hub that gave no digest; the text teacher's name and revision do not count."""
    assert f"{key} is {IMAGE[key]!r} there" in made().misfit({"image": {**IMAGE, key: "other"}, "text": TEXT})
    assert "it needs a text teacher" in made().misfit({"image": IMAGE})
    assert made().misfit({"image": IMAGE, "text": TEXT, "sound": {}}) == ""
    made().refuse_others({"image": IMAGE, "text": TEXT}, "c.json")
