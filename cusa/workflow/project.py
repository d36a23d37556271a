"""A recipe and where its files go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa import recipe as recipes
from cusa.errors import DataError
from cusa.manifests import datasets
from cusa.manifests.datasets import Dataset
from cusa.manifests.judgements import flickr8k
from cusa.recipe import Recipe
from cusa.workflow import evaluate as scoring
from cusa.workflow.mixture import training_data
from cusa.workflow.mixture.training_data import SetFolder

SMOKE = (
    "Smoke: drawn scenes stand in for the data set, the teachers offline-scenes-image and offline-scenes-text for the "
    "recipe's, a tiny student of the same kind for its model. The numbers say that it runs, nothing else."
)


@dataclass(frozen=True)
class Project:
    """A recipe and where its files go."""

    recipe: Recipe
    out: Path
    given: Path | None = None
    """A work folder that is there; then nothing is brought or sharded."""
    name: str = ""
    """The run's folder in `runs`; the recipe's name where empty."""
    force: bool = False
    """Whether to train and score anew, whatever is there."""

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.recipe.data.dataset

    @property
    def raw(self) -> Path:
        """Folder of the raw files."""
        return self.out / "raw" / Path(self.dataset).stem

    @property
    def work(self) -> Path:
        """The work folder; of a mixture whose sets all name folders, the first one's."""
        if not self.recipe.data.uses_own_folder:
            return training_data.main_folder(self.recipe.data, self.given)
        return self.given or self.out / "data" / Path(self.dataset).stem

    @property
    def brings(self) -> bool:
        """Whether a data set is downloaded and sharded."""
        return self.given is None and self.recipe.data.uses_own_folder

    @property
    def sets(self) -> tuple[SetFolder, ...]:
        """What is trained on: one split, or several data sets."""
        return training_data.folders(self.recipe, self.work)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.out / "runs" / (self.name or folder_name(self.recipe.name))

    @property
    def needs_teachers(self) -> bool:
        """Whether the loss uses a teacher."""
        return self.recipe.loss.needs_teachers

    def manifest(self) -> Dataset | None:
        """Return the data set's manifest; None for `scenes`, which is drawn."""
        return None if self.dataset == "scenes" else datasets.load(self.dataset)

    def scored_on(self) -> tuple[list[Path], dict[str, str]]:
        """Return what the run is scored on, and for each further data set that is not there the way to bring it."""
        folders, missing = list(dict.fromkeys([self.work, *(one.work for one in self.sets)])), {}
        for name in self.recipe.data.also:
            place = self.out / "raw" / name if name == scoring.STS else self.out / "data" / name
            if place.is_dir():
                folders.append(place)
                continue
            commands = f"cusa download {name} --out {self.out / 'raw' / name}"
            if name != scoring.STS:
                manifest = datasets.load(name)
                commands += f"; cusa shard {manifest.reader} {self.out / 'raw' / name / manifest.source} --out {place}"
            missing[name] = commands
        if flickr8k.is_layout(self.raw):
            folders.append(self.raw)  # its human judgements came with its captions
        return folders, missing


def folder_name(recipe: str) -> str:
    """Return a recipe's name as a folder's: `sgr/coco/cusa` is `sgr-coco-cusa`."""
    return recipe.replace("/", "-")


def open_project(
    recipe: str,
    out: Path,
    *,
    work: Path | None = None,
    name: str = "",
    settings: Sequence[str] = (),
    smoke: bool = False,
    force: bool = False,
) -> Project:
    """Read a recipe and say where everything goes.

    Args:
        recipe: name or TOML file.
        out: folder of the project.
        work: a work folder that is there already.
        name: the run's folder; the recipe's name when empty.
        settings: overrides.
        smoke: the same recipe on drawn scenes, with a tiny student of the same kind; in `out/smoke`.
        force: train and score anew.

    Raises:
        ConfigError: for an unknown recipe or key, or a kind of student without a small one.
        DataError: if the recipe names no data set and no work folder is given.
    """
    loaded = recipes.load(recipe, settings)
    if smoke:
        plain = ["data.train=train", "data.mix=pairs"] if loaded.data.sets else []  # drawn scenes are one data set
        if loaded.data.caption_sources:  # they speak of the data set's own captions
            plain.append("data.caption_sources={}")
        small = [*recipes.smoke_settings(loaded.student.kind), *settings, *plain]
        loaded = recipes.load(recipe, small)
        out, work = out / "smoke", None
    if not loaded.data.uses_own_folder:
        training_data.main_folder(loaded.data, work)  # refuses a folder that nothing is read from
    elif not loaded.data.dataset and work is None:
        raise DataError(
            f"Recipe {loaded.name} names no data set (data.dataset). Give a work folder with --data.",
            recipe=loaded.name,
        )
    return Project(loaded, out, work, name, force)
