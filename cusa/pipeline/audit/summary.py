"""The results of an audit, as numbers and in sentences."""

from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests.judgements.truth import KnownTruth
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.manifests.words import counted
from cusa.pipeline.audit.figures import batch_false_negatives, ranking_figures
from cusa.pipeline.audit.missing import ceilings
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.reliability import reliability
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates, among

RANKINGS = ("p_positive", "score", "image_similarity", "text_similarity", "cross_similarity")
"""Columns that candidates can be ranked by."""


def read_summary(split: Split) -> dict[str, Any]:
    """Read the summary of a split's audit, as `summarise` made it.

    Raises:
        DataError: if the split was not audited.
    """
    path = split.folder / "audit" / "summary.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Run `cusa audit {split.work} --split {split.name}`.", path=path)
    summary: dict[str, Any] = store.read_json(path)
    return summary


def summarise(
    split: Split,
    candidates: Candidates,
    *,
    config: AuditConfig,
    teachers: dict[str, str],
    truth: KnownTruth | None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Return the audit's figures, with known matches also how well it ranks them and how many a batch holds.

    Returns:
        split, images, captions, open_pairs, teachers, score, candidates, duplicates; by_source, where captions have
        more than one source: captions, candidates, expected and known false negatives; calibration (null without one):
        fitted, tested, reliability, expected and ceiling; truth (null without one): source, complete, false_negatives,
        among_candidates, chance, rankings, batch, per_query and, where it is complete, ceiling.
    """
    open_pairs = split.num_images * split.num_captions - split.num_captions
    summary: dict[str, Any] = {
        "split": split.name,
        "images": split.num_images,
        "captions": split.num_captions,
        "open_pairs": open_pairs,
        "teachers": {modality: name or None for modality, name in teachers.items()},
        "neighbours": config.neighbours,
        "minimum_score": config.minimum_score,
        "candidates": len(candidates.score),
        "duplicate_image_candidates": int(candidates.duplicate_image.sum()),
        "duplicate_caption_candidates": int(candidates.duplicate_caption.sum()),
        "calibration": None,
        "truth": None,
    }
    if calibration is not None:
        summary["calibration"] = _calibrated(split, candidates, calibration, config)
    if len(split.source_rows) > 1:
        summary["by_source"] = _by_source(split, candidates, truth, calibrated=calibration is not None)
    if truth is None:
        return summary
    images, captions = truth.false_negatives(split.caption_owner)
    is_known = among(split, candidates, images, captions)
    rankings = {
        name: ranking_figures(values, is_known, num_known=len(images), num_open=open_pairs)
        for name in RANKINGS
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
        "per_query": {
            "image": len(images) / max(split.num_images, 1),
            "caption": len(images) / max(split.num_captions, 1),
        },
    }
    if truth.complete:
        certain = np.ones(len(images))
        summary["truth"]["ceiling"] = ceilings(
            images, captions, certain, split.caption_owner, num_images=split.num_images
        )
        if calibration is not None:
            summary["calibration"]["reliability"] = reliability(candidates.p_positive.astype(float), is_known)
    return summary


def _by_source(
    split: Split, candidates: Candidates, truth: KnownTruth | None, *, calibrated: bool
) -> dict[str, dict[str, float | None]]:
    """Return for each source how many false negatives its captions are: pairs with images that they were not made for.

    `expected_false_negatives` sums the candidates' probabilities, as `calibration.expected` does; null without any.
    """
    probability = candidates.p_positive.astype(float) if calibrated else np.zeros(len(candidates.caption))
    known = None if truth is None else truth.false_negatives(split.caption_owner)[1]
    results: dict[str, dict[str, float | None]] = {}
    for source, rows in split.source_rows.items():
        of_candidate, expected = np.isin(candidates.caption, rows), None
        if calibrated:
            expected = float(probability[of_candidate].sum())
        results[source] = {
            "captions": len(rows),
            "candidates": int(of_candidate.sum()),
            "expected_false_negatives": expected,
            "per_caption": None if expected is None else expected / len(rows),
            "known_false_negatives": None if known is None else int(np.isin(known, rows).sum()),
        }
    return results


def _calibrated(split: Split, candidates: Candidates, calibration: Calibration, config: AuditConfig) -> dict[str, Any]:
    """Return the sums of the probabilities."""
    probability = candidates.p_positive.astype(float)
    total = float(probability.sum())
    batch = min(config.batch_size, split.num_captions)
    in_batch = batch_false_negatives(
        candidates.image, split.caption_owner, num_images=split.num_images, batch=batch, weights=probability
    )
    return {
        "fitted": calibration.about["fitted"],
        "out_of_fold": calibration.about.get("out_of_fold"),
        "tested": calibration.about.get("tested"),
        "reliability": None,
        "expected": {
            "false_negatives": total,
            "per_image": total / max(split.num_images, 1),
            "per_caption": total / max(split.num_captions, 1),
            "batch": {"size": batch, "false_negatives": in_batch, "per_row": in_batch / max(batch, 1)},
        },
        "ceiling": ceilings(
            candidates.image, candidates.caption, probability, split.caption_owner, num_images=split.num_images
        ),
    }


def sentences(summary: dict[str, Any], work: Path) -> tuple[str, ...]:
    """Return a summary in full sentences, for a person.

    Args:
        summary: as `summarise` made it; it does not say where the work folder lies.
        work: the work folder as the person named it, for the commands that come next.
    """
    out = [*_of_likely(summary, work), *_of_score(summary)]
    out += [
        f"No {modality} teacher was used: the {modality} similarity is missing and the score does without it."
        for modality, name in summary["teachers"].items()
        if name is None
    ]
    if summary.get("judged_candidates"):
        out.append(
            f"{summary['judged_candidates']:,} candidates are judged already: the gallery leaves them out, and "
            "`cusa review` asks about the others."
        )
    if summary["duplicate_image_candidates"] or summary["duplicate_caption_candidates"]:
        out.append(
            f"{summary['duplicate_image_candidates']:,} candidates are between images with the same bytes, "
            f"{summary['duplicate_caption_candidates']:,} have a caption that the image has too."
        )
    out += [*_of_duplicates(summary), *_of_calibration(summary), *_of_sources(summary), *_of_missing(summary)]
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
    if (top := truth.get("ceiling")) is not None:
        out.append(
            "A model that ranks every true match first can be expected to reach an R@1 of no more than "
            f"{_both(top)} under the data set's own pairs."
        )
    if not truth["complete"]:
        out.append("Most pairs were never judged: what is not known to match may match all the same.")
    return tuple(out)


def _of_likely(summary: dict[str, Any], work: Path) -> list[str]:
    """Return what is likely, by which calibration, and where to look and to judge."""
    choice, likely = summary["calibration_choice"], summary["likely"]
    split = summary["split"]
    look = (
        f"Look at {work}/{split}/audit/gallery.html; judge with `cusa review {work} --split {split}`."
        if summary["candidates"]
        else ""
    )
    if likely is None:
        out = [
            f"No probability: {choice['why']} {summary['candidates']:,} candidates among {summary['open_pairs']:,} "
            f"pairs that the data set does not make are ranked by the score, {summary['score']}; how many of them "
            "match is not known."
        ]
        return [*out, *([look] if look else [])]
    low, high = likely["interval"]
    above = {edge: sum(bar["pairs"] for bar in likely["histogram"] if bar["from"] >= edge) for edge in (0.5, 0.9)}
    counts = (
        f"p_positive is 0.9 or more for {above[0.9]:,} pairs, 0.5 or more for {above[0.5]:,}; it sums to "
        f"{likely['total']:,.0f} over {summary['open_pairs']:,} pairs that the data set does not make."
    )
    if likely["at_least"] < likely["total"]:
        out = [
            f"Between {low:,.0f} and {high:,.0f} matches are probably missing. {counts} The larger number is by "
            "the standard of people who forgave minor mistakes, the smaller by that of a stricter reader. To know it "
            f"of this data, judge a random sample: `cusa audit {work} --split {split} --sample 300`, `cusa review`, "
            "and audit again."
        ]
    else:
        out = [
            f"About {likely['total']:,.0f} matches are probably missing, 95 % interval {low:,.0f} to {high:,.0f}. "
            f"{counts}"
        ]
    out += [look] if look else []
    why = f": {choice['why']}" if choice["why"] else ""
    out.append(f"p_positive is by the calibration {choice['name']}{why}.")
    if likely["scored"] == "whole":
        out.append(
            f"Every pair was scored; {summary['candidates']:,} are written, those of {likely['floor']:g} and more. The "
            f"others hold {likely['outside']:.1%} of the probability."
        )
        return out
    deeper = ""
    if likely["beyond"] is not None and likely["beyond"] >= likely["floor"]:
        deeper = (
            f" The next pairs are still expected to match with {likely['beyond']:.3f}: `cusa index {work} --split "
            f"{split} --neighbours {2 * likely['deepest']}` and `cusa audit --neighbours {2 * likely['deepest']}` find "
            "more."
            if likely["neighbours"] == likely["deepest"]
            else " The budget of rows ended the search (`--rows`)."
        )
    out.append(
        f"{likely['neighbours']} neighbours a row were joined; {summary['candidates']:,} pairs of {likely['floor']:g} "
        f"and more are written. Pairs that are not hold about {likely['outside']:.1%} of the probability, by images "
        f"drawn at random.{deeper}"
    )
    return out


def _of_score(summary: dict[str, Any]) -> list[str]:
    if summary["likely"] is None:
        return []
    return [f"Beside p_positive there is a score: {summary['score']}."]


def _both(top: dict[str, float]) -> str:
    return f"{top['image-to-text']:.3f} image to text and {top['text-to-image']:.3f} text to image"


def _of_duplicates(summary: dict[str, Any]) -> list[str]:
    out = []
    for name in ("images", "captions"):
        counts = summary["duplicates"][name]
        if counts["groups"]:
            out.append(
                f"{counts['rows']:,} {name} are in {counted(counts['groups'], 'group')} of duplicates, "
                f"{counts['exact_rows']:,} of them with the same content as another "
                f"({counted(counts['exact_groups'], 'group')})."
            )
    leaks = summary.get("leaks")
    if leaks and any(leaks.values()):
        out.append(
            f"Leaks: {counted(leaks['exact_images'], 'image')} with the same bytes in another split, "
            f"{counted(leaks['near_images'], 'near one')}, {counted(leaks['captions'], 'caption')} with the same words."
        )
    return out


def _of_calibration(summary: dict[str, Any]) -> list[str]:
    calibrated = summary.get("calibration")
    if calibrated is None:
        return []
    expected = calibrated["expected"]
    batch = expected["batch"]
    out = [
        f"By p_positive {expected['false_negatives']:,.0f} of the candidates match, "
        f"{expected['per_image']:.2f} an image; a random batch of {batch['size']} holds "
        f"{batch['false_negatives']:.1f} of them, {batch['per_row']:.2f} a row; R@1 ceiling "
        f"{_both(calibrated['ceiling'])}."
    ]
    if (curve := calibrated["reliability"]) is not None:
        out.append(
            f"p_positive on all candidates against the truth: Brier score {curve['brier']:.3f}, expected calibration "
            f"error {curve['expected_calibration_error']:.3f}."
        )
    if calibrated["fitted"]["caveat"]:
        out.append(calibrated["fitted"]["caveat"])
    return out


def _of_sources(summary: dict[str, Any]) -> list[str]:
    parts = []
    for source, figures in summary.get("by_source", {}).items():
        expected, known = figures["expected_false_negatives"], figures["known_false_negatives"]
        part = f"{source}: {figures['candidates']:,} candidates of {counted(figures['captions'], 'caption')}"
        part += f", {expected:,.0f} expected to match, {figures['per_caption']:.2f} a caption" if expected else ""
        parts.append(part + ("" if known is None else f", {known:,} known false negatives"))
    return [f"By the source of the caption: {'; '.join(parts)}."] if parts else []


def _of_missing(summary: dict[str, Any]) -> list[str]:
    missing = summary.get("missing")
    if missing is None:
        return []
    low, high = missing["interval"]
    top = missing["ceiling"]
    out = [
        f"Estimated missing positives, from {missing['judged']:,} judged pairs ({missing['source']}): "
        f"{missing['total']:,.0f}, 95 % interval {low:,.0f} to {high:,.0f}. R@1 ceiling {_both(top['estimate'])}; at "
        f"the interval's ends {_both(top['low'])}, and {_both(top['high'])}."
    ]
    if missing["left_out"]:
        out.append(f"Not in that estimate: {missing['left_out']:,} pairs of strata of which too few were judged.")
    if missing["caveat"]:
        out.append(missing["caveat"])
    return out
