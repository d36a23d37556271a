"""Draw the pictures of docs/concepts.md as SVG; `--check` only compares (the test suite does).

Each function composes one picture of boxes, words and arrows; nothing but the standard library.
"""

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
INK, PALE, LINE, BLUE, GREEN, RED = "#1c2430", "#6b7685", "#c9d0d9", "#2463c2", "#2f7d4f", "#c2412d"
SHADE, SOFT, WARM, COOL = "#eef1f5", "#dfe9f8", "#fbe9e5", "#e3f2e8"


class Drawing:
    """An SVG of a given size that grows by a shape a call.

    Args:
        width: in pixels.
        height: likewise.
        title: for those who do not see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._shapes = [f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>']

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str = SHADE, line: str = LINE, thick: float = 1
    ) -> None:
        """Draw a rectangle with round corners."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{line}" '
            f'stroke-width="{thick:g}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        ink: str = INK,
        middle: bool = True,
        bold: bool = False,
    ) -> None:
        """Write a line of text, its baseline at y."""
        anchor, weight = "middle" if middle else "start", ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{ink}" text-anchor="{anchor}"{weight}>'
            f"{escape(text, quote=False)}</text>"
        )

    def labelled(
        self, place: tuple[float, float, float, float], lines: Sequence[str], *, fill: str = SHADE, line: str = LINE
    ) -> None:
        """Draw a box (x, y, width, height) with a bold line and smaller ones in it."""
        x, y, width, height = place
        self.box(x, y, width, height, fill=fill, line=line)
        top = y + height / 2 - (len(lines) - 1) * 8 + 4
        for number, text in enumerate(lines):
            first = number == 0
            self.words(
                x + width / 2,
                top + 16 * number,
                text,
                size=13 if first else 11,
                ink=INK if first else PALE,
                bold=first,
            )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, ink: str = PALE, dashed: bool = False) -> None:
        """Draw a line with a head at its end."""
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self._shapes.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{ink}" stroke-width="1.5"'
            f'{dashes} marker-end="url(#head)"/>'
        )

    def scene(self, x: float, y: float, kinds: Sequence[str], *, ground: str = "#f6f1e4", size: float = 56) -> None:
        """Draw a little picture of shapes such as `red circle`, side by side."""
        self.box(x, y, size, size, fill=ground)
        step = size / (len(kinds) + 1)
        for number, kind in enumerate(kinds, 1):
            colour, shape = kind.split()
            middle, half, fill = x + step * number, size / 8, {"red": RED, "blue": BLUE, "green": GREEN}[colour]
            if shape == "circle":
                self._shapes.append(f'<circle cx="{middle:g}" cy="{y + size / 2:g}" r="{half:g}" fill="{fill}"/>')
            else:
                self._shapes.append(
                    f'<rect x="{middle - half:g}" y="{y + size / 2 - half:g}" width="{2 * half:g}" '
                    f'height="{2 * half:g}" fill="{fill}"/>'
                )

    def matrix(self, x: float, y: float, rows: Sequence[Sequence[float]], *, cell: float = 26, ink: str = BLUE) -> None:
        """Draw a matrix of shares, the darker the larger."""
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                place = f'x="{x + j * cell:g}" y="{y + i * cell:g}" width="{cell:g}" height="{cell:g}"'
                self._shapes.append(f'<rect {place} fill="#ffffff" stroke="{LINE}"/>')
                if value:
                    self._shapes.append(f'<rect {place} fill="{ink}" fill-opacity="{value:g}" stroke="{LINE}"/>')

    def svg(self) -> str:
        """Return the whole file."""
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" role="img" font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif">',
                f"<title>{escape(self._title)}</title>",
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{PALE}"/></marker></defs>',
                *self._shapes,
                "</svg>",
                "",
            ]
        )


