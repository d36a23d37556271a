"""The two models that a blend lies between: described before anything is loaded, loaded once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa.errors import ConfigError
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import without_folders
from cusa.models import source
from cusa.recipe import Recipe
from cusa.workflow.blend.request import START, BlendRequest
from cusa.workflow.evaluated.model import EvaluatedModel, open_model

if TYPE_CHECKING:
    from cusa.models.students.base import Student
    from cusa.workflow.blend.interpolation import Blend


@dataclass(frozen=True)
class Parents:
    """Both models of a blend.

    Attributes:
        request: the blend as it is asked for.
        model: the run, as one that is evaluated.
        base_digest: of the base's weights; of what makes them where it is the run's start.
    """

    request: BlendRequest
    model: EvaluatedModel
    base_digest: str

    @classmethod
    def open(cls, request: BlendRequest) -> "Parents":
        """Describe both without loading them.

        Raises:
            ConfigError: for a setting that does not exist, or where the run's start is asked for and unknown, or is
                random weights.
            DataError: if a name leads nowhere, or the run was changed after it was written.
        """
        model = open_model(request.run, request.settings, trust=request.trust)
        if request.base != START:
            source.refuse_missing(request.base)
            return cls(request, model, source.weights_digest(request.base))
        recipe = _recipe(model)
        parts = [recipe.student.model_dump(mode="json"), bool(recipe.loss.beta), recipe.train.seed]
        return cls(request, model, store.digest([START, source.weights_digest(recipe.student.name), *parts]))

    @property
    def identities(self) -> dict[str, str]:
        """What a card says of both: name and digest of each."""
        base = f"the start of {Path(self.request.run).name}" if self.request.base == START else self.request.base
        return {
            "base": without_folders(base),
            "base_digest": self.base_digest,
            "run": without_folders(self.request.run),
            "run_digest": self.model.digest,
        }

    def digest(self, alpha: float) -> str:
        """Return the digest of a point's weights: of what they follow from."""
        from cusa.workflow.blend.interpolation import RULE

        return store.digest(["blend", RULE, self.base_digest, self.model.digest, alpha])

    def load(self) -> "Blend":
        """Load both.

        Raises:
            DataError: if there is nothing between them.
        """
        from cusa.models import student as students
        from cusa.workflow.blend.interpolation import Blend

        run = students.load(self.request.run, trust=self.request.trust)
        if self.request.base == START:
            return Blend(_start(_recipe(self.model), run), run)
        return Blend(students.load(self.request.base, trust=self.request.trust), run)


def _recipe(model: EvaluatedModel) -> Recipe:
    """Return the recipe of a run whose start is asked for."""
    if not model.recipe:
        raise ConfigError(
            f"{model.name} is no run and does not say what it started from: name the base itself in place of {START}.",
            base=START,
        )
    recipe = Recipe.model_validate(_without_parts(model.recipe))
    if recipe.student.name == "scratch":
        raise ConfigError(
            f"{model.name} started from random weights (student.name is scratch), which knew nothing to be kept. "
            "Name a model that it can be blended with, such as the run whose heads it went on with.",
            base=START,
        )
    return recipe


def _without_parts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "parts"}


def _start(recipe: Recipe, run: "Student") -> "Student":
    """Make the student that a run began with."""
    from cusa.models import student as students

    made = students.create(
        recipe.student,
        captions=(),
        uni=bool(recipe.loss.beta),
        seed=recipe.train.seed,
        features=dict(run.features) or None,
    )
    return made.eval()
