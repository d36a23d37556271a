"""The audit's page: its best candidates as pictures with their captions, in one self-contained HTML file."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import page
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.preprocess import UNDECODABLE, decode_rgb

_SIDE = 320  # pixels of a thumbnail's longer side: sharp at half that on a phone's screen
_BANDS = 3  # thresholds that the number shown can be filtered by
_STYLE = """<style>.filters { display:flex; flex-wrap:wrap; gap:6px 22px; margin:.4em 0 1em; font-size:.88rem; }
.filters fieldset { border:0; margin:0; padding:0; display:flex; flex-wrap:wrap; gap:2px 12px; align-items:center; }
.filters legend { float:left; color:var(--soft); padding:0 10px 0 0; } .filters label { white-space:nowrap; }
.filters input { accent-color:var(--a); margin:0 4px 0 0; vertical-align:-1px; }
.gallery { counter-reset:shown; } .pair { counter-increment:shown; }
.shown { grid-column:1 / -1; margin:0; color:var(--soft); font-size:.85rem; }
.shown::before { content:counter(shown) " shown"; }
.pair { display:flex; flex-direction:column; } .pair .say { margin:0 0 .6em; }
.pair .row img { aspect-ratio:5/4; object-fit:contain; background:var(--tint); }
.pair .row + .numbers { margin-top:auto; padding-top:8px; }</style>"""


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
    """

    @cache
    def thumbnail(row: int) -> str:
        try:
            return page.thumbnail(decode_rgb(split.image_bytes(row)), side=_SIDE)
        except UNDECODABLE as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{split.image_keys[row]} in {split.folder} does not decode any more ({error}). Make the split again "
                "with `cusa shard ... --force`.",
                key=split.image_keys[row],
            ) from error

    bands = _bands(cards)
    body = [
        _STYLE,
        "<h1>Probably missing matches</h1>",
        f'<p class="soft">Split <b>{escape(split.name)}</b> of {escape(split.work.name)}. Training takes every caption '
        "of another image for wrong. The teachers think that these are right: image and caption belong together "
        "although the data set does not pair them.</p>",
        _figures(summary),
        f"<h2>{_heading(len(cards))}</h2>",
        '<p class="small soft">Each card asks: is the sentence true of the left picture? The right picture is the one '
        "the sentence was written for. Of the candidates between two pictures only the best is shown; all are in "
        "<code>candidates.parquet</code>.</p>",
        *_filters(cards, bands),
        '<div class="gallery">',
        *(_card(split, card, thumbnail(card.image), thumbnail(card.owner), bands) for card in cards),
        '<p class="shown"></p></div>' if cards else "</div>",
        "<h2>In words</h2>",
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences),
    ]
    store.write_text(path, page.page(f"Audit of {split.name}: probably missing matches", body))


def _heading(number: int) -> str:
    if not number:
        return "No candidates"
    return "The best candidate" if number == 1 else f"The best {number} candidates"


def _figures(summary: dict[str, Any]) -> str:
    """Return the cards at the top."""
    teachers = " and ".join(name for name in summary["teachers"].values() if name)
    boxes = [("candidates", f"{summary['candidates']:,}", f"of {summary['open_pairs']:,} open pairs, by {teachers}")]
    truth = summary["truth"]
    if truth is not None:
        # What the candidates are ordered by: the probability where there is one.
        order = next((name for name in ("p_positive", "score") if name in truth["rankings"]), None)
        best = truth["rankings"].get(order)
        found = f"{truth['among_candidates']:,} of them are candidates"
        boxes.append(("known missing matches", f"{truth['false_negatives']:,}", found))
        if best is not None and truth["complete"]:
            chance = f"by {order}; a random order: {truth['chance']:.4f}"
            boxes.append(("average precision", f"{best['average_precision']:.3f}", chance))
        elif best is not None:
            boxes.append(("median rank", f"{best['median_rank']:,.0f}", f"of a known missing match, by {order}"))
        batch = truth["batch"]
        shown = f"{'' if truth['complete'] else '≥ '}{batch['per_row']:.2f}"
        boxes.append((f"wrong negatives a row, batch of {batch['size']}", shown, "on average, for a random batch"))
    inner = "".join(page.card(*box) for box in boxes)
    return f'<div class="cards">{inner}</div>'


