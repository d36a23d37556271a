"""`cusa teachers probe`: every option reaches the probe, and which teachers are probed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cusa.manifests import tables
from cusa.manifests.origin import IMPORTED
from cusa.models.teachers import registry
from cusa.pipeline import probe
from cusa.pipeline.config import ProbeConfig
from tests.cli import calls
from tests.cli.test_cli import cusa_here


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Tables of three text teachers and an image teacher, by the revision of their weights; they load by name."""
    revisions = {"ears": "1", "bats": IMPORTED, "owls": "2", "eyes": "1"}
    kinds = {name: "image" if name == "eyes" else "text" for name in revisions}
    monkeypatch.setattr(tables, "teachers", lambda split, **more: kinds)
    monkeypatch.setattr(tables, "provenance", lambda split, name: {"revision": revisions[name]})
    monkeypatch.setattr(tables, "choose_teacher", lambda split, kind, word: f"{kind} table {word}")
    monkeypatch.setattr(registry, "resolve", lambda split, word, kind: SimpleNamespace(loads=f"{kind} model {word}"))
    return revisions


def test_probe__every_option_arrives(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, probe, "run", calls.outcome())
    loaded = calls.record(monkeypatch, registry, "load_teacher", "the teacher")
    calls.every_option(
        *("teachers", "probe", small, "--text", "bats", "--text", "owls", "--split", "val", "--edits", 3),
        *("--batch-size", 5, "--force"),
    )
    load = done[0]["load"]
    assert done == [
        {
            "config": ProbeConfig(edits=3, batch_size=5),
            "split": (small, "val"),
            "teacher": f"text table {name}",
            "name": f"text model {name}",
            "load": load,
            "force": True,
            "on_event": "Console.event",
        }
        for name in ("bats", "owls")
    ]
    assert [load("owls", "text") for _ in range(2)] == ["the teacher"] * 2
    assert len(loaded) == 1


def test_probe__without_options_the_text_teachers_that_can_be_asked(
    small: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, str]
) -> None:
    done = calls.record(monkeypatch, probe, "run", calls.outcome())
    said = cusa_here("teachers", "probe", small).stderr
    splits = ("train", "val", "test")
    assert [(one["split"][1], one["teacher"]) for one in done] == [
        (split, f"text table {name}") for split in splits for name in ("ears", "owls")
    ]
    assert all((one["config"], one["force"]) == (ProbeConfig(), False) for one in done)
    assert said.count("bats was imported") == 3
    there |= {"ears": IMPORTED, "owls": IMPORTED}
    done.clear()
    calls.plain("teachers", "probe", small, "--split", "val")
    assert [one["teacher"] for one in done] == [f"text table {name}" for name in ("ears", "bats", "owls")]


def test_probe__none_to_ask_and_none_that_loads_are_errors(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda split, word, kind: SimpleNamespace(loads=""))
    done = cusa_here("teachers", "probe", small)
    assert (done.returncode, "text table ears came from a folder that is not here" in done.stderr) == (1, True)
    monkeypatch.setattr(tables, "teachers", lambda split, **more: {"eyes": "image"})
    done = cusa_here("teachers", "probe", small)
    assert (done.returncode, "has no text teacher to probe" in done.stderr) == (1, True)
