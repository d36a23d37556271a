"""The options of training; no heavy import, so that `cusa --help` answers at once."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cusa.manifests.settings import Settings
from cusa.train.data.augment.config import AugmentConfig

MOMENTUM = {"muon": 0.95, "sgd": 0.9}
"""`train.momentum` where it is not set, of the optimisers that read it."""


class TemperatureConfig(Settings):
    """A positive number that divides cosines."""

    initial: float = Field(gt=0, description="where it starts")
    minimum: float = Field(gt=0, description="it is clamped to at least this before every step")
    maximum: float = Field(gt=0, description="and to at most this")
    learned: bool = Field(default=True, description="whether it is trained")

    @model_validator(mode="after")
    def _bounds_hold(self) -> "TemperatureConfig":
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError(
                f"initial {self.initial} is not between minimum {self.minimum} and maximum {self.maximum}; "
                "set the three together"
            )
        return self


_CSA = TemperatureConfig(initial=0.45, minimum=0.10, maximum=0.99)
_USA = TemperatureConfig(initial=0.45, minimum=0.10, maximum=1.00)
_TEACHER = TemperatureConfig(initial=1.0, minimum=0.10, maximum=1.00, learned=False)


class LossConfig(Settings):
    """InfoNCE + alpha CSA + beta USA; the defaults are the paper's for CLIP."""

    FREE: ClassVar[frozenset[str]] = frozenset({"calibration"})
    """Where the calibration lies; its content decides."""

    alpha: float = Field(default=0.1, ge=0, description="weight of CSA; 0 = without")
    beta: float = Field(default=0.5, ge=0, description="weight of USA; 0 = without")
    contrast: Literal["infonce", "sigmoid"] = Field(
        default="infonce", description="what CSA and USA are added to, unless the student brings a loss of its own"
    )
    infonce_weight: float = Field(default=1.0, ge=0, description="weight of InfoNCE, or of the sigmoid loss")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of InfoNCE's targets that is spread evenly over the batch"
    )
    sigmoid_bias: float = Field(default=-10.0, description="sigmoid: where its learned bias starts")
    reduction: Literal["standard", "release"] = Field(
        default="standard", description="of InfoNCE: the textbook's, or the authors' release's (divided by B once more)"
    )
    soft_labels: Literal["teacher", "calibrated"] = Field(
        default="teacher",
        description="CSA's: softmaxes of the teachers' cosines, or the own pair against every other pair's probability "
        "to be true by the calibration",
    )
    calibration: str = Field(
        default="",
        description="calibration of a batch's pairs, a file of `cusa calibrate --in-batch`; empty = the shipped one "
        "that knows the teachers",
    )
    fusion: Literal["each", "add", "dot"] = Field(default="each", description="how CSA joins the two teachers")
    divergence: Literal["kl", "cross_entropy", "cross_entropy_release"] = Field(
        default="kl", description="of CSA and USA from the soft labels"
    )
    false_negatives: Literal["soft", "mask", "debiased", "hardness", "thresholds", "positive"] = Field(
        default="soft",
        description="how InfoNCE treats foreign pairs that may be true: soft = as negatives; mask = pairs a teacher "
        "calls near leave its denominators; debiased = each weighs there 1 - p, p being its probability to be true by "
        "the calibration; hardness = each weighs there the more the nearer the student calls it; thresholds = pairs "
        "above an item's own threshold, learned over the whole data set, leave its denominator; positive = by verdicts "
        "of `cusa review`: matches become positives, related and disputed pairs leave the denominators, duplicates are "
        "one image",
    )
    hardness: float = Field(
        default=0.0, ge=0, description="hardness: how much more the nearest weigh (Robinson's beta); 0 = all alike"
    )
    hardness_prior: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="hardness: share of foreign pairs taken to be true (tau+; with hardness 0 this is DCL)",
    )
    threshold_share: float = Field(
        default=0.01, gt=0, le=0.5, description="thresholds: of an item's foreign pairs, the share that leaves"
    )
    threshold_rate: float = Field(
        default=0.01, gt=0, description="thresholds: step of a threshold, in cosine, at twice that share"
    )
    threshold_after: int = Field(
        default=5, ge=1, description="thresholds: batches that held an item before its pairs leave"
    )
    pair_weights: Literal["none", "audit"] = Field(
        default="none",
        description="audit = a pair counts 1 - p_wrong times in InfoNCE, by `cusa audit --pairs`, and one that people "
        "judged (`cusa review --pairs`) 1 or 0 times",
    )
    mask_image: float | Literal["positive"] | None = Field(
        default=None,
        description="mask: image teacher's cosine from which a foreign pair leaves; positive = as near as the own "
        "image",
    )
    mask_text: float | Literal["positive"] | None = Field(
        default=None,
        description="mask: text teacher's cosine; positive = as near as the image's own captions are to each other",
    )
    mask_margin: float = Field(
        default=0.0, ge=0, le=1, description="mask: how far below `positive` a pair leaves already"
    )
    mask_margin_kind: Literal["absolute", "relative"] = Field(
        default="absolute", description="mask: the margin in units of cosine, or as a share of the own captions' cosine"
    )
    negatives: Literal["local", "global", "release"] = Field(
        default="global",
        description="with several ranks: each its own pairs only (as the authors ran it), those of all ranks with "
        "their gradient, or the authors' gather",
    )
    impl: Literal["auto", "plain", "streamed", "triton"] = Field(
        default="auto",
        description="B x B matrices, or the same numbers in tiles; auto = tiles for large batches, by kernels where "
        "they were measured faster; triton = by kernels for CUDA",
    )
    temperature: TemperatureConfig = Field(
        default=TemperatureConfig(initial=0.05, minimum=0.01, maximum=0.10), description="of InfoNCE"
    )
    csa_temperatures: Literal["one", "separate"] = Field(
        default="one", description="one for both directions (csa_image_temperature), or one for each"
    )
    csa_image_temperature: TemperatureConfig = Field(default=_CSA, description="the student's, image to text")
    csa_text_temperature: TemperatureConfig = Field(default=_CSA, description="the student's, text to image")
    usa_temperatures: Literal["separate", "one", "csa"] = Field(
        default="separate", description="one for each modality, one for both (usa_image_temperature), or CSA's own"
    )
    usa_image_temperature: TemperatureConfig = Field(default=_USA, description="the student's among images")
    usa_text_temperature: TemperatureConfig = Field(default=_USA, description="the student's among texts")
    teacher_temperature: Literal["set", "audit"] = Field(
        default="set",
        description="of the teachers' soft labels: as set below; audit = such that they give other images' pairs as "
        "much mass as there are expected false negatives in a batch, by the calibration",
    )
    teacher_temperatures: Literal["one", "separate"] = Field(
        default="one", description="one for both teachers (teacher_image_temperature), or one for each"
    )
    teacher_image_temperature: TemperatureConfig = Field(
        default=_TEACHER, description="the image teacher's: lower makes sharper soft labels"
    )
    teacher_text_temperature: TemperatureConfig = Field(default=_TEACHER, description="the text teacher's")

    @property
    def reads_teacher_temperature(self) -> bool:
        """Whether soft labels are softmaxes of cosines."""
        return bool(self.beta) or (bool(self.alpha) and self.soft_labels == "teacher")

    @property
    def needs_calibration(self) -> bool:
        """Whether a calibration of a batch's pairs is used."""
        if (self.alpha and self.soft_labels == "calibrated") or self.false_negatives == "debiased":
            return True
        return self.teacher_temperature == "audit" and self.reads_teacher_temperature

    @property
    def needs_teachers(self) -> bool:
        """Whether teachers' rows are read."""
        return bool(self.alpha or self.beta) or self.false_negatives in ("mask", "debiased")

    @model_validator(mode="after")
    def _calibration_fits(self) -> "LossConfig":
        if self.soft_labels == "calibrated" and self.fusion != "each":
            raise ValueError(
                f"fusion is {self.fusion!r}, which joins the teachers' soft labels, and soft_labels is 'calibrated'; "
                "set fusion='each'"
            )
        if self.false_negatives in ("debiased", "hardness", "thresholds") and self.contrast == "sigmoid":
            raise ValueError(
                f"false_negatives is {self.false_negatives!r}, which changes InfoNCE's denominators, and contrast is "
                "'sigmoid'; set contrast='infonce', or soft, mask or positive"
            )
        if (self.hardness or self.hardness_prior) and self.false_negatives != "hardness":
            raise ValueError(
                f"hardness is {self.hardness} and hardness_prior {self.hardness_prior}, and false_negatives is "
                f"{self.false_negatives!r}; set it to 'hardness'"
            )
        if self.teacher_temperature == "audit" and (
            self.teacher_image_temperature.learned or self.teacher_text_temperature.learned
        ):
            raise ValueError(
                "teacher_temperature is 'audit', which fixes it, and a teacher's temperature is learned; set learned = "
                "false, or teacher_temperature='set'"
            )
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> "LossConfig":
        others = (self.contrast, self.reduction, self.label_smoothing, self.false_negatives)
        if self.pair_weights != "none" and others != ("infonce", "standard", 0.0, "soft"):
            raise ValueError(
                f"pair_weights is {self.pair_weights!r}, which weighs the pairs of InfoNCE with reduction 'standard', "
                "label_smoothing 0 and false_negatives 'soft'; set these, or pair_weights='none'"
            )
        return self

    @model_validator(mode="after")
    def _mask_has_thresholds(self) -> "LossConfig":
        thresholds = (self.mask_image, self.mask_text)
        if (self.false_negatives == "mask") == (thresholds == (None, None)):
            raise ValueError(
                f"false_negatives is {self.false_negatives!r}, mask_image {self.mask_image!r} and mask_text "
                f"{self.mask_text!r}; 'mask' needs a threshold, and no other needs one"
            )
        for threshold in thresholds:
            if isinstance(threshold, float) and not -1 <= threshold <= 1:
                raise ValueError(f"a mask's threshold is {threshold}; it is a cosine, from -1 to 1")
        if self.mask_margin and "positive" not in thresholds:
            raise ValueError(
                f"mask_margin is {self.mask_margin}, mask_image {self.mask_image!r} and mask_text {self.mask_text!r}; "
                "the margin belongs to 'positive'"
            )
        return self

    @model_validator(mode="after")
    def _treatments_fit(self) -> "LossConfig":
        if self.label_smoothing and (self.contrast == "sigmoid" or self.false_negatives != "soft"):
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}, contrast {self.contrast!r} and false_negatives "
                f"{self.false_negatives!r}; smoothed targets need contrast='infonce' and false_negatives='soft'"
            )
        if self.contrast == "sigmoid" and self.reduction == "release":
            raise ValueError("reduction 'release' divides InfoNCE, and contrast is 'sigmoid'; set reduction='standard'")
        return self


