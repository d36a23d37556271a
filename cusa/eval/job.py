"""One evaluation as it is asked for: which model, where its results go, and what comes of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cusa.eval.cache import EmbeddingCache
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranker
from cusa.eval.share import ALONE, Share
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.features import FeatureTable

if TYPE_CHECKING:
    from cusa.eval.encode import TextModel
    from cusa.models.students.base import Student


@dataclass(frozen=True)
class ModelSource:
    """A model that is loaded only when there is something to compute."""

    load: Callable[[], "Student | TextModel"]
    """Makes the student, or a model of texts alone."""
    digest: str
    """Of its weights, so that an unchanged evaluation is not repeated."""
    trained_on: tuple[Split, ...] = ()
    """What it was trained on, where that is known, to count what it has seen before."""
    features: Mapping[str, FeatureTable] = field(default_factory=dict)
    """Tables that it reads in place of pictures or texts, by modality."""

    @property
    def training_digest(self) -> str:
        """Of the training split, of several all; `unknown` where it is not known."""
        digests = [split.digest for split in self.trained_on]
        return digests[0] if len(digests) == 1 else store.digest(digests) if digests else "unknown"


class Helpers(Protocol):
    """Other processes that take a part of an evaluation's work."""

    def embed(self) -> None:
        """Fill the folder of kept embeddings; called before the model is loaded, if there is something to compute."""
        ...

    @property
    def ranker(self) -> Ranker | None:
        """What ranks with their help, see `cusa.eval.ranking.ranked_by`."""
        ...

    def clean(self) -> None:
        """Remove what they left; called when everything is ranked."""
        ...


@dataclass(frozen=True)
class Job:
    """Where an evaluation writes, which tasks it computes, and who computes."""

    out: Path | None
    """Folder of the results, such as `runs/tiny/eval`; None keeps none (STS alone)."""
    tasks: Sequence[str] = ()
    """Names of `cusa.eval.tasks.registry.TASKS`; those that the split's data allow when empty."""
    cache: Path | None = None
    """Folder of embeddings kept for the next evaluation; None keeps none."""
    share: Share = ALONE
    """The ranks that evaluate together."""
    force: bool = False
    """Score again even if nothing changed."""
    helpers: Helpers | None = None
    """Other processes that take a part of the work."""

    def open_cache(self, model: "Student | TextModel", config: EvalConfig) -> EmbeddingCache | None:
        """Return the model's kept embeddings, where any are to be kept."""
        from cusa.eval.encode import cache_key

        if self.cache is None or not config.cache_mib:
            return None
        return EmbeddingCache(self.cache, cache_key(model, config), limit=config.cache_mib << 20)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation comes to."""

    outcome: Outcome
    result: Mapping[str, Any]
    """What `metrics.json` holds."""


def previous(stage: StageRun) -> Evaluated | None:
    """Return the results of the last time, where they are up to date."""
    if not stage.up_to_date:
        return None
    return Evaluated(stage.reuse(), store.read_json(stage.out / "metrics.json"))


@contextmanager
def writing(stage: StageRun | None, share: Share) -> Iterator[None]:
    """Hold the folder of the results on the first rank until the block ends, from before the model is loaded.

    So a second evaluation into the folder is refused at once, not after the work is done twice.

    Args:
        stage: the run of the stage; None keeps no results.
        share: the ranks that evaluate together; all of them fail where the first is refused.

    Raises:
        BusyError: if another process evaluates into the folder.
    """
    with ExitStack() as stack:
        if stage is not None:
            begun = stage.begin()
            share.agree(lambda: stack.enter_context(begun))
        yield
