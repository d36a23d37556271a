"""Training by a recipe: one student, or the parts of an ensemble and their mean."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cusa import journey, scoring
from cusa.errors import ConfigError
from cusa.manifests import ledger, store
from cusa.manifests.events import OnEvent, ignore
from cusa.pipeline.stage import Outcome, outcome
from cusa.recipe import Recipe


def train(
    recipe: Recipe,
    *,
    work: Path,
    out: Path,
    force: bool = False,
    resume: str = "auto",
    allow_changed: Sequence[str] = (),
    test: bool = False,
    on_event: OnEvent = ignore,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train what a recipe describes; the arguments are `cusa.journey.train`'s.

    An ensemble's parts (SGRAF: an SGR and an SAF) are runs of their own in `out/parts`; `out` then is a run as any
    other, whose model is their mean.

    Raises:
        ConfigError: if an ensemble is asked to train on several ranks.
        CusaError: see `cusa.train.loop.run`.
    """
    told = {"force": force, "resume": resume, "allow_changed": allow_changed}
    heard = {"on_event": on_event, "on_metrics": on_metrics, "should_stop": should_stop}
    if not recipe.parts:
        return journey.train(recipe, work=work, out=out, test=test, **told, **heard)  # type: ignore[arg-type]
    from cusa.train import ranks

    if ranks.started_together():
        raise ConfigError(
            f"{recipe.name} is the mean of {', '.join(part.name for part in recipe.parts)}. On several ranks train "
            "these, and join them with `cusa export --ensemble`.",
            recipe=recipe.name,
        )
    clock = ledger.Clock()
    folders = [out / "parts" / part.name.partition("/")[0] for part in recipe.parts]
    done = [
        journey.train(part, work=work, out=folder, **told, **heard)  # type: ignore[arg-type]
        for part, folder in zip(recipe.parts, folders, strict=True)
    ]
    first, second = map(str, folders)
    joined = journey.export(first, ensemble=second, to="folder", out=out / "model", force=force)
    book = out / "ledger.json"
    inputs = {
        part.name: store.sha256_folder(folder / "model") for part, folder in zip(recipe.parts, folders, strict=True)
    }
    parameters = {"ensemble": [part.name for part in recipe.parts]}
    why = ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None and not joined.fresh:
        return outcome(out, old)
    store.write_json(out / "recipe.json", recipe.model_dump(mode="json"))
    store.write_json(out / "run.json", store.read_json(folders[0] / "run.json"))
    outputs = [out / "recipe.json", out / "run.json", *(file for file in (out / "model").rglob("*") if file.is_file())]
    counts = {
        f"{part.name}/{key}": value
        for part, one in zip(recipe.parts, done, strict=True)
        for key, value in one.counts.items()
    }
    written = clock.finish(book, stage="train", inputs=inputs, parameters=parameters, outputs=outputs, counts=counts)
    if test:
        scoring.evaluate(str(out), data=[work], on_event=on_event)
    notes = tuple(note for one in done for note in one.notes)
    return outcome(out, written, why=why or "a part changed", notes=notes)
