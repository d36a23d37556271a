"""A split as a data set that FiftyOne opens: pictures, and what is known of each as attributes of one label."""

from pathlib import Path
from typing import Any

from cusa.integrations import rows
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

TYPE = "fiftyone.types.FiftyOneImageClassificationDataset"
_NAMES = {"label": "class_label"}  # FiftyOne's label has a field of that name
LIKELY = 0.5
"""The probability from which an image's best candidate is called likely."""


def write(split: Split, out: Path, *, image: str = "") -> tuple[list[Path], tuple[str, ...]]:
    """Write `SPLIT/data/` and `SPLIT/labels.json`, in FiftyOne's own documented layout of classifications.

    The label says what is known of the image's best candidate: `judged match` (people called one a match), `likely`
    (its probability is at least one half), `possible`, or `none`; its confidence is that probability. Attributes hold
    key, captions, candidates, verdicts and the keys of the nearest images.

    Args:
        split: the split.
        out: the folder.
        image: the image teacher whose neighbours are written; the only one if empty.

    Returns:
        The files, and what is missing with the command that makes it.
    """
    known = rows.of_images(split, teacher=image)
    folder = out / split.name
    extensions = split.samples["ext"].to_pylist()
    labels: dict[str, Any] = {}
    files: list[Path] = []
    for row, key in enumerate(split.image_keys):
        name = key.replace("/", "-")
        path = folder / "data" / f"{name}.{extensions[row]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.whole_file(path) as temporary:
            temporary.write_bytes(split.image_bytes(row))
        files.append(path)
        about = {_NAMES.get(name, name): values[row] for name, values in known.columns.items()}
        about = {name: value for name, value in about.items() if value is not None}
        likely = (about.get("best_p_positive") or 0.0) >= LIKELY
        word = "judged match" if about["judged_matches"] else "likely" if likely else "possible"
        label: dict[str, Any] = {
            "label": word if about["candidates"] or about["judged_matches"] else "none",
            "attributes": about,
        }
        if "best_p_positive" in about:
            label["confidence"] = about["best_p_positive"]
        if known.neighbours:
            about["neighbours"] = [split.image_keys[int(near)] for near in known.neighbours[row]["ids"]]
        labels[name] = label
    path = folder / "labels.json"
    store.write_json(path, {"classes": ["judged match", "likely", "possible", "none"], "labels": labels})
    return [*files, path], known.notes
