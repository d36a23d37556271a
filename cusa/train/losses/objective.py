"""The whole objective: weights and temperatures around the three losses.

Legend: B pairs in the batch, D student width, E image teacher width, F text teacher width.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from cusa.errors import ConfigError
from cusa.train.across_ranks import num_ranks, total
from cusa.train.losses.batch import (
    Contrast,
    Embeddings,
    LossInputs,
    Modes,
    Negatives,
    Temperatures,
    ids_or_all_different,
    share,
)
from cusa.train.losses.by_rows.blocks import RowLoss, plain_rows, streamed_rows
from cusa.train.losses.by_rows.hardness import Hardness
from cusa.train.losses.by_rows.thresholds import ThresholdRows, Thresholds
from cusa.train.losses.csa import Divergence, Fusion
from cusa.train.losses.diagnostics import describe
from cusa.train.losses.false_negatives import (
    BY_ROWS,
    DENOMINATORS_ONLY,
    FALSE_NEGATIVES,
    FalseNegatives,
    MarginKind,
    Nearness,
    Threshold,
    find_listed,
    ignored_pairs_correction,
    near,
)
from cusa.train.losses.infonce import Reduction
from cusa.train.losses.pair_probability import PairProbability, SoftLabels
from cusa.train.losses.pair_weights import pair_weights_correction
from cusa.train.losses.plain import plain
from cusa.train.losses.sigmoid import BIAS, plain_sigmoid, streamed_sigmoid
from cusa.train.losses.streaming.preferred import prefers_kernels
from cusa.train.losses.streaming.streamed import streamed
from cusa.train.losses.temperature import Setting, Temperature

Implementation = Literal["auto", "plain", "streamed", "triton"]
Pair = tuple[Setting, Setting]
"""Settings of the image and of the text direction."""

INFONCE = Setting(0.05, 0.01, 0.10)
CSA = Setting(0.45, 0.10, 0.99)
USA = (Setting(0.45, 0.10, 1.00), Setting(0.45, 0.10, 1.00))
TEACHER = Setting(1.00, 0.10, 1.00, learned=False)

STREAMED_FROM = 2048
"""Pairs from which `auto` streams: below, whole matrices stay in a CPU's caches and cost little memory."""


