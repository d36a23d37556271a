"""Candidates as tasks for Label Studio, and its annotations as verdicts."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import Journal, Verdict
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store

TASKS = "tasks.json"
LABELING = "labeling.xml"
LIMIT = 1000
"""Candidates written where no number is asked for; pictures travel in the file, some 25 kB each."""
_CHOICE = "verdict"
_SIDE = 448  # of a picture in a task
_SHOWN = ("score", "image_similarity", "text_similarity", "image_rank", "text_rank", "p_positive")
_PAGE = f"""<View>
  <View style="display: flex; gap: 2em">
    <View style="flex: 1"><Image name="image" value="$image" zoom="true"/></View>
    <View style="flex: 1">
      <Header value="Is this true of the picture on the left?"/>
      <Text name="caption" value="$caption"/>
      <Choices name="{_CHOICE}" toName="caption" choice="single" required="true">
        <Choice value="match" hotkey="m" hint="true of the picture"/>
        <Choice value="related" hotkey="r" hint="true in part"/>
        <Choice value="no match" hotkey="n"/>
        <Choice value="duplicate" hotkey="d" hint="both pictures are one and the same"/>
        <Choice value="skip" hotkey="s"/>
      </Choices>
      <Header value="Captions of the picture on the left" size="5"/>
      <Text name="own" value="$own_captions"/>
      <Header value="The picture that the caption was written for" size="5"/>
      <Image name="owner" value="$owner_image"/>
    </View>
  </View>
