"""What is trained on Flickr8k, and on what axes: each job is a recipe, settings, and the axes of a `cusa sweep`.

The three settings are those of `docs/findings.md`. *literal*: the paper's text, InfoNCE as in textbooks, alpha 0.1,
beta 0.5, tau_q 1, student temperatures from 0.45. *release*: the same with InfoNCE divided by the batch size once more,
as the authors' code does. *sharp*: textbook InfoNCE, alpha and beta 0.5, every temperature from 0.1.
"""

from typing import NamedTuple

from cusa.workflow import sweep

METHODS = ("csa", "usa", "cusa")
RELEASE = ("loss.reduction=release",)
SHARP = ("loss.alpha=0.5", "loss.beta=0.5", *sweep.settings_of({"tau_q": 0.1, "tau_c": 0.1, "tau_u": 0.1}))

Axes = dict[str, tuple[str | float, ...]]


class Job(NamedTuple):
    """Settings of every run, the axes without the seed, and how many seeds."""

    settings: tuple[str, ...]
    axes: Axes
    seeds: int = 10


TABLE = {
    # One baseline serves all three: AdamW hides a factor on the only term.
    "baseline": Job((), {"method": ("baseline",)}),
    "literal": Job((), {"method": METHODS}),
    "release": Job(RELEASE, {"method": METHODS}),
    "sharp": Job(SHARP, {"method": METHODS}),
}
"""The paper's Table 5."""

RIVALS = {
    "mask": Job((), {"method": ("mask",), "loss.mask_text": (0.6, 0.7, 0.8)}, seeds=5),
    "gist": Job((), {"method": ("gist",), "loss.mask_margin": (0.1, 0.2, 0.3)}, seeds=5),
    "label-smoothing": Job((), {"method": ("label-smoothing",), "loss.label_smoothing": (0.05, 0.1, 0.2)}, seeds=5),
    "sigmoid": Job((), {"method": ("sigmoid",)}, seeds=5),
}
"""Other treatments of false negatives: batches and seeds of the table, each at a few strengths, chosen on val."""

SURFACE = {
    # Textbook InfoNCE, so that alpha and beta are effective weights: the release's 0.1 and 0.5 are 12.8 and 64 here.
    f"surface/tau_q={tau_q}": Job(
        tuple(sweep.settings_of({"tau_q": tau_q})),
        {"alpha": (0.0, 0.1, 1.0, 10.0, 100.0), "beta": (0.0, 0.1, 1.0, 10.0, 100.0)},
        seeds=1,
    )
    for tau_q in (0.05, 0.1, 0.3, 1.0)
}
"""A response surface over effective weights and the teachers' temperature, read on val."""

DECIDES = {
    "batch/32": Job((*RELEASE, "train.batch=32"), {"method": ("baseline", "cusa")}, seeds=3),
    "batch/512": Job((*RELEASE, "train.batch=512"), {"method": ("baseline", "cusa")}, seeds=3),
    "batch/2048": Job(
        (*RELEASE, "train.batch=2048", "loss.impl=streamed", "train.steps=400"),
        {"method": ("baseline", "cusa")},
        seeds=3,
    ),
    "teachers/minilm": Job((*RELEASE, "teachers.text=all-MiniLM-L6-v2"), {"method": METHODS}, seeds=3),
    "teachers/lite0": Job((*RELEASE, "teachers.image=efficientnet-lite0"), {"method": METHODS}, seeds=3),
    "teachers/ngrams": Job((*RELEASE, "teachers.text=offline-ngrams"), {"method": METHODS}, seeds=3),
}
"""Batch size and the teachers' quality."""

GROUPS = {"table": TABLE, "rivals": RIVALS, "surface": SURFACE, "decides": DECIDES}
