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
from cusa.models import features, source
from cusa.models.features import FeatureTable

if TYPE_CHECKING:
    from cusa.eval.encode import TextModel
    from cusa.models.students.base import Student


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is about to be evaluated; loaded only when there is something to compute."""

    name: str
    """As the user wrote it."""
    run: Path | None
    """Its folder, if it is a run."""
    recipe: Mapping[str, Any]
    """The run's recipe as resolved; empty for what is no run."""
    config: EvalConfig
    digest: str
    """Of its weights."""
    trust: tuple[str, ...] = ()
    """As in `cusa.models.student.load`."""

    @property
    def results_folder(self) -> Path | None:
        """Folder of a run's results; None for what is no run."""
        return self.run / "eval" if self.run is not None else None

    @property
    def features(self) -> dict[str, FeatureTable]:
        """Tables that it reads in place of pictures or texts, by modality."""
        return features.read_by(self.name)

    def load(self) -> "Student | TextModel":
        """Load it: a student, or a sentence-transformers folder as a model of texts alone."""
        if (Path(self.name).expanduser() / "modules.json").is_file():
            from cusa.eval.encode import TextModel
            from cusa.models.teachers.sentence import SentenceTeacher

            teacher = SentenceTeacher(self.name, device=self.config.device, batch_size=self.config.batch_size)
            return TextModel(teacher.name, teacher.encode, teacher.provenance())
        from cusa.models import student

        loaded = student.load(self.name, trust=self.trust)
        if self.config.max_patches:
            loaded.read_patches(self.config.max_patches, key="eval.max_patches")
        return loaded

    def training_splits(self) -> tuple[Split, ...]:
        """Return what it was trained on, where that is recorded and still there; of several data sets each."""
        places = self._trained_on()
        return tuple(Split(work, name) for work, name in places if (work / name / "samples.parquet").is_file())

    def was_trained_on(self, work: Path) -> bool:
        """Return whether a work folder is the run's own: by its place or, where one of them moved, by its content.

        Of a run on several data sets the first one's folder is its own: its results stand where those of other runs do.
        """
        if self.run is None:
            return False
        places = self._trained_on()
        if not places or places[0][0] == work.resolve():
            return True
        training, name = ledger.read(self.run / "ledger.json"), places[0][1]
        if training is None or name not in splits(work):
            return False
        first = (training.inputs.get(f"the training split{which}") for which in ("", " of data set 1"))
        return Split(work, name).digest in first

    def _trained_on(self) -> list[tuple[Path, str]]:
        """Return work folder and split of everything it was trained on, in the recipe's order; nothing if unknown."""
        if self.run is None or not (self.run / "run.json").is_file():
            return []
        recorded = store.read_json(self.run / "run.json")
        if sets := recorded.get("mixture"):
            return [(Path(one["data"]), one["split"]) for one in sets]
        return [(Path(recorded["data"]), self.recipe.get("data", {}).get("train", "train"))]


def open_model(name: str, settings: Iterable[str], *, trust: Iterable[str] = ()) -> EvaluatedModel:
    """Describe a model without loading it.

    Args:
        name: a run folder, a model folder, a sentence-transformers folder, or a hub name.
        settings: `key=value` of `EvalConfig`; a run's own recipe gives the rest.
        trust: as in `cusa.models.student.load`.

    Raises:
        ConfigError: for a setting that does not exist.
        DataError: if the name leads nowhere, the run has no model yet, or its recipe or model was changed after it was
            written.
    """
    path = Path(name).expanduser()
    source.refuse_missing(name)
    if (path / "recipe.json").is_file():
        if not (path / "model").is_dir():
            raise DataError(
                f"{path} has no model yet: its training has not reached its first validation. Run `cusa train` again.",
                path=path,
            )
        ledger.refuse_changed(path / "ledger.json")
        recipe = store.read_json(path / "recipe.json")
        config = recipes.section(EvalConfig, settings, base=recipe.get("eval", {}), name="eval")
        return EvaluatedModel(name, path, recipe, config, store.sha256_folder(path / "model"), tuple(trust))
    return EvaluatedModel(
        name, None, {}, recipes.section(EvalConfig, settings, name="eval"), source.weights_digest(name), tuple(trust)
    )
