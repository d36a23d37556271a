"""WebDataset tars as others write them, img2dataset among them: images are taken out of the tar by their byte range."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import img2dataset
from cusa.pipeline.readers.captions import as_text, caption_records
from cusa.pipeline.readers.pictures import EXTENSIONS
from cusa.pipeline.readers.reading import Reading, Row, Rows, decode_text, digests
from cusa.pipeline.readers.sources import SourceRules, filled, with_sources
from cusa.pipeline.readers.splits import default_note, default_split

_OURS = re.compile(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,80}")
_WORDS = ("json", "txt", "cls")
"""Members that say something of a picture."""
_PREFERRED = ("jpg", "jpeg", "png", "webp")
_PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read WebDataset tars: `KEY.jpg` with `KEY.txt` (a caption), `KEY.json` (`caption`, or `captions`) or `KEY.cls`.

    Members of one name are one sample, wherever in the tar they stand. As webdataset has it a name ends at its first
    dot; where that makes several pictures one sample (`scan_22.05.png`, `scan_22.06.png`), names end at the last dot. A
    further picture of a sample is a drop. Hidden members are left out.

    A tar's split is the one in its own name or its folder's. Where img2dataset left `00000.parquet` beside `00000.tar`,
    the rows it could not fetch are drops, with its reason.

    Args:
        source: a tar, or a folder with tars in it or below it.
        images: not used: the images are in the tars.
        config: the data set's name (default: the folder's), and the split.

    Raises:
        DataError: if there is no tar, or one is compressed (its images have no byte range then).
    """
    tars = sorted(source.rglob("*.tar"), key=str) if source.is_dir() else [source]
    if not tars or not tars[0].is_file():
        raise DataError(f"{source} is no tar and holds none.", path=source)
    for tar in tars:
        with tar.open("rb") as file:
            start = file.read(8)
        if tool := next((tool for magic, tool in _PACKED.items() if start.startswith(magic)), ""):
            raise DataError(f"{tar} is compressed. Unpack it with {tool}: images are read by byte range.", path=tar)
    SourceRules(config.caption_sources).refuse_others(("json", "txt"), "endings of files with captions")
    root = source if source.is_dir() else source.parent
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", root.name)[:64]
    dataset = config.dataset or name or "webdataset"
    rows = Rows(lambda: (row for tar in tars for row in _rows(tar, root, dataset, config)))
    notes = dict.fromkeys(note for tar in tars for note in default_note(config, tar.stem, tar.parent.name))
    return Reading(dataset, rows, digests(root, tars), notes=tuple(notes)[:1])


class _Member(NamedTuple):
    """A file in a tar."""

    ext: str
    """Behind its name's last dot, in lower case, without the dot."""
    offset: int
    """Of its first byte; -1 for a link."""
    size: int


class _Sample(NamedTuple):
    """The members that belong together."""

    key: str
    pictures: list[_Member]
    words: dict[str, _Member]
    """Extension -> a member that says something of the picture."""
    others: list[_Member]
    """Members that are neither, and further ones of the same name."""


