"""The audit's page: its best candidates as pictures with their captions, in one self-contained HTML file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cusa.errors import DataError
from cusa.manifests import pages
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.edits.rules import TITLES
from cusa.models.preprocess import UNDECODABLE, decode_rgb

_THUMBNAIL = 320  # pixels of its longer side: sharp at half that on a phone's screen
_BANDS = 3  # thresholds that the number shown can be filtered by


@dataclass(frozen=True)
class Card:
    """One candidate as the page shows it; images and captions are rows of the split."""

    rank: int
    image: int
    caption: int
    owner: int
    own_caption: int | None
    """The image's own caption that is nearest to the candidate caption; None if it has none."""
    image_similarity: float
    text_similarity: float
    """Not a number where there is no such teacher."""
    score: float
    duplicate_image: bool
    duplicate_caption: bool
    p_positive: float
    """Not a number without a calibration."""
    match: bool | None
    """True and False where it is known, None where nobody has judged."""
    text_blind: str | None = None
    """The one edit that separates the caption from one of the image's own; None where there is none."""


@dataclass(frozen=True)
class Option:
    """One choice of a filter.

    Attributes:
        id: of the input in the page.
        label: for people.
        hides: a CSS selector, put behind a card's, of the cards that the choice hides; empty for none.
    """

    id: str
    label: str
    hides: str = ""


@dataclass(frozen=True)
class Filter:
    """A group of choices above the gallery.

    Attributes:
        name: of the inputs in the page.
        legend: for people.
        kind: `radio` (one of them, the first at the start) or `checkbox`.
        options: the choices.
    """

    name: str
    legend: str
    kind: str
    options: Sequence[Option]


@dataclass(frozen=True)
class _View:
    """A card as the template shows it; all are plain texts, pictures are data URIs."""

    classes: str
    caption: str
    own_caption: str
    image: str
    owner: str
    badges: list[tuple[str, str]]
    """Kind and words."""
    rank: int
    numbers: list[tuple[str, str]]
    """Name and value; last what made the caption, where that is known."""
    image_key: str
    caption_key: str


def write(
    path: Path, *, split: Split, cards: Sequence[Card], summary: dict[str, Any], sentences: Sequence[str]
) -> None:
    """Write the page, whole.

    Args:
        path: the HTML file.
        split: where pictures and captions come from.
        cards: what to show, in order.
        summary: what `cusa.pipeline.audit.stage.summarise` returned.
        sentences: the same in words.

    Raises:
        DataError: if a picture does not decode any more.
    """

    @cache
    def thumbnail(row: int) -> str:
        try:
            return pages.thumbnail(decode_rgb(split.image_bytes(row)), side=_THUMBNAIL)
        except UNDECODABLE as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{split.image_keys[row]} in {split.folder} does not decode any more ({error}). Make the split again "
                "with `cusa shard ... --force`.",
                key=split.image_keys[row],
            ) from error

    bands = _bands(cards)
    html = pages.render(
        "pipeline/audit/gallery.html.j2",
        title=f"Audit of {split.name}: probably missing matches",
        split=split.name,
        work=split.work.name,
        figures=_figures(summary),
        filters=_filters(cards, bands),
        cards=[_view(split, card, thumbnail, bands) for card in cards],
        sentences=sentences,
        bars=_bars(summary["likely"]),
        review=f"cusa review WORK --split {split.name}",
    )
    store.write_text(path, html)


def _figures(summary: dict[str, Any]) -> list[pages.Figure]:
    """Return the figures at the top."""
    teachers = " and ".join(name for name in summary["teachers"].values() if name)
    figures = []
    if (likely := summary["likely"]) is not None:
        low, high = likely["interval"]
        number = f"{low:,.0f} to {high:,.0f}" if likely["at_least"] < likely["total"] else f"{likely['total']:,.0f}"
        note = (
            "by a strict reader, and by people who forgive minor mistakes"
            if likely["at_least"] < likely["total"]
            else f"95 % interval {low:,.0f} to {high:,.0f}"
        )
        figures.append(pages.Figure("probably missing", number, f"matches, {note}"))
    looked_at = f"of {summary['open_pairs']:,} open pairs, by {teachers}"
    figures.append(pages.Figure("candidates", f"{summary['candidates']:,}", looked_at))
    truth = summary["truth"]
    if truth is not None:
        # What the candidates are ordered by: the probability where there is one.
        order = next((name for name in ("p_positive", "score") if name in truth["rankings"]), None)
        best = truth["rankings"].get(order)
        among = f"{truth['among_candidates']:,} of them are candidates"
        figures.append(pages.Figure("known missing matches", f"{truth['false_negatives']:,}", among))
        if best is not None and truth["complete"]:
            chance = f"by {order}; a random order: {truth['chance']:.4f}"
            figures.append(pages.Figure("average precision", f"{best['average_precision']:.3f}", chance))
        elif best is not None:
            note = f"of a known missing match, by {order}"
            figures.append(pages.Figure("median rank", f"{best['median_rank']:,.0f}", note))
        batch = truth["batch"]
        per_row = f"{'' if truth['complete'] else '≥ '}{batch['per_row']:.2f}"
        label = f"wrong negatives a row, batch of {batch['size']}"
        figures.append(pages.Figure(label, per_row, "on average, for a random batch"))
    return figures