</View>
"""


def write(split: Split, out: Path, *, limit: int = LIMIT) -> tuple[list[Path], tuple[str, ...]]:
    """Write the best candidates that nobody has judged as `SPLIT/tasks.json`, and the page as `labeling.xml`.

    The order is the audit's: where a verdict lowers the expected error most comes first, else the highest score.

    Args:
        split: audited.
        out: the folder.
        limit: tasks at most.

    Returns:
        The files, and how many candidates were left out.

    Raises:
        DataError: if the split was not audited.
    """
    path = split.folder / verdicts.FOLDER / "candidates.parquet"
    columns = ["image_key", "caption_key", "worth", *_SHOWN]
    table = store.read_table(path, columns=columns, made_by=f"cusa audit {split.work} --split {split.name}")
    digest = store.sha256_file(path)
    judged = {(row.image_key, row.caption_key) for row in verdicts.read(split.folder / verdicts.FOLDER)}
    worth, score = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("worth", "score"))
    order = np.lexsort((-score, -np.nan_to_num(worth)))
    best = table.take(order[: limit + len(judged)]).to_pylist()  # as many as are sure to hold the limit
    rows = [row for row in best if (row["image_key"], row["caption_key"]) not in judged][:limit]
    own = _captions(split)
    tasks = []
    for row in rows:
        image, caption = split.image_row[row["image_key"]], split.caption_row[row["caption_key"]]
        data = {
            "image": _picture(split, image),
            "caption": split.texts[caption],
            "own_captions": "\n".join(own[image]),
            "owner_image": _picture(split, int(split.caption_owner[caption])),
            "split": split.name,
            "image_key": row["image_key"],
            "caption_key": row["caption_key"],
            "candidates_sha256": digest,
            **{name: row[name] for name in _SHOWN if row[name] is not None},
        }
        tasks.append({"data": data})
    files = [out / split.name / TASKS, out / split.name / LABELING]
    store.write_json(files[0], tasks)
    store.write_text(files[1], _PAGE)
    left = table.num_rows - len(rows)
    notes = (f"{left:,} further candidates are judged already or left out; --limit takes more.",) if left else ()
    return files, notes


def _captions(split: Split) -> list[list[str]]:
    captions: list[list[str]] = [[] for _ in range(split.num_images)]
    for text, owner in zip(split.texts, split.caption_owner.tolist(), strict=True):
        captions[owner].append(text)
    return captions


def _picture(split: Split, row: int) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(split.image_bytes(row))) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def read(work: Path, source: Path) -> dict[str, int]:
    """Take the annotations of a Label Studio export (`JSON`) into the verdicts of a work folder.

    Everything is checked before anything is written. Reading the same file again changes nothing; an annotation that
    was changed since becomes a further verdict of the same person, the last of which counts.

    Args:
        work: the work folder that the tasks were made from.
        source: the export: a list of tasks with `data` and `annotations`.

    Returns:
        Split -> verdicts that were new.

    Raises:
        DataError: if the file is no such export, or names what the work folder does not have; nothing is written then.
        ConfigError: if a choice is no verdict.
    """
    content = store.read_json(source)
    if not isinstance(content, list):
        raise DataError(
            f"{source} is no list of tasks. Export from Label Studio as JSON (not JSON-MIN, CSV or COCO).", path=source
        )
    opened: dict[str, Split] = {}
    read_verdicts: dict[str, list[Verdict]] = {}
    names = splits(work)
    for place, task in enumerate(content, 1):
        for verdict, name in _verdicts(task, f"{source}, task {place}", names):
            split = opened.setdefault(name, Split(work, name))
            for key, rows in ((verdict.image_key, split.image_row), (verdict.caption_key, split.caption_row)):
                if key not in rows:
                    raise DataError(
                        f"{source}, task {place}: {split.folder} has no {key!r}. Nothing was taken.", key=key
                    )
            verdict.check()
            read_verdicts.setdefault(name, []).append(verdict)
    new = {}
    for name, given in read_verdicts.items():
        folder = opened[name].folder / verdicts.FOLDER
        folder.mkdir(exist_ok=True)
        with Journal(folder) as journal:
            new[name] = sum(journal.append(verdict) for verdict in sorted(given, key=lambda one: one.judged_at))
        verdicts.publish(folder)
    return new


def _verdicts(task: Any, where: str, names: list[str]) -> Iterator[tuple[Verdict, str]]:
    """Give the verdict of each annotation of a task, and its split."""
    if not (
        isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list)
    ):
        raise DataError(f"{where} has no data and annotations. Export from Label Studio as JSON.", task=where)
    data = task["data"]
    missing = [name for name in ("split", "image_key", "caption_key") if not isinstance(data.get(name), str)]
    if missing:
        raise DataError(
            f"{where} has no {', '.join(missing)} in its data: it was not made by `cusa export --to label-studio`.",
            task=where,
        )
    if data["split"] not in names:
        raise DataError(f"{where}: there is no split {data['split']!r}. {nearest(data['split'], names)}", task=where)
    for annotation in task["annotations"]:
        if not isinstance(annotation, dict):
            raise DataError(f"{where} has an annotation that is no object.", task=where)
        word = "skip" if annotation.get("was_cancelled") else _choice(annotation, where)
        yield _verdict(data, annotation, word, where), data["split"]


def _choice(annotation: Mapping[str, Any], where: str) -> str:
    results = annotation.get("result")
    given = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
    chosen = [one["value"]["choices"] for one in given if one.get("from_name") == _CHOICE and _is_choice(one)]
    if len(chosen) != 1 or len(chosen[0]) != 1:
        raise DataError(
            f"{where}: the annotation {annotation.get('id')} has not one choice named {_CHOICE!r}. Use the "
            f"{LABELING} that was written beside the tasks.",
            task=where,
        )
    word = str(chosen[0][0])
    if word not in verdicts.WORDS:
        raise ConfigError(f"{where}: the choice is {word[:80]!r}. {nearest(word, verdicts.WORDS)}", key=_CHOICE)
    return word


def _is_choice(result: Mapping[str, Any]) -> bool:
    value = result.get("value")
    return isinstance(value, dict) and isinstance(value.get("choices"), list)


def _verdict(data: Mapping[str, Any], annotation: Mapping[str, Any], word: str, where: str) -> Verdict:
    moment = annotation.get("updated_at") or annotation.get("created_at")
    try:
        judged_at = datetime.fromisoformat(str(moment))
    except ValueError:
        judged_at = None
    if judged_at is None or judged_at.tzinfo is None:
        raise DataError(f"{where}: the annotation's time is {moment!r}, no ISO 8601 time with a zone.", task=where)
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    judged_at = judged_at.astimezone(UTC)
    # The time is among them: who changes a word and later changes it back has said three things.
    marks = [annotation.get("unique_id"), annotation.get("id"), data["image_key"], data["caption_key"], word, person]
    name = hashlib.sha256(repr([*marks, judged_at.isoformat()]).encode()).hexdigest()[:32]
    shown = {key: data[key] for key in (*_SHOWN, "candidates_sha256") if data.get(key) is not None}
    return Verdict(
        id=f"label-studio-{name}",
        image_key=data["image_key"],
        caption_key=data["caption_key"],
        verdict=word,
        reviewer=f"label-studio {person}" if person is not None else "label-studio",
        judged_at=judged_at.replace(microsecond=judged_at.microsecond // 1000 * 1000),
        **shown,
    )
