"""A stage's run: due or not, one writer, a ledger at the end; within `asking` nothing is written."""

import os
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError
from cusa.manifests import ledger, lock
from cusa.manifests.stage import NotCurrentError, Outcome, StageRun, asking
from cusa.manifests.storage import store


def _run(folder: Path, *, a: str = "1", x: int = 1, **more: Any) -> Outcome:
    stage = StageRun("s", folder / "ledger.json", inputs={"a": a}, parameters={"x": {"y": x}}, **more)
    if stage.up_to_date:
        return stage.reuse(notes=("as before",))
    with stage.begin():
        store.write_text(folder / "out.txt", a)
        return stage.finish(outputs=[folder / "out.txt"], counts={"rows": x})


def test_a_stage_works_once_and_says_why_it_works_again(tmp_path: Path) -> None:
    assert _run(tmp_path).why == "never finished"
    again = _run(tmp_path)
    assert (again.fresh, again.why, again.counts, again.seconds, again.notes) == (
        *(False, "", {"rows": 1}, 0.0, ("as before",)),
    )
    assert _run(tmp_path, a="2").why == "a changed"
    assert _run(tmp_path, a="2", x=2).why == "x.y was 1 and is now 2"
    assert _run(tmp_path, a="2", x=2, force=True).why == "--force"
    assert _run(tmp_path, a="2", x=2, reason="rows to append").why == "rows to append"
    assert not _run(tmp_path, a="5", x=7, reason="").fresh
    (tmp_path / "out.txt").write_text("longer than it was")
    assert _run(tmp_path, a="2", x=2).why == "out.txt has 18 bytes instead of 1"
    (tmp_path / "out.txt").unlink()
    assert _run(tmp_path, a="2", x=2).why == "out.txt is missing"


def test_a_folder_whose_name_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"run\xe9")
    with pytest.raises(ConfigError, match=r"run\\udce9.*' is not UTF-8 .*another name") as error:
        _run(folder)
    str(error.value).encode()
    assert list(tmp_path.iterdir()) == []
    assert _run(tmp_path / "größe").fresh


@pytest.mark.parametrize("force", [False, True])
def test_within_asking_nothing_is_written(tmp_path: Path, force: bool) -> None:
    with asking(), pytest.raises(NotCurrentError, match="--force" if force else "never finished"):
        _run(tmp_path / "new", force=force)
    assert not (tmp_path / "new").exists()
    _run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with asking():
        if force:
            with pytest.raises(NotCurrentError, match="--force"):
                _run(tmp_path, force=True)
        else:
            assert not _run(tmp_path).fresh
        with pytest.raises(NotCurrentError, match="a changed"):
            _run(tmp_path, a="2", force=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_stage_that_fails_leaves_no_ledger_and_no_unfinished_file(tmp_path: Path) -> None:
    _run(tmp_path)
    stage = StageRun("s", tmp_path / "ledger.json", inputs={"a": "9"}, parameters={})
    with (
        pytest.raises(ValueError, match="broke"),
        stage.begin(),
        store.whole_file(tmp_path / "out.txt") as temporary,
    ):
        temporary.write_text("half")
        raise ValueError("broke")
    assert ledger.read(tmp_path / "ledger.json") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [store.LOCK, "out.txt"]
    assert (tmp_path / "out.txt").read_text() == "1"
    assert _run(tmp_path, a="9").why == "never finished"


def test_a_stage_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    stage = StageRun("s", tmp_path / "new" / "ledger.json", inputs={}, parameters={})
    with pytest.raises(ValueError, match="refused"), stage.begin():
        raise ValueError("refused")
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    stage = StageRun("s", tmp_path / "there" / "ledger.json", inputs={}, parameters={})
    with pytest.raises(ValueError, match="refused"), stage.begin():
        raise ValueError("refused")
    assert (tmp_path / "there").is_dir(), "a folder that was there is not ours to remove"


def test_what_is_known_late_stands_in_the_ledger(tmp_path: Path) -> None:
    stage = StageRun("s", tmp_path / "x.ledger.json", out=tmp_path / "x", inputs={"a": "1"}, parameters={"p": 1})
    with stage.begin():
        store.write_text(tmp_path / "x", "text")
        outcome = stage.finish(
            outputs=[tmp_path / "x"], counts={}, inputs={"a": "1", "late": "2"}, parameters={"p": 2}, notes=("so",)
        )
    written = ledger.read(tmp_path / "x.ledger.json")
    assert written is not None
    assert (written.inputs, written.parameters, outcome.out, outcome.notes) == (
        *({"a": "1", "late": "2"}, {"p": 2}, tmp_path / "x", ("so",)),
    )
    assert written.digests == {"x": store.sha256_file(tmp_path / "x")}


@pytest.mark.parametrize("late", [{"inputs": {"late": "2"}}, {"parameters": {"p": 2}}])
def test_finish__what_is_not_known_late_is_the_constructor_s(tmp_path: Path, late: dict[str, Any]) -> None:
    stage = StageRun("s", tmp_path / "l.json", inputs={"a": "1"}, parameters={"p": 1})
    with stage.begin():
        stage.finish(outputs=[], counts={"rows": 2}, digests={}, **late)
    written = ledger.read(tmp_path / "l.json")
    assert written is not None
    told = {"inputs": {"a": "1"}, "parameters": {"p": 1}, **late}
    assert (written.stage, written.inputs, written.parameters, written.counts) == (
        *("s", told["inputs"], told["parameters"], {"rows": 2}),
    )


def test_begin__withdraws_sweeps_and_spares_what_is_gone_on_from(tmp_path: Path) -> None:
    _run(tmp_path)
    left, kept = (tmp_path / f"{store.TEMPORARY}{name}" for name in ("left", "kept"))
    left.touch()
    kept.touch()
    stage = StageRun("s", tmp_path / "ledger.json", inputs={"a": "9"}, parameters={})
    assert (stage.out, stage.up_to_date, stage.asked, stage.why) == (tmp_path, False, False, "a changed")
    assert stage.before is not None
    with stage.begin(lock_path=tmp_path / "other.lock", keep=[kept]):
        assert lock.holder(tmp_path / "other.lock") is None, "its own stops nobody of this thread"
        assert (tmp_path / "other.lock").read_text(), "it is held"
        assert not (tmp_path / "ledger.json").exists()
        assert (left.exists(), kept.exists()) == (False, True)
    assert (tmp_path / "other.lock").read_text() == ""
    with asking():
        assert StageRun("s", tmp_path / "x.json", inputs={}, parameters={}, reason="").asked
        with pytest.raises(NotCurrentError) as caught:
            StageRun("s", tmp_path / "x.json", inputs={}, parameters={})
    assert (caught.value.why, str(caught.value)) == ("never finished", "never finished")