def _rows(tar: Path, root: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    split = default_split(config, tar.stem, tar.parent.name)
    below = tar.relative_to(root).with_suffix("").as_posix()
    rules = SourceRules(config.caption_sources)
    seen = set()
    with tar.open("rb") as file:
        groups, broken = _groups(file)
        for first, members in groups.items():
            for sample in _samples(first, members):
                seen.add(sample.key.rpartition("/")[2])
                yield from _record(tar, file, sample, (dataset, below, split), rules)
    if broken:
        yield Drop(split, "", tar.name, "image", "truncated", broken)
    yield from img2dataset.missing_rows(tar.with_suffix(".parquet"), split, seen)


def _groups(file: IO[bytes]) -> tuple[dict[str, dict[str, list[_Member]]], str]:
    """Return a tar's members by their name's part before the first dot, then by that before the last one.

    Returns:
        The groups in the order in which they first come, and what is wrong with the tar, in words.
    """
    groups: dict[str, dict[str, list[_Member]]] = {}
    last = ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header it saw
                folder, slash, name = member.name.rpartition("/")
                if name.startswith(".") or not (member.isfile() or member.issym() or member.islnk()):
                    continue  # AppleDouble files among them
                last = member.name
                stem, dot, ext = name.rpartition(".")
                stem, ext = (stem, ext.lower()) if dot else (name, "")
                linked = not member.isfile() or member.issparse()
                part = _Member(ext, -1 if linked else member.offset_data, member.size)
                first = folder + slash + stem.partition(".")[0]
                groups.setdefault(first, {}).setdefault(folder + slash + stem, []).append(part)
            return groups, _wrong_end(file, archive.offset, last)
    except tarfile.TarError as error:
        return groups, f"the tar is broken after {last or 'its start'}: {error}"


def _wrong_end(file: IO[bytes], offset: int, last: str) -> str:
    """Say what is wrong where `tarfile` stopped; empty if the tar's end mark stands there, and nothing behind it."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    after = f"after {last or 'its start'}"
    if not block:
        return f"the tar has no end mark {after}: samples behind it may be lost"
    if block.strip(b"\0"):
        return f"the tar is broken {after}: there is no header at byte {offset}"
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return f"the tar has data behind its end mark, {after}: tars that were joined must be kept apart"
    return ""


def _samples(first: str, members: dict[str, list[_Member]]) -> Iterator[_Sample]:
    """Divide the members whose names are equal up to the first dot into samples.

    Args:
        first: the name up to the first dot.
        members: by their names up to the last dot.
    """
    parts = [_sample(stem, of_stem) for stem, of_stem in members.items()]
    complete = [part for part in parts if part.pictures and part.words]
    if len(complete) > 1 or len(parts) == 1:
        yield from parts
        return
    with_pictures = [part for part in parts if part.pictures]
    if len(with_pictures) > 1 and not any(part.words for part in parts):
        yield from parts
        return
    # One sample in several parts: `x.jpg`, `x.seg.png` and `x.caption.txt`.
    main = next(iter(complete or with_pictures or parts))
    words = dict(main.words)
    others = list(main.others)
    for part in parts:
        if part is not main:
            for ext, member in part.words.items():
                if words.setdefault(ext, member) is not member:
                    others.append(member)
            others += part.others
    pictures = main.pictures + [one for part in parts if part is not main for one in part.pictures]
    yield _Sample(main.key if main.words else first, pictures, words, others)


def _sample(stem: str, members: list[_Member]) -> _Sample:
    pictures = [member for member in members if f".{member.ext}" in EXTENSIONS]
    # What can be kept comes first; else as they stand.
    pictures.sort(key=lambda one: _PREFERRED.index(one.ext) if one.ext in _PREFERRED else len(_PREFERRED))
    words: dict[str, _Member] = {}
    others = []
    for member in members:
        if member not in pictures and (member.ext not in _WORDS or words.setdefault(member.ext, member) is not member):
            others.append(member)
    return _Sample(stem, pictures, words, others)


def _record(
    tar: Path, file: IO[bytes], sample: _Sample, about: tuple[str, str, str], rules: SourceRules
) -> Iterator[Row]:
    """Give the image of a sample, or the reason why there is none, and a drop for everything that is not kept."""
    dataset, below, split = about
    where = f"{tar.name}/{sample.key}"
    captions: list[CaptionRecord] = []
    label = role = text = ""
    for ext in _WORDS:
        if (member := sample.words.get(ext)) is None:
            continue
        refused: list[str] = []
        try:
            data = _bytes(file, member)
            if ext == "json":
                captions, label, role, refused = _described(data)
                captions = filled(captions, rules.of("json"))
            elif ext == "cls":
                label = label or decode_text(data).strip()
            else:
                text = decode_text(data)
        except (ValueError, TypeError) as error:
            refused = [str(error)]
        for why in refused:
            yield Drop(split, "", f"{where}.{ext}", "caption", "bad-row", why)
    if text.strip() and not _says(captions, text):
        captions.append(CaptionRecord("", text, source=rules.of("txt")))
    for member in sample.others:
        if member.ext in _WORDS:
            detail = f"a second .{member.ext} of the sample; the first is kept"
            yield Drop(split, "", f"{where}.{member.ext}", "caption", "duplicate-key", detail)
    for member in sample.pictures[1:]:
        detail = f"a second picture of the sample; the .{sample.pictures[0].ext} is kept"
        yield Drop(split, "", f"{where}.{member.ext}", "image", "duplicate-key", detail)
    picture = sample.pictures[0] if sample.pictures else None
    if picture is None or picture.offset < 0:
        there = sorted({member.ext for member in (*sample.words.values(), *sample.others)})
        what = "it is a link, and not a file" if picture else f"no picture among its members ({', '.join(there)})"
        yield Drop(split, "", where, "image", "missing", what)
        for caption in captions:
            yield Drop(split, "", where, "caption", "missing", f"its image was dropped: {caption.text[:200]!r}")
        return
    key = sample.key if _OURS.fullmatch(sample.key) else keys.image_key(dataset, sample.key)
    yield ImageRecord(
        key,
        split,
        tar,
        f"{where}.{picture.ext}",
        tuple(captions),
        label,
        role,
        offset=picture.offset,
        length=picture.size,
        other_key=keys.image_key(dataset, f"{below}/{sample.key}.{picture.ext}"),
    )


def _described(data: bytes) -> tuple[list[CaptionRecord], str, str, list[str]]:
    """Return what a `.json` member says: captions, label, role, and what is wrong with further captions.

    Raises:
        ValueError, TypeError: if it cannot be read.
    """
    described = store.parse_json(decode_text(data))
    if not isinstance(described, dict):
        described = {"captions": described}
    value = described.get("captions") if described.get("captions") is not None else described.get("caption")
    captions, refused = caption_records(value)
    captions = with_sources(captions, described.get("caption_source"))
    return captions, as_text(described.get("label")), as_text(described.get("role")), refused


def _says(captions: list[CaptionRecord], text: str) -> bool:
    """Tell whether captions hold a text already, whole or line by line."""
    words = {" ".join(caption.text.split()) for caption in captions}
    lines = {" ".join(line.split()) for line in text.splitlines()} - {""}
    return " ".join(text.split()) in words or lines <= words


def _bytes(file: IO[bytes], member: _Member) -> bytes:
    if member.offset < 0:
        raise ValueError("it is a link, and not a file")
    file.seek(member.offset)
    return file.read(member.size)