def false_negative() -> Drawing:
    """Three pictures with a caption each, and what labels, teachers and truth say of the nine pairs."""
    drawing = Drawing(
        760, 300, "A batch of three pairs: two captions are true of pictures that they were not written for"
    )
    pictures = (["red circle", "blue square"], ["red circle"], ["green square"])
    captions = ("A red circle beside a blue square.", "A red circle.", "A green square.")
    for row, (kinds, caption) in enumerate(zip(pictures, captions, strict=True)):
        drawing.scene(24, 44 + 76 * row, kinds)
        drawing.words(96, 76 + 76 * row, caption, size=12, middle=False)
    panels = (
        ("InfoNCE's labels", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ("1 for the own caption,", "0 for all others")),
        (
            "The teachers",
            ((0.8, 0.5, 0.05), (0.5, 0.8, 0.1), (0.05, 0.1, 0.9)),
            ("how alike pictures are,", "and captions"),
        ),
        ("The truth", ((1, 1, 0), (0, 1, 0), (0, 0, 1)), ("caption 2 is true", "of picture 1 as well")),
    )
    for number, (title, rows, below) in enumerate(panels):
        x = 318 + 146 * number
        drawing.words(x + 57, 40, title, size=12, bold=True)
        drawing.matrix(x, 60, rows, cell=38, ink=(PALE, BLUE, GREEN)[number])
        for line, text in enumerate(below):
            drawing.words(x + 57, 200 + 16 * line, text, size=11, ink=PALE)
    drawing.box(318 + 38, 60, 38, 38, fill="none", line=RED, thick=2.5)
    drawing.box(610 + 38, 60, 38, 38, fill="none", line=RED, thick=2.5)
    drawing.words(
        24,
        284,
        "The framed pair is a false negative: a label of 0, although the caption describes the picture.",
        size=12,
        ink=RED,
        middle=False,
    )
    return drawing


def losses() -> Drawing:
    """InfoNCE, CSA and USA: which similarities of the student are compared with which labels."""
    drawing = Drawing(760, 330, "InfoNCE, CSA and USA: what the student's similarities are compared with")
    soft = ((0.75, 0.45, 0.05), (0.45, 0.75, 0.1), (0.05, 0.1, 0.85))
    student = ((0.6, 0.5, 0.15), (0.4, 0.6, 0.2), (0.1, 0.2, 0.7))
    panels = (
        ("InfoNCE", "image - text", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "own caption or not", PALE),
        ("alpha x CSA", "image - text", soft, "the teachers' soft labels", BLUE),
        ("beta x USA", "image - image, text - text", soft, "the teachers' soft labels", BLUE),
    )
    for number, (title, pairs, target, kind, ink) in enumerate(panels):
        x = 20 + 247 * number
        drawing.box(x, 20, 226, 262, fill="#ffffff")
        drawing.words(x + 113, 46, title, size=15, bold=True)
        drawing.words(x + 113, 66, pairs, size=11, ink=PALE)
        drawing.matrix(x + 14, 100, student, cell=27, ink=GREEN)
        drawing.words(x + 54, 200, "the student's", size=11)
        drawing.words(x + 54, 215, "distribution", size=11)
        drawing.arrow(x + 100, 140, x + 126, 140)
        drawing.matrix(x + 132, 100, target, cell=27, ink=ink)
        drawing.words(x + 172, 200, "target:", size=11)
        drawing.words(x + 172, 215, kind.partition(" soft")[0], size=11)
        if "soft" in kind:
            drawing.words(x + 172, 230, "soft labels", size=11)
        below = "cross-entropy, both directions" if number == 0 else "KL divergence, both directions"
        drawing.words(
            x + 113, 266, below if number < 2 else "KL divergence, projectors of their own", size=11, ink=PALE
        )
    drawing.words(
        380,
        310,
        "loss = InfoNCE + alpha CSA + beta USA; each row is a softmax of similarities over a temperature",
        size=12,
    )
    return drawing


