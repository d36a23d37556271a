"""Probing a text teacher: how often a false edit of a caption stands nearer to it than every true sibling.

A sibling is another caption of the same picture, so it is true of what the caption is true of. An edit by one of the
rules of `cusa.models.edits` makes the caption false. A teacher whose similarity of the caption and its edit is above
that of the caption and each of its siblings does not see what was edited: by its similarities, the edit is the better
match.

Of each picture the first caption that a rule fits is edited, once a rule: pictures are independent, captions of one
picture are not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import schemas, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.origin import IMPORTED
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.captions import TRANSFORMS
from cusa.models.edits.rules import RULES, TITLES
from cusa.models.teachers.base import Teacher
from cusa.pipeline.config import ProbeConfig

Load = Callable[[str, str], Teacher]
_PROTOCOL = 1  # raised when a rule or a number changes its meaning
_Z = 1.959964  # of a 95 % interval
_FEWEST = 20  # edits of a kind below which a sentence does not speak of it


def run(
    config: ProbeConfig,
    *,
    split: Split,
    teacher: str,
    load: Load,
    name: str = "",
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write `probe/TEACHER.parquet`, a row an edit, and `probe/TEACHER.json`, the figures, of one split.

    Args:
        config: edits a kind, batch size.
        split: whose captions are edited; the teacher's table of them must be there.
        teacher: its table's name.
        load: loads the teacher that edited captions are embedded by; it must be the table's own.
        name: what `load` is called with; the table's name if empty.
        force: probe again even if nothing changed.
        on_event: called with every batch.

    Returns:
        The outcome; counts has the edits of each kind, notes the figures in sentences.

    Raises:
        DataError: if no caption has a sibling and fits a rule, the table was imported, or the loaded teacher is not
            the table's.
    """
    about = tables.provenance(split, teacher)
    if about["revision"] == IMPORTED:
        raise DataError(
            f"{split.folder / 'teachers' / teacher} was imported, and nothing says which encoder made it: a probe "
            "embeds edited captions with the table's own encoder. Make the table with that encoder (`cusa "
            f"extract-teachers {split.work} --text ENCODER`, a hub name, folder or module:Class) and probe that.",
            teacher=teacher,
        )
    folder = split.folder / "probe"
    table_path, figures_path = folder / f"{teacher}.parquet", folder / f"{teacher}.json"
    inputs = {"split": split.digest, "teacher table": tables.teacher_digest(split, teacher)}
    parameters = {"protocol": _PROTOCOL, "teacher": teacher, **config.model_dump(exclude={"batch_size"})}
    stage = StageRun(
        "probe", folder / f"{teacher}.ledger.json", out=figures_path, inputs=inputs, parameters=parameters, force=force
    )
    if stage.up_to_date:
        return stage.reuse(notes=sentences(store.read_json(figures_path)))
    all_edits = edited(split, config.edits)
    if not all_edits:
        raise DataError(
            f"No caption of {split.folder} has a sibling and fits a rule: there is nothing to probe. The rules are for "
            "English captions, several of each picture.",
            split=split.name,
        )
    loaded = load(name or teacher, "text")
    _refuse_another(loaded, about, split, teacher)
    transform = TRANSFORMS[about["transform"]]
    with stage.begin(unless_held=split.locks):
        rows = _measure(
            split,
            tables.read_teacher(split, teacher).embeddings,
            all_edits,
            encode=lambda texts: loaded.encode([transform(text) for text in texts]),
            batch_size=config.batch_size,
            on_event=lambda done: on_event(f"probe {teacher} on {split.name}", done, len(all_edits)),
        )
        kinds = figures(rows)
        result = {"teacher": teacher, "split": split.name, "kinds": kinds}
        store.write_table(table_path, rows)
        store.write_json(figures_path, result)
        counts = {kind: int(one["edits"]) for kind, one in kinds.items()}
        return stage.finish(outputs=[table_path, figures_path], counts=counts, notes=sentences(result))


def edited(split: Split, most: int) -> list[tuple[int, str, str]]:
    """Return caption row, kind and edited caption: of each picture the first caption that a rule fits.

    Args:
        split: whose captions are edited; those without a sibling are passed over.
        most: edits of each kind; where there are more, pictures spread evenly over the split.
    """
    siblings = np.bincount(split.caption_owner, minlength=split.num_images)
    out = []
    for kind, rule in RULES.items():
        done: dict[int, tuple[int, str, str]] = {}
        for row, (owner, text) in enumerate(zip(split.caption_owner.tolist(), split.texts, strict=True)):
            if owner not in done and siblings[owner] > 1 and (words := rule(text)) is not None:
                done[owner] = (row, kind, words)
        chosen = list(done.values())
        places = np.linspace(0, max(len(chosen) - 1, 0), min(most, len(chosen)))
        out += [chosen[at] for at in places.astype(int).tolist()]
    return out


