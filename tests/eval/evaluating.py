"""One call for an evaluation in tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cusa.eval import evaluate
from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.job import Job, ModelSource
from cusa.manifests.samples import Split


def run(
    config: EvalConfig, *, load: Callable[[], Any], student_digest: str = "1", split: Split, out: Path, **places: Any
) -> dict[str, Any]:
    """Evaluate, and return what the results hold with `fresh`.

    Args:
        config: of the evaluation.
        load: makes the model.
        student_digest: of the model's weights.
        split: on which.
        out: folder of the results.
        places: `tasks`, `cache`, `force`, `share` of a job; `ground_truth`, `ratings`, `flickr8k`, `altered` of the
            evidence; `train`.
    """
    evidence = Evidence.open(
        split,
        altered=places.pop("altered", ()),
        **{name: places.pop(name, None) for name in ("ground_truth", "ratings", "flickr8k")},
    )
    source = ModelSource(load, student_digest, places.pop("train", ()))
    done = evaluate.run(config, source, evidence, Job(out, **places))
    return {**done.result, "fresh": done.outcome.fresh}