def journey() -> Drawing:
    """The commands, and what each leaves on disk."""
    drawing = Drawing(760, 330, "The journey of a sample: from the data set's files to the report")
    first = (
        ("your files", "pictures, captions"),
        ("shard", "tars + tables"),
        ("extract-teachers", "a row an image,", "a row a caption"),
        ("index", "nearest rows"),
    )
    second = (
        ("report", "report.html"),
        ("eval", "metrics.json,", "per_query.parquet"),
        ("train", "a run: model,", "checkpoints"),
        ("audit", "candidates,", "gallery"),
    )
    width, gap = 150, 38
    for number, lines in enumerate(first):
        x = 22 + number * (width + gap)
        drawing.labelled((x, 40, width, 78), lines, fill=SHADE if number else WARM)
        if number:
            drawing.arrow(x - gap + 2, 79, x - 3, 79)
    for number, lines in enumerate(second):
        x = 22 + number * (width + gap)
        drawing.labelled((x, 210, width, 78), lines, fill=COOL if number == 0 else SOFT)
        if number:
            drawing.arrow(x - 2, 249, x - gap + 3, 249)
    right = 22 + 3 * (width + gap) + width / 2
    drawing.arrow(right - 40, 118, right - 40, 207)
    drawing.labelled((right - 10, 143, 80, 40), ("review", "verdicts"), fill=WARM)
    drawing.arrow(right + 30, 207, right + 30, 186)
    middle = 22 + 2 * (width + gap) + width / 2
    drawing.arrow(middle, 118, middle, 207)
    drawing.words(middle - 8, 168, "soft labels", size=11, ink=PALE)
    drawing.arrow(right - 12, 172, middle + 60, 207, dashed=True)
    drawing.words(380, 315, "A sample keeps its key and its row number in every file.", size=12, ink=PALE)
    return drawing


def audit() -> Drawing:
    """How a candidate is found without an image-text model, and what becomes of it."""
    drawing = Drawing(760, 330, "The audit: from two uni-modal similarities to a probability and a verdict")
    drawing.scene(30, 46, ["red circle", "blue square"], size=84)
    drawing.words(72, 150, "an image", size=12)
    drawing.words(72, 166, "and its own captions", size=11, ink=PALE)
    drawing.scene(250, 46, ["red circle"], size=84)
    drawing.words(292, 150, "a near image", size=12)
    drawing.words(292, 166, "and its caption", size=11, ink=PALE)
    drawing.arrow(120, 78, 245, 78)
    drawing.words(183, 68, "image teacher", size=11, ink=BLUE)
    drawing.arrow(120, 112, 245, 112)
    drawing.words(183, 128, "text teacher", size=11, ink=BLUE)
    drawing.arrow(340, 92, 408, 92)
    drawing.labelled((412, 52, 150, 80), ("candidate", "both similarities,", "ranks, duplicates"), fill=SOFT)
    drawing.arrow(564, 92, 602, 92)
    drawing.labelled((606, 52, 130, 80), ("p_positive", "calibrated on what", "people judged"), fill=SOFT)
    drawing.arrow(671, 134, 671, 196)
    drawing.labelled((606, 200, 130, 80), ("review", "a person says match,", "related, no match"), fill=WARM)
    drawing.arrow(604, 240, 566, 240)
    drawing.labelled((412, 200, 150, 80), ("verdicts", "by majority"), fill=COOL)
    for number, lines in enumerate(
        (("training", "positives"), ("evaluation", "right answers"), ("subset", "dropped, merged"))
    ):
        drawing.labelled((96, 192 + 34 * number, 224, 30), (": ".join(lines),), fill="#ffffff")
        drawing.arrow(410, 240, 324, 207 + 34 * number)
    drawing.words(
        380,
        316,
        "No image-text model is needed, so the candidates do not repeat a student's mistakes.",
        size=12,
        ink=PALE,
    )
    return drawing


PICTURES = {"false-negative": false_negative, "losses": losses, "journey": journey, "audit": audit}


def main() -> None:
    """Write the pictures, or with `--check` say which are not current."""
    stale = []
    for name, draw in PICTURES.items():
        path = IMAGES / f"{name}.svg"
        if "--check" not in sys.argv:
            path.write_text(draw().svg(), encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != draw().svg():
            stale.append(path.name)
    if stale:
        sys.exit(f"Not current: {', '.join(stale)}. Run `python tools/draw_concepts.py` and commit.")


if __name__ == "__main__":
    main()
