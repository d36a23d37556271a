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

VALIDATED = ("data.test=val",)
"""What is chosen is read on val, so that test is scored once a run of what was chosen."""

Axes = dict[str, tuple[str | float, ...]]
HEADS = "flickr8k-heads.toml"
TEXT_TOWER = "flickr8k-text-tower.toml"


class Job(NamedTuple):
    """Settings of every run, the axes without the seed, how many seeds, and the recipe beside this file."""

    settings: tuple[str, ...]
    axes: Axes
    seeds: int = 10
    recipe: str = HEADS


TABLE = {
    # One baseline serves all three: AdamW hides a factor on the only term.
    "baseline": Job((), {"method": ("baseline",)}),
    "literal": Job((), {"method": METHODS}),
    "release": Job(RELEASE, {"method": METHODS}),
    "sharp": Job(SHARP, {"method": METHODS}),
}
"""The paper's Table 5."""

STRENGTHS = {
    "mask": Job(VALIDATED, {"method": ("mask",), "loss.mask_text": (0.6, 0.7, 0.8)}, seeds=2),
    "gist": Job(VALIDATED, {"method": ("gist",), "loss.mask_margin": (0.1, 0.2, 0.3)}, seeds=2),
    "label-smoothing": Job(
        VALIDATED, {"method": ("label-smoothing",), "loss.label_smoothing": (0.05, 0.1, 0.2)}, seeds=2
    ),
}
"""Other treatments of false negatives, each at a few strengths."""

RIVALS = {"rivals": Job((), {"method": ("mask", "gist", "label-smoothing", "sigmoid")}, seeds=3)}
"""The same at the strengths of their recipes, scored on test."""

SURFACE = {
    # Textbook InfoNCE, so that alpha and beta are effective weights: the release's 0.1 and 0.5 are 12.8 and 64 here.
    f"surface/tau_q={tau_q}": Job(
        (*VALIDATED, *sweep.settings_of({"tau_q": tau_q})),
        {"alpha": (0.0, 10.0, 100.0), "beta": (0.0, 10.0, 100.0)},
        seeds=1,
    )
    for tau_q in (0.1, 1.0, 0.05, 0.3)
}
"""A response surface over effective weights and the teachers' temperature."""

PAIRED = {"method": ("baseline", "csa", "cusa")}
TAUGHT = {"method": ("csa", "cusa")}

DECIDES = {
    "batch/2048": Job((*RELEASE, "train.batch=2048", "loss.impl=streamed", "train.steps=400"), PAIRED, seeds=2),
    # What teaches: the other one stays as in the table.
    "text teacher/MiniLM": Job((*RELEASE, "teachers.text=all-MiniLM-L6-v2"), TAUGHT, seeds=2),
    "text teacher/n-grams": Job((*RELEASE, "teachers.text=offline-ngrams"), TAUGHT, seeds=2),
    "image teacher/Lite0": Job((*RELEASE, "teachers.image=benchmarks.photographs.lite_Lite0"), TAUGHT, 2),
    "image teacher/Lite2 centred": Job((*RELEASE, "teachers.image=lite2-centred"), TAUGHT, seeds=2),
}
"""A large batch (smaller ones: `CALIBRATED`) and the teachers' quality; `derive.py` makes the missing tables."""

SHARE = {f"share/{part}": Job(RELEASE, PAIRED, seeds=2) for part in (2, 4, 8)}
"""1/2, 1/4 and 1/8 of the training images: each with `--job share/8` and the work folder that `derive.py` makes."""

TEXT_TOWER_LEARNS = {
    "text tower/LoRA": Job(RELEASE, {"method": ("baseline", *METHODS)}, seeds=3, recipe=TEXT_TOWER),
}
"""Table 5 once more with a text tower that learns, by low-rank adapters."""

BEST = ("loss.alpha=12.8", "loss.beta=0.0")
"""The best fixed point that is known: CSA at the effective weight and tau_q that the release has at batch 128."""

CALIBRATED = {
    f"batch/{batch}/{name}": Job((f"train.batch={batch}", *settings), axes, seeds=3)
    for batch in (32, 128, 512)
    for name, settings, axes in (
        ("probabilities", (), {"method": ("baseline", "calibrated", "debiased")}),
        ("release", RELEASE, {"method": ("csa", "cusa")}),
        ("release-audit", (*RELEASE, "loss.teacher_temperature=audit"), {"method": ("csa", "cusa")}),
        ("best", BEST, {"method": ("csa",)}),
    )
}
"""Soft labels that are probabilities, without a grid, at three batch sizes, beside the release's and the best point."""

SMALL = ("train.steps=400", "train.warmup_steps=20", "train.validate_every=50")
COCO_MINI = {
    "coco-mini/baseline": Job(SMALL, {"method": ("baseline",)}, seeds=5),
    "coco-mini/release": Job((*RELEASE, *SMALL), {"method": METHODS}, seeds=5),
    "coco-mini/sharp": Job((*SHARP, *SMALL), {"method": ("cusa",)}, seeds=5),
    "coco-mini/probabilities": Job(SMALL, {"method": ("calibrated", "debiased")}, seeds=5),
}
"""599 COCO photographs with the same teachers; `--also` ECCV Caption's and CxC's files and the STS sets."""

GROUPS = {
    "table": TABLE,
    "strengths": STRENGTHS,
    "rivals": RIVALS,
    "surface": SURFACE,
    "decides": DECIDES,
    "share": SHARE,
    "text-tower": TEXT_TOWER_LEARNS,
    "calibrated": CALIBRATED,
    "coco-mini": COCO_MINI,
}
