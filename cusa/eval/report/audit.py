"""The report's section on the audit: its figures as a table, its best candidates as pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cusa.eval.report.charts import Chart, share_chart
from cusa.eval.report.pictures import Pictures
from cusa.manifests import ledger, schemas, tables
from cusa.manifests.pages import Figure, Table
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import without_folders

_CANDIDATES = 12
_RANKED_BY = {
    "p_positive": "calibrated probability",
    "score": "joint score",
    "image_similarity": "image similarity alone",
    "text_similarity": "text similarity alone",
    "cross_similarity": "student's similarity alone",
}
_NUMBERS = {"p_positive": "p", "score": "score", "image_similarity": "image", "text_similarity": "text"}
"""Columns of the candidates -> names beside a picture."""


@dataclass(frozen=True)
class Calibration:
    """What the probabilities add up to, and how far they agree with judgements."""

    pairs: int
    """Judged pairs it was fitted on."""
    split: str
    matches: int
    ratings: str
    background: int
    caveat: str
    figures: Sequence[Figure]
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Missing:
    """The estimate of missing positives."""

    judged: int
    source: str
    total: float
    interval: tuple[float, float]
    """Of 95 %."""
    caveat: str
    strata: Table


@dataclass(frozen=True)
class Candidate:
    """A candidate as the template shows it; pictures are data URIs.

    Attributes:
        pictures: key, picture and what it is: the candidate's image, then the caption's own.
        caption: the text.
        numbers: name and value.
        match: whether it is one; None where nobody knows.
    """

    pictures: Sequence[tuple[str, str, str]]
    caption: str
    numbers: Sequence[tuple[str, str]]
    match: bool | None


@dataclass(frozen=True)
class Audit:
    """The section's values.

    Attributes:
        score: how candidates are scored, in words.
        figures: the audit's largest numbers.
        complete: whether everything that is not known to match is known not to.
        rankings: how early each ranking shows the known false negatives; None where none is known.
        better: sentences on where another ranking shows more of them than the one that the candidates are written in.
        calibration: None where there is none.
        missing: None where nothing was estimated.
        candidates: the best, one for any two images.
    """

    score: str
    figures: Sequence[Figure]
    complete: bool
    rankings: Table | None
    better: Sequence[str]
    calibration: Calibration | None
    missing: Missing | None
    candidates: Sequence[Candidate]


def gather(split: Split) -> Audit | None:
    """Return the section's values; None where the split was not audited.

    Args:
        split: the evaluated split; its `audit` folder is read.

    Raises:
        DataError: if a file was changed after the audit wrote it, or a picture does not decode.
    """
    folder = split.folder / "audit"
    if not ((folder / "candidates.parquet").is_file() and (folder / "summary.json").is_file()):
        return None
    ledger.refuse_changed(folder / "ledger.json")
    summary = store.read_json(folder / "summary.json")
    truth, calibration, missing = summary["truth"], summary.get("calibration"), summary.get("missing")
    return Audit(
        score=without_folders(summary["score"]),
        figures=_figures(summary),
        complete=truth is not None and truth["complete"],
        rankings=None if truth is None else _rankings(truth, summary["open_pairs"]),
        better=[] if truth is None else _better(truth),
        calibration=None if calibration is None else _calibration(calibration),
        missing=None if missing is None else _missing(missing),
        candidates=_candidates(split),
    )


def _figures(summary: Mapping[str, Any]) -> list[Figure]:
    teachers = " and ".join(name for name in summary["teachers"].values() if name)
    among = f"of {summary['open_pairs']:,} open pairs, by {teachers}"
    figures = [Figure("candidates", f"{summary['candidates']:,}", among)]
    truth = summary["truth"]
    if truth is not None:
        known = f"{truth['false_negatives']:,}"
        figures.append(Figure("known false negatives", known, f"{truth['among_candidates']:,} are candidates"))
        batch = truth["batch"]
        bound = "" if truth["complete"] else "≥ "
        label = f"false negatives a row, batch of {batch['size']}"
        figures.append(Figure(label, f"{bound}{batch['per_row']:.2f}", "on average, for a random batch"))
    return figures


def _calibration(calibration: Mapping[str, Any]) -> Calibration:
    fitted, expected = calibration["fitted"], calibration["expected"]
    # The widest test there is: every candidate where all is known, else another split's ratings, else folds.
    curve, where = calibration["out_of_fold"], f"on {fitted['split']}, each pair by a model that did not see its image"
    if (tested := calibration["tested"]) is not None:
        curve, where = tested, f"on {tested['split']} ({without_folders(tested['ratings'])})"
    if calibration["reliability"] is not None:
        curve, where = calibration["reliability"], "on every candidate of this split"
    top = calibration["ceiling"]
    figures = [Figure("expected missing positives", f"{expected['false_negatives']:,.0f}", "the probabilities' sum")]
    if curve["pairs"]:
        error = f"{curve['expected_calibration_error']:.3f}"
        figures.append(Figure("expected calibration error", error, f"Brier score {curve['brier']:.3f}, {where}"))
    figures.append(
        Figure(
            "R@1 ceiling",
            f"{100 * top['image-to-text']:.1f} / {100 * top['text-to-image']:.1f} %",
            "image to text / text to image, of a model that ranks every match first",
        )
    )
    return Calibration(
        pairs=fitted["pairs"],
        split=fitted["split"],
        matches=fitted["matches"],
        ratings=without_folders(fitted["ratings"]),
        background=fitted["background"],
        caveat=without_folders(fitted["caveat"]),
        figures=figures,
        charts=_curves(curve) if curve["pairs"] else [],
    )


def _curves(curve: Mapping[str, Any]) -> list[Chart]:
    """Return the reliability curve and precision by recall."""
    reliable = [(one["probability"], one["share"]) for one in curve["bins"]]
    charts = [share_chart("Reliability: share of matches by probability", reliable, diagonal=True)]
    precise = [(one["recall"], one["precision"]) for one in curve["precision_recall"]]
    if precise:
        charts.append(share_chart("Precision by recall", precise))
    return charts


def _missing(missing: Mapping[str, Any]) -> Missing:
    low, high = missing["interval"]
    rows = [
        [one["stratum"], f"{one['pairs']:,}", f"{one['judged']:,}", f"{one['matches']:,}", _percent(one["share"])]
        for one in missing["strata"]
    ]
    strata = Table(["stratum", "pairs", "judged", "matches", "estimated share"], rows)
    source, caveat = (without_folders(missing[name]) for name in ("source", "caveat"))
    return Missing(missing["judged"], source, missing["total"], (low, high), caveat, strata)


def _rankings(truth: Mapping[str, Any], num_open: int) -> Table | None:
    """Return how early each ranking shows the known false negatives, beside a random order."""
    names = [name for name in _RANKED_BY if name in truth["rankings"]]
    if not names:
        return None
    figures = [truth["rankings"][name] for name in names]
    rows = [
        ["average precision", *(_percent(one["average_precision"]) for one in figures), _percent(truth["chance"])],
        ["median rank", *(f"{one['median_rank']:,.0f}" for one in figures), f"{num_open / 2:,.0f}"],
    ]
    for measure in ("precision", "recall"):
        for cut in map(int, figures[0][measure]):
            by_chance = truth["chance"] if measure == "precision" else min(1, cut / num_open)
            values = [*(one[measure][str(cut)] for one in figures), by_chance]
            rows.append([f"{measure} in the first {cut:,}", *map(_percent, values)])
    header = ["known false negatives, ranked by", *(_RANKED_BY[name] for name in names), "random order"]
    return Table(header, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _better(truth: Mapping[str, Any]) -> list[str]:
    """Say where a ranking by one similarity alone shows more known false negatives than the candidates' own order."""
    own, *others = [name for name in _RANKED_BY if name in truth["rankings"]] or [""]
    sentences = []
    for cut, share in truth["rankings"].get(own, {}).get("precision", {}).items():
        shares = {name: truth["rankings"][name]["precision"].get(cut, 0.0) for name in others}
        best = max(shares, key=lambda name: shares[name], default=own)
        if best != own and shares[best] > share:
            sentences.append(
                f"First {int(cut):,}: ranked by {_RANKED_BY[best]}, {shares[best] * int(cut):,.0f} of them are known "
                f"false negatives; by {_RANKED_BY[own]}, {share * int(cut):,.0f}."
            )
    return sentences


