"""Flickr8k's human judgements: whether a caption describes an image, mostly one that is not its own.

`ExpertAnnotations.txt` has an image, a caption and three experts' scores from 1 (describes nothing of it) to 4
(describes it without error) a line; `CrowdFlowerAnnotations.txt` an image, a caption, the share of people who said yes,
their number, and the number of those who said no. Source: Hodosh, Young and Hockenmaier, JAIR 47, 2013.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median

import numpy as np

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

EXPERTS = "ExpertAnnotations.txt"
CROWD = "CrowdFlowerAnnotations.txt"
OFFICIAL_ROWS = {EXPERTS: 5_822, CROWD: 47_830}
"""File -> rows that its makers published."""
TOKENS = "Flickr8k.token.txt"
"""The captions by their ids; where it lies beside the judgements, captions are compared with it by their words."""

DESCRIBES = 3
"""The experts' median from which on the caption describes the image: 3 allows for minor mistakes, 4 for none."""
MOST_SAY_YES = 0.6
"""The crowd's share of yes above which the caption describes the image, possibly with minor mistakes."""

_CAPTION = re.compile(r"(?P<image>[^\t#]+)#(?P<position>[0-9]{1,3})")


@dataclass(frozen=True)
class JudgedPair:
    """What people said of one image with one caption.

    Attributes:
        image: the image's file name.
        caption: the caption's id, `FILE#k`.
        scores: three experts' scores, 1 to 4; empty where no expert saw the pair.
        yes: people of the crowd who said that the caption describes the image.
        no: people of the crowd who said that it does not; both are 0 where the crowd did not see the pair.
    """

    image: str
    caption: str
    scores: tuple[int, ...] = ()
    yes: int = 0
    no: int = 0

    @property
    def owner(self) -> str:
        """File name of the image that the caption was written for."""
        return self.caption.rpartition("#")[0]

    @property
    def own(self) -> bool:
        """Whether the caption was written for this image; else the pair is a foreign one."""
        return self.owner == self.image

    @property
    def median(self) -> float | None:
        """The experts' median score; None where no expert saw the pair."""
        return float(median(self.scores)) if self.scores else None

    @property
    def share(self) -> float | None:
        """The crowd's share of yes, 0 to 1; None where the crowd did not see the pair."""
        return self.yes / (self.yes + self.no) if self.yes + self.no else None

    @property
    def describes(self) -> bool:
        """Whether the caption describes the image: by the experts where they saw the pair, else by the crowd."""
        if self.median is not None:
            return self.median >= DESCRIBES
        return self.share is not None and self.share > MOST_SAY_YES


@dataclass(frozen=True)
class Flickr8kJudgements:
    """The judgements of a folder.

    Attributes:
        pairs: each image with each caption once, in the files' order, the experts' before the crowd's.
        rows: file -> rows read; only of files that are there.
        texts: caption id -> caption, of the judged captions; empty where the token file is not beside.
    """

    pairs: Sequence[JudgedPair]
    rows: Mapping[str, int]
    texts: Mapping[str, str]

    @property
    def coverage(self) -> str:
        """What part of the official files was read, in a sentence."""
        parts = []
        for file, rows in self.rows.items():
            official = OFFICIAL_ROWS[file]
            parts.append(f"{rows:,} of the {official:,} official rows of {file} ({100 * rows / official:.1f} %)")
        return f"Read {' and '.join(parts)}."


@dataclass(frozen=True)
class LocatedJudgements:
    """Judgements as rows of a split.

    Attributes:
        pairs: (P,) those of which the split has both ends.
        images: (P,) image rows.
        captions: (P,) caption rows.
        unknown: pairs left out, because the split has not both ends.
    """

    pairs: Sequence[JudgedPair]
    images: np.ndarray
    captions: np.ndarray
    unknown: int


def files(source: Path) -> dict[str, Path]:
    """Return the files of judgements in a folder, or the one that is given, by their official names."""
    if source.is_file():
        return {source.name: source} if source.name in OFFICIAL_ROWS else {}
    return {name: source / name for name in OFFICIAL_ROWS if (source / name).is_file()}


def is_layout(source: Path) -> bool:
    """Tell whether a folder holds such judgements, or a file is one of them."""
    return bool(files(source))


