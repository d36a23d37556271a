"""An evaluation's embeddings and rankings shared: by processes of this machine, Ray, or an array of a scheduler."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa.errors import ConfigError, DataError
from cusa.manifests.events import OnEvent
from cusa.manifests.samples import Split
from cusa.manifests.storage import packed, store
from cusa.manifests.words import counted
from cusa.pipeline.engine import Workers, run_units
from cusa.pipeline.units.parts import FOLDER, Parts, Task, unit_ranges
from cusa.pipeline.units.sharing import current, sharing
from cusa.workflow.evaluated.model import EvaluatedModel

if TYPE_CHECKING:
    import numpy as np

    from cusa.eval.cache import EmbeddingCache
    from cusa.eval.ranking import Ranker, Ranking, ScoreBlocks, Truth
    from cusa.eval.units import EncodeUnit

_FLOAT32 = 4


@dataclass(frozen=True)
class SharedEvaluation:
    """One evaluation of a model on a split, the work of which is shared as `cusa.pipeline.units.sharing` says here.

    Attributes:
        model: what is evaluated; workers load it themselves.
        work: the work folder.
        split: the name of the split.
        out: the folder of the results.
        cache: the folder of kept embeddings: through it they come from those who make them to who ranks.
        on_event: called with every unit.
    """

    model: EvaluatedModel
    work: Path
    split: str
    out: Path
    cache: Path
    on_event: OnEvent

    @property
    def only_some(self) -> bool:
        """Whether this process shall embed some units and rank nothing."""
        only = current().only
        return only is not None and not only.merges

    def embed(self) -> None:
        """Embed what is not kept yet; where units are only put together, refuse if something is missing.

        Raises:
            ConfigError: if no embeddings are to be kept, or they would not fit.
            DataError: if some units were not made.
        """
        units, missing = self._plan()
        if current().only is not None:
            if missing:
                raise DataError(
                    f"Of {counted(len(units), 'unit')} of `{self._what}` these were not made: "
                    f"{', '.join(unit_ranges(missing))}. Make them with --unit-range, or leave it out.",
                    units=unit_ranges(missing),
                )
            return
        self._make(units, missing)

    def embed_some(self) -> tuple[str, dict[str, int]]:
        """Embed the units that this process was asked for; return what was done in a sentence, and the counts."""
        only = current().only
        assert only is not None
        units, missing = self._plan()
        numbers = only.of(len(units))
        self._make(units, [number for number in missing if number in numbers])
        done = (
            f"the units {numbers.start}:{numbers.stop} of {len(units)} are made" if numbers else "there is no unit here"
        )
        note = f"{self._what}: {done}. When all are, rank with --unit-range merge."
        return note, {"units": len(numbers), "units_in_all": len(units)}

    def load(self) -> Any:
        """Return the model, loaded once a process."""
        return _opened(self.model, self.cache)[0]

    @property
    def ranker(self) -> "Ranker | None":
        """What ranks by units; None where this process is alone."""
        workers = current().workers
        return self._rank if workers.count != 1 or workers.engine.kind != "local" else None

    def _rank(
        self, blocks: "ScoreBlocks", truths: "Sequence[Truth]", exclude: "np.ndarray | None", top: int
    ) -> "list[Ranking]":
        from cusa.eval.units import Ranked, rank_some, read_parts

        ranked = Ranked.of(blocks, truths, exclude, top)
        # By its content: a ranking is found again by what is ranked, whatever it is for.
        key = packed.pack(ranked, classes=(Ranked,), outside={}).digest
        task = Task(rank_some, _nothing_outside, (Ranked,))
        with sharing(current().workers):  # whoever puts together what an array has embedded ranks everything
            parts = Parts(self.out, name="rank", what=f"rank {self.split}", key=key, task=task)
        shared = parts.prepare(lambda: ranked, {})
        made = list(parts.make(shared, ranked.units(), on_event=self.on_event))
        rankings = read_parts(made, len(truths), top)
        parts.remove(others=False)
        return rankings

    def clean(self) -> None:
        """Remove what a killed evaluation of other inputs left of its rankings."""
        store.remove_folder(self.out / FOLDER)

    @property
    def _what(self) -> str:
        return f"encode {self.split}"

    def _plan(self) -> "tuple[list[EncodeUnit], list[int]]":
        from cusa.eval import units as eval_units
        from cusa.eval.encode import TextModel

        config = self.model.config
        model, cache = _opened(self.model, self.cache)
        split = Split(self.work, self.split)
        units = eval_units.encode_units(model, split, config)
        spaces = model.spaces
        rows = sum(len(unit.rows) for unit in units)
        width = 1 if isinstance(model, TextModel) else model.width
        if config.cache_mib << 20 < rows * (_FLOAT32 * width * len(spaces) + 64):
            need = -(-rows * (_FLOAT32 * width * len(spaces) + 64) >> 20)
            raise ConfigError(
                f"Embeddings are shared through the folder of kept ones, and cache_mib is {config.cache_mib}: "
                f"{counted(rows, 'row')} take {need + 1:,} MiB. Give --set cache_mib={2 * need + 2}.",
                key="cache_mib",
                value=config.cache_mib,
            )
        return units, eval_units.missing(units, split, spaces, cache)

    def _make(self, units: "Sequence[EncodeUnit]", missing: Sequence[int]) -> None:
        workers = current().workers
        total = sum(len(unit.rows) for unit in units)
        before = total - sum(len(units[number].rows) for number in missing)
        store.make_folder(self.cache)
        run_units(
            functools.partial(_embed, self.model, self.cache, self.work.resolve(), self.split),
            [units[number] for number in missing],
            what=self._what,
            workers=Workers(workers.count, workers.engine, gpus=workers.count != 1 or workers.engine.kind != "local"),
            weigh=lambda unit: len(unit.rows),
            on_event=lambda what, done, _: self.on_event(what, before + done, total),
        )


def _nothing_outside() -> dict[str, object]:
    return {}


_models: dict[tuple[str, str], Any] = {}
_splits: dict[tuple[Path, str], Split] = {}


def _opened(model: EvaluatedModel, cache: Path) -> "tuple[Any, EmbeddingCache]":
    """Return the model, loaded once a process, and its kept embeddings."""
    from cusa.eval.cache import EmbeddingCache
    from cusa.eval.encode import cache_key

    key = (model.name, model.digest)
    if key not in _models:
        _models.clear()
        loaded = model.load()
        _models[key] = loaded, cache_key(loaded, model.config)
    loaded, made_by = _models[key]
    return loaded, EmbeddingCache(cache, made_by, limit=model.config.cache_mib << 20)


def _embed(model: EvaluatedModel, cache: Path, work: Path, split: str, unit: "EncodeUnit") -> None:
    from cusa.eval.units import encode_unit

    if (work, split) not in _splits:
        _splits.clear()
        _splits[work, split] = Split(work, split)
    loaded, kept = _opened(model, cache)
    encode_unit(loaded, _splits[work, split], model.config, unit, kept)
