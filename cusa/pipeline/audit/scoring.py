"""Scoring pairs: small splits whole, large ones as deep as the next candidates are worth it, and what is left outside.

A neighbourhood grows ring by ring (10, 20, 50, ... neighbours a row). A sample of images shows what the pairs of each
ring are worth; the split is then searched to the depth behind which a pair's expected probability is below the floor,
or the table would have more rows than the budget. Some of these images are scored whole, and so tell which share of
the probability lies outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.normal_scores import NormalScores
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates, concatenate
from cusa.pipeline.pairs.features import PairFeatures
from cusa.pipeline.pairs.neighbourhoods import Neighbourhoods

_RINGS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_SAMPLED = 64  # images whose rings are looked at
_WHOLE_PAIRS, _WHOLE_IMAGES = 1_600_000, 8  # pairs of images that are scored whole, and such images at least
_CAPTIONS_A_BLOCK = 20_000
EDGES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the histogram of probabilities is cut."""


@dataclass(frozen=True)
class Depth:
    """How far pairs are looked at.

    Attributes:
        whole: whether every pair is scored.
        neighbours: neighbours a row whose pairs are candidates.
        deepest: neighbours a row that there are.
        beyond: mean probability of the first pairs that are left out; None where that is not known.
        outside: (S,) of sampled images, the probability that lies outside the candidates.
    """

    whole: bool
    neighbours: int
    deepest: int
    beyond: float | None
    outside: np.ndarray