_KINDS: dict[str, tuple[str, Callable[[Card], bool]]] = {
    "true": ("true", lambda card: card.match is True),
    "not true": ("false", lambda card: card.match is False),
    "not known": ("unknown", lambda card: card.match is None),
}
_SAME: dict[str, tuple[str, Callable[[Card], bool]]] = {
    "same image file": ("same-image", lambda card: card.duplicate_image),
    "same words": ("same-words", lambda card: card.duplicate_caption),
}


def _bands(cards: Sequence[Card]) -> list[float]:
    """Return the scores that cut the cards into parts of about the same size, to two digits, rising."""
    scores = sorted(card.score for card in cards)
    cuts = [scores[len(scores) * part // (_BANDS + 1)] for part in range(1, _BANDS + 1)] if cards else []
    return sorted({round(cut, 2) for cut in cuts if round(cut, 2) > scores[0]})


def _filters(cards: Sequence[Card], bands: Sequence[float]) -> Iterator[str]:
    """Give the filters and the style that carries them out: no script, so nothing in the page can run."""
    groups = []
    if bands:
        options = [("score", "all", "")] + [("score", f"from {band:.2f}", f"band-{n}") for n, band in enumerate(bands)]
        groups.append(("score", "radio", options))
    kinds = [(word, name) for word, (name, holds) in _KINDS.items() if any(map(holds, cards))]
    if len(kinds) > 1:
        groups.append(("known", "radio", [("known", "all", ""), *(("known", *kind) for kind in kinds)]))
    same = [(word, name) for word, (name, holds) in _SAME.items() if any(map(holds, cards))]
    if same:
        groups.append(("hide", "checkbox", [("hide", *one) for one in same]))
    if not groups:
        return
    rules, fields = [], []
    for legend, kind, options in groups:
        labels = []
        for group, word, name in options:
            place = f"{group}-{name or 'all'}"
            checked = " checked" if kind == "radio" and not name else ""
            labels.append(f'<label><input type="{kind}" name="{group}" id="{place}"{checked}>{escape(word)}</label>')
            if name:
                hidden = f".{name}" if kind == "checkbox" else f":not(.{name})"
                rules.append(f"main:has(#{place}:checked) .pair{hidden} {{ display:none; }}")
        fields.append(f"<fieldset><legend>{legend}</legend>{''.join(labels)}</fieldset>")
    yield f"<style>{' '.join(rules)}</style>"
    yield f'<div class="filters">{"".join(fields)}</div>'


def _classes(card: Card, bands: Sequence[float]) -> str:
    named = [name for name, holds in (*_KINDS.values(), *_SAME.values()) if holds(card)]
    named += [f"band-{number}" for number, band in enumerate(bands) if card.score >= band]
    return " ".join(["pair", *named])


def _card(split: Split, card: Card, image: str, owner: str, bands: Sequence[float]) -> str:
    words = split.texts[card.caption]
    own = split.texts[card.own_caption] if card.own_caption is not None else "no caption of its own"
    badges = []
    if card.match is not None:
        badges.append(("good", "true") if card.match else ("bad", "not true"))
    if card.duplicate_image:
        badges.append(("missed", "same image file"))
    if card.duplicate_caption:
        badges.append(("missed", "same words"))
    marks = " ".join(f'<span class="badge {kind}">{text}</span>' for kind, text in badges)
    numbers = [("score", card.score), ("images", card.image_similarity), ("captions", card.text_similarity)]
    if not math.isnan(card.p_positive):
        numbers.insert(0, ("p", card.p_positive))
    shown = "".join(
        f"<span>{name} <b>{'–' if math.isnan(value) else f'{value:.3f}'}</b></span>" for name, value in numbers
    )
    return (
        f'<article class="{_classes(card, bands)}"><p class="say">“{escape(words)}” {marks}</p><div class="row">'
        f"<div>{page.picture(image, own)}"
        f'<p class="caption"><span class="soft">This one? Its own caption:</span> {escape(own)}</p></div>'
        f"<div>{page.picture(owner, words)}"
        f'<p class="caption soft">Written for this one.</p></div></div>'
        f'<div class="numbers"><span>#{card.rank}</span>{shown}</div>'
        f'<div class="numbers"><code>{escape(split.image_keys[card.image])}</code>'
        f"<code>{escape(split.caption_keys[card.caption])}</code></div></article>"
    )