class TrainConfig(Settings):
    """The loop: order, optimiser, schedule, checkpoints."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            *("workers", "cache_mib", "check_one_in", "teacher_mib", "device", "encode_once"),
            *("log_every", "keep_checkpoints", "checkpoint_every"),
            *("gradient_checkpointing", "compile", "wandb"),
        }
    )
    """Keys that a resumed run may change: they alter neither what is seen nor what is computed (a device's rounding
    apart)."""

    seed: int = Field(default=0, ge=0, description="of new weights, the order of the pairs, and dropout")
    batch: int = Field(default=128, ge=2, description="pairs a step")
    steps: int = Field(default=0, ge=0, description="optimiser steps; 0 = as many as `epochs` gives")
    epochs: int = Field(default=30, ge=1, description="passes over all pairs, where `steps` is 0")
    drop_last: bool = Field(default=True, description="leave out an epoch's last pairs that fill no batch")
    shuffle_window: int = Field(
        default=0, ge=0, description="shards shuffled together, to keep reads local; 0 = all pairs of the split"
    )
    batches: Literal["random", "apart", "close"] = Field(
        default="random",
        description="near neighbours by the teachers' index: wherever they fall, in different batches, or in the same",
    )
    caption_odds: dict[str, float] = Field(
        default_factory=dict,
        description="how often an image's turn shows a caption of a source ([sources](sources.md)), as {human = 1, "
        "synthetic = 0.5}; of a source that is not named, 1; empty = each caption once an epoch",
    )
    neighbour_similarity: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="cosine of a teacher from which two images' pairs count as near, 0 = 0.8 unless `batches` is "
        "random; their share in a batch is measured where it is set",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="parts of a step that are computed one after another, each with negatives of its own part only",
    )
    chunk: int = Field(
        default=0,
        ge=0,
        description="pairs that are encoded at a time: every pair of a part stays a negative of every other, in the "
        "activations' memory of a chunk, for a second forward pass; 0 = all at once",
    )

    optimizer: Literal["adamw", "nadamw", "adafactor", "muon", "sgd"] = Field(
        default="adamw",
        description="AdamW, as the paper; NAdam with decoupled decay; Adafactor, whose rates are relative; Muon for "
        "matrices of linear layers beside AdamW; or SGD with Nesterov's momentum ([labels](#optimisers))",
    )
    lr: float = Field(default=1e-5, gt=0, description="highest learning rate (paper, CLIP: 1e-5)")
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate at the end (paper, CLIP: 1e-6)")
    lr_image: float = Field(
        default=0.0, ge=0, description="highest learning rate of the image tower, heads apart; 0 = that of the rest"
    )
    lr_text: float = Field(default=0.0, ge=0, description="likewise of the text tower")
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a tower's layer learns at this times the rate of what stands above it; 1 = all layers alike",
    )
    layer_decay_image: float = Field(default=0.0, ge=0, le=1, description="the image tower's own; 0 = layer_decay")
    layer_decay_text: float = Field(default=0.0, ge=0, le=1, description="the text tower's own; 0 = layer_decay")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    schedule: Literal["step", "epoch"] = Field(
        default="step", description="when the cosine moves: every step, or once an epoch as in the authors' release"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="of what decays (paper, AdamW: 1e-4)")
    decay: Literal["matrices", "release"] = Field(
        default="matrices",
        description="what decays: parameters of two or more dimensions; `release` = the 0-d temperatures as well",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's and NAdam's, also beside Muon")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="likewise")
    eps: float = Field(default=1e-8, gt=0, description="likewise")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="Muon's (0.95) or SGD's (0.9)")
    clip_norm: float = Field(default=0.0, ge=0, description="gradients are scaled to at most this norm; 0 = never")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of the towers; the loss stays in fp32; fp16 scales it so that gradients survive"
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of an average of the weights, which is validated and saved; 0 = none",
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="what does not learn: `image`, `text` (a tower), or beginnings of the names of the student's "
        "parameters",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute the towers' layers again in the backward pass instead of keeping them"
    )
    compile: bool = Field(default=False, description="let torch.compile make kernels for the student and the loss")
    device: str = Field(default="", description="torch device; empty = CUDA if there is one")

    validate_every: int = Field(default=0, ge=0, description="steps between validations; 0 = every epoch")
    monitor: str = Field(default="rsum", description="validation number whose highest value marks the best model")
    log_every: int = Field(default=10, ge=1, description="steps between rows of metrics.parquet")
    checkpoint_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0 = at each validation")
    keep_checkpoints: int = Field(default=2, ge=1, description="latest checkpoints that are kept")

    workers: int = Field(
        default=0,
        ge=0,
        description="threads that read and decode; 0 = half the cores, 8 at most; beside an accelerator all but one of "
        "a rank's, 32 at most",
    )
    cache_mib: int = Field(
        default=1024,
        ge=0,
        description="memory for decoded images, or for the tables that stand in their place and the teachers'; a small "
        "set fits whole, what does not fit is read from files",
    )
    check_one_in: int = Field(
        default=4,
        ge=0,
        description="of the images beyond `cache_mib`, one in so many is compared with its recorded SHA-256 when it is "
        "read, other ones every epoch; those within it are compared once; 0 = none are",
    )
    encode_once: bool = Field(
        default=True,
        description="compute what a frozen tower gives once an image or caption, and keep it in the work folder; false "
        "= in every step",
    )
    teacher_mib: int = Field(
        default=0,
        ge=0,
        description="memory on the device for teacher tables that fit whole; else rows come from a file",
    )
    decode: Literal["exact", "scaled"] = Field(
        default="exact",
        description="JPEGs at full size, or scaled down while decoding as far as the student's input allows: faster, "
        "other pixels; evaluation always decodes exactly",
    )
    max_undecodable: float = Field(
        default=0.01, ge=0, le=1, description="share of the images that may fail to decode before training stops"
    )
    wandb: str = Field(default="", description="Weights & Biases project that also gets the metrics; empty = none")
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _patches_fit(self) -> "TrainConfig":
        if self.augment.patches and self.compile:
            raise ValueError(
                f"augment.patches {self.augment.patches} changes the image tower's input by a hook, which compile does "
                "not see; set compile=false, or augment.patches=0"
            )
        return self

    @field_validator("caption_odds")
    @classmethod
    def _odds_are_odds(cls, odds: dict[str, float]) -> dict[str, float]:
        for source, value in odds.items():
            if value < 0:
                raise ValueError(f"the odds of {source!r} are {value:g}, below 0; set 0 to leave the source out")
        return odds

    @model_validator(mode="after")
    def _rates_fit(self) -> "TrainConfig":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}; set the two together")
        return self

    @model_validator(mode="after")
    def _momentum_is_read(self) -> "TrainConfig":
        if self.momentum is not None and self.optimizer not in MOMENTUM:
            raise ValueError(
                f"momentum {self.momentum} is not read by the optimizer {self.optimizer!r}; leave it out, or set "
                f"optimizer to {' or '.join(MOMENTUM)}"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "TrainConfig":
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} leaves none of the {self.steps} steps for the schedule; set "
                f"warmup_steps to at most {self.steps - 1}, or more steps"
            )
        return self

    @model_validator(mode="after")
    def _order_fits(self) -> "TrainConfig":
        if self.shuffle_window and self.batches != "random":
            raise ValueError(
                f"shuffle_window {self.shuffle_window} and batches {self.batches!r} are two orders of the same pairs; "
                "set shuffle_window=0, or batches='random'"
            )
        if self.accumulate > self.batch // 2:
            raise ValueError(
                f"accumulate {self.accumulate} leaves parts of less than two pairs of a batch of {self.batch}; set it "
                f"to at most {self.batch // 2}"
            )
        return self
