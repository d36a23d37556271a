"""Auditing: which captions of other images are probably true of an image, how sure, and what that does to training."""

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, Judgements
from cusa.manifests.judgements.truth import KnownTruth, find_truth, read_truth, truth_digest, write_truth
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.captions import clean_caption
from cusa.pipeline.audit import duplicates, gallery, units
from cusa.pipeline.audit.sample import judge, write_sample
from cusa.pipeline.audit.scoring import PairScorer
from cusa.pipeline.audit.summary import read_summary, sentences, summarise
from cusa.pipeline.audit.units import Prepared
from cusa.pipeline.calibrate import calibration, shipped
from cusa.pipeline.calibrate.shipped import Choice
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates, Finder, among, merge
from cusa.pipeline.pairs.neighbourhoods import (
    Encoders,
    Neighbourhoods,
    choose,
    digests,
    group_ids,
    open_neighbourhoods,
    stamps,
)
from cusa.pipeline.pairs.ratings import PairRatings, from_judgements, read_ratings
from cusa.pipeline.probe.blind import BlindSpots
from cusa.pipeline.units.parts import Parts

__all__ = ["read_summary", "run", "sentences", "summarise"]

_ROWS_A_GROUP = 1 << 18


def run(
    config: AuditConfig,
    *,
    split: Split,
    encoders: Encoders = Encoders(),
    truth: Path | None = None,
    calibrated: Path | None = None,
    ratings: Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write `audit/candidates.parquet` (best first), `duplicates.parquet`, `leaks.parquet`, `gallery.html` and
    `summary.json` of one split.

    The best are those of the largest `p_positive`, by the calibration that is given or else by one of the package that
    fits the teachers, or without any of the largest score.

    Args:
        config: depth of the neighbourhoods, pool depth, thresholds, size of the gallery.
        split: the split; `cusa index` has run on its teachers.
        encoders: which to use, see `cusa.pipeline.pairs.neighbourhoods.choose`.
        truth: known matches (see `cusa.manifests.judgements.truth.read_truth`); the split's `truth.parquet` if None.
        calibrated: a file of `cusa calibrate`; one that comes with the package, where one fits, if None.
        ratings: human judgements (see `cusa.pipeline.pairs.ratings`) to estimate what is missing from; the verdicts on
            the split's own sample if None.
        force: audit again even if nothing changed.
        on_event: called with every block of images.

    Returns:
        The outcome; counts has the candidates, notes are the summary in sentences (also when up to date).

    Raises:
        DataError: if there is no teacher of either modality, or a table is missing or broken.
        StaleError: if a neighbour or teacher table belongs to another state of the split, or the calibration to other
            teachers.
    """
    folder = split.folder / "audit"
    chosen = choose(split, encoders)
    source = find_truth(split, truth)
    if calibrated is not None:
        calibration.read(calibrated).refuse_others(stamps(split, chosen), calibrated)
    verdicts = pair_judgements.read(split)
    judged = read_ratings(split, ratings) if ratings is not None else from_judgements(split, verdicts)
    inputs = {"split": split.digest, **digests(split, chosen)}
    inputs["calibration"] = store.sha256_file(calibrated) if calibrated is not None else ""
    if calibrated is None and config.shipped:
        inputs["calibration"] = store.digest([store.sha256_file(file) for file in shipped.files()])
    parameters = {**config.model_dump(), **asdict(chosen), "columns": len(schemas.CANDIDATES)}
    task, key = units.task(split, config), store.digest([inputs, parameters])  # what comes now decides no candidate
    inputs["truth"] = truth_digest(source) if source else ""
    inputs["judgements"] = _judgements_digest(judged)
    inputs["verdicts"] = verdicts.digest
    if config.leaks:
        inputs |= duplicates.leak_inputs(split, chosen.image)
    stage = StageRun("audit", folder / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    parts = Parts(folder, what=f"audit {split.name}", key=key, task=task, locks=split.locks)
    if stage.up_to_date:
        if not stage.asked:
            parts.remove(others=False)
        return stage.reuse(notes=sentences(read_summary(split), split.work))
    prepare = functools.partial(_prepare, split, chosen, calibrated, config)
    images, outside = units.image_units(split.num_images), units.outside(split, config)
    if parts.some_only:
        return parts.make_some(stage, prepare, outside, images, on_event=on_event)
    parts.check(images)
    with stage.begin(unless_held=parts.locks):
        known = read_truth(split, source) if source else None
        prepared = parts.prepare(prepare, outside, force=force)
        scorer, choice, model = prepared.scorer, prepared.choice, prepared.choice.calibration
        blocks = []
        for table in parts.make(prepared, images, on_event=on_event):
            some, sums = units.read_part(table)
            blocks.append(some)
            scorer.add_sums(sums)
        candidates = merge(blocks)
        del blocks
        teachers = {"image": chosen.image, "text": chosen.text}
        summary = summarise(split, candidates, config=config, teachers=teachers, truth=known, calibration=model)
        summary |= {"student": chosen.student or None, "likely": scorer.likely(candidates)}
        summary |= {"calibration_choice": {"name": choice.name, "why": choice.why}, "work": split.work.name}
        summary["score"] = _score(chosen, scorer.finder.weights)
        files = [folder / name for name in ("candidates.parquet", "summary.json", "gallery.html")]
        written = [*files, *_duplicates(split, scorer.finder, chosen.image, config, summary)]
        known_match = _known_matches(split, candidates, known)
        judged_before = already_judged(split, candidates, verdicts)
        summary["judged_candidates"] = int(judged_before.sum())
        metadata = {"image_teacher": chosen.image, "text_teacher": chosen.text, "student": chosen.student}
        metadata["split"] = split.digest
        blind = BlindSpots(split.texts, split.caption_owner)
        _write_candidates(files[0], split, candidates, metadata, _Labels(known_match, judged_before, blind))
        if sampled := write_sample(folder, split, candidates, config):
            written.append(sampled)
        summary["missing"] = judge(split, candidates, config, judged)
        store.write_json(files[1], summary)
        shown = _best_unjudged(split, candidates, judged_before, config.gallery)
        kinds = blind.kinds(candidates.image[shown], candidates.caption[shown])
        cards = [
            replace(_card(split, candidates, row, scorer.finder, known_match), text_blind=kind)
            for row, kind in zip(shown, kinds, strict=True)
        ]
        notes = sentences(summary, split.work)
        # The page does not say where the folder lies: it is read elsewhere, and equal wherever it was written.
        shown_notes = sentences(summary, Path("WORK"))
        gallery.write(files[2], split=split, cards=cards, summary=summary, sentences=shown_notes)
        if known is not None and source != split.folder / "truth.parquet":
            written.append(folder / "truth.parquet")
            write_truth(written[-1], split, known)
        else:
            (folder / "truth.parquet").unlink(missing_ok=True)
        outcome = stage.finish(
            outputs=written,
            counts={"images": split.num_images, "captions": split.num_captions, "candidates": len(candidates.score)},
            notes=notes,
        )
        parts.remove()
    return outcome


def _prepare(split: Split, chosen: Encoders, calibrated: Path | None, config: AuditConfig) -> Prepared:
    """Open the encoders, choose the calibration, and compute what the scores of all pairs need."""
    opened = open_neighbourhoods(split, chosen, depth=config.neighbours)
    choice = _choose_calibration(split, opened, chosen, calibrated, config)
    return Prepared(PairScorer(split, opened, choice.calibration, config), choice, config)


def _choose_calibration(
    split: Split, opened: Neighbourhoods, encoders: Encoders, path: Path | None, config: AuditConfig
) -> Choice:
    """Return the calibration that was named, else one of the package that fits the teachers, or why there is none."""
    if path is not None:
        return Choice(calibration.read(path), path.name, "")
    if not config.shipped:
        return Choice(None, "", "Without a calibration, as asked for.")
    teachers = stamps(split, encoders)
    skill = opened.features(split).map_skill() if len(encoders.teachers()) == 2 else None
    return shipped.choose(teachers, skill)


def _duplicates(
    split: Split, finder: Finder, teacher: str, config: AuditConfig, summary: dict[str, object]
) -> list[Path]:
    """Write the groups of duplicates and the leaks, and count them in the summary."""
    images = group_ids(split.samples["sha256"].to_pylist())
    if not any(split.samples["image_bytes"].to_pylist()):
        images = np.arange(split.num_images)  # texts alone: there are no images to be duplicates
    captions = group_ids([clean_caption(words) for words in split.texts])
    grouped = {
        "images": duplicates.groups("image", split.image_keys, images, finder.images, config.near_image),
        "captions": duplicates.groups("text", split.caption_keys, captions, finder.texts, config.near_caption),
    }
    summary["duplicates"] = {name: counts for name, (_, counts) in grouped.items()}
    leaked = duplicates.leaks(split, finder.images, teacher, config.near_image) if config.leaks else None
    summary["leaks"] = None
    if leaked is not None:
        exact, modality = (np.asarray(leaked[name].to_pylist()) for name in ("exact", "modality"))
        summary["leaks"] = {
            "exact_images": int((exact & (modality == "image")).sum()) if len(exact) else 0,
            "near_images": int((~exact).sum()) if len(exact) else 0,
            "captions": int((modality == "text").sum()) if len(exact) else 0,
        }
    return duplicates.write(split.folder / "audit", [table for table, _ in grouped.values()], leaked)


def _score(encoders: Encoders, weights: tuple[float, float]) -> str:
    """Return what the score is made of, in words."""
    parts = {"image": weights[0], "text": weights[1]}
    used = {modality: parts[modality] for modality in encoders.teachers() if parts[modality] > 0}
    if len(used) == 1:
        return f"{next(iter(used))}_similarity alone"
    return " + ".join(f"{weight:.2f} {modality}_similarity" for modality, weight in used.items())


def _judgements_digest(judged: PairRatings | None) -> str:
    """Return a digest of the judgements, empty where there are none."""
    if judged is None or not len(judged.images):
        return ""
    return judged.digest


@dataclass(frozen=True)
class _KnownMatches:
    """What is known of each candidate before anybody judges it.

    Attributes:
        match: (C,) True where the pair is known to match.
        known: (C,) True where it is known whether the pair matches.
    """

    match: np.ndarray
    known: np.ndarray


def _known_matches(split: Split, candidates: Candidates, truth: KnownTruth | None) -> _KnownMatches:
    if truth is None:
        nothing = np.zeros(len(candidates.score), dtype=bool)
        return _KnownMatches(nothing, nothing)
    match = among(split, candidates, *truth.false_negatives(split.caption_owner))
    return _KnownMatches(match, np.ones_like(match) if truth.complete else match)


@dataclass(frozen=True)
class _Labels:
    truth: _KnownMatches
    judged: np.ndarray
    """(C,) whether people have judged the pair."""
    blind: BlindSpots


def _write_candidates(
    path: Path, split: Split, candidates: Candidates, metadata: dict[str, str], labels: _Labels
) -> None:
    """Write the table in pieces: the keys of many candidates are long, their row numbers are not."""
    known = labels.truth
    image_keys, caption_keys = pa.array(split.image_keys, pa.string()), pa.array(split.caption_keys, pa.string())
    schema = schemas.CANDIDATES.with_metadata(metadata)
    with store.whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(candidates.score), _ROWS_A_GROUP):
            rows = slice(start, start + _ROWS_A_GROUP)
            part = candidates.take(rows)
            columns = {
                "image_key": image_keys.take(pa.array(part.image)),
                "caption_key": caption_keys.take(pa.array(part.caption)),
                "owner_image_key": image_keys.take(pa.array(split.caption_owner[part.caption])),
                "image_similarity": pa.array(part.image_similarity, from_pandas=True),
                "text_similarity": pa.array(part.text_similarity, from_pandas=True),
                "cross_similarity": pa.array(part.cross_similarity, from_pandas=True),
                "image_rank": pa.array(part.image_rank, mask=part.image_rank == 0),
                "text_rank": pa.array(part.text_rank, mask=part.text_rank == 0),
                "score": pa.array(part.score),
                "p_positive": pa.array(part.p_positive, from_pandas=True),
                "worth": pa.array(review_value(part.p_positive, labels.judged[rows]), from_pandas=True),
                "duplicate_image": pa.array(part.duplicate_image),
                "duplicate_caption": pa.array(part.duplicate_caption),
                "known_match": pa.array(known.match[rows], mask=~known.known[rows]),
                "text_blind": pa.array(labels.blind.kinds(part.image, part.caption), pa.string()),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _best_unjudged(split: Split, candidates: Candidates, judged: np.ndarray, number: int) -> list[int]:
    """Return the best candidates that nobody has judged, one for any two images, so that a page shows many images."""
    seen: set[tuple[int, int]] = set()
    best: list[int] = []
    for row in np.flatnonzero(~judged).tolist():
        if len(best) == number:
            break
        image, owner = int(candidates.image[row]), int(split.caption_owner[candidates.caption[row]])
        if (couple := (min(image, owner), max(image, owner))) not in seen:
            seen.add(couple)
            best.append(row)
    return best


def _card(split: Split, candidates: Candidates, row: int, finder: Finder, truth: _KnownMatches) -> gallery.Card:
    image, caption = int(candidates.image[row]), int(candidates.caption[row])
    return gallery.Card(
        rank=row + 1,
        image=image,
        caption=caption,
        owner=int(split.caption_owner[caption]),
        own_caption=finder.nearest_own_caption(image, caption),
        image_similarity=float(candidates.image_similarity[row]),
        text_similarity=float(candidates.text_similarity[row]),
        score=float(candidates.score[row]),
        p_positive=float(candidates.p_positive[row]),
        duplicate_image=bool(candidates.duplicate_image[row]),
        duplicate_caption=bool(candidates.duplicate_caption[row]),
        match=bool(truth.match[row]) if truth.known[row] else None,
    )


def review_value(p_positive: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return by how much a verdict lowers the expected squared error of a pair's soft label: p (1 - p).

    A pair that matches with probability p and is labelled p has a mean squared error of p (1 - p), and none after a
    verdict. The value is largest for p = 0.5 and 0 for a judged pair.

    Args:
        p_positive: (C,) probabilities; not a number where there is none.
        judged: (C,) whether people have judged the pair.

    Returns:
        (C,), 0 to 0.25; not a number where there is no probability.
    """
    return np.where(judged, 0, p_positive * (1 - p_positive)).astype(p_positive.dtype)


def already_judged(split: Split, candidates: Candidates, judgements: Judgements) -> np.ndarray:
    """Return for each candidate whether people have judged it; disputed and skipped pairs do not count."""
    words = {one.verdict for one in judgements.judgements} - {DISPUTED}
    rows = pair_judgements.pair_rows(split, judgements, *words)
    return among(split, candidates, rows[:, 0], rows[:, 1])