class _TwoTemperatures(nn.Module):
    """The temperatures of both directions: two parameters, or one that serves both."""

    def __init__(self, settings: Setting | Pair) -> None:
        super().__init__()
        image, text = (settings, None) if isinstance(settings, Setting) else settings
        self.image = Temperature(*image)
        self.text = self.image if text is None else Temperature(*text)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return both values, the very same tensor twice where one serves both."""
        image = self.image()
        return image, image if self.text is self.image else self.text()

    def named(self, prefix: str) -> dict[str, Temperature]:
        """Return each parameter once: `prefix`, or `prefix.image` and `prefix.text`."""
        if self.text is self.image:
            return {prefix: self.image}
        return {f"{prefix}.image": self.image, f"{prefix}.text": self.text}


class CUSALoss(nn.Module):
    """InfoNCE + alpha CSA + beta USA, for any model that embeds images and texts.

    `L = w * infonce + alpha * csa + beta * usa`, temperatures clamped to their bounds before every training forward.
    alpha and beta depend on the reduction: with `release` InfoNCE weighs 1/B of the textbook one, so that at
    B = 128 the paper's 0.1 and 0.5 act as 12.8 and 64 do with `standard`; see `effective_weights`.

    Example:
        >>> objective = CUSALoss(alpha=0.1, beta=0.5)
        >>> terms = objective(image=image, text=text, image_uni=image_uni, text_uni=text_uni,
        ...                   teacher_image=teacher_image, teacher_text=teacher_text, image_ids=ids)
        >>> terms["loss"].backward()

    Args:
        alpha: weight of CSA, at least 0; at 0 neither CSA nor its teachers are needed.
        beta: weight of USA, at least 0; at 0 no uni-modal embeddings are needed.
        contrast: what CSA and USA are added to: `infonce`, or `sigmoid` (see `sigmoid`), which takes InfoNCE's weight
            and temperature; its term is then called `sigmoid`.
        infonce_weight: weight of InfoNCE, at least 0; 0 where the base model brings its own loss.
        label_smoothing: share of InfoNCE's targets that is spread evenly over the batch, from 0 to below 1; with
            `false_negatives="soft"` only.
        sigmoid_bias: where the learned bias of the sigmoid loss starts.
        reduction: of InfoNCE: `standard` (textbook) or `release` (a further 1/B).
        fusion: of the teachers in CSA: `each`, `add` or `dot`.
        divergence: of CSA and USA: `kl`, `cross_entropy` or `cross_entropy_release`.
        temperature: InfoNCE's.
        csa_temperature: the student's in CSA: one for both directions, or (image-to-text, text-to-image).
        usa_temperature: the student's in USA: one, (image, text), or `csa` to share CSA's parameters.
        teacher_temperature: of the soft labels: one, or (image, text).
        usa_teacher_temperature: of USA's soft labels, where they are not CSA's.
        false_negatives: how InfoNCE treats foreign pairs that may be true. `soft`: as negatives; the soft labels of CSA
            and USA are left to correct that. `mask`: those a teacher calls near leave the denominators. `debiased`:
            each weighs `1 - p_ij` there, its probability to be false. `hardness`: each weighs the more the nearer the
            student calls it (see `Hardness`). `thresholds`: those above a threshold of the item's own, learned over the
            whole data set, leave its denominator (see `Thresholds`). `positive`: those listed in `positive_pairs`
            become positives, those in `ignored_pairs` leave the denominators. CSA and USA are added in any case, by
            their weights.
        soft_labels: CSA's. `teacher`: softmaxes of the teachers' cosines. `calibrated`: pairs of the same image count
            1, every other one its probability p_ij to be true, divided by their sum; the same in both directions,
            without a temperature. USA's are the teachers' in any case.
        pair_probability: the calibration that gives p_ij; needed for `calibrated` and `debiased`.
        hardness: of `hardness`.
        thresholds: of `thresholds`, which needs them; their state is this loss's, and learns in training mode.
        mask_image: with `mask`: image teacher's cosine from which a foreign pair leaves, `positive` (as near as the own
            image: duplicates only), or None: the image teacher is not used.
        mask_text: with `mask`: text teacher's cosine, `positive` (as near as the image's own captions are to each
            other, the farthest of those in the batch), or None. See `false_negatives.Nearness`.
        mask_margin: how far below `positive` a pair leaves already, 0 to 1.
        mask_margin_kind: `absolute`, in units of cosine, or `relative`, a share of the own captions' cosine.
        negatives: where several ranks share a batch. `local`: each has its own pairs alone as negatives, as the
            authors' released configurations do. `global`: its own rows against the columns of all ranks, with the
            gradient through them, so that W ranks give the loss and, averaged over ranks, the gradient of one process
            with all their pairs. `release`: what the authors' code does in its gather mode: every rank computes the
            whole, and keeps the gradient of its own rows only, which leaves 1/W of it after averaging.
        impl: `plain` makes B x B matrices; `streamed` computes the same in O(B D) memory (see `streamed`); `auto`
            streams large batches, by kernels where these were measured faster and pass a self-test (see `preferred`);
            `triton` streams by CUDA kernels (see `kernels`).

    Raises:
        ConfigError: for a negative weight, an unknown mode, a threshold that is no cosine, or modes that exclude each
            other.

    With `global` and `release`, all ranks of the default process group call `forward` together; their batches may
    differ in size, and be empty with `global`. Average the gradients of the temperatures over ranks as those of the
    model: DistributedDataParallel around this module does.

    Embeddings are normalised here. A teacher's row of zeros makes its soft label uniform without a warning, and one of
    NaN makes the loss NaN: checking for them would stall the device every step, so the teacher tables are checked when
    they are written instead.

    Source: Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789. Equal in values and gradients to the authors'
    release in every mode of it.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        contrast: Contrast = "infonce",
        infonce_weight: float = 1.0,
        label_smoothing: float = 0.0,
        sigmoid_bias: float = BIAS,
        reduction: Reduction = "standard",
        fusion: Fusion = "each",
        divergence: Divergence = "kl",
        temperature: Setting = INFONCE,
        csa_temperature: Setting | Pair = CSA,
        usa_temperature: Setting | Pair | Literal["csa"] = USA,
        teacher_temperature: Setting | Pair = TEACHER,
        usa_teacher_temperature: Setting | Pair | None = None,
        false_negatives: FalseNegatives = "soft",
        soft_labels: SoftLabels = "teacher",
        pair_probability: PairProbability | None = None,
        hardness: Hardness = Hardness(),
        thresholds: Thresholds | None = None,
        mask_image: Threshold = None,
        mask_text: Threshold = None,
        mask_margin: float = 0.0,
        mask_margin_kind: MarginKind = "absolute",
        negatives: Negatives = "global",
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        for name, weight in (("alpha", alpha), ("beta", beta), ("infonce_weight", infonce_weight)):
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"{name} is {weight}; a loss's weight is a finite number, at least 0.", key=name)
        allowed = {
            "contrast": (contrast, ("infonce", "sigmoid")),
            "reduction": (reduction, ("standard", "release")),
            "fusion": (fusion, ("each", "add", "dot")),
            "divergence": (divergence, ("kl", "cross_entropy", "cross_entropy_release")),
            "false_negatives": (false_negatives, FALSE_NEGATIVES),
            "soft_labels": (soft_labels, ("teacher", "calibrated")),
            "negatives": (negatives, ("local", "global", "release")),
            "impl": (impl, ("auto", "plain", "streamed", "triton")),
        }
        for name, (value, words) in allowed.items():
            if value not in words:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(words)}.", key=name)
        if isinstance(usa_temperature, str) and usa_temperature != "csa":
            raise ConfigError(
                f"usa_temperature is {usa_temperature!r}; allowed: a Setting, two of them, or 'csa' to share CSA's.",
                key="usa_temperature",
            )
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {label_smoothing}; allowed: 0 to below 1.", key="label_smoothing")
        if label_smoothing and (contrast == "sigmoid" or false_negatives != "soft"):
            raise ConfigError(
                f"label_smoothing is {label_smoothing}, contrast {contrast!r} and false_negatives {false_negatives!r}; "
                "smoothed targets belong to InfoNCE over all pairs: infonce and soft. Set these, or label_smoothing=0.",
                key="label_smoothing",
            )
        if contrast == "sigmoid" and reduction == "release":
            raise ConfigError(
                "reduction is 'release', which divides InfoNCE, and contrast is 'sigmoid'. Set reduction='standard'.",
                key="reduction",
            )
        if contrast == "sigmoid" and false_negatives in DENOMINATORS_ONLY:
            raise ConfigError(
                f"false_negatives is {false_negatives!r}, which changes InfoNCE's denominators, and contrast is "
                "'sigmoid'. Set contrast='infonce', or soft, mask or positive.",
                key="false_negatives",
            )
        hardness.check()
        if hardness != Hardness() and false_negatives != "hardness":
            raise ConfigError(
                f"hardness is {hardness}, and false_negatives is {false_negatives!r}. Set it to 'hardness'.",
                key="hardness",
            )
        by_thresholds = bool(infonce_weight) and false_negatives == "thresholds"
        if by_thresholds and thresholds is None:
            raise ConfigError(
                "thresholds is missing, and false_negatives is 'thresholds'. Pass Thresholds(images, captions).",
                key="thresholds",
            )
        self.hardness = hardness
        self.thresholds = thresholds if by_thresholds else None
        if soft_labels == "calibrated" and fusion != "each":
            raise ConfigError(
                f"fusion is {fusion!r}, which joins the teachers' soft labels, and soft_labels is 'calibrated'. Set "
                "fusion='each'.",
                key="fusion",
            )
        self.soft_labels: SoftLabels = soft_labels
        calibrated = bool(alpha) and soft_labels == "calibrated"
        debiased = bool(infonce_weight) and false_negatives == "debiased"
        if (calibrated or debiased) and pair_probability is None:
            because = "soft_labels is 'calibrated'" if calibrated else "false_negatives is 'debiased'"
            raise ConfigError(
                f"pair_probability is missing, and {because}. Pass a PairProbability, or set "
                f"{'soft_labels=teacher' if calibrated else 'false_negatives=soft'}.",
                key="pair_probability",
            )
        self.pair_probability = pair_probability if calibrated or debiased else None
        self.alpha = alpha
        self.beta = beta
        self.contrast: Contrast = contrast
        self.label_smoothing = label_smoothing
        self.infonce_weight = infonce_weight
        self.reduction: Reduction = reduction
        self.fusion: Fusion = fusion
        self.divergence: Divergence = divergence
        self.false_negatives: FalseNegatives = false_negatives
        self.nearness = Nearness(mask_image, mask_text, mask_margin, mask_margin_kind)
        if false_negatives == "mask":
            self.nearness.check()
        elif mask_image is not None or mask_text is not None or mask_margin:
            raise ConfigError(
                "mask_image, mask_text and mask_margin are thresholds of false_negatives='mask'; it is "
                f"{false_negatives!r}.",
                key="false_negatives",
            )
        self.negatives: Negatives = negatives
        self.impl: Implementation = impl
        self.infonce_temperature = Temperature(*temperature)
        if contrast == "sigmoid" and infonce_weight:
            self.sigmoid_bias = nn.Parameter(torch.tensor(float(sigmoid_bias)))
        self.csa_temperatures = _TwoTemperatures(csa_temperature)
        self.teacher_temperatures = _TwoTemperatures(teacher_temperature)
        self.usa_temperatures = (
            self.csa_temperatures if isinstance(usa_temperature, str) else _TwoTemperatures(usa_temperature)
        )
        self.usa_teacher_temperatures = (
            self.teacher_temperatures if usa_teacher_temperature is None else _TwoTemperatures(usa_teacher_temperature)
        )
        # A temperature no term reads must not look learned: DistributedDataParallel would wait for its gradient.
        read = {id(temperature) for temperature in self.temperatures().values()}
        for module in self.modules():
            if isinstance(module, Temperature) and id(module) not in read:
                module.value.requires_grad_(False)

    @classmethod
    def paper(cls, **options: Any) -> "CUSALoss":
        """Make the loss as the paper's text has it for CLIP: textbook InfoNCE, alpha 0.1, beta 0.5."""
        return cls(**{"alpha": 0.1, "beta": 0.5, "reduction": "standard", **options})

    @classmethod
    def release(cls, **options: Any) -> "CUSALoss":
        """Make the loss as the authors' released configurations have it: InfoNCE / B, local negatives."""
        return cls(**{"alpha": 0.1, "beta": 0.5, "reduction": "release", "negatives": "local", **options})

    def extra_repr(self) -> str:
        """Return the weights, the modes and the temperatures of used terms as they are now, for `print(loss)`."""
        weights = f"infonce_weight={self.infonce_weight:g}, alpha={self.alpha:g}, beta={self.beta:g}"
        modes = f"reduction={self.reduction!r}, false_negatives={self.false_negatives!r}, negatives={self.negatives!r}"
        values = ", ".join(f"{name}={one.value.item():.4g}" for name, one in self.temperatures().items())
        return f"{weights}, {modes}\ntemperatures: {values}"

    def temperatures(self) -> dict[str, Temperature]:
        """Return every temperature that a used term reads, once, by name."""
        named: dict[str, Temperature] = {self.contrast: self.infonce_temperature} if self.infonce_weight else {}
        if self.alpha:
            named |= self.csa_temperatures.named("csa")
        if self.beta and not (self.alpha and self.usa_temperatures is self.csa_temperatures):
            named |= self.usa_temperatures.named("usa")
        csa_reads = bool(self.alpha) and self.soft_labels == "teacher"
        if csa_reads:
            named |= self.teacher_temperatures.named("teacher")
        if self.beta and not (csa_reads and self.usa_teacher_temperatures is self.teacher_temperatures):
            named |= self.usa_teacher_temperatures.named("usa_teacher")
        return named

    def effective_weights(self, batch_size: int) -> dict[str, float]:
        """Return the weights in units of a textbook InfoNCE of this batch size.

        With `release` the whole objective is `(1/B) [infonce + alpha B csa + beta B usa]`; an adaptive optimiser hides
        the 1/B, and alpha B and beta B are what compares with a `standard` run.
        """
        scale = batch_size if self.reduction == "release" else 1
        return {self.contrast: self.infonce_weight, "csa": self.alpha * scale, "usa": self.beta * scale}

    def modes(self) -> Modes:
        """Return which terms have a weight, and their variants."""
        return Modes(
            bool(self.infonce_weight) and self.contrast == "infonce" and self.false_negatives not in BY_ROWS,
            bool(self.alpha),
            bool(self.beta),
            self.reduction,
            self.fusion,
            self.divergence,
            self.label_smoothing,
            kernels=self.impl == "triton",
            calibrated=bool(self.alpha) and self.soft_labels == "calibrated",
            debiased=bool(self.infonce_weight) and self.false_negatives == "debiased",
            lowest=self._lowest() if self.training else (0.0,) * 9,
        )

    def _lowest(self) -> tuple[float, ...]:
        """Return the lower bounds of all temperatures, in the order of `Temperatures`; they hold after a clamp."""
        pairs = (self.csa_temperatures, self.usa_temperatures, self.teacher_temperatures, self.usa_teacher_temperatures)
        both = (one.minimum for pair in pairs for one in (pair.image, pair.text))
        return (self.infonce_temperature.minimum, *both)

    def forward(
        self,
        *,
        image: Tensor,
        text: Tensor,
        image_uni: Tensor | None = None,
        text_uni: Tensor | None = None,
        teacher_image: Tensor | None = None,
        teacher_text: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        positive_pairs: Tensor | None = None,
        ignored_pairs: Tensor | None = None,
        pair_weights: Tensor | None = None,
        rows_of_ranks: tuple[int, ...] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the objective of one batch.

        Args:
            image: (B, D) cross-modal image embeddings; any length, they are normalised here.
            text: (B, D) cross-modal text embeddings; row i belongs to image row i.
            image_uni: (B, any) uni-modal image embeddings; needed if beta is not 0.
            text_uni: (B, any) uni-modal text embeddings; likewise.
            teacher_image: (B, E) embeddings of the image teacher; needed if alpha or beta is not 0, or a mask uses it.
            teacher_text: (B, F) embeddings of the text teacher; likewise.
            image_ids: (B,) integers, equal for pairs that show the same image; None: all different.
            text_ids: (B,) integers that name the captions; needed for `positive` and `thresholds`, as are `image_ids`.
                With `thresholds` both are row numbers, below the sizes of `Thresholds`.
            positive_pairs: (P, 2) integers, an image's id and a caption's id: pairs that are true although the data set
                does not list them. They may name images and captions that the batch does not hold. Needed for
                `positive`. With several ranks: those that touch this rank's batch are enough.
            ignored_pairs: (P, 2) likewise: pairs judged neither true nor false. None: there is no such pair; None on
                every rank or on none.
            pair_weights: (B,) 0 to 1: how much each pair counts in InfoNCE, with `standard`, hard targets and
                `false_negatives="soft"`, and not with the gather of `release`. None: all count alike.
            rows_of_ranks: with several ranks that share a batch, B of every rank, where the caller knows it: the ranks
                then need not ask each other, for which the host would wait. None: they ask.

        Returns:
            `loss` and the terms it is the sum of, weights applied: `infonce` (or `sigmoid`), `csa`, `usa`; a term with
            a weight of 0 is a 0 without gradient. Computed in float32 at least, also under autocast. With `global` and
            `release` the same numbers on every rank.

        Raises:
            ConfigError: if a needed input is missing or has another number of rows.
        """
        given = Embeddings(image, text, image_uni, text_uni, teacher_image, teacher_text)
        self._check(given, image_ids, text_ids, positive_pairs, ignored_pairs)
        if pair_weights is not None:
            self._check_weights(pair_weights, image)
        if self.training:
            for temperature in self.temperatures().values():
                temperature.clamp_()
        with torch.autocast(image.device.type, enabled=False):
            batch = self._batch(given, image_ids, text_ids, (positive_pairs, ignored_pairs), rows_of_ranks)
            large = self.impl in ("streamed", "triton") or (self.impl == "auto" and batch.size >= STREAMED_FROM)
            modes = self.modes()
            if self.impl == "auto" and large and prefers_kernels(batch.embeddings.image.device, batch.size):
                modes = replace(modes, kernels=True)
            unweighted = (streamed if large else plain)(batch, self.temperature_values(), modes)
            if self.contrast == "sigmoid" and self.infonce_weight:
                decided = (streamed_sigmoid if large else plain_sigmoid)(
                    batch, self.infonce_temperature(), self.sigmoid_bias
                )
                unweighted = (decided, *unweighted[1:])
            elif self.false_negatives in BY_ROWS and self.infonce_weight:
                unweighted = (self._by_rows(batch, large, rows_of_ranks), *unweighted[1:])
            elif batch.ignored is not None:
                rows = batch.embeddings
                change = ignored_pairs_correction(
                    rows.image, rows.text, batch.ignored, batch.own, self.infonce_temperature()
                )
                change = change / batch.size if self.reduction == "release" else change
                unweighted = (unweighted[0] + change, *unweighted[1:])
            if pair_weights is not None:
                rows, infonce = batch.embeddings, self.infonce_temperature()
                change = pair_weights_correction(
                    rows.image,
                    rows.text,
                    image_ids=batch.image_ids,
                    rows=batch.own,
                    weights_R=pair_weights,
                    temperature=infonce,
                )
                unweighted = (unweighted[0] + change, *unweighted[1:])
            weights = (self.infonce_weight, self.alpha, self.beta)
            weighted = torch.stack([weight * term for weight, term in zip(weights, unweighted, strict=True)])
            if self.negatives == "global":
                weighted = total(weighted)
        names = (self.contrast, "csa", "usa")
        terms = {name: weighted[k] if weights[k] else weighted[k].detach() for k, name in enumerate(names)}
        return {"loss": terms[self.contrast] + terms["csa"] + terms["usa"], **terms}

    def _by_rows(self, batch: LossInputs, large: bool, counts: tuple[int, ...] | None) -> Tensor:
        """Return InfoNCE with hardness weights or thresholds, and let the thresholds learn."""
        by_rows: RowLoss = self.hardness
        learning = None
        if self.thresholds is not None:
            assert batch.image_ids is not None
            assert batch.text_ids is not None
            by_rows = learning = ThresholdRows(self.thresholds, batch.image_ids, batch.text_ids, batch.own)
        contrast = (streamed_rows if large else plain_rows)(batch, self.infonce_temperature(), by_rows)
        if learning is not None and self.training:
            learning.learn(counts, shared=self.negatives == "release")
        return contrast / batch.size if self.reduction == "release" else contrast

    def _check_weights(self, pair_weights: Tensor, image: Tensor) -> None:
        plain_infonce = self.contrast == "infonce" and self.reduction == "standard" and not self.label_smoothing
        if not plain_infonce or self.false_negatives != "soft" or (self.negatives == "release" and num_ranks() > 1):
            raise ConfigError(
                "pair_weights are weights of InfoNCE with reduction 'standard', label_smoothing 0 and false_negatives "
                "'soft', and negatives 'release' gathers no weights. Set these, or pass no weights.",
                key="pair_weights",
            )
        if pair_weights.shape != image.shape[:1]:
            raise ConfigError(
                f"pair_weights is {tuple(pair_weights.shape)}; it must be ({len(image)},).", key="pair_weights"
            )

    def temperature_values(self) -> Temperatures:
        """Return the values of all temperatures, differentiable."""
        teacher = self.teacher_temperatures()
        shared = self.usa_teacher_temperatures is self.teacher_temperatures
        usa_teacher = teacher if shared else self.usa_teacher_temperatures()
        if self.soft_labels == "calibrated":  # probabilities have no temperature
            teacher = (torch.ones_like(teacher[0], requires_grad=False),) * 2
        return Temperatures(
            self.infonce_temperature(), self.csa_temperatures(), self.usa_temperatures(), teacher, usa_teacher
        )

    def _batch(
        self,
        given: Embeddings,
        image_ids: Tensor | None,
        text_ids: Tensor | None,
        judged: tuple[Tensor | None, Tensor | None],
        counts: tuple[int, ...] | None,
    ) -> LossInputs:
        """Normalise what is needed, gather it from all ranks where they share it, and look at its false negatives."""
        positive_pairs, ignored_pairs = judged
        needed, dtype = self._needed(), _wide(given.image).dtype
        optional = {name: getattr(given, name) for name, wanted in needed.items() if wanted}
        rows = given._replace(**{**dict.fromkeys(needed), **optional}).unit(dtype)
        listed = None
        if positive_pairs is not None and self.false_negatives == "positive" and self.infonce_weight:
            kinds = [positive_pairs, positive_pairs[:0] if ignored_pairs is None else ignored_pairs]
            listed = torch.cat([pad(pairs, (0, 1), value=kind) for kind, pairs in enumerate(kinds)])
        rows, own, image_ids, text_ids, listed = share(rows, image_ids, text_ids, listed, self.negatives, counts=counts)
        if not len(rows.image):
            raise ConfigError("The batch has no rows; a loss over nothing is not defined.", key="image")
        close, extra, ignored = None, None, None
        if self.false_negatives == "mask" and self.infonce_weight:
            ids = ids_or_all_different(image_ids, rows.image)
            close = near(self.nearness, rows.teacher_image, rows.teacher_text, ids)
        if listed is not None:
            assert image_ids is not None
            assert text_ids is not None
            extra = find_listed(listed[listed[:, 2] == 0, :2], image_ids, text_ids)
            if ignored_pairs is not None:
                ignored = find_listed(listed[listed[:, 2] == 1, :2], image_ids, text_ids)
        probable = None
        if self.pair_probability is not None:
            ids = ids_or_all_different(image_ids, rows.image)
            probable = self.pair_probability.of(rows.teacher_image, rows.teacher_text, ids)
        return LossInputs(rows, image_ids, own, close, extra, ignored, probable, text_ids)

    @torch.no_grad()
    def diagnostics(
        self,
        *,
        teacher_image: Tensor | None = None,
        teacher_text: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        positive_pairs: Tensor | None = None,
        rows: int = 0,
    ) -> dict[str, Tensor]:
        """Describe temperatures and, given the batch's teachers, weights, soft labels and false negatives.

        Never a collective: with several ranks it describes this rank's own batch, so that a single rank may call it.

        Args:
            teacher_image: (B, E) as in `forward`.
            teacher_text: (B, F) as in `forward`.
            image_ids: (B,) as in `forward`.
            text_ids: (B,) as in `forward`.
            positive_pairs: (P, 2) as in `forward`.
            rows: of the B x B matrices that exist at a time; 0 = as many as fit 16 MiB.

        Returns:
            `temperature.<name>`; `effective_weight.<term>` (see `effective_weights`; of all ranks' batches where they
            share them, taken to be as large as this one); for the soft labels of CSA (of USA where alpha is 0)
            `target_entropy.<modality>`, their mean entropy divided by log B (1 = uniform, 0 = one-hot), and
            `target_off_diagonal.<modality>`, the mean mass they give to other pairs; with `mask`, `share_masked`: of
            the pairs of different images, the share that left; with a calibration, `expected_false_negatives`: the
            probable ones a row; with `positive`, `extra_positives`: listed positives an item, the mean over images and
            captions; with `thresholds`, `share_masked` of the last `forward`'s rows, and `threshold.<modality>`, the
            mean of the batch's. Detached 0-d tensors: reading them is the caller's wait for the
            device.
        """
        described = {f"temperature.{name}": temperature().detach() for name, temperature in self.temperatures().items()}
        if self.false_negatives == "positive" and not (image_ids is None or text_ids is None or positive_pairs is None):
            extra = find_listed(positive_pairs, image_ids, text_ids)
            described["extra_positives"] = torch.tensor(len(extra.image_Q) / max(len(image_ids), 1))
        if self.thresholds is not None and not (image_ids is None or text_ids is None):
            described["share_masked"] = self.thresholds.share_masked.clone()
            described["threshold.image"] = self.thresholds.image[image_ids].mean()
            described["threshold.text"] = self.thresholds.text[text_ids].mean()
        both = [None if each is None else normalize(_wide(each), dim=1) for each in (teacher_image, teacher_text)]
        size = next((len(each) for each in both if each is not None), 0)
        if not size:
            return described
        shared = num_ranks() if self.negatives != "local" else 1
        for term, weight in self.effective_weights(size * shared).items():
            described[f"effective_weight.{term}"] = torch.tensor(weight)
        labels = self.teacher_temperatures if self.alpha else self.usa_teacher_temperatures
        probable = None
        if self.pair_probability is not None:
            first = both[0] if both[0] is not None else both[1]
            assert first is not None
            probable = self.pair_probability.of(both[0], both[1], ids_or_all_different(image_ids, first))
        close = None
        if self.false_negatives == "mask" and self.infonce_weight:
            rules = (self.nearness.image, self.nearness.text)
            used = [each for each, rule in zip(both, rules, strict=True) if rule is not None and each is not None]
            if used:
                close = near(self.nearness, both[0], both[1], ids_or_all_different(image_ids, used[0]))
        return described | describe(
            both[0],
            both[1],
            temperatures=labels() if self.alpha or self.beta else None,
            fusion=self.fusion if self.alpha else "each",
            near=close,
            probable=probable,
            calibrated=self.modes().calibrated,
            rows=rows,
        )

    def _needed(self) -> dict[str, bool]:
        """Tell which inputs, beside image and text, a term or a mask reads."""
        soft = bool(self.beta) or (bool(self.alpha) and self.soft_labels == "teacher")
        read = {"image": soft, "text": soft}
        if self.false_negatives == "mask" and self.infonce_weight:
            read["image"] |= self.nearness.image is not None
            read["text"] |= self.nearness.text is not None
        if self.pair_probability is not None:
            read = {modality: wanted or self.pair_probability.reads(modality) for modality, wanted in read.items()}
        uni = bool(self.beta)
        return {"image_uni": uni, "text_uni": uni, "teacher_image": read["image"], "teacher_text": read["text"]}

    def _check(
        self,
        given: Embeddings,
        image_ids: Tensor | None,
        text_ids: Tensor | None,
        positive_pairs: Tensor | None,
        ignored_pairs: Tensor | None,
    ) -> None:
        others = (image_ids, text_ids, positive_pairs, ignored_pairs)
        names = ("image_ids", "text_ids", "positive_pairs", "ignored_pairs")
        for name, value in zip((*given._fields, *names), (*given, *others), strict=True):
            if value is not None and not isinstance(value, Tensor):
                raise ConfigError(
                    f"{name} is a {type(value).__module__}.{type(value).__qualname__}; it must be a torch tensor. "
                    f"Give torch.as_tensor({name}), on the device of the embeddings.",
                    key=name,
                )
        image, text = given.image, given.text
        if image.ndim != 2 or image.shape != text.shape:
            raise ConfigError(
                f"image is {tuple(image.shape)} and text {tuple(text.shape)}; both must be (B, D), row i of one "
                "belonging to row i of the other."
            )
        for name, wanted in self._needed().items():
            rows = getattr(given, name)
            if wanted and rows is None and name.startswith("teacher") and self.pair_probability is not None:
                raise ConfigError(f"{name} is missing, and pair_probability reads it. Pass it.", key=name)
            if wanted and rows is None:
                because = "beta" if name.endswith("uni") else "alpha or beta"
                if name.startswith("teacher") and not (self.alpha or self.beta):
                    because = f"mask_{name.removeprefix('teacher_')}"
                raise ConfigError(
                    f"{name} is missing, and {because} is set. Pass it, or set {because} to "
                    f"{'None' if because.startswith('mask') else '0'}.",
                    key=name,
                )
            if wanted and rows is not None and (rows.ndim != 2 or len(rows) != len(image)):
                raise ConfigError(f"{name} is {tuple(rows.shape)}; it must be ({len(image)}, width).", key=name)
        listed = self.false_negatives == "positive" and bool(self.infonce_weight)
        for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
            if (listed or self.thresholds is not None) and ids is None:
                raise ConfigError(
                    f"{name} is missing, and false_negatives is {self.false_negatives!r}. Pass it.", key=name
                )
            if ids is not None and ids.shape != (len(image),):
                raise ConfigError(f"{name} is {tuple(ids.shape)}; it must be ({len(image)},).", key=name)
        if listed and positive_pairs is None:
            raise ConfigError(
                "positive_pairs is missing, and false_negatives is 'positive'. Pass (P, 2) ids of images and captions, "
                "(0, 2) where none is listed.",
                key="positive_pairs",
            )
        for name, pairs in (("positive_pairs", positive_pairs), ("ignored_pairs", ignored_pairs)):
            if pairs is not None and (pairs.ndim != 2 or pairs.shape[1] != 2):
                raise ConfigError(f"{name} is {tuple(pairs.shape)}; it must be (P, 2).", key=name)


def _wide(rows: Tensor) -> Tensor:
    """Return float64 as it is and everything narrower in float32."""
    return rows if rows.dtype == torch.float64 else rows.float()