class _Bar(NamedTuple):
    """A bar of the histogram of probabilities."""

    range: str
    pairs: str
    matches: str
    percent: float
    """Of the longest bar."""


def _bars(likely: dict[str, Any] | None) -> list[_Bar]:
    """Return the histogram of `p_positive`, the largest probabilities first; bars show expected matches."""
    if likely is None:
        return []
    most = max((bar["matches"] for bar in likely["histogram"]), default=0) or 1
    return [
        _Bar(
            f"{bar['from']:g} to {bar['to']:g}",
            f"{bar['pairs']:,}",
            f"{bar['matches']:,.0f}",
            round(100 * bar["matches"] / most, 1),
        )
        for bar in reversed(likely["histogram"])
    ]


class _Property(NamedTuple):
    """Something a card can be filtered by."""

    label: str
    css_class: str
    holds: Callable[[Card], bool]


_KNOWN = (
    _Property("true", "true", lambda card: card.match is True),
    _Property("not true", "false", lambda card: card.match is False),
    _Property("not known", "unknown", lambda card: card.match is None),
)
_DUPLICATES = (
    _Property("same image file", "same-image", lambda card: card.duplicate_image),
    _Property("same words", "same-words", lambda card: card.duplicate_caption),
)

_BLIND = (_Property("one edit from an own caption", "blind", lambda card: card.text_blind is not None),)


def _bands(cards: Sequence[Card]) -> list[float]:
    """Return the scores that cut the cards into parts of about the same size, to two digits, rising."""
    scores = sorted(card.score for card in cards)
    cuts = [scores[len(scores) * part // (_BANDS + 1)] for part in range(1, _BANDS + 1)] if cards else []
    return sorted({round(cut, 2) for cut in cuts if round(cut, 2) > scores[0]})


def _filters(cards: Sequence[Card], bands: Sequence[float]) -> list[Filter]:
    """Return the filters that make a difference; CSS alone carries them out, so nothing in the page can run."""
    filters = []
    if bands:
        options = [Option(f"score-band-{n}", f"from {band:.2f}", f":not(.band-{n})") for n, band in enumerate(bands)]
        filters.append(Filter("score", "score", "radio", [Option("score-all", "all"), *options]))
    known = [one for one in _KNOWN if any(map(one.holds, cards))]
    if len(known) > 1:
        options = [Option(f"known-{one.css_class}", one.label, f":not(.{one.css_class})") for one in known]
        filters.append(Filter("known", "known", "radio", [Option("known-all", "all"), *options]))
    hidden = [one for one in (*_DUPLICATES, *_BLIND) if any(map(one.holds, cards))]
    if hidden:
        options = [Option(f"hide-{one.css_class}", one.label, f".{one.css_class}") for one in hidden]
        filters.append(Filter("hide", "hide", "checkbox", options))
    return filters


def _view(split: Split, card: Card, thumbnail: Callable[[int], str], bands: Sequence[float]) -> _View:
    badges = []
    if card.match is not None:
        badges.append(("good", "true") if card.match else ("bad", "not true"))
    badges += [("missed", one.label) for one in _DUPLICATES if one.holds(card)]
    if card.text_blind is not None:
        badges.append(("missed", f"only {TITLES[card.text_blind]}"))
    numbers = [("score", card.score), ("images", card.image_similarity), ("captions", card.text_similarity)]
    if not math.isnan(card.p_positive):
        numbers.insert(0, ("p", card.p_positive))
    shown = [(name, "–" if math.isnan(value) else f"{value:.3f}") for name, value in numbers]
    if source := split.caption_sources[card.caption]:
        shown.append(("source", source))
    classes = ["pair", *(one.css_class for one in (*_KNOWN, *_DUPLICATES, *_BLIND) if one.holds(card))]
    classes += [f"band-{number}" for number, band in enumerate(bands) if card.score >= band]
    return _View(
        classes=" ".join(classes),
        caption=split.texts[card.caption],
        own_caption="no caption of its own" if card.own_caption is None else split.texts[card.own_caption],
        image=thumbnail(card.image),
        owner=thumbnail(card.owner),
        badges=badges,
        rank=card.rank,
        numbers=shown,
        image_key=split.image_keys[card.image],
        caption_key=split.caption_keys[card.caption],
    )
