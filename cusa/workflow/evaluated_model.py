"""What is evaluated: a run, a model folder, a sentence-transformers folder, or a hub model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa import recipe as recipes
from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.manifests import ledger
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store

if TYPE_CHECKING:
    from cusa.eval.encode import TextModel
    from cusa.models.students.base import Student


@dataclass(frozen=True)
class _Model:
    """What is evaluated.

    Attributes:
        name: as the user wrote it.
        run: its folder, if it is a run.
        recipe: the run's.
        config: of the evaluation.
        digest: of its weights.
    """

    name: str
    run: Path | None
    recipe: Mapping[str, Any]
    config: EvalConfig
    digest: str

    @property
    def texts_alone(self) -> bool:
        return (Path(self.name).expanduser() / "modules.json").is_file()

    def load(self) -> "Student | TextModel":
        if self.texts_alone:
            from cusa.eval.encode import TextModel
            from cusa.models.teachers.sentence import SentenceTeacher

            teacher = SentenceTeacher(self.name, device=self.config.device, batch_size=self.config.batch_size)
            return TextModel(teacher.name, teacher.encode, teacher.provenance())
        from cusa.models import student

        return student.load(self.name)

    def trained_on(self) -> Split | None:
        """Return the split it was trained on, where that is known and still there."""
        told = self.run / "run.json" if self.run is not None else None
        if told is None or not told.is_file():
            return None
        work, name = Path(store.read_json(told)["data"]), self.recipe.get("data", {}).get("train", "train")
        return Split(work, name) if (work / name / "samples.parquet").is_file() else None


def _trained_on(run: Path, own: Mapping[str, Any], work: Path) -> bool:
    """Tell whether a work folder is the run's own: by its place, or, where one of them moved, by its content."""
    told = run / "run.json"
    if not told.is_file() or Path(store.read_json(told)["data"]) == work.resolve():
        return True
    book, train = ledger.read(run / "ledger.json"), own.get("data", {}).get("train", "train")
    if book is None or train not in splits(work):
        return False
    return Split(work, train).digest == book.inputs.get("the training split")


def _run_of(name: str) -> Path | None:
    """Return the run folder that a name is, or None.

    Raises:
        DataError: if the run has no model yet.
    """
    run = Path(name)
    if not (run / "recipe.json").is_file():
        return None
    if not (run / "model").is_dir():
        raise DataError(
            f"{run} has no model yet: its training has not come to its first validation. Run `cusa train` again.",
            path=run,
        )
    return run


def _model(name: str, settings: Iterable[str]) -> _Model:
    run = _run_of(name)
    if run is not None:
        own = store.read_json(run / "recipe.json")
        config = recipes.section(EvalConfig, settings, base=own.get("eval", {}))
        return _Model(name, run, own, config, store.sha256_folder(run / "model"))
    folder = Path(name).expanduser()
    digest = store.sha256_folder(folder) if folder.is_dir() else store.sha256_file(folder) if folder.is_file() else name
    return _Model(name, None, {}, recipes.section(EvalConfig, settings), digest)
