"""A folder of images, each with a text file of its name beside it."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import img2dataset
from cusa.pipeline.readers.captions import caption_records
from cusa.pipeline.readers.pictures import EXTENSIONS, START, looks_like_picture
from cusa.pipeline.readers.reading import Reading, Row, Rows, decode_text, other_key
from cusa.pipeline.readers.sources import SourceRules, filled, with_sources
from cusa.pipeline.readers.splits import SPLITS, default_note, default_split

_SIDECARS = (".txt", ".json")


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a folder of images with sidecars: `a.jpg` with `a.txt` (a caption a line) or `a.json` (a list of captions).

    Where both say the same, as img2dataset writes them, it is one caption. A picture is what has a picture's extension,
    or else begins like one. Folders below named `train`, `val` or `test` (or a synonym) are splits; everything else
    goes to the given split, else to `train`. Hidden files are left out. Where img2dataset left a table of statuses, the
    rows it could not fetch are drops, with its reason.

    Args:
        source: the folder.
        images: likewise; the one that is read.
        config: the data set's name (default: the folder's), and the split.

    Raises:
        DataError: if there is no such folder or no image in it.
    """
    if not source.is_dir():
        raise DataError(f"{source} is no folder. Name the folder of the images.", path=source)
    files = _files(source)
    if not any(map(_is_picture, files)):
        raise DataError(f"{source} holds no image (looked for {', '.join(sorted(EXTENSIONS))}).", path=source)
    SourceRules(config.caption_sources).refuse_others(("json", "txt"), "endings of files with captions")
    beside = [file for file in files if file.suffix.lower() in (*_SIDECARS, ".parquet")]
    digest = store.digest([[_name(source, file), store.sha256_file(file)] for file in beside])
    dataset = config.dataset or source.name
    named = any(_split_folder(_name(source, file)) for file in files)
    notes = () if named else default_note(config, source.name)
    return Reading(dataset, Rows(lambda: _rows(source, dataset, config)), {"sidecars": digest}, notes=notes)


def _files(source: Path) -> list[Path]:
    files = (file for file in source.rglob("*") if file.is_file())
    return sorted((f for f in files if not any(part.startswith(".") for part in f.relative_to(source).parts)), key=str)


def _is_picture(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS or suffix in _SIDECARS:
        return suffix in EXTENSIONS
    try:
        with file.open("rb") as opened:
            return looks_like_picture(opened.read(START))
    except OSError:
        return False


def _name(source: Path, file: Path) -> str:
    return file.relative_to(source).as_posix()


def _rows(source: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    files = _files(source)
    sidecars = {(file.with_suffix(""), file.suffix.lower()): file for file in files if file.suffix.lower() in _SIDECARS}
    tables = [file for file in files if file.suffix.lower() == ".parquet" and img2dataset.is_status_table(file)]
    # img2dataset's count of a shard is no picture's sidecar.
    used = {table.with_name(f"{table.stem}_stats.json") for table in tables}
    rules = SourceRules(config.caption_sources)
    stems: dict[Path, set[str]] = {}
    for file in files:
        if not _is_picture(file):
            continue
        name, stem = _name(source, file), file.with_suffix("")
        split = _split(name, config)
        stems.setdefault(file.parent, set()).add(stem.name)
        texts: dict[str, list[CaptionRecord]] = {}
        for suffix in _SIDECARS:
            if (sidecar := sidecars.get((stem, suffix))) is None:
                continue
            used.add(sidecar)
            try:
                captions, refused = _captions(sidecar)
                texts[suffix] = filled(captions, rules.of(suffix[1:]))
            except (ValueError, TypeError) as error:
                refused = [str(error)]
            for why in refused:
                yield Drop(split, "", _name(source, sidecar), "caption", "bad-row", why)
        merged = tuple(_merged(texts.get(".txt", []), texts.get(".json", [])))
        key = keys.image_key(dataset, name.removesuffix(file.suffix))
        yield ImageRecord(key, split, file, name, merged, other_key=other_key(dataset, name))
    for file in sidecars.values():
        if file not in used:
            name = _name(source, file)
            yield Drop(_split(name, config), "", name, "caption", "missing", "no image of this name lies beside it")
    for table in tables:
        split = _split(_name(source, table), config)
        yield from img2dataset.missing_rows(table, split, stems.get(table.with_suffix(""), set()))


def _split(name: str, config: ReadConfig) -> str:
    return _split_folder(name) or default_split(config)


def _split_folder(name: str) -> str:
    first, slash, _ = name.partition("/")
    return SPLITS.get(first.strip().casefold(), "") if slash else ""


def _captions(sidecar: Path) -> tuple[list[CaptionRecord], list[str]]:
    """Return the captions of a sidecar and what is wrong with the others.

    Raises:
        ValueError: if it cannot be read.
    """
    content = decode_text(sidecar.read_bytes())
    if sidecar.suffix.lower() == ".txt":
        # A text of several lines may be one caption, if the other sidecar has it so.
        return [CaptionRecord("", line) for line in content.split("\n")], []
    value = store.parse_json(content)
    made_by = None
    if isinstance(value, dict):
        made_by = value.get("caption_source")
        value = value.get("captions") if value.get("captions") is not None else value.get("caption")
    captions, refused = caption_records(value)
    return with_sources(captions, made_by), refused


def _merged(lines: list[CaptionRecord], others: list[CaptionRecord]) -> list[CaptionRecord]:
    """Return the captions of a text file and a JSON file, once each where both have them."""
    texts = {" ".join(other.text.split()) for other in others}
    if " ".join("\n".join(line.text for line in lines).split()) in texts:
        return others
    captions = [line._replace(text=line.text.removesuffix("\r")) for line in lines if line.text.strip()]
    return [line for line in captions if " ".join(line.text.split()) not in texts] + others