def digests(source: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that `read` reads, by name."""
    paths = [*files(source).values()]
    tokens = [path.with_name(TOKENS) for path in paths[:1]]
    return {path.name: store.sha256_file(path) for path in (*paths, *tokens) if path.is_file()}


def read(source: Path) -> Flickr8kJudgements:
    """Read the judgements of a folder, or of one file; any part of the official files will do.

    Args:
        source: the folder of `ExpertAnnotations.txt` and `CrowdFlowerAnnotations.txt`, or one of the two.

    Raises:
        DataError: if neither is there, or naming the line that is no judgement or judges a pair again.
    """
    paths = files(source)
    if not paths:
        raise DataError(f"{source} holds neither {EXPERTS} nor {CROWD}. Give Flickr8k's folder of texts.", path=source)
    pairs: dict[tuple[str, str], JudgedPair] = {}
    rows = {}
    for name, path in paths.items():
        seen: set[tuple[str, str]] = set()
        for number, fields in _lines(path):
            try:
                pair = _pair(name, fields)
                what = (pair.image, pair.caption)
                if what in seen:
                    raise ValueError("this pair was judged in an earlier line")
            except ValueError as error:
                raise DataError(
                    f"{path}:{number} is no judgement ({error}). Restore Flickr8k's file.", path=path
                ) from error
            seen.add(what)
            before = pairs.get(what)
            pairs[what] = pair if before is None else JudgedPair(*what, before.scores, pair.yes, pair.no)
        if not seen:
            raise DataError(f"{path} holds no judgement. Restore Flickr8k's file.", path=path)
        rows[name] = len(seen)
    tokens = next(iter(paths.values())).with_name(TOKENS)
    texts = _texts(tokens, {caption for _, caption in pairs}) if tokens.is_file() else {}
    return Flickr8kJudgements(tuple(pairs.values()), rows, texts)


def locate(split: Split, judgements: Flickr8kJudgements) -> LocatedJudgements:
    """Look the rows of judged pairs up.

    An image is known by its file name. A caption is known by its id, or, where the split has other ids (Karpathy's are
    running numbers), by its number among its image's captions. Where the words of the judged captions are known, a
    caption of other words is replaced by the one of its image that has them, or left out.

    Args:
        split: whose rows.
        judgements: what was read.
    """
    images = _unshared((file_name(name), row) for row, name in enumerate(split.samples["source"].to_pylist()))
    by_id = _unshared((name, row) for row, name in enumerate(split.captions["caption_id"].to_pylist()))
    of_image: dict[int, dict[int, int]] = {}
    positions = split.captions["position"].to_pylist()
    for caption, (owner, position) in enumerate(zip(split.caption_owner.tolist(), positions, strict=True)):
        of_image.setdefault(owner, {})[position] = caption

    def caption_row(name: str) -> int | None:
        owner, _, position = name.rpartition("#")
        siblings = of_image.get(images.get(owner, -1), {})
        row = by_id.get(name, siblings.get(int(position)))
        words = _words(judgements.texts.get(name, ""))
        if row is None or not words or _words(split.texts[row]) == words:
            return row
        return next((other for other in siblings.values() if _words(split.texts[other]) == words), None)

    rows = {name: caption_row(name) for name in {pair.caption for pair in judgements.pairs}}
    located = [(pair, images.get(pair.image), rows[pair.caption]) for pair in judgements.pairs]
    known = [(pair, image, caption) for pair, image, caption in located if image is not None and caption is not None]
    ends = np.array([(image, caption) for _, image, caption in known], np.int64).reshape(-1, 2)
    return LocatedJudgements(
        tuple(pair for pair, _, _ in known), ends[:, 0], ends[:, 1], len(judgements.pairs) - len(known)
    )


def file_name(source: str) -> str:
    """Return the file name at the end of an image's path in its data set."""
    return PurePosixPath(source).name


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Restore it.", path=path) from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _pair(file: str, fields: Sequence[str]) -> JudgedPair:
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields between tabs, not 5")
    image, caption, *judged = (field.strip() for field in fields)
    if not image or not _CAPTION.fullmatch(caption):
        raise ValueError(f"{image[:80]!r} and {caption[:80]!r} are no image and no caption id, FILE and FILE#k")
    if file == EXPERTS:
        scores = tuple(int(score) for score in judged)
        if not all(1 <= score <= 4 for score in scores):
            raise ValueError(f"the scores {', '.join(judged)} are not between 1 and 4")
        return JudgedPair(image, caption, scores)
    share, yes, no = float(judged[0]), int(judged[1]), int(judged[2])
    if yes < 0 or no < 0 or not yes + no:
        raise ValueError(f"{yes} yes and {no} no are no votes")
    if not abs(share - yes / (yes + no)) < 1e-4:
        raise ValueError(f"the share {judged[0]} is not that of {yes} yes and {no} no")
    return JudgedPair(image, caption, (), yes, no)


def _texts(path: Path, wanted: set[str]) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Restore it.", path=path) from error
    pairs = (line.partition("\t") for line in lines)
    return {name: text for name, _, text in pairs if name in wanted}


def _words(text: str) -> list[str]:
    """Return a caption's words in lower case: what stays the same however it was cleaned."""
    return re.findall(r"\w+", text.lower())


def _unshared(names: Iterator[tuple[str, int]]) -> dict[str, int]:
    """Return name -> row, of names that one row alone has."""
    rows: dict[str, int] = {}
    shared = set()
    for name, row in names:
        if name in rows or not name:
            shared.add(name)
        rows[name] = row
    return {name: row for name, row in rows.items() if name not in shared}
