"""Exporting a work folder for a viewer or an annotation tool, with its ledger."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cusa.errors import ConfigError, nearest
from cusa.integrations import VIEWS, atlas, fiftyone, label_studio
from cusa.manifests import neighbours, tables
from cusa.manifests.judgements import verdicts
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store


def export(
    work: Path,
    *,
    to: str,
    out: Path,
    names: Sequence[str] = (),
    image: str = "",
    text: str = "",
    limit: int = label_studio.LIMIT,
    force: bool = False,
) -> Outcome:
    """Write what a work folder's files say of its images and captions, as another tool opens it.

    Args:
        work: the work folder.
        to: `atlas` (embedding-atlas: Parquet with a map, neighbours, candidates and verdicts), `fiftyone` (a folder of
            pictures with labels) or `label-studio` (candidates to judge).
        out: the folder; a file or folder a split.
        names: of the splits; all if empty.
        image: the image teacher whose map and neighbours are written; the only one if empty.
        text: the text teacher, likewise.
        limit: of label-studio, candidates a split at most.
        force: write it again.

    Returns:
        The outcome; notes say what is missing, and how it is opened.

    Raises:
        ConfigError: for another format.
        DataError, StaleError: if a file is missing, broken, or of another state of the split.
    """
    if to not in VIEWS:
        raise ConfigError(f"There is no export of a work folder to {to!r}. {nearest(to, VIEWS)}.", to=to)
    opened = [Split(work, name) for name in names or splits(work)]
    inputs: dict[str, str] = {}
    for split in opened:
        inputs |= {f"{split.name} {name}": digest for name, digest in _inputs(split).items()}
    parameters = {"to": to, "image": image, "text": text, **({"limit": limit} if to == "label-studio" else {})}
    stage = StageRun("export", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    write: dict[str, Callable[[Split], tuple[list[Path], tuple[str, ...]]]] = {
        "atlas": lambda split: atlas.write(split, out, image=image, text=text),
        "fiftyone": lambda split: fiftyone.write(split, out, image=image),
        "label-studio": lambda split: label_studio.write(split, out, limit=limit),
    }
    with stage.begin():
        files: list[Path] = []
        notes: list[str] = []
        for split in opened:
            written, more = write[to](split)
            files += written
            notes += [note for note in more if note not in notes]
        counts = {"splits": len(opened), "images": sum(split.num_images for split in opened)}
        return stage.finish(outputs=files, counts=counts, notes=(*notes, _opening(to, out, opened[0].name)))


def _inputs(split: Split) -> dict[str, str]:
    """Return the digests of what an export may read of a split."""
    digests = {"split": split.digest}
    files = [split.folder / verdicts.FOLDER / name for name in ("candidates.parquet", verdicts.JOURNAL, verdicts.TABLE)]
    for teacher in tables.teachers(split):
        digests[f"teacher {teacher}"] = tables.teacher_digest(split, teacher)
        files.append(neighbours.neighbour_path(split, teacher))
    return digests | {path.name: store.sha256_file(path) for path in files if path.is_file()}


def _opening(to: str, out: Path, split: str) -> str:
    """Return the command that opens what was written."""
    if to == "atlas":
        return (
            f"Open it: embedding-atlas {out}/{split}-images.parquet --x x --y y --neighbors neighbors --text captions "
            "(`--vector vector` instead of x and y for its own map)."
        )
    if to == "fiftyone":
        return f"Open it: fiftyone datasets create --name {split} --dataset-dir {out}/{split} --type {fiftyone.TYPE}"
    return (
        f"In Label Studio: a project with {out}/{split}/labeling.xml as labeling interface, then import tasks.json; "
        "`cusa review WORK --import EXPORT.json` takes the annotations back."
    )
