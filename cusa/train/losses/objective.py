"""The whole objective: weights and temperatures around the three losses.

Legend: B pairs in the batch, R rows of a block, D student width, E image teacher width, F text teacher width.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cusa.errors import ConfigError
from cusa.train.losses.csa import Divergence, Fusion, csa, fuse
from cusa.train.losses.infonce import Reduction, infonce
from cusa.train.losses.streamed import Modes, streamed
from cusa.train.losses.temperature import Setting, Temperature
from cusa.train.losses.usa import usa

Implementation = Literal["auto", "plain", "streamed"]
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
    alpha and beta mean nothing without the reduction: with `release` InfoNCE weighs 1/B of the textbook one, so that at
    B = 128 the paper's 0.1 and 0.5 act as 12.8 and 64 do with `standard`; `effective_weights` says so.

    Example:
        >>> objective = CUSALoss(alpha=0.1, beta=0.5)
        >>> terms = objective(image=image, text=text, image_uni=image_uni, text_uni=text_uni,
        ...                   teacher_image=teacher_image, teacher_text=teacher_text, image_ids=ids)
        >>> terms["loss"].backward()

    Args:
        alpha: weight of CSA, at least 0; at 0 neither CSA nor its teachers are needed.
        beta: weight of USA, at least 0; at 0 no uni-modal embeddings are needed.
        infonce_weight: weight of InfoNCE, at least 0; 0 where the base model brings its own loss.
        reduction: of InfoNCE: `standard` (textbook) or `release` (a further 1/B).
        fusion: of the teachers in CSA: `each`, `add` or `dot`.
        divergence: of CSA and USA: `kl`, `cross_entropy` or `cross_entropy_release`.
        temperature: InfoNCE's.
        csa_temperature: the student's in CSA: one for both directions, or (image-to-text, text-to-image).
        usa_temperature: the student's in USA: one, (image, text), or `csa` to share CSA's parameters.
        teacher_temperature: of the soft labels: one, or (image, text).
        usa_teacher_temperature: of USA's soft labels, where they are not CSA's.
        impl: `plain` makes B x B matrices; `streamed` computes the same in O(B D) memory (see `streamed`); `auto`
            streams large batches.

    Raises:
        ConfigError: for a negative weight or an unknown mode.

    Embeddings are normalised here. A teacher's row of zeros makes its soft label uniform without a word, and one of NaN
    makes the loss NaN: looking for them would stall the device every step, so the teacher tables are checked instead
    when they are read.

    Source: Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789. Equal in values and gradients to the authors'
    release in every mode of it.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        infonce_weight: float = 1.0,
        reduction: Reduction = "standard",
        fusion: Fusion = "each",
        divergence: Divergence = "kl",
        temperature: Setting = INFONCE,
        csa_temperature: Setting | Pair = CSA,
        usa_temperature: Setting | Pair | Literal["csa"] = USA,
        teacher_temperature: Setting | Pair = TEACHER,
        usa_teacher_temperature: Setting | Pair | None = None,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        for name, weight in (("alpha", alpha), ("beta", beta), ("infonce_weight", infonce_weight)):
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"{name} is {weight}; a loss's weight is a finite number, at least 0.", key=name)
        allowed = {
            "reduction": (reduction, ("standard", "release")),
            "fusion": (fusion, ("each", "add", "dot")),
            "divergence": (divergence, ("kl", "cross_entropy", "cross_entropy_release")),
            "impl": (impl, ("auto", "plain", "streamed")),
        }
        for name, (value, words) in allowed.items():
            if value not in words:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(words)}.", key=name)
        if isinstance(usa_temperature, str) and usa_temperature != "csa":
            raise ConfigError(
                f"usa_temperature is {usa_temperature!r}; allowed: a Setting, two of them, or 'csa' to share CSA's.",
                key="usa_temperature",
            )
        self.alpha = alpha
        self.beta = beta
        self.infonce_weight = infonce_weight
        self.reduction: Reduction = reduction
        self.fusion: Fusion = fusion
        self.divergence: Divergence = divergence
        self.impl: Implementation = impl
        self.infonce_temperature = Temperature(*temperature)
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
        """Make the loss as the authors' released configurations have it: InfoNCE divided by B once more."""
        return cls(**{"alpha": 0.1, "beta": 0.5, "reduction": "release", **options})

    def temperatures(self) -> dict[str, Temperature]:
        """Return every temperature that a used term reads, once, by name."""
        found = {"infonce": self.infonce_temperature} if self.infonce_weight else {}
        if self.alpha:
            found |= self.csa_temperatures.named("csa")
        if self.beta and not (self.alpha and self.usa_temperatures is self.csa_temperatures):
            found |= self.usa_temperatures.named("usa")
        if self.alpha:
            found |= self.teacher_temperatures.named("teacher")
        if self.beta and not (self.alpha and self.usa_teacher_temperatures is self.teacher_temperatures):
            found |= self.usa_teacher_temperatures.named("usa_teacher")
        return found

    def effective_weights(self, batch_size: int) -> dict[str, float]:
        """Return the weights in units of a textbook InfoNCE of this batch size.

        With `release` the whole objective is `(1/B) [infonce + alpha B csa + beta B usa]`; an adaptive optimiser hides
        the 1/B, and alpha B and beta B are what compares with a `standard` run.
        """
        scale = batch_size if self.reduction == "release" else 1
        return {"infonce": self.infonce_weight, "csa": self.alpha * scale, "usa": self.beta * scale}

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
    ) -> dict[str, Tensor]:
        """Compute the objective of one batch.

        Args:
            image: (B, D) cross-modal image embeddings; any length, they are normalised here.
            text: (B, D) cross-modal text embeddings; row i belongs to image row i.
            image_uni: (B, any) uni-modal image embeddings; needed if beta is not 0.
            text_uni: (B, any) uni-modal text embeddings; likewise.
            teacher_image: (B, E) embeddings of the image teacher; needed if alpha or beta is not 0.
            teacher_text: (B, F) embeddings of the text teacher; likewise.
            image_ids: (B,) integers, equal for pairs that show the same image; None: all different.

        Returns:
            `loss` and the terms it is the sum of, weights applied: `infonce`, `csa`, `usa`; a term with a weight of 0
            is a 0 without gradient. Computed in float32 at least, also under autocast.

        Raises:
            ConfigError: if a needed input is missing or has another number of rows.
        """
        self._check(image, text, image_uni, text_uni, teacher_image, teacher_text, image_ids)
        if self.training:
            for temperature in self.temperatures().values():
                temperature.clamp_()
        with torch.autocast(image.device.type, enabled=False):
            large = self.impl == "streamed" or (self.impl == "auto" and len(image) >= STREAMED_FROM)
            compute = self._streamed_terms if large else self._plain_terms
            terms = compute(image, text, image_uni, text_uni, teacher_image, teacher_text, image_ids)
        zero = image.new_zeros((), dtype=_wide(image).dtype)
        found = {name: terms.get(name, zero) for name in ("infonce", "csa", "usa")}
        return {"loss": found["infonce"] + found["csa"] + found["usa"], **found}

    def _plain_terms(
        self,
        image: Tensor,
        text: Tensor,
        image_uni: Tensor | None,
        text_uni: Tensor | None,
        teacher_image: Tensor | None,
        teacher_text: Tensor | None,
        image_ids: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the weighted terms whose weight is not 0."""
        terms: dict[str, Tensor] = {}
        if self.infonce_weight or self.alpha:
            similarity_BB = cosines(image, text)
        if self.infonce_weight:
            terms["infonce"] = self.infonce_weight * infonce(
                similarity_BB, image_ids, temperature=self.infonce_temperature(), reduction=self.reduction
            )
        if not (self.alpha or self.beta):
            return terms
        assert teacher_image is not None
        assert teacher_text is not None
        with torch.no_grad():
            teacher_image_BB = cosines(teacher_image, teacher_image)
            teacher_text_BB = cosines(teacher_text, teacher_text)
        if self.alpha:
            terms["csa"] = self.alpha * csa(
                similarity_BB,
                teacher_image_BB,
                teacher_text_BB,
                image_temperature=self.csa_temperatures.image(),
                text_temperature=self.csa_temperatures.text(),
                teacher_image_temperature=self.teacher_temperatures.image(),
                teacher_text_temperature=self.teacher_temperatures.text(),
                fusion=self.fusion,
                divergence=self.divergence,
            )
        if self.beta:
            assert image_uni is not None
            assert text_uni is not None
            terms["usa"] = self.beta * usa(
                cosines(image_uni, image_uni),
                cosines(text_uni, text_uni),
                teacher_image_BB,
                teacher_text_BB,
                image_temperature=self.usa_temperatures.image(),
                text_temperature=self.usa_temperatures.text(),
                teacher_image_temperature=self.usa_teacher_temperatures.image(),
                teacher_text_temperature=self.usa_teacher_temperatures.text(),
                divergence=self.divergence,
            )
        return terms

    def _streamed_terms(
        self,
        image: Tensor,
        text: Tensor,
        image_uni: Tensor | None,
        text_uni: Tensor | None,
        teacher_image: Tensor | None,
        teacher_text: Tensor | None,
        image_ids: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the same without a B x B matrix."""
        dtype = _wide(image).dtype

        def unit(rows: Tensor | None, needed: float) -> Tensor | None:
            return normalize(rows.to(dtype), dim=1) if rows is not None and needed else None

        teacher = self.teacher_temperatures()
        shared = self.usa_teacher_temperatures is self.teacher_temperatures
        terms = streamed(
            normalize(image.to(dtype), dim=1),
            normalize(text.to(dtype), dim=1),
            unit(image_uni, self.beta),
            unit(text_uni, self.beta),
            unit(teacher_image, self.alpha + self.beta),
            unit(teacher_text, self.alpha + self.beta),
            image_ids,
            temperature=self.infonce_temperature(),
            csa_temperatures=self.csa_temperatures(),
            usa_temperatures=self.usa_temperatures(),
            teacher_temperatures=teacher,
            usa_teacher_temperatures=teacher if shared else self.usa_teacher_temperatures(),
            modes=Modes(
                bool(self.infonce_weight),
                bool(self.alpha),
                bool(self.beta),
                self.reduction,
                self.fusion,
                self.divergence,
            ),
        )
        weights = {"infonce": self.infonce_weight, "csa": self.alpha, "usa": self.beta}
        return {name: weight * term for (name, weight), term in zip(weights.items(), terms, strict=True) if weight}

    @torch.no_grad()
    def diagnostics(
        self, *, teacher_image: Tensor | None = None, teacher_text: Tensor | None = None, rows: int = 1024
    ) -> dict[str, Tensor]:
        """Describe temperatures and, given the batch's teachers, weights and soft labels.

        Args:
            teacher_image: (B, E) as in `forward`.
            teacher_text: (B, F) as in `forward`.
            rows: of the soft labels that are computed at a time.

        Returns:
            `temperature.<name>`; `effective_weight.<term>` (see `effective_weights`); for the soft labels of CSA (of
            USA where alpha is 0) `target_entropy.<modality>`, their mean entropy divided by log B (1 = uniform, 0 =
            one-hot), and `target_off_diagonal.<modality>`, the mean mass they give to other pairs. Detached 0-d
            tensors: reading them is the caller's wait for the device.
        """
        found = {f"temperature.{name}": temperature().detach() for name, temperature in self.temperatures().items()}
        if teacher_image is None or teacher_text is None:
            return found
        size = len(teacher_image)
        for term, weight in self.effective_weights(size).items():
            found[f"effective_weight.{term}"] = torch.tensor(weight)
        if not (self.alpha or self.beta):
            return found
        temperatures = self.teacher_temperatures if self.alpha else self.usa_teacher_temperatures
        fusion: Fusion = self.fusion if self.alpha else "each"
        image, text = normalize(_wide(teacher_image), dim=1), normalize(_wide(teacher_text), dim=1)
        entropy, own = image.new_zeros(2), image.new_zeros(2)
        with torch.autocast(image.device.type, enabled=False):
            for start in range(0, size, rows):
                block = slice(start, start + rows)
                taught = fuse(image[block] @ image.T, text[block] @ text.T, fusion)
                for k, (teacher_RB, temperature) in enumerate(
                    zip(taught, (temperatures.image(), temperatures.text()), strict=True)
                ):
                    log_target_RB = (teacher_RB / temperature).log_softmax(1)
                    target_RB = log_target_RB.exp()
                    entropy[k] -= (target_RB * log_target_RB).sum()
                    own[k] += target_RB.diagonal(start).sum()
        for k, modality in enumerate(("image", "text")):
            found[f"target_entropy.{modality}"] = entropy[k] / (size * math.log(max(size, 2)))
            found[f"target_off_diagonal.{modality}"] = 1 - own[k] / size
        return found

    def _check(
        self,
        image: Tensor,
        text: Tensor,
        image_uni: Tensor | None,
        text_uni: Tensor | None,
        teacher_image: Tensor | None,
        teacher_text: Tensor | None,
        image_ids: Tensor | None,
    ) -> None:
        if image.ndim != 2 or image.shape != text.shape:
            raise ConfigError(
                f"image is {tuple(image.shape)} and text {tuple(text.shape)}; both must be (B, D), row i of one "
                "belonging to row i of the other."
            )
        if not len(image):
            raise ConfigError("The batch has no rows; a loss over nothing is not defined.", key="image")
        needed = {
            "image_uni": (image_uni, bool(self.beta), "beta"),
            "text_uni": (text_uni, bool(self.beta), "beta"),
            "teacher_image": (teacher_image, bool(self.alpha or self.beta), "alpha or beta"),
            "teacher_text": (teacher_text, bool(self.alpha or self.beta), "alpha or beta"),
        }
        for name, (rows, wanted, because) in needed.items():
            if wanted and rows is None:
                raise ConfigError(
                    f"{name} is missing, and {because} is not 0. Pass it, or set the weight to 0.", key=name
                )
            if wanted and rows is not None and (rows.ndim != 2 or len(rows) != len(image)):
                raise ConfigError(f"{name} is {tuple(rows.shape)}; it must be ({len(image)}, width).", key=name)
        if image_ids is not None and image_ids.shape != (len(image),):
            raise ConfigError(f"image_ids is {tuple(image_ids.shape)}; it must be ({len(image)},).", key="image_ids")


def cosines(rows_BD: Tensor, columns_BD: Tensor) -> Tensor:
    """Return the cosine of every row with every column, (B, B), in float32 at least; a row of zeros is 0 to all."""
    rows = normalize(_wide(rows_BD), dim=1)
    return rows @ (rows if columns_BD is rows_BD else normalize(_wide(columns_BD), dim=1)).T


def _wide(rows: Tensor) -> Tensor:
    """Return float64 as it is and everything narrower in float32."""
    return rows if rows.dtype == torch.float64 else rows.float()
