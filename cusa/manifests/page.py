"""The look of every HTML page this package writes: one self-contained file, light and dark, phone and paper.

It stands with the file formats because two rooms that never meet write pages: the audit's gallery and the report.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

CSS = """
:root { --ink:#1b2430; --soft:#5d6876; --line:#e3e7ec; --card:#ffffff; --page:#f6f7f9; --a:#2463c2; --b:#d9730d;
  --c:#2f8f6b; --d:#8a56c2; --good:#1f8a5b; --missed:#2463c2; --bad:#c2412d; --tint:#eef3fb; }
@media (prefers-color-scheme: dark) { :root { --ink:#e7ebf0; --soft:#9aa6b4; --line:#2c3440; --card:#171c24;
  --page:#0f1319; --a:#7fb0ff; --b:#f0a35e; --c:#6fd3a8; --d:#c49bf0; --good:#5fce9a; --missed:#7fb0ff; --bad:#ff8d78;
  --tint:#1b2535; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin:0; overflow-wrap:break-word; background:var(--page); color:var(--ink);
  font:16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width:1080px; margin:0 auto; padding:40px 20px 80px; }
h1 { font-size:2rem; line-height:1.2; letter-spacing:-.02em; margin:0 0 .3em; text-wrap:balance;
  overflow-wrap:anywhere; }
h2 { font-size:1.25rem; letter-spacing:-.01em; margin:2.6em 0 .6em; }
h3 { font-size:1rem; margin:1.6em 0 .5em; }
p { max-width:70ch; margin:.4em 0 .9em; } .soft { color:var(--soft); } small, .small { font-size:.85rem; }
code { font:.88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap:anywhere; }
a { color:var(--a); }
.cards { display:grid; grid-template-columns:repeat(auto-fit, minmax(180px, 1fr)); gap:14px; margin:1.2em 0; }
.card { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:16px 18px; min-width:0;
  overflow-wrap:anywhere; }
.card .label { color:var(--soft); font-size:.82rem; } .card .big { font-size:1.75rem; font-weight:650;
  letter-spacing:-.02em; font-variant-numeric:tabular-nums; } .card .note { font-size:.82rem; color:var(--soft); }
.up { color:var(--good); } .down { color:var(--bad); }
.scroll { overflow-x:auto; background:var(--card); border:1px solid var(--line); border-radius:14px; }
table { border-collapse:collapse; width:100%; font-size:.9rem; font-variant-numeric:tabular-nums; }
th, td { padding:8px 14px; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; white-space:normal; min-width:11rem; }
td.words, th.words { text-align:left; white-space:normal; min-width:12rem; }
thead th { color:var(--soft); font-weight:550; font-size:.8rem; white-space:normal; overflow-wrap:anywhere;
  min-width:6rem; vertical-align:bottom; } tbody tr:last-child td { border-bottom:0; }
.plain { font-weight:400; } tr.group td { background:var(--tint); font-weight:600; }
tr.group td > div { position:sticky; left:14px; white-space:normal; max-width:min(100%, calc(100vw - 62px)); }
.charts { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap:14px; }
figure { margin:0; } .charts + .scroll { margin-top:14px; }
.chart { background:var(--card); border:1px solid var(--line); border-radius:14px;
  padding:14px 16px; } .chart figcaption { font-weight:600; font-size:.92rem; margin-bottom:6px; }
.chart svg { width:100%; height:auto; display:block; } .grid { stroke:var(--line); } .tick { fill:var(--soft);
  font-size:11px; } .line { fill:none; stroke-width:2; stroke-linejoin:round; }
.line.c0 { stroke:var(--a); } .line.c1 { stroke:var(--b); } .line.c2 { stroke:var(--c); } .line.c3 { stroke:var(--d); }
.legend { display:flex; flex-wrap:wrap; gap:4px 14px; font-size:.8rem; color:var(--soft); }
.key::before { content:""; display:inline-block; width:10px; height:10px; border-radius:3px; margin-right:6px; }
.key.c0::before { background:var(--a); } .key.c1::before { background:var(--b); }
.key.c2::before { background:var(--c); } .key.c3::before { background:var(--d); } .unit { margin-left:auto; }
.gallery { display:grid; grid-template-columns:repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap:14px; }
.pair { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:14px; min-width:0; }
.pair .row { display:grid; grid-template-columns:1fr 1fr; gap:10px; }
.pair img, .hits img { width:100%; aspect-ratio:1; object-fit:cover; border-radius:8px; display:block;
  background:var(--line); }
.caption { font-size:.88rem; margin:.45em 0 0; overflow-wrap:anywhere; } .say { font-size:.98rem; margin:.7em 0 .3em; }
.numbers { display:flex; flex-wrap:wrap; gap:2px 12px; font-size:.8rem; color:var(--soft); margin-top:8px; }
.badge { display:inline-block; font-size:.74rem; font-weight:600; padding:1px 8px; border-radius:99px;
  border:1px solid currentColor; } .badge.good { color:var(--good); } .badge.missed { color:var(--missed); }
.badge.bad { color:var(--bad); }
.query { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:16px; margin:0 0 14px; }
.query > .asked { display:flex; gap:14px; align-items:center; } .query > .asked img { width:96px; border-radius:8px; }
.answers { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap:16px; }
.hits { display:grid; grid-template-columns:repeat(5, 1fr); gap:8px; } .hits > div { min-width:0; }
.hits img { border:3px solid transparent; } .hits .good img { border-color:var(--good); }
.hits .missed img { border-color:var(--missed); } .hits .bad img { border-color:transparent; opacity:.75; }
ol.texts { margin:0; padding-left:1.4em; font-size:.9rem; } ol.texts .bad { color:var(--soft); }
ol.texts .good { color:var(--good); } ol.texts .missed { color:var(--missed); }
.dot { stroke:var(--card); stroke-width:1.5; } .dot.c0 { fill:var(--a); } .dot.c1 { fill:var(--b); }
details { margin:.5em 0; } summary { cursor:pointer; font-weight:600; font-size:.95rem; padding:4px 0; }
.pair.flip img { max-height:150px; width:auto; max-width:100%; aspect-ratio:auto; }
.maps { display:grid; grid-template-columns:repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap:14px; }
.map > div { position:relative; aspect-ratio:1; margin:10px; } .pt { position:absolute; width:11px; height:11px;
  margin:-5px; border-radius:50%; border:1px solid var(--card); cursor:pointer; outline:none; font-weight:400; }
.pt.g0 { background:#2463c2; } .pt.g1 { background:#d9730d; } .pt.g2 { background:#2f8f6b; }
.pt.g3 { background:#8a56c2; } .pt.g4 { background:#c2412d; } .pt.g5 { background:#8c8c3a; }
.pt:hover, .pt:focus { z-index:3; box-shadow:0 0 0 3px var(--ink); }
.tip { display:none; position:absolute; width:136px; padding:6px; background:var(--card); color:var(--ink);
  border:1px solid var(--line); border-radius:10px; font:normal .74rem/1.35 system-ui, sans-serif; pointer-events:none;
  box-shadow:0 4px 18px rgb(0 0 0 / .25); } .pt:hover .tip, .pt:focus .tip { display:block; }
.tip.left { left:14px; } .tip.right { right:14px; } .tip.high { top:8px; } .tip.low { bottom:8px; }
.tip u { display:block; height:88px; background-size:contain; background-repeat:no-repeat; background-position:center;
  text-decoration:none; } .tip span { display:block; margin-top:4px; overflow-wrap:anywhere; }
footer { margin-top:3em; color:var(--soft); font-size:.85rem; }
@media print { :root { --ink:#1b2430; --soft:#5d6876; --line:#d5dae1; --card:#fff; --page:#fff; --a:#2463c2;
  --b:#d9730d; --c:#2f8f6b; --d:#8a56c2; --good:#1f8a5b; --missed:#2463c2; --bad:#c2412d; --tint:#eef3fb; }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact; } main { max-width:none; padding:0; }
  body { font-size:11pt; } .maps { grid-template-columns:1fr 1fr; } h2, h3 { break-after:avoid; }
  .card, .chart, .pair, .query, .map, tr { break-inside:avoid; }
  .scroll { overflow:visible; border:0; border-radius:0; } table { font-size:.72rem; } th, td { padding:3px 6px;
  white-space:normal; } th:first-child, td:first-child, td.words, th.words, thead th { min-width:0; }
  details:not([open])::details-content { content-visibility:visible; height:auto; } .tip { display:none !important; } }
@media (max-width:520px) { main { padding:24px 14px 60px; } h1 { font-size:1.55rem; } th, td { padding:7px 10px; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole HTML page.

    Args:
        title: plain words, escaped here.
        body: pieces of HTML, already escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[int] = ()) -> str:
    """Return an HTML table that scrolls sideways within itself.

    Args:
        header: plain words; escaped here.
        rows: cells as HTML, already escaped; a row with one cell is a group's heading.
        words: columns of running text rather than numbers.
    """
    running = set(words)

    def kind(column: int) -> str:
        return ' class="words"' if column in running else ""

    head = "".join(f"<th{kind(column)}>{escape(name)}</th>" for column, name in enumerate(header))
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(f'<tr class="group"><td colspan="{len(header)}"><div>{row[0]}</div></td></tr>')
        else:
            cells = "".join(f"<td{kind(column)}>{cell}</td>" for column, cell in enumerate(row))
            lines.append(f"<tr>{cells}</tr>")
    body = "".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def card(label: str, value: str, note: str = "") -> str:
    """Return one large number with its name; plain words, escaped here."""
    return (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="big">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def thumbnail(image: Image.Image, *, side: int = 160) -> str:
    """Return an RGB image as a data URI, its longer side at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(uri: str, description: str) -> str:
    """Return an `<img>`; the description is escaped here."""
    return f'<img src="{uri}" alt="{escape(description, quote=True)}" loading="lazy">'
