"""A work folder read again: all of it, or the part that a list of keys names."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import schemas
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.keys import caption_key, split_caption_key
from cusa.manifests.languages import read_languages
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.pipeline.languages.stage import captions_in
from cusa.pipeline.readers.own_pairs import OwnPairs
from cusa.pipeline.readers.reading import Reading, Row, Rows

VERDICTS = ("drop", "merge", "repair")


def read_subset(
    work: Path,
    keys: Collection[str] | None = None,
    *,
    verdicts: str = "",
    max_p_wrong: float | None = None,
    languages: Collection[str] = (),
) -> Reading:
    """Read the shards of a work folder, images by their byte range, splits as they are.

    Args:
        work: a work folder.
        keys: image or caption keys to keep; a caption's key keeps its image with all its captions. None keeps all.
        verdicts: what becomes of what people judged. Of images that are one the first stays: `drop` leaves the others
            out with their captions, `merge` gives their captions to the first. `drop` also leaves out captions that are
            true of another image as well, unless none would be left. `drop` and `repair` leave out an image's own
            captions that were judged wrong (`cusa review --pairs`), and `repair` gives the image those that were
            chosen instead. Empty: nothing.
        max_p_wrong: own captions that `cusa audit --pairs` calls wrong with a larger probability are left out; None:
            none is.
        languages: captions in another language than these are left out (`cusa languages`); empty: none is.

    Returns:
        The reading; a key that the folder does not hold is a drop, and so is what verdicts leave out.

    Raises:
        ConfigError: if `verdicts` is none of these.
        DataError: if the folder is no work folder, no keys are given, nobody has judged, or no languages were
            detected, or no caption is in one of them.
        StaleError: if languages are of another state of the split.
    """
    if verdicts and verdicts not in VERDICTS:
        raise ConfigError(f"--verdicts {verdicts!r}. {nearest(verdicts, VERDICTS)}", option="--verdicts")
    wanted = None if keys is None else {key.partition("#")[0] for key in keys}
    if wanted is not None and not wanted:
        raise DataError("The subset names no key. Give a file with one key a line, or a query that finds some.")
    names = splits(work)
    files = {f"{name}/{file}": store.sha256_file(work / name / file) for name in names for file in ("shards.parquet",)}
    if wanted is not None:
        files["keys"] = store.digest(sorted(wanted))
    if verdicts:
        judged = {name: pair_judgements.read(Split(work, name)) for name in names if verdicts != "repair"}
        of_pairs = [_own_pairs(Split(work, name), verdicts, None) for name in names]
        if not any(one.judgements for one in judged.values()) and not any(one.any for one in of_pairs):
            raise DataError(f"Nobody has judged a pair of {work}. Run `cusa review {work}`.", work=work)
        seen = [*(one.digest for one in judged.values()), *(one.digest for one in of_pairs if one.any)]
        files["verdicts"] = store.digest([verdicts, *seen])
    if max_p_wrong is not None:
        files["pairs"] = store.digest([_own_pairs(Split(work, name), "", max_p_wrong).digest for name in names])
    spoken = {name: captions_in(Split(work, name), languages) for name in names if languages}
    if languages:
        if not any(spoken.values()):
            there = sorted({code for name in names for code in read_languages(Split(work, name))})
            asked = ", ".join(languages)
            raise DataError(f"--language {asked}: no caption of {work} is in it. Captions are in: {', '.join(there)}.")
        files["languages"] = store.digest({name: sorted(keys_of) for name, keys_of in spoken.items()})
    first = store.read_table(work / names[0] / "samples.parquet", columns=["key"])["key"].to_pylist()[:1]
    dataset = first[0].partition("/")[0] if first else work.name
    truth = {name: path for name in names if (path := work / name / "truth.parquet").is_file()}
    rows = Rows(lambda: _rows(work, names, wanted, verdicts, max_p_wrong, spoken=spoken))
    notes: tuple[str, ...] = ()
    if of_captions := sum("#" in key for key in keys or ()):
        what = (
            "1 of the keys is a caption's: its image was"
            if of_captions == 1
            else (f"{of_captions:,} of the keys are captions': their images were")
        )
        notes = (f"{what} kept with all captions.",)
    return Reading(dataset, rows, files, truth, notes=notes, work=work)


def _own_pairs(
    split: Split, verdicts: str, max_p_wrong: float | None, spoken: Collection[str] | None = None
) -> OwnPairs:
    judged, repair = verdicts in ("drop", "repair"), verdicts == "repair"
    return OwnPairs(split, judged=judged, repair=repair, max_p_wrong=max_p_wrong, spoken=spoken)


def _rows(
    work: Path,
    names: list[str],
    wanted: set[str] | None,
    verdicts: str,
    max_p_wrong: float | None,
    *,
    spoken: Mapping[str, Collection[str]],
) -> Iterator[Row]:
    """Give the rows of the splits.

    Args:
        work: the work folder.
        names: of the splits.
        wanted: keys of images; None = all.
        verdicts: what becomes of what people judged.
        max_p_wrong: own captions that the audit calls wrong with a larger probability are left out.
        spoken: split -> keys of its captions in a wanted language, by the keys that they have there: what verdicts give
            to another image has a new one. Empty = all.
    """
    seen = set()
    for name in names:
        split = Split(work, name)
        judged = _Judged(split, verdicts if verdicts != "repair" else "")
        understood = spoken.get(name)
        pairs = _own_pairs(split, verdicts, max_p_wrong, understood)
        samples = split.samples.select(schemas.SAMPLES.names).to_pylist()
        captions: dict[str, list[CaptionRecord]] = {}
        for row in split.captions.to_pylist():
            if wanted is None or row["key"] in wanted:
                captions.setdefault(row["key"], []).append(
                    CaptionRecord(row["caption_id"], row["text"], row["position"], row["source"])
                )
        for number, row in enumerate(samples):
            if wanted is not None and row["key"] not in wanted:
                continue
            seen.add(row["key"])
            if (first := judged.one_with(number)) is not None:
                yield Drop(name, row["key"], row["source"], "image", "judged", f"it is one with {first}")
                if verdicts == "drop":
                    for caption in captions.get(row["key"], ()):
                        detail = f"its image is one with {first}: {caption.text[:200]!r}"
                        yield Drop(name, row["key"], row["source"], "caption", "judged", detail)
                continue
            kept = []
            own = captions.get(row["key"], [])
            _, foreign = _by_language(row["key"], own, understood)
            for one in pairs.apply(row["key"], row["source"], own):
                if isinstance(one, Drop):
                    yield one
                elif one in foreign:
                    yield _of_other_language(name, row["key"], row["source"], one)
                else:
                    kept.append(one)
            if verdicts == "merge":
                more: list[CaptionRecord] = []
                for copy in judged.copies(number):
                    same, foreign = _by_language(copy, captions.get(copy, []), understood)
                    more += same
                    for caption in foreign:
                        yield _of_other_language(name, copy, row["source"], caption)
                # Behind the image's own, whose keys stay.
                last = max((caption.position or 0 for caption in own), default=-1)
                kept = kept + [one._replace(position=place) for place, one in enumerate(more, last + 1)]
            elif left := judged.ambiguous(row["key"], [caption.position or 0 for caption in kept]):
                for caption in kept:
                    if caption.position in left:
                        key = caption_key(row["key"], caption.position or 0)
                        detail = f"true of another image as well: {caption.text[:200]!r}"
                        yield Drop(name, key, row["source"], "caption", "judged", detail)
                kept = [caption for caption in kept if caption.position not in left]
            texts = tuple(kept)
            tar = work / name / row["shard"] if row["ext"] else None
            offset, length = row["image_offset"], row["image_bytes"]
            array: tuple[int, ...] = ()
            if row["ext"] == "npy":  # its numbers stand behind a header
                array = (row["height"], row["width"])
                offset, length = offset + length - 4 * row["height"] * row["width"], 4 * row["height"] * row["width"]
            about = (row["key"], name, tar, row["source"], texts, row["label"], row["role"])
            yield ImageRecord(*about, offset=offset, length=length, array=array, sha256=row["sha256"] if tar else "")
    for key in sorted((wanted or set()) - seen):
        yield Drop(names[0], key, str(work), "image", "missing", "the work folder has no such key")


def _by_language(
    key: str, captions: list[CaptionRecord], understood: Collection[str] | None
) -> tuple[list[CaptionRecord], list[CaptionRecord]]:
    """Return an image's captions in a wanted language, and those in another; None = all are wanted."""
    if understood is None:
        return captions, []
    wanted = [caption_key(key, caption.position or 0) in understood for caption in captions]
    both = list(zip(captions, wanted, strict=True))
    return [caption for caption, is_wanted in both if is_wanted], [one for one, is_wanted in both if not is_wanted]


