"""A whole recipe: its stages in order, their figures together, the published ones beside those that were measured."""

from pathlib import Path

import pytest

from cusa import recipe as recipes
from cusa.manifests.events import Callbacks
from cusa.workflow import project as projects
from cusa.workflow import run as runs
from cusa.workflow import stages
from cusa.workflow.project import Project
from cusa.workflow.stages import Stage, StageResult
from tests.cli import calls

RECIPE = "clip-vit-b-32/coco/cusa"


@pytest.mark.parametrize("smoke", [False, True])
def test_run__every_stage_once_and_what_they_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke: bool
) -> None:
    expected = recipes.load(RECIPE).expected
    known = sorted(expected)[:2]
    asked: list[Callbacks] = []

    def stage(number: int, name: stages.Name, figures: dict[str, float]) -> Stage:
        def do(callbacks: Callbacks) -> StageResult:
            asked.append(callbacks)
            return StageResult([calls.outcome(name, tmp_path / str(number))], figures)

        return Stage(name, f"work {number}", do)

    made = [stage(1, "train", {}), stage(2, "eval", {known[0]: 1.0, "of-nobody": 2.0}), stage(3, "report", {})]
    opened = calls.record(monkeypatch, projects, "open_project", Project(recipes.load(RECIPE), tmp_path))
    monkeypatch.setattr(stages, "of", lambda project: made)
    said: list[str] = []
    callbacks = Callbacks(on_message=said.append)
    told = {"work": tmp_path / "w", "name": "mine", "settings": ["a=1"], "smoke": smoke, "force": True}
    done = runs.run(RECIPE, out=tmp_path, **told, callbacks=callbacks)  # type: ignore[arg-type]
    assert opened == [{"recipe": RECIPE, "out": tmp_path, **told}]
    assert asked == [callbacks] * 3
    assert [one.stage for one in done.outcomes] == ["train", "eval", "report"]
    assert done.report == tmp_path / "3"
    assert done.figures == {known[0]: 1.0, "of-nobody": 2.0}
    assert done.expected == ({} if smoke else {known[0]: expected[known[0]]})
    runs.run(RECIPE, out=tmp_path)
    plain = {"work": None, "name": "", "settings": (), "smoke": False, "force": False}
    assert opened[1] == {"recipe": RECIPE, "out": tmp_path, **plain}
    smoked = [projects.SMOKE] if smoke else []
    assert (list(done.notes), said) == (
        smoked,
        [*smoked, "1 of 3: train, work 1", "2 of 3: eval, work 2", "3 of 3: report, work 3"],
    )