class PairScorer:
    """Finds the candidates of images and gives them their probability; keeps the sums over all images.

    Args:
        split: the split.
        opened: its encoders.
        model: the calibration; without one, candidates have no probability and are the neighbourhoods as they are.
        config: floor, budget of rows, pairs up to which a split is scored whole.
    """

    def __init__(self, split: Split, opened: Neighbourhoods, model: Calibration | None, config: AuditConfig) -> None:
        self._split, self.finder, self._model, self._config = split, opened.finder, model, config
        self._features: PairFeatures | None = None
        self._normal: NormalScores | None = None
        if model is not None:
            self._features = opened.features(split, model.features)
            if split.num_captions:  # what is computed once, before several threads ask for it
                self._features.matrix(0, np.zeros(1, dtype=np.int64))
                if model.normal_scores:
                    self._normal = NormalScores.of_split(self._features, split.caption_owner, split.num_images)
        self._sums: dict[int, np.ndarray] = {}
        self.depth = self._choose_depth()

    def find(self, images: np.ndarray) -> Candidates:
        """Return the candidates of some images; with a calibration those of at least the floor.

        Several threads may call it, each with images of its own.

        Raises:
            DataError: if a pair's score or probability is no number.
        """
        parts, sums = [self.finder.describe(*(np.empty(0, dtype=np.int64),) * 2)], []
        for image, caption in self.finder.blocks(images, depth=self.depth.neighbours, everything=self.depth.whole):
            if self._model is None or self._features is None:
                parts.append(self.finder.describe(image, caption))
            else:
                compared = self._features.compare(image, caption)
                scored = self._model.score(self._values(compared.features))
                sums.append(np.array([scored.probability.sum(), scored.at_least, *scored.resampled]))
                # What is no number stays, and is refused.
                kept = np.flatnonzero(~(scored.probability < self._config.floor))
                by_image, by_text = (
                    None if one is None else one[kept] for one in (compared.image_similarity, compared.text_similarity)
                )
                parts.append(
                    self.finder.describe(
                        image[kept],
                        caption[kept],
                        p_positive=scored.probability[kept],
                        image_similarity=by_image,
                        text_similarity=by_text,
                    )
                )
            self._refuse_what_cannot_be_ranked(parts[-1])
        if sums:
            self._sums[int(images[0])] = np.sum(sums, axis=0)  # added up in the images' order, whoever was first
        return concatenate(parts)

    def take_sums(self) -> dict[int, np.ndarray]:
        """Return the sums over what `find` was called for since the last time, by the first image of each call."""
        taken, self._sums = self._sums, {}
        return taken

    def add_sums(self, sums: Mapping[int, np.ndarray]) -> None:
        """Take over the sums of images that `find` was called for elsewhere."""
        self._sums |= sums

    def likely(self, candidates: Candidates) -> dict[str, Any] | None:
        """Return how many of all open pairs are likely matches, after `find` was called for every image.

        Args:
            candidates: what is written.

        Returns:
            total (the sum of the probability of all open pairs), at_least (the same by the strictest reading that the
            calibration knows; the total where it knows none), interval (from the one to the other, widened to 95 % by
            the images that the calibration was fitted on and by what was sampled), written (the part in the
            candidates), outside (the share of the total that is not), scored (`whole` or `neighbourhoods`), neighbours,
            beyond (mean probability of the first pairs left out), floor, and histogram: from, to, pairs, matches. None
            without a calibration.
        """
        if self._model is None:
            return None
        number = self._split.num_images
        per_image = self.depth.outside
        beyond = number * float(per_image.mean()) if len(per_image) else 0.0
        all_sums = np.sum([self._sums[image] for image in sorted(self._sums)], axis=0) if self._sums else np.zeros(2)
        total = float(all_sums[0]) + beyond
        least = float(all_sums[1] / all_sums[0]) * total if all_sums[0] else 0.0
        sums = all_sums[2:][all_sums[2:] > 0]
        of_fit = float(np.log(sums).std()) if len(sums) > 1 else 0.0
        of_sample = 0.0
        if len(per_image):
            of_sample = number * float(per_image.std()) / np.sqrt(len(per_image)) / max(total, 1e-9)
        spread = float(np.exp(1.96 * np.hypot(of_fit, of_sample)))
        p = candidates.p_positive.astype(float)
        edges = [self._config.floor, *(edge for edge in EDGES if edge > self._config.floor), 1.0]
        which = np.searchsorted(edges[1:-1], p, side="right")
        pairs, matches = (np.bincount(which, x, minlength=len(edges) - 1) for x in (None, p))
        written = float(p.sum())
        return {
            "total": total,
            "at_least": least,
            "interval": [least / spread, total * spread],
            "written": written,
            "outside": max(0.0, 1 - written / total) if total else 0.0,
            "scored": "whole" if self.depth.whole else "neighbourhoods",
            "neighbours": self.depth.neighbours,
            "deepest": self.depth.deepest,
            "beyond": self.depth.beyond,
            "floor": self._config.floor,
            "histogram": [
                {"from": low, "to": high, "pairs": int(n), "matches": float(m)}
                for low, high, n, m in zip(edges, edges[1:], pairs, matches, strict=False)
            ],
        }

    def _choose_depth(self) -> Depth:
        deepest, nothing = self._config.neighbours, np.empty(0)
        if self._model is None or not self._split.num_captions:
            return Depth(False, deepest, deepest, None, nothing)
        if self._split.num_images * self._split.num_captions <= self._config.whole:
            return Depth(True, deepest, deepest, None, nothing)
        rng = np.random.default_rng(self._config.seed)
        sampled = rng.permutation(self._split.num_images)[:_SAMPLED].tolist()
        rings = [ring for ring in _RINGS if ring < deepest] + [deepest]
        means, rows = self._ring_means(sampled, rings)
        most = self._config.rows / max(self._split.num_images, 1)
        last = 0
        while last + 1 < len(rings) and means[last + 1] >= self._config.floor and rows[last + 1] <= most:
            last += 1
        beyond = means[last + 1] if last + 1 < len(rings) else means[last]
        wholly = sampled[: max(_WHOLE_IMAGES, _WHOLE_PAIRS // self._split.num_captions)]
        outside = [self._outside(image, rings[last]) for image in wholly]
        return Depth(False, rings[last], deepest, float(beyond), np.array(outside))

    def _ring_means(self, images: list[int], rings: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean probability of the pairs of each ring, and the rows an image has up to it."""
        total, number, kept = (np.zeros(len(rings)) for _ in range(3))
        for image in images:
            seen = np.empty(0, dtype=np.int64)
            for place, ring in enumerate(rings):
                near = self.finder.captions_near(image, ring)
                new = np.setdiff1d(near, seen, assume_unique=True)
                p = self._probability(image, new)
                total[place] += p.sum()
                number[place] += len(p)
                kept[place] += (p >= self._config.floor).sum()
                seen = near
        return total / np.maximum(number, 1), np.cumsum(kept) / max(len(images), 1)

    def _outside(self, image: int, depth: int) -> float:
        """Return the sum of the probability of an image's pairs that are no candidates."""
        strangers = np.flatnonzero(self._split.caption_owner != image)
        rest = np.setdiff1d(strangers, self.finder.captions_near(image, depth), assume_unique=True)
        blocks = range(0, len(rest), _CAPTIONS_A_BLOCK)
        return float(sum(self._probability(image, rest[at : at + _CAPTIONS_A_BLOCK]).sum() for at in blocks))

    def _probability(self, image: int, captions: np.ndarray) -> np.ndarray:
        assert self._model is not None
        assert self._features is not None
        if not len(captions):
            return np.empty(0)
        return self._model.probability(self._values(self._features.matrix(image, captions)))

    def _values(self, features_PF: np.ndarray) -> np.ndarray:
        """Return what the calibration knows pairs by."""
        return features_PF if self._normal is None else self._normal(features_PF)

    def _refuse_what_cannot_be_ranked(self, candidates: Candidates) -> None:
        """Refuse candidates whose score, or with a calibration whose probability, is no number: sorted, it means
        nothing.

        Raises:
            DataError: with the keys of the first.
        """
        bad = ~np.isfinite(candidates.score)
        if self._model is not None and len(bad):
            bad |= ~np.isfinite(candidates.p_positive)
        if bad.any():
            first, split = int(np.flatnonzero(bad)[0]), self._split
            image, caption = int(candidates.image[first]), int(candidates.caption[first])
            raise DataError(
                f"{split.image_keys[image]} with {split.caption_keys[caption]} has the score "
                f"{candidates.score[first]:g} and the probability {candidates.p_positive[first]:g}, which cannot be "
                f"ranked ({int(bad.sum())} such pairs). Run `cusa index {split.work} --split {split.name} --force`, or "
                "calibrate again.",
                image_key=split.image_keys[image],
                caption_key=split.caption_keys[caption],
            )