def _of_other_language(split: str, key: str, source: str, caption: CaptionRecord) -> Drop:
    place = caption_key(key, caption.position or 0)
    return Drop(split, place, source, "caption", "language", f"{caption.text[:200]!r}")


class _Judged:
    """What people judged of one split, for `drop` or `merge`; empty where verdicts play no part."""

    def __init__(self, split: Split, verdicts: str) -> None:
        self._keys = split.image_keys if verdicts else []
        self._first: list[int] = []
        self._copies: dict[int, list[str]] = {}
        self._ambiguous: dict[str, set[int]] = {}
        if not verdicts:
            return
        judged = pair_judgements.read(split)
        self._first = pair_judgements.same_images(split, judged).tolist()
        for row, first in enumerate(self._first):
            if row != first:
                self._copies.setdefault(first, []).append(self._keys[row])
        for _, caption in judged.pairs("match") if verdicts == "drop" else ():
            key, place = split_caption_key(caption)
            self._ambiguous.setdefault(key, set()).add(place)

    def one_with(self, row: int) -> str | None:
        """Return the image that a row is a copy of, None for an image of its own."""
        return self._keys[self._first[row]] if self._first and self._first[row] != row else None

    def copies(self, row: int) -> list[str]:
        """Return the copies of an image."""
        return self._copies.get(row, [])

    def ambiguous(self, key: str, positions: list[int]) -> set[int]:
        """Return the positions of an image's captions that are true of another image, the first kept if all are."""
        true_elsewhere = self._ambiguous.get(key, set()).intersection(positions)
        if true_elsewhere and len(true_elsewhere) == len(positions):
            return true_elsewhere - {min(true_elsewhere)}
        return true_elsewhere
