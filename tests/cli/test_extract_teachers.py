"""`cusa extract-teachers`: every option reaches the extraction, or the import of features."""

from pathlib import Path

import pytest

from cusa.manifests.storage import store
from cusa.models.teachers import registry
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.engine import LOCAL, Engine
from cusa.pipeline.extract import import_features
from tests.cli import calls


def test_extract__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, extract, "run", calls.outcome("extract-teachers"))
    loaded = calls.record(monkeypatch, registry, "load_teacher", "the teacher")
    printed = calls.every_option(
        *("extract-teachers", small, "--split", "val", "--split", "test", "--image", "eyes", "--as", "mine"),
        *("--transform", "none", "--dtype", "float32", "--precision", "bfloat16", "--batch-size", 7),
        *("--weights", tmp_path / "w.pt", "--workers", 3, "--engine", "ray", "--address", "head:1", "--force"),
        but={"--text", "--import", "--ids"},
    )
    config = ExtractConfig(
        name="mine",
        batch_size=7,
        dtype="float32",
        transform="none",
        precision="bfloat16",
        weights=str(tmp_path / "w.pt"),
        workers=3,
    )
    load = done[0]["load"]
    assert done == [
        {
            "config": config,
            "split": (small, name),
            "teacher": "eyes",
            "modality": "image",
            "force": True,
            "engine": Engine("ray", "head:1"),
            "on_event": "Console.event",
            "load": load,
        }
        for name in ("val", "test")
    ]
    assert [load("eyes", "image") for _ in range(2)] == ["the teacher"] * 2
    (one,) = loaded
    assert one == {
        "name": "eyes",
        "modality": "image",
        "weights": str(tmp_path / "w.pt"),
        "precision": "bfloat16",
    }, "loaded once for all splits"
    assert printed.splitlines()[-1] == f"next: cusa index {small}"


def test_extract__several_teachers_of_every_split_as_the_configuration_says(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = calls.record(monkeypatch, extract, "run", calls.outcome())
    calls.plain("extract-teachers", small, "--image", "eyes", "--text", "ears", "--text", "more")
    teachers = [("eyes", "image"), ("ears", "text"), ("more", "text")]
    splits = ("train", "val", "test")
    assert [(one["split"][1], one["teacher"], one["modality"]) for one in done] == [
        (split, *teacher) for split in splits for teacher in teachers
    ]
    assert all((one["config"], one["engine"], one["force"]) == (ExtractConfig(), LOCAL, False) for one in done)


def test_extract__both_sides_of_one_teacher_get_tables_of_their_own(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = calls.record(monkeypatch, extract, "run", calls.outcome())
    calls.plain("extract-teachers", small, "--split", "val", "--image", "a/clip", "--text", "a/clip", "--text", "ears")
    assert [(one["teacher"], one["modality"], one["config"].name) for one in done] == [
        ("a/clip", "image", "clip-image"),
        ("a/clip", "text", "clip-text"),
        ("ears", "text", ""),
    ]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_extract__import_takes_rows_instead(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = tmp_path / "features"
    store.write_text(source / "part" if kind == "folder" else source, "rows")
    read = calls.record(monkeypatch, import_features, "read_features", "the features")
    done = calls.record(monkeypatch, import_features, "run", calls.outcome())
    printed = calls.plain(
        *("extract-teachers", small, "--text", "ears", "--import", source, "--ids", tmp_path / "ids", "--split", "val"),
        *("--as", "mine", "--dtype", "float32", "--force"),
    )
    assert read == [{"path": source, "ids": tmp_path / "ids", "modality": "text"}]
    assert done == [
        {
            "config": ExtractConfig(name="mine", dtype="float32"),
            "split": (small, "val"),
            "features": "the features",
            "sha256": store.sha256_folder(source) if kind == "folder" else store.sha256_file(source),
            "teacher": "ears",
            "modality": "text",
            "force": True,
            "on_event": "Console.event",
        }
    ]
    assert printed.splitlines()[-1] == f"next: cusa index {small}"
    calls.plain("extract-teachers", small, "--image", "eyes", "--import", source)
    assert [(one["split"][1], one["modality"]) for one in done[1:]] == [
        (split, "image") for split in ("train", "val", "test")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--as", "mine", "--image", "a", "--text", "b"), "--as names the tables of one teacher"),
        (("--as", ".mine", "--image", "a"), "--as '.mine' is no name for a folder"),
        (("--import", "x.npy", "--image", "a", "--text", "b"), "--import goes with one teacher's name"),
        ((), "Name at least one teacher"),
        (("--image", "a", "--batch-size", 0), "--batch-size 0"),
    ],
)
def test_extract__what_cannot_be_is_wrong_usage(small: Path, words: tuple[object, ...], said: str) -> None:
    assert said in calls.refused("extract-teachers", small, *words)