def _candidates(split: Split) -> list[Candidate]:
    """Return the best candidates, one for any two images."""
    columns = ["image_key", "caption_key", "owner_image_key", *_NUMBERS]
    # The table is written best score first.
    path = split.folder / "audit" / "candidates.parquet"
    best = store.read_table(path, columns=columns).slice(0, 50 * _CANDIDATES).to_pylist()
    known = known_matches(split)
    pictures = Pictures(split)
    seen: set[frozenset[str]] = set()
    candidates: list[Candidate] = []
    for row in best:
        image, owner, caption = row["image_key"], row["owner_image_key"], row["caption_key"]
        couple = frozenset((image, owner))
        if len(candidates) == _CANDIDATES:
            break
        if couple in seen or image not in pictures or owner not in pictures or caption not in pictures.words:
            continue
        seen.add(couple)
        whose = ((image, "this image"), (owner, "the caption's own"))
        candidates.append(
            Candidate(
                pictures=[(key, pictures.uri(key), words) for key, words in whose],
                caption=pictures.words[caption],
                numbers=[(name, f"{row[column]:.2f}") for column, name in _NUMBERS.items() if row[column] is not None],
                match=True if (image, caption) in known.pairs else False if known.complete else None,
            )
        )
    return candidates


class Known(NamedTuple):
    """What is known to match in a split."""

    pairs: set[tuple[str, str]]
    """(image key, caption key), the data set's own pairs included; empty where nothing is known."""
    complete: bool
    """Whether every other pair is known not to match."""


def known_matches(split: Split) -> Known:
    """Read the known matches of a split: those that the audit was given, else those the data set came with."""
    for path in (split.folder / "audit" / "truth.parquet", split.folder / "truth.parquet"):
        if path.is_file():
            table = store.read_table(path, columns=schemas.TRUTH.names)
            pairs = set(zip(table["image_key"].to_pylist(), table["caption_key"].to_pylist(), strict=True))
            return Known(pairs, tables.read_part_metadata(path).get("complete") != "false")
    return Known(set(), complete=False)
