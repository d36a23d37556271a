"""The demo: the whole journey on drawn scenes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa import recipe as recipes
from cusa.eval.tasks.registry import HEADLINES, label
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.samples import Split, splits
from cusa.workflow import evaluate as scoring
from cusa.workflow.download import download
from cusa.workflow.report import report
from cusa.workflow.train import train


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    report: Path
    """The page, as HTML."""
    summary: str
    """The numbers in a few lines, whichever way they fell."""


DEMO_TEACHERS = {"image": "offline-scenes-image", "text": "offline-scenes-text"}


DEMO_RECIPES = ("scenes-infonce", "scenes-cusa")


def demo(out: Path, *, seed: int = 0, callbacks: Callbacks = SILENT) -> Demo:
    """Run the whole journey on `scenes`: draw, shard, extract, index, audit, train twice, evaluate, report.

    Each step is the stage a user would run, on the same files; run again, finished steps are up to date.

    Args:
        out: folder for everything.
        seed: of the drawn data set and of both trainings.
        callbacks: called with every stage's progress and with a sentence before each step.
    """
    on_event, say = callbacks.on_event, callbacks.on_message
    from functools import cache

    from cusa.models.teachers.registry import load_teacher
    from cusa.pipeline import audit, calibrate, extract, index, readers, shard
    from cusa.pipeline.config import AuditConfig, CalibrateConfig, ExtractConfig, IndexConfig, ShardConfig

    raw, work, runs = out / "raw", out / "data", out / "runs"
    say("Drawing the data set: 5,000 scenes, five captions each.")
    download("scenes", out=raw, settings=(f"seed={seed}",), on_event=on_event)
    say("Sharding: WebDataset tars and Parquet tables.")
    reading = readers.read("karpathy", raw / "dataset_scenes.json", raw)
    shard.run(ShardConfig(), reading=reading, out=work, on_event=on_event)
    say("Embedding every image and caption once, with two frozen uni-modal teachers.")
    load = cache(load_teacher)
    opened = [Split(work, name) for name in splits(work)]
    for split in opened:
        for modality, teacher in DEMO_TEACHERS.items():
            extract.run(ExtractConfig(), split=split, teacher=teacher, modality=modality, on_event=on_event, load=load)
    say("Indexing and auditing: which captions are true of images they do not belong to?")
    for split in opened:
        for teacher in DEMO_TEACHERS.values():
            index.run(IndexConfig(), split=split, teacher=teacher, on_event=on_event)
    judged, test = Split(work, "val"), Split(work, "test")
    sure = work / "calibration.json"  # val's truth stands for its ratings
    calibrate.run(CalibrateConfig(pairs=5000), split=judged, out=sure, on_event=on_event)
    audit.run(AuditConfig(), split=test, calibrated=sure, on_event=on_event)
    results = {}
    for number, name in enumerate(DEMO_RECIPES, 1):
        say(f"Training {number} of {len(DEMO_RECIPES)}: {name}, same seed, same steps.")
        train(recipes.load(name, [f"train.seed={seed}"]), work=work, out=runs / name, callbacks=callbacks)
        (results[name],) = scoring.evaluate(str(runs / name), scoring.EvalRequest(data=[work]), on_event=on_event)
    say("Writing the report.")
    written = report([runs / name for name in DEMO_RECIPES], work=work, out=out / "report.html")
    return Demo(written.out, _compare(results))


def _compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the main numbers of the runs side by side, with the difference of the last to the first."""
    names = list(results)
    lines = [f"{'':52}" + "".join(f"{name:>16}" for name in names) + f"{'difference':>12}"]
    for headline in HEADLINES:
        task, _, metric = headline.partition("/")
        values = [results[name]["tasks"][task]["metrics"][metric] for name in names]
        shown = "".join(f"{value:16.2f}" for value in values)
        lines.append(f"{label(headline):52}{shown}{values[-1] - values[0]:+12.2f}")
    return "\n".join(lines)
