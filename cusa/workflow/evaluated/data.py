"""The folders that a model is evaluated on, sorted by what they hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cusa.errors import ConfigError, DataError
from cusa.manifests.judgements import altered_captions, cxc_ratings, flickr8k
from cusa.manifests.judgements.altered_captions import AlteredCaptions
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.workflow import layouts

Kind = Literal["work", "layout", "sts"]


@dataclass(frozen=True)
class DataFolders:
    """The data folders of one evaluation."""

    work: tuple[Path, ...]
    """Work folders."""
    layout: tuple[Path, ...]
    """Data sets in their official layout, not sharded yet."""
    sts: tuple[Path, ...]
    """Folders of the STS sets."""
    truth: Path | None
    """ECCV Caption's ground truth; serves the COCO folders."""
    ratings: Path | None
    """Crisscrossed Captions' ratings, likewise."""
    flickr8k: Path | None
    """Flickr8k's judgements; serve the folders that have its images."""
    altered: tuple[AlteredCaptions, ...] = ()
    """SugarCrepe's and RoCOCO's files; serve the COCO folders."""

    @property
    def retrieval(self) -> tuple[Path, ...]:
        """Everything that retrieval is evaluated on."""
        return (*self.work, *self.layout)

    def of_kinds(self, kinds: Iterable[Kind]) -> list[tuple[Kind, Path]]:
        """Return the folders of some kinds, each with its kind."""
        return [(kind, folder) for kind in kinds for folder in getattr(self, kind)]


def sort_by_kind(folders: Sequence[Path]) -> DataFolders:
    """Recognise what each folder holds.

    Raises:
        ConfigError: if there are two ground truths or ratings, or one and no folder that it belongs to.
        DataError: if a folder holds nothing to evaluate on.
    """
    from cusa.eval import evaluate_sts
    from cusa.manifests.judgements import eccv_truth

    kinds: dict[str, list[Path]] = {
        kind: [] for kind in ("work", "layout", "sts", "truth", "ratings", "flickr8k", "sugarcrepe", "rococo")
    }
    for folder in folders:
        if any(folder.glob("*/samples.parquet")):
            kinds["work"].append(folder)
        elif eccv_truth.is_ground_truth(folder):
            kinds["truth"].append(folder)
        elif cxc_ratings.is_layout(folder):
            kinds["ratings"].append(folder)
        elif (whose := altered_captions.recognise(folder)) is not None:
            kinds[whose].append(folder)
        elif flickr8k.is_layout(folder):
            kinds["flickr8k"].append(folder)
        elif evaluate_sts.is_layout(folder):
            kinds["sts"].append(folder)
        elif layouts.layout_of(folder) is not None:
            kinds["layout"].append(folder)
        else:
            what = "is a file, not a folder" if folder.is_file() else "does not exist"
            what = "holds nothing to evaluate on" if folder.is_dir() else what
            raise DataError(
                f"{folder} {what}. Give a work folder (`cusa shard` makes one), a data set in its official layout "
                "(`cusa download` brings it), the folder above STS/STS12-en-test and SICK, ECCV Caption's ground "
                "truth, CxC's ratings, Flickr8k's judgements, or SugarCrepe's or RoCOCO's files.",
                path=folder,
            )
    for folder in kinds["flickr8k"]:
        # The folder may be the data set as well; its images are there already if a work folder has them.
        if layouts.layout_of(folder) is not None and not any(_holds_judged(work, folder) for work in kinds["work"]):
            kinds["layout"].append(folder)
    for kind, what in (
        ("truth", "a ground truth of COCO's test split"),
        ("ratings", "CxC's ratings of COCO"),
        ("flickr8k", "Flickr8k's judgements"),
        ("sugarcrepe", "SugarCrepe's captions of COCO"),
        ("rococo", "RoCOCO's captions of COCO"),
    ):
        if len(kinds[kind]) > 1 or (kinds[kind] and not (kinds["work"] or kinds["layout"])):
            raise ConfigError(
                f"{kinds[kind][-1]} is {what}: give one, and the work folder it is for with --data as well.",
                data=kinds[kind],
            )
    return DataFolders(
        tuple(kinds["work"]),
        tuple(kinds["layout"]),
        tuple(kinds["sts"]),
        next(iter(kinds["truth"]), None),
        next(iter(kinds["ratings"]), None),
        next(iter(kinds["flickr8k"]), None),
        tuple(AlteredCaptions(folder, whose) for whose in altered_captions.KINDS for folder in kinds[whose]),
    )


def _holds_judged(work: Path, judgements: Path) -> bool:
    """Tell whether a work folder has an image that Flickr8k's judges saw."""
    judged = {pair.image for pair in flickr8k.read(judgements).pairs}
    names = (source for name in splits(work) for source in Split(work, name).samples["source"].to_pylist())
    return any(flickr8k.file_name(source) in judged for source in names)


def result_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder's results: its own, with part of a digest where two folders share a name."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{name}-{store.digest(str(folder.resolve()))[:6]}"
        for name, folder in zip(names, folders, strict=True)
    ]


def refuse_other_images(split: Split, ids: Path) -> None:
    """Refuse a split that does not consist of exactly the images of a list.

    Args:
        split: the split.
        ids: a text file with an image key a line.

    Raises:
        DataError: if the list cannot be read, or the split has other images.
    """
    try:
        wanted = {line.strip() for line in ids.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{ids} cannot be read ({error}). Give a text file with an image key a line.", path=ids
        ) from None
    missing, extra = sorted(wanted - set(split.image_keys)), sorted(set(split.image_keys) - wanted)
    if missing or extra:
        first = f"{missing[0]!r} is missing" if missing else f"{extra[0]!r} is not in the list"
        raise DataError(
            f"{split.folder} is not what {ids} lists: {len(missing):,} of {len(wanted):,} images are missing and "
            f"{len(extra):,} are others ({first}). `cusa shard subset {split.work} --keys {ids} --out WORK` makes the "
            "split of exactly these.",
            path=ids,
        )
