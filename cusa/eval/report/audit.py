"""The report's section on the audit: its figures as a table, its best candidates as pictures."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from cusa.eval.report import loop as report_loop
from cusa.manifests import page, schemas, tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

_CANDIDATES = 12
_RANKED_BY = {
    "p_positive": "calibrated probability",
    "score": "joint score",
    "image_similarity": "image similarity alone",
    "text_similarity": "text similarity alone",
    "cross_similarity": "student's similarity alone",
}


def section(split: Split) -> Iterable[str]:
    """Give the section piece by piece, everything escaped; nothing where the split was not audited.

    Args:
        split: the evaluated split; its `audit` folder is read, and what training on verdicts of any split was worth.
    """
    yield from _of_split(split)
    yield from report_loop.section(split.work)


def _of_split(split: Split) -> Iterable[str]:
    folder = split.folder / "audit"
    if not ((folder / "candidates.parquet").is_file() and (folder / "summary.json").is_file()):
        return
    summary = store.read_json(folder / "summary.json")
    yield "<h2>The audit: candidate false negatives</h2><p>Pairs that the data set does not make although the teachers "
    yield f"say that they belong together. Score: {escape(summary['score'])}.</p>"
    yield _cards(summary)
    if summary["truth"] is not None:
        yield _rankings(summary)
    if summary.get("calibration") is not None:
        yield _calibration(summary["calibration"])
    if summary.get("missing") is not None:
        yield _missing(summary["missing"])
    yield _gallery(split)


def _cards(summary: Mapping[str, Any]) -> str:
    teachers = " and ".join(name for name in summary["teachers"].values() if name)
    among = f"of {summary['open_pairs']:,} open pairs, by {teachers}"
    cards = [page.card("candidates", f"{summary['candidates']:,}", among)]
    truth = summary["truth"]
    if truth is not None:
        known = f"{truth['false_negatives']:,}"
        cards.append(page.card("known false negatives", known, f"{truth['among_candidates']:,} are candidates"))
        batch = truth["batch"]
        bound = "" if truth["complete"] else "≥ "
        label = f"false negatives a row, batch of {batch['size']}"
        cards.append(page.card(label, f"{bound}{batch['per_row']:.2f}", "on average, for a random batch"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _calibration(found: Mapping[str, Any]) -> str:
    """Return what the probabilities add up to, and how far they agree with judgements."""
    fitted, expected = found["fitted"], found["expected"]
    # The widest test there is: every candidate where all is known, else another split's ratings, else folds.
    curve, where = found["out_of_fold"], f"on {fitted['split']}, each pair by a model that did not see its image"
    if (tested := found["tested"]) is not None:
        curve, where = tested, f"on {tested['split']} ({tested['ratings']})"
    if found["reliability"] is not None:
        curve, where = found["reliability"], "on every candidate of this split"
    top = found["ceiling"]
    cards = [page.card("expected missing positives", f"{expected['false_negatives']:,.0f}", "the probabilities' sum")]
    if curve["pairs"]:
        error = f"{curve['expected_calibration_error']:.3f}"
        cards.append(page.card("expected calibration error", error, f"Brier score {curve['brier']:.3f}, {where}"))
    cards.append(
        page.card(
            "R@1 ceiling",
            f"{top['image-to-text']:.2f} / {top['text-to-image']:.2f}",
            "image to text / text to image, of a model that ranks every match first",
        )
    )
    words = (
        f"<p>Fitted on {fitted['pairs']:,} judged pairs of {escape(fitted['split'])} ({fitted['matches']:,} matches; "
        f"{escape(fitted['ratings'])}) and {fitted['background']:,} random ones. {escape(fitted['caveat'])}</p>"
    )
    curves = _curves(curve) if curve["pairs"] else ""
    return f'<h3>How sure</h3>{words}<div class="cards">{"".join(cards)}</div>{curves}'


def _curves(curve: Mapping[str, Any]) -> str:
    """Return the reliability curve and precision against recall, as pictures."""
    reliable = [(one["probability"], one["share"]) for one in curve["bins"]]
    found = [(one["recall"], one["precision"]) for one in curve["precision_recall"]]
    pictures = [_chart("Reliability: share of matches by probability", reliable, diagonal=True)]
    if found:
        pictures.append(_chart("Precision by recall", found))
    return f'<div class="charts">{"".join(pictures)}</div>'


def _chart(title: str, points: list[tuple[float, float]], *, diagonal: bool = False) -> str:
    """Return points between 0 and 1 as a line over a grid."""

    def at(x: float, y: float) -> str:
        return f"{30 + 260 * x:.1f},{170 - 155 * y:.1f}"

    grid = "".join(
        f'<path class="grid" fill="none" d="M{at(0, y)} L{at(1, y)}"/>'
        f'<text class="tick" x="2" y="{174 - 155 * y:.0f}">{y:g}</text>'
        f'<text class="tick" text-anchor="middle" x="{30 + 260 * y:.0f}" y="188">{y:g}</text>'
        for y in (0, 0.5, 1)
    )
    exact = f'<path class="grid" fill="none" stroke-dasharray="4 4" d="M{at(0, 0)} L{at(1, 1)}"/>' if diagonal else ""
    line = f'<polyline class="line c0" points="{" ".join(at(*point) for point in points)}"/>'
    dots = "".join(
        '<circle r="2.5" fill="var(--a)" cx="{}" cy="{}"/>'.format(*at(*point).split(",")) for point in points
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 300 194" role="img" '
        f'aria-label="{escape(title, quote=True)}">{grid}{exact}{line}{dots}</svg></figure>'
    )


def _missing(found: Mapping[str, Any]) -> str:
    """Return the estimate of missing positives, stratum by stratum."""
    low, high = found["interval"]
    rows = [
        [
            escape(one["stratum"]),
            f"{one['pairs']:,}",
            f"{one['judged']:,}",
            f"{one['matches']:,}",
            f"{one['share']:.3f}",
        ]
        for one in found["strata"]
    ]
    words = (
        f"<p>Missing positives, estimated from {found['judged']:,} judged pairs ({escape(found['source'])}): "
        f"<b>{found['total']:,.0f}</b>, 95 % interval {low:,.0f} to {high:,.0f}. {escape(found['caveat'])}</p>"
    )
    return words + page.table(["stratum", "pairs", "judged", "matches", "estimated share"], rows)


def _rankings(summary: Mapping[str, Any]) -> str:
    """Return how early each ranking shows the known false negatives, beside a random order."""
    truth, num_open = summary["truth"], summary["open_pairs"]
    names = [name for name in _RANKED_BY if name in truth["rankings"]]
    if not names:
        return ""
    figures = [truth["rankings"][name] for name in names]
    rows = [
        ["average precision", *(f"{one['average_precision']:.3f}" for one in figures), f"{truth['chance']:.3f}"],
        ["median rank", *(f"{one['median_rank']:,.0f}" for one in figures), f"{num_open / 2:,.0f}"],
    ]
    for measure in ("precision", "recall"):
        for cut in map(int, figures[0][measure]):
            by_chance = truth["chance"] if measure == "precision" else min(1, cut / num_open)
            values = [*(one[measure][str(cut)] for one in figures), by_chance]
            rows.append([f"{measure} in the first {cut:,}", *(f"{value:.3f}" for value in values)])
    unknown = (
        "<p class='small soft'>Most pairs were never judged: precisions are lower bounds, and what is not known to "
        "match may match all the same.</p>"
    )
    header = ["known false negatives, ranked by", *(_RANKED_BY[name] for name in names), "random order"]
    return page.table(header, rows) + ("" if truth["complete"] else unknown)


def _gallery(split: Split) -> str:
    """Return the best candidates as pictures, one for any two images."""
    from cusa.models.preprocess import decode_rgb

    folder = split.folder / "audit"
    columns = [
        "image_key",
        "caption_key",
        "owner_image_key",
        "image_similarity",
        "text_similarity",
        "score",
        "p_positive",
    ]
    # The table is written best score first.
    best = store.read_table(folder / "candidates.parquet", columns=columns).slice(0, 50 * _CANDIDATES).to_pylist()
    known = known_matches(split)
    row_of = {key: row for row, key in enumerate(split.image_keys)}
    words = dict(zip(split.caption_keys, split.texts, strict=True))
    seen: set[frozenset[str]] = set()
    cards: list[str] = []
    for row in best:
        image, owner, caption = row["image_key"], row["owner_image_key"], row["caption_key"]
        couple = frozenset((image, owner))
        if len(cards) == _CANDIDATES or couple in seen or not couple <= row_of.keys() or caption not in words:
            continue
        seen.add(couple)
        badge = ""
        if (image, caption) in known.pairs:
            badge = '<span class="badge missed">true</span>'
        elif known.complete:
            badge = '<span class="badge bad">not true</span>'
        pictures = "".join(
            f"<div>{page.picture(page.thumbnail(decode_rgb(split.image_bytes(row_of[key]))), key)}"
            f'<div class="small soft">{whose}</div></div>'
            for key, whose in ((image, "this image"), (owner, "the caption's own"))
        )
        numbers = "".join(
            f"<span>{name} {row[column]:.2f}</span>"
            for name, column in (
                ("p", "p_positive"),
                ("score", "score"),
                ("image", "image_similarity"),
                ("text", "text_similarity"),
            )
            if row[column] is not None
        )
        cards.append(
            f'<div class="pair"><div class="row">{pictures}</div><div class="caption">“{escape(words[caption])}”</div>'
            f'<div class="numbers">{numbers}{badge}</div></div>'
        )
    return f'<div class="gallery" style="margin-top:14px">{"".join(cards)}</div>'


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
