"""What is known of a split's pairs: its own, every known match, people's judgements, COCO's official ground truths."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cusa.errors import DataError
from cusa.manifests import languages, schemas
from cusa.manifests.judgements import cxc_ratings, eccv_truth, pair_judgements
from cusa.manifests.judgements import flickr8k as flickr8k_files
from cusa.manifests.judgements.altered_captions import AlteredCaptions
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

Need = Literal[
    "captions",
    "more than five captions",
    "truth",
    "verdicts",
    "COCO's lists",
    "plausible matches",
    "CxC's ratings",
    "Flickr8k's judgements",
    "SugarCrepe",
    "RoCOCO",
    "to be named",
]
"""What a split must bring for a task that is computed without being asked for by name."""


@dataclass(frozen=True)
class Evidence:
    """What an evaluation judges answers by; the large files are read when a task needs them.

    Attributes:
        split: whose images and captions are asked and ranked.
        ground_truth: folder of ECCV Caption's files; those of the installed package when None.
        rating_files: what is rated -> file of Crisscrossed Captions.
        judgements: people's verdicts on pairs of the split.
    """

    split: Split
    ground_truth: Path | None
    rating_files: Mapping[str, Path]
    judgements: pair_judgements.Judgements
    flickr8k: Path | None = None
    """Folder of Flickr8k's judgements."""
    altered: Mapping[str, AlteredCaptions] = field(default_factory=dict)
    """`sugarcrepe`, `rococo` -> altered captions of COCO's images."""

    @classmethod
    def open(
        cls,
        split: Split,
        *,
        ground_truth: Path | None = None,
        ratings: Path | None = None,
        flickr8k: Path | None = None,
        altered: Iterable[AlteredCaptions] = (),
    ) -> "Evidence":
        """Find what is known of a split.

        Args:
            split: its `truth.parquet`, where there is one, gives every known match; its `audit` folder the verdicts.
            ground_truth: folder of ECCV Caption's files; those of the installed package when None.
            ratings: folder of Crisscrossed Captions' files.
            flickr8k: folder of Flickr8k's judgements.
            altered: SugarCrepe's and RoCOCO's files.

        Raises:
            DataError: if the verdicts cannot be read.
        """
        files = cxc_ratings.files(ratings, split.name) if ratings is not None else {}
        return cls(
            split, ground_truth, files, pair_judgements.read(split), flickr8k, {one.whose: one for one in altered}
        )

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of everything an evaluation reads, by its name in the ledger."""
        truth = self._truth_path
        return {
            "split": self.split.digest,
            "truth": store.sha256_file(truth) if truth.is_file() else "none",
            "ground truth": store.sha256_folder(self.ground_truth) if self.ground_truth else "package",
            "verdicts": self.judgements.digest if self.judgements.judgements else "none",
            **{path.name: store.sha256_file(path) for path in self.rating_files.values()},
            **(flickr8k_files.digests(self.flickr8k) if self.flickr8k is not None else {}),
            **({"languages": store.sha256_file(self._languages_path)} if self._languages_path.is_file() else {}),
            **{name: digest for one in self.altered.values() for name, digest in one.digests().items()},
        }

    @cached_property
    def known_matches(self) -> Mapping[str, list[Any]] | None:
        """Every known match (`image_key`, `caption_key`); None without `truth.parquet`."""
        if not self._truth_path.is_file():
            return None
        matches: dict[str, list[Any]] = store.read_table(self._truth_path, columns=schemas.TRUTH.names).to_pydict()
        return matches

    @cached_property
    def official(self) -> eccv_truth.GroundTruths | None:
        """The ground truths of COCO's test split; None where they are neither given nor installed.

        Raises:
            DataError: if a file of theirs is broken.
        """
        folder = self.ground_truth or eccv_truth.official_folder()
        return eccv_truth.read(folder) if folder is not None else None

    @cached_property
    def ratings(self) -> Mapping[str, cxc_ratings.CxcRatings]:
        """What is rated -> Crisscrossed Captions' ratings; empty where none are given.

        Raises:
            DataError: if a file of theirs is broken.
        """
        return {what: cxc_ratings.read(path) for what, path in self.rating_files.items()}

    @cached_property
    def flickr8k_judgements(self) -> flickr8k_files.Flickr8kJudgements | None:
        """Flickr8k's judgements; None where they are not given.

        Raises:
            DataError: if a file of theirs is broken.
        """
        return flickr8k_files.read(self.flickr8k) if self.flickr8k is not None else None

    @cached_property
    def located(self) -> flickr8k_files.LocatedJudgements | None:
        """Flickr8k's judgements as rows of the split; None where they are not given."""
        judgements = self.flickr8k_judgements
        return flickr8k_files.locate(self.split, judgements) if judgements is not None else None

    @cached_property
    def judged_pairs(self) -> np.ndarray | None:
        """(P, 2) image and caption rows of own pairs and those that people judged to match; None without verdicts."""
        return pair_judgements.true_pairs(self.split, self.judgements) if self.judgements.judgements else None

    @cached_property
    def met_needs(self) -> Mapping[Need, bool]:
        """What the split brings, and what a user means by giving a ground truth."""
        split = self.split
        return {
            "captions": bool(split.num_captions),
            "more than five captions": bool(split.num_captions) and int(np.bincount(split.caption_owner).max()) > 5,
            "truth": self._truth_path.is_file(),
            "verdicts": bool(self.judgements.judgements),
            "CxC's ratings": bool(self.rating_files),
            "Flickr8k's judgements": self.located is not None and bool(self.located.pairs),
            "plausible matches": self.ground_truth is not None and eccv_truth.has_plausible(self.ground_truth),
            "COCO's lists": self.ground_truth is not None or self._is_official(),
            "SugarCrepe": self._has_altered("sugarcrepe"),
            "RoCOCO": self._has_altered("rococo"),
            "to be named": False,
        }

    def read(self, *, official: bool) -> None:
        """Read the files now, so that a broken one is named before a model is loaded.

        Args:
            official: whether the ground truths of COCO's test split are needed.

        Raises:
            DataError: if a file is broken.
        """
        _ = self.known_matches, self.ratings, self.flickr8k_judgements, self.official if official else None

    def refuse_doubles(self) -> None:
        """Refuse a split whose keys do not name one row each: every number would count something twice.

        Raises:
            DataError: if an image or caption key comes twice.
        """
        split = self.split
        for what, keys in (("image", split.image_keys), ("caption", split.caption_keys)):
            if len(set(keys)) != len(keys):
                double = Counter(keys).most_common(1)[0][0]
                raise DataError(
                    f"{split.folder}: the {what} key {double!r} comes twice. Make the split again with "
                    "`cusa shard ... --force`, which refuses such rows.",
                    key=double,
                )

    @cached_property
    def language_rows(self) -> Mapping[str, np.ndarray]:
        """Caption rows of each known language; empty where none were detected.

        Raises:
            StaleError: if they are of another state of the split.
        """
        return languages.language_rows(self.split)

    @property
    def _languages_path(self) -> Path:
        return self.split.folder / languages.TABLE

    @property
    def _truth_path(self) -> Path:
        return self.split.folder / "truth.parquet"

    def _has_altered(self, whose: str) -> bool:
        return whose in self.altered and bool(self.altered[whose].located(self.split))

    def _is_official(self) -> bool:
        """Tell whether the split holds every caption of COCO's official test list; the list alone is cheap to read."""
        folder = eccv_truth.official_folder()
        there = set(self.split.coco_ids.captions)
        if folder is None or len(there) < 25_000:
            return False
        return there.issuperset(eccv_truth.read(folder).caption_ids.tolist())
