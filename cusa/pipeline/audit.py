"""Auditing: which captions of other images are probably true of an image, how sure, and what that does to training."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests import ledger, schemas, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.models.captions import clean_caption
from cusa.pipeline import gallery
from cusa.pipeline.audit_figures import batch_false_negatives, ranking_figures
from cusa.pipeline.candidates import Candidates, Finder, Modality, found, joined
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.known_truth import KnownTruth, find_truth, read_truth, truth_digest, write_truth
from cusa.pipeline.stage import Outcome, outcome
from cusa.pipeline.vectors import unit_rows

_IMAGES_A_BLOCK = 256
_ROWS_A_GROUP = 1 << 18
_RANKINGS = ("score", "image_similarity", "text_similarity")
WITHOUT = "none"
"""Given as a teacher's name: audit without that modality."""


def run(
    config: AuditConfig,
    *,
    split: Split,
    image: str = "",
    text: str = "",
    truth: Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write `audit/candidates.parquet` (best score first), `gallery.html` and `summary.json` of one split.

    Args:
        config: depth of the neighbourhoods, threshold, size of the gallery.
        split: the split; `cusa index` has run on its teachers.
        image: the image teacher; the only one there is if empty; `none` to do without.
        text: the text teacher, likewise.
        truth: known matches (see `cusa.pipeline.known_truth.read_truth`); the split's `truth.parquet` if None.
        force: audit again even if nothing changed.
        on_event: hears of every block of images.

    Returns:
        The outcome; counts has the candidates, notes are the summary in sentences (also when up to date).

    Raises:
        DataError: if there is no teacher of either modality, or a table is missing or broken.
        StaleError: if a neighbour or teacher table belongs to another state of the split.
    """
    clock = ledger.Clock()
    folder = split.folder / "audit"
    teachers = {"image": _teacher(split, "image", image), "text": _teacher(split, "text", text)}
    if not any(teachers.values()):
        raise DataError(
            f"{split.folder} has no teacher to audit with. Run `cusa extract-teachers {split.work} --image TEACHER "
            f"--text TEACHER`, then `cusa index {split.work}`.",
            split=split.name,
        )
    source = find_truth(split, truth)
    inputs = {"split": split.digest, "truth": truth_digest(source) if source else ""}
    for name in filter(None, teachers.values()):
        inputs[f"teacher {name}"] = tables.teacher_digest(split, name)
    parameters = {**config.model_dump(), **teachers}
    book = folder / "ledger.json"
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(folder, old, notes=sentences(read_summary(split)))

    book.unlink(missing_ok=True)
    store.sweep(folder)
    known = read_truth(split, source) if source else None
    finder = Finder(
        split.caption_owner,
        images=_modality(split, teachers["image"], config.neighbours),
        texts=_modality(split, teachers["text"], config.neighbours),
        image_content=_same(split.samples["sha256"].to_pylist()),
        caption_content=_same([clean_caption(words) for words in split.texts]),
    )
    what = f"audit {split.name}"
    on_event(what, 0, split.num_images)
    blocks, done = [], 0
    for block in found(
        finder, num_images=split.num_images, minimum_score=config.minimum_score, images_a_block=_IMAGES_A_BLOCK
    ):
        blocks.append(block)
        done = min(done + _IMAGES_A_BLOCK, split.num_images)
        on_event(what, done, split.num_images)
    candidates = joined(blocks)
    summary = summarise(split, candidates, config=config, teachers=teachers, truth=known)
    written = [folder / name for name in ("candidates.parquet", "summary.json", "gallery.html")]
    _write_candidates(written[0], split, candidates, teachers)
    store.write_json(written[1], summary)
    cards = _cards(split, candidates, finder, known, config.gallery)
    gallery.write(written[2], split=split, cards=cards, summary=summary, sentences=sentences(summary))
    if known is not None and source != split.folder / "truth.parquet":
        written.append(folder / "truth.parquet")
        write_truth(written[-1], split, known)
    else:
        (folder / "truth.parquet").unlink(missing_ok=True)
    finished = clock.finish(
        book,
        stage="audit",
        inputs=inputs,
        parameters=parameters,
        outputs=written,
        counts={"images": split.num_images, "captions": split.num_captions, "candidates": len(candidates.score)},
    )
    return outcome(folder, finished, why=str(why), notes=sentences(summary))


def read_summary(split: Split) -> dict[str, Any]:
    """Read what the audit of a split found, as `summarise` made it.

    Raises:
        DataError: if the split was not audited.
    """
    path = split.folder / "audit" / "summary.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Run `cusa audit {split.work} --split {split.name}`.", path=path)
    return store.read_json(path)


def summarise(
    split: Split,
    candidates: Candidates,
    *,
    config: AuditConfig,
    teachers: dict[str, str],
    truth: KnownTruth | None,
) -> dict[str, Any]:
    """Say what was found, and with known matches how well it ranks them and what they do to a batch.

    Returns:
        split, images, captions, open_pairs, teachers, score, candidates, duplicates, and truth (null without one):
        source, complete, false_negatives, among_candidates, chance, rankings and batch.
    """
    open_pairs = split.num_images * split.num_captions - split.num_captions
    named = [f"{modality}_similarity" for modality, name in teachers.items() if name]
    summary: dict[str, Any] = {
        "split": split.name,
        "images": split.num_images,
        "captions": split.num_captions,
        "open_pairs": open_pairs,
        "teachers": {modality: name or None for modality, name in teachers.items()},
        "score": f"geometric mean of {' and '.join(named)}" if len(named) > 1 else f"{named[0]} alone",
        "neighbours": config.neighbours,
        "minimum_score": config.minimum_score,
        "candidates": len(candidates.score),
        "duplicate_image_candidates": int(candidates.duplicate_image.sum()),
        "duplicate_caption_candidates": int(candidates.duplicate_caption.sum()),
        "truth": None,
    }
    if truth is None:
        return summary
    images, captions = truth.false_negatives(split.caption_owner)
    is_known = _among(split, candidates, images, captions)
    rankings = {
        name: ranking_figures(values, is_known, num_known=len(images), num_open=open_pairs)
        for name in _RANKINGS
        if len(images) and not np.isnan(values := getattr(candidates, name)).all()
    }
    batch = min(config.batch_size, split.num_captions)
    expected = batch_false_negatives(images, split.caption_owner, num_images=split.num_images, batch=batch)
    summary["truth"] = {
        "source": truth.source,
        "complete": truth.complete,
        "pairs_of_other_splits": truth.unknown,
        "false_negatives": len(images),
        "among_candidates": int(is_known.sum()),
        "chance": len(images) / max(open_pairs, 1),
        "rankings": rankings,
        "batch": {"size": batch, "false_negatives": expected, "per_row": expected / max(batch, 1)},
    }
    return summary


def sentences(summary: dict[str, Any]) -> tuple[str, ...]:
    """Return a summary in full sentences, for a person."""
    share = summary["candidates"] / max(summary["open_pairs"], 1)
    out = [
        f"{summary['candidates']:,} candidates among {summary['open_pairs']:,} pairs that the data set does not make "
        f"({share:.1%}); score: {summary['score']}."
    ]
    out += [
        f"No {modality} teacher was used: the {modality} similarity is missing and the score does without it."
        for modality, name in summary["teachers"].items()
        if name is None
    ]
    if summary["duplicate_image_candidates"] or summary["duplicate_caption_candidates"]:
        out.append(
            f"{summary['duplicate_image_candidates']:,} candidates are between images with the same bytes, "
            f"{summary['duplicate_caption_candidates']:,} have a caption that the image has too."
        )
    truth = summary["truth"]
    if truth is None:
        return tuple(out)
    missed = truth["false_negatives"] - truth["among_candidates"]
    out.append(
        f"Known false negatives ({truth['source']}): {truth['false_negatives']:,}, of which "
        f"{truth['among_candidates']:,} are candidates and {missed:,} are not (counted as ranked last)."
    )
    bound = "" if truth["complete"] else "at least "
    for name, figures in truth["rankings"].items():
        recalls = ", ".join(f"{value:.3f} in the top {int(cut):,}" for cut, value in figures["recall"].items())
        precisions = ", ".join(f"{value:.3f} at {int(cut):,}" for cut, value in figures["precision"].items())
        out.append(
            f"By {name}: median rank {figures['median_rank']:,.0f}; recall {recalls}; average precision "
            f"{bound}{figures['average_precision']:.3f}" + (f"; precision {bound}{precisions}." if precisions else ".")
        )
    batch = truth["batch"]
    out.append(
        f"A random batch of {batch['size']} pairs holds {bound}{batch['false_negatives']:.1f} false negatives on "
        f"average, {batch['per_row']:.2f} a row."
    )
    if not truth["complete"]:
        out.append("Most pairs were never judged: what is not known to match may match all the same.")
    return tuple(out)


def _teacher(split: Split, modality: str, name: str) -> str:
    """Return the teacher to use, or an empty text where the split has none of the modality and none is asked for."""
    if name == WITHOUT or (not name and modality not in tables.teachers(split).values()):
        return ""
    return tables.choose_teacher(split, modality, name)


def _modality(split: Split, teacher: str, depth: int) -> Modality | None:
    if not teacher:
        return None
    near = read_neighbours(split, teacher, depth=depth)
    return Modality(unit_rows(tables.read_teacher(split, teacher)), near)


def _same(values: list[str]) -> np.ndarray:
    """Return equal numbers for equal values."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _among(split: Split, candidates: Candidates, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Tell for each candidate whether it is one of the given pairs."""
    width = max(split.num_captions, 1)
    return np.isin(candidates.image.astype(np.int64) * width + candidates.caption, images * width + captions)


def _write_candidates(path: Path, split: Split, candidates: Candidates, teachers: dict[str, str]) -> None:
    """Write the table in pieces: the keys of many candidates are long, their row numbers are not."""
    image_keys, caption_keys = pa.array(split.image_keys, pa.string()), pa.array(split.caption_keys, pa.string())
    metadata = {f"{modality}_teacher": name for modality, name in teachers.items()}
    schema = schemas.CANDIDATES.with_metadata({**metadata, "split": split.digest})
    with store.whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(candidates.score), _ROWS_A_GROUP):
            part = candidates.take(np.arange(start, min(start + _ROWS_A_GROUP, len(candidates.score))))
            columns = {
                "image_key": image_keys.take(pa.array(part.image)),
                "caption_key": caption_keys.take(pa.array(part.caption)),
                "owner_image_key": image_keys.take(pa.array(split.caption_owner[part.caption])),
                "image_similarity": pa.array(part.image_similarity, from_pandas=True),
                "text_similarity": pa.array(part.text_similarity, from_pandas=True),
                "cross_similarity": pa.nulls(len(part.score), pa.float32()),
                "image_rank": pa.array(part.image_rank, mask=part.image_rank == 0),
                "text_rank": pa.array(part.text_rank, mask=part.text_rank == 0),
                "score": pa.array(part.score),
                "duplicate_image": pa.array(part.duplicate_image),
                "duplicate_caption": pa.array(part.duplicate_caption),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _cards(
    split: Split, candidates: Candidates, finder: Finder, truth: KnownTruth | None, number: int
) -> list[gallery.Card]:
    """Return the best candidates for the gallery, one for any two images, so that a page shows many of them."""
    known = np.zeros(len(candidates.score), dtype=bool)
    if truth is not None:
        known = _among(split, candidates, *truth.false_negatives(split.caption_owner))
    seen: set[tuple[int, int]] = set()
    cards: list[gallery.Card] = []
    for row in range(len(candidates.score)):
        if len(cards) == number:
            break
        image, caption = int(candidates.image[row]), int(candidates.caption[row])
        owner = int(split.caption_owner[caption])
        if (couple := (min(image, owner), max(image, owner))) in seen:
            continue
        seen.add(couple)
        cards.append(
            gallery.Card(
                rank=row + 1,
                image=image,
                caption=caption,
                owner=owner,
                own_caption=finder.nearest_own_caption(image, caption),
                image_similarity=float(candidates.image_similarity[row]),
                text_similarity=float(candidates.text_similarity[row]),
                score=float(candidates.score[row]),
                duplicate_image=bool(candidates.duplicate_image[row]),
                duplicate_caption=bool(candidates.duplicate_caption[row]),
                match=True if known[row] else (False if truth is not None and truth.complete else None),
            )
        )
    return cards
