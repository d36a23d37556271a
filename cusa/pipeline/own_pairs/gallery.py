"""The page of the most probably wrong pairs, in one self-contained HTML file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import pages
from cusa.manifests.judgements.own_pairs import IN_WORDS
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.preprocess import UNDECODABLE, decode_rgb

_THUMBNAIL = 320  # pixels of its longer side


@dataclass(frozen=True)
class Card:
    """One pair as the page shows it.

    Attributes:
        caption: its row.
        p_wrong: not a number where the split is too small to tell.
        reasons: names of what speaks against it.
        better: rows of captions of other images that fit better.
    """

    caption: int
    p_wrong: float
    reasons: tuple[str, ...]
    better: tuple[int, ...]


@dataclass(frozen=True)
class _View:
    """A card as the template shows it; all are plain texts, pictures are data URIs or empty."""

    caption: str
    p_wrong: str
    is_wrong: bool
    picture: str
    siblings: list[str]
    reasons: list[str]
    better: list[str]
    other: str
    """The picture that the best of the better captions was written for."""
    image_key: str
    caption_key: str
    source: str
    """What made the caption; empty where nobody says."""


def write(
    path: Path, *, split: Split, cards: Sequence[Card], summary: Mapping[str, Any], sentences: Sequence[str]
) -> None:
    """Write the page, whole; a picture that cannot be read is left out.

    Args:
        path: the HTML file.
        split: where pictures and captions come from.
        cards: what to show, in order.
        summary: what `cusa.pipeline.own_pairs.stage.summarise` returned.
        sentences: the same in words.
    """

    @cache
    def thumbnail(row: int) -> str:
        try:
            return pages.thumbnail(decode_rgb(split.image_bytes(row)), side=_THUMBNAIL)
        except (DataError, *UNDECODABLE):
            return ""

    def view(card: Card) -> _View:
        image = int(split.caption_owner[card.caption])
        first, last = split.caption_owner.searchsorted([image, image + 1])
        return _View(
            caption=split.texts[card.caption],
            p_wrong="–" if math.isnan(card.p_wrong) else f"{card.p_wrong:.2f}",
            is_wrong=card.p_wrong > 0.5,
            picture=thumbnail(image),
            siblings=[split.texts[row] for row in range(int(first), int(last)) if row != card.caption],
            reasons=[IN_WORDS.get(name, name) for name in card.reasons],
            better=[split.texts[row] for row in card.better],
            other=thumbnail(int(split.caption_owner[card.better[0]])) if card.better else "",
            image_key=split.image_keys[image],
            caption_key=split.caption_keys[card.caption],
            source=split.caption_sources[card.caption],
        )

    html = pages.render(
        "pipeline/own_pairs/gallery.html.j2",
        title=f"Pairs of {split.name}: probably wrong",
        split=split.name,
        work=split.work.name,
        figures=_figures(summary),
        cards=[view(card) for card in cards],
        sentences=sentences,
    )
    store.write_text(path, html)


def _figures(summary: Mapping[str, Any]) -> list[pages.Figure]:
    if summary["expected_wrong"] is None:
        return [pages.Figure("pairs", f"{summary['pairs']:,}", "too few images for a probability")]
    teachers = " and ".join(name for name in summary["teachers"].values() if name)
    share = summary["expected_wrong"] / summary["pairs"]
    return [
        pages.Figure(
            "wrong pairs, expected", f"{summary['expected_wrong']:,.0f}", f"{share:.2%} of {summary['pairs']:,}"
        ),
        pages.Figure("more probably wrong than right", f"{summary['probably_wrong']:,}", f"by {teachers}"),
    ]
