"""The report's section on the audit: its figures as a table, its best candidates as pictures."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from cusa.manifests import page, schemas, store, tables
from cusa.manifests.samples import Split

_CANDIDATES = 12
_RANKED_BY = {
    "score": "joint score",
    "image_similarity": "image similarity alone",
    "text_similarity": "text similarity alone",
}


def section(split: Split) -> Iterable[str]:
    """Give the section piece by piece, everything escaped; nothing where the split was not audited.

    Args:
        split: the evaluated split; its `audit` folder is read.
    """
    folder = split.folder / "audit"
    if not ((folder / "candidates.parquet").is_file() and (folder / "summary.json").is_file()):
        return
    summary = store.read_json(folder / "summary.json")
    yield "<h2>The audit: candidate false negatives</h2><p>Pairs that the data set does not make although the teachers "
    yield f"say that they belong together. Score: {escape(summary['score'])}.</p>"
    yield _cards(summary)
    if summary["truth"] is not None:
        yield _rankings(summary)
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
    columns = ["image_key", "caption_key", "owner_image_key", "image_similarity", "text_similarity", "score"]
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
            for name, column in (("score", "score"), ("image", "image_similarity"), ("text", "text_similarity"))
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
