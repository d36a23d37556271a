"""Human judgements of pairs: CxC's, Flickr8k's, verdicts of the review page, or a data set's complete truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests.judgements import cxc_ratings, flickr8k, pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, Judgements
from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

_FEWEST = 10  # judged matches, and pairs that do not match, without which there is nothing to fit

CXC_CAVEAT = (
    "CxC's annotators saw pairs that were sampled for the similarity of their captions or images, not at random: the "
    "probability holds for pairs given their similarities, the share of matches among the rated pairs does not hold "
    "for all pairs. Of pairs drawn at random that nobody rated, the less alike half is taken for no match."
)

FLICKR8K_CAVEAT = (
    "Flickr8k's judges saw pairs that the models of its paper had ranked high, not random ones: the probability holds "
    "for pairs given their similarities, the share of matches among the judged pairs does not hold for all pairs. "
    "Of pairs drawn at random that nobody judged, the less alike half is taken for no match."
)

VERDICTS_CAVEAT = "Reviewers saw the pairs that the queue offered, not random ones."


@dataclass(frozen=True)
class PairRatings:
    """Judged pairs of a split that the data set does not make itself.

    Attributes:
        images: (P,) image rows.
        captions: (P,) caption rows of other images; no pair twice.
        match: (P,) bool.
        complete: whether every pair that is not among them is known not to match.
        source: in words.
        unknown: judgements left out because the split has not both ends.
        caveat: what a reader must know of how the pairs were chosen.
    """

    images: np.ndarray
    captions: np.ndarray
    match: np.ndarray
    complete: bool
    source: str
    unknown: int = 0
    caveat: str = ""

    @property
    def digest(self) -> str:
        """One digest over the pairs, what was said of each, and whether the rest is known not to match."""
        return store.digest([*np.stack([self.images, self.captions, self.match]).tolist(), self.complete])

    def refuse_too_few(self, matches: int, others: int) -> None:
        """Refuse judgements that no probability can be fitted on.

        Args:
            matches: how many of what is fitted on match.
            others: how many do not.

        Raises:
            DataError: if there are too few of either.
        """
        if min(matches, others) < _FEWEST:
            raise DataError(
                f"{self.source} has {matches} matches and {others} pairs that do not match between different items; at "
                f"least {_FEWEST} of each are needed to calibrate. Give more ratings, or a larger part of the split.",
                matches=matches,
                others=others,
            )


@dataclass(frozen=True)
class RatedSplit:
    """A split and the judgements of its pairs."""

    split: Split
    ratings: Path | None = None
    """See `read_ratings`."""


def read_ratings(split: Split, source: Path | None) -> PairRatings:
    """Read the judgements of a split.

    Args:
        split: the split they speak of.
        source: CxC's `sits_*.csv`, or the folder that has `sits_SPLIT.csv`; Flickr8k's `ExpertAnnotations.txt` or
            `CrowdFlowerAnnotations.txt`, or the folder that has them; a truth table or a folder of ECCV Caption
            (only matches); the split's `audit/verdicts.parquet` or its complete `truth.parquet` if None.

    Raises:
        DataError: if there are none, or they are broken, or speak of other images.
    """
    if source is None:
        verdicts = from_judgements(split, pair_judgements.read(split))
        if verdicts is not None:
            return verdicts
        own = split.folder / "truth.parquet"
        if not own.is_file():
            raise DataError(
                f"{split.folder} has neither verdicts nor a truth to calibrate on. Give --ratings: CxC's sits_val.csv, "
                "for example.",
                split=split.name,
            )
        return _from_truth(split, own)
    if not source.exists():
        raise DataError(f"--ratings {source} does not exist. Give CxC's sits_{split.name}.csv.", path=source)
    if flickr8k.is_layout(source):
        return _from_flickr8k(split, source)
    if source.is_dir() and (source / f"sits_{split.name}.csv").is_file():
        source = source / f"sits_{split.name}.csv"
    return _from_cxc(split, source) if source.suffix == ".csv" else _from_truth(split, source)


def _from_truth(split: Split, source: Path) -> PairRatings:
    truth = read_truth(split, source)
    images, captions = truth.false_negatives(split.caption_owner)
    match = np.ones(len(images), dtype=bool)
    return PairRatings(images, captions, match, truth.complete, truth.source, truth.unknown)


def from_judgements(split: Split, judgements: Judgements) -> PairRatings | None:
    """Return verdicts as ratings: `match` and `duplicate` against `related` and `no match`; None without any.

    Disputed and skipped pairs, and verdicts on keys that the split does not hold, are left out.
    """
    rows = sorted(
        (split.image_row[one.image_key], split.caption_row[one.caption_key], one.positive)
        for one in judgements.judgements
        if one.verdict != DISPUTED
    )
    rows = [row for row in rows if split.caption_owner[row[1]] != row[0]]
    if not rows:
        return None
    pairs = np.array(rows, dtype=np.int64)
    return PairRatings(
        pairs[:, 0], pairs[:, 1], pairs[:, 2].astype(bool), False, "verdicts", len(judgements.unknown), VERDICTS_CAVEAT
    )


def _from_flickr8k(split: Split, source: Path) -> PairRatings:
    """Read Flickr8k's judgements; where experts and crowd saw a pair, the experts decide."""
    judgements = flickr8k.read(source)
    located = flickr8k.locate(split, judgements)
    foreign = split.caption_owner[located.captions] != located.images
    if not foreign.any():
        raise DataError(
            f"{source} judges no image of the split {split.name!r} with another's caption ({located.unknown:,} of "
            f"{len(judgements.pairs):,} judged pairs are of other images or captions). Flickr8k's test split "
            "was judged.",
            path=source,
            split=split.name,
        )
    rows = np.stack([located.images[foreign], located.captions[foreign]], axis=1)
    match = np.array([pair.describes for pair in located.pairs], dtype=bool)[foreign]
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    return PairRatings(
        rows[order, 0],
        rows[order, 1],
        match[order],
        False,
        f"Flickr8k: {', '.join(judgements.rows)}",
        located.unknown,
        f"{judgements.coverage} {FLICKR8K_CAVEAT}",
    )


def _from_cxc(split: Split, path: Path) -> PairRatings:
    """Read CxC's image-text file; a pair that several people rated has the mean of its ratings."""
    rated = cxc_ratings.read(path)
    image_rows, caption_rows = split.coco_ids.image_row(), split.coco_ids.caption_row()
    scores: dict[tuple[int, int], list[float]] = {}
    unknown = 0
    for image_id, caption_id, score in zip(rated.first, rated.second, rated.score.tolist(), strict=True):
        image, caption = image_rows.get(image_id), caption_rows.get(caption_id)
        if caption is None or image is None:
            unknown += 1
        elif split.caption_owner[caption] != image:  # CxC rates the data set's own pairs too
            scores.setdefault((image, caption), []).append(score)
    if not scores:
        raise DataError(
            f"{path} rates no pair of different items of the split {split.name!r} ({unknown} of other images or "
            "captions). Give the file of this split.",
            path=path,
            split=split.name,
        )
    pairs = np.array(sorted(scores), dtype=np.int64)
    match = np.array([np.mean(scores[image, caption]) >= cxc_ratings.MATCH for image, caption in pairs.tolist()])
    return PairRatings(pairs[:, 0], pairs[:, 1], match, False, f"CxC: {path.name}", unknown, CXC_CAVEAT)