def figures(rows: pa.Table) -> dict[str, dict[str, Any]]:
    """Return for each kind of edit: edits, nearer, share in percent, interval, mean similarities.

    Args:
        rows: of `schemas.PROBE`.
    """
    out: dict[str, dict[str, Any]] = {}
    kinds = np.array(rows["kind"].to_pylist())
    nearer, edit, sibling = (np.asarray(rows[name]) for name in ("nearer", "edit_similarity", "sibling_similarity"))
    for kind in RULES:
        of_kind = kinds == kind
        number, hits = int(of_kind.sum()), int(nearer[of_kind].sum())
        if not number:
            out[kind] = {"title": TITLES[kind], "edits": 0, "nearer": 0}
            continue
        low, high = wilson(hits, number)
        out[kind] = {
            "title": TITLES[kind],
            "edits": number,
            "nearer": hits,
            "share": round(100 * hits / number, 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            "edit_similarity": round(float(edit[of_kind].mean()), 4),
            "sibling_similarity": round(float(sibling[of_kind].mean()), 4),
        }
    return out


def wilson(hits: int, number: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson, JASA 1927), which holds near 0 and 1 too."""
    share, width = hits / number, _Z**2 / number
    middle = (share + width / 2) / (1 + width)
    half = math.sqrt(share * (1 - share) * width + width**2 / 4) / (1 + width)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def sentences(result: dict[str, Any]) -> tuple[str, ...]:
    """Return the figures in words."""
    spoken = [
        f"{one['title']} {one['share']:.0f} % ({one['interval'][0]:.0f} to {one['interval'][1]:.0f}, {one['edits']:,})"
        for one in result["kinds"].values()
        if one["edits"] >= _FEWEST
    ]
    if not spoken:
        return (f"{result['split']}: fewer than {_FEWEST} captions fit any rule.",)
    return (
        f"{result['split']}: a false edit stands nearer to its caption than every true sibling by {result['teacher']}: "
        f"{'; '.join(spoken)}.",
    )


def _refuse_another(loaded: Teacher, about: dict[str, str], split: Split, teacher: str) -> None:
    """Refuse a teacher whose weights are not those that made the table: its cosines would mean something else."""
    own = loaded.provenance().get("weights_sha256", "")
    if (own if own != "none" else "") != about["weights_sha256"]:
        raise DataError(
            f"The teacher that was loaded has other weights than the table {split.folder / 'teachers' / teacher}. Give "
            f"the one that made it: `cusa teachers probe {split.work} --text FOLDER`.",
            teacher=teacher,
        )


def _measure(
    split: Split,
    embeddings: np.ndarray,
    all_edits: Sequence[tuple[int, str, str]],
    *,
    encode: Callable[[Sequence[str]], np.ndarray],
    batch_size: int,
    on_event: Callable[[int], None],
) -> pa.Table:
    """Embed the edits and compare them with their captions' siblings."""
    rows_MD, parts = _unit(embeddings), []
    on_event(0)
    for start in range(0, len(all_edits), batch_size):
        some = all_edits[start : start + batch_size]
        parts.append(encode([words for _, _, words in some]))
        on_event(start + len(some))
    edits = _unit(np.concatenate(parts))
    owner = split.caption_owner
    starts = np.searchsorted(owner, np.arange(split.num_images + 1))
    columns: dict[str, list[Any]] = {name: [] for name in schemas.PROBE.names}
    for place, (row, kind, words) in enumerate(all_edits):
        image = int(owner[row])
        siblings = np.arange(starts[image], starts[image + 1])
        siblings = siblings[siblings != row]
        similarities = rows_MD[siblings] @ rows_MD[row]
        edit, best = float(edits[place] @ rows_MD[row]), int(similarities.argmax())
        values = (
            kind,
            split.caption_keys[row],
            split.texts[row],
            words,
            edit,
            float(similarities[best]),
            split.texts[int(siblings[best])],
            edit > float(similarities[best]),
        )
        for name, value in zip(schemas.PROBE.names, values, strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=schemas.PROBE)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


__all__ = ["Load", "edited", "figures", "run", "sentences", "wilson"]
