"""Draw docs/images/idea.png: one small batch, and what InfoNCE, the teachers and the truth say of it.

Everything in the picture is computed: the scenes are drawn, the soft labels come from the two shipped teachers, and the
truth from the scenes' meanings. Usage: python tools/draw_readme_picture.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cusa.models.preprocess import decode_rgb
from cusa.models.teachers.registry import load_teacher
from cusa.pipeline.config import ScenesConfig
from cusa.pipeline.scenes import stage as scenes
from cusa.pipeline.scenes.meaning import truth_matrix

OUT = Path(__file__).resolve().parents[1] / "docs/images/idea.png"
PAIRS = 6
CELL = 62
PICTURE = 84
INK, PALE, ACCENT, WRONG = "#1c2430", "#6b7685", (36, 99, 194), "#c2412d"


def main() -> None:
    """Pick a batch with false negatives in it, compute the three matrices, draw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes.run(ScenesConfig(seed=7, train=1, val=1, test=500), out=folder)
        numbers, shown, claims = scenes.load_meanings(folder, "test")
        pictures = [decode_rgb((folder / f"images/test/{number:012d}.jpg").read_bytes()) for number in numbers]
        words = _captions(folder)
    position = 1
    truth = truth_matrix(shown, [own[position] for own in claims])
    chosen = _batch(truth)
    truth = truth[np.ix_(chosen, chosen)]
    texts = [words[numbers[row]][position] for row in chosen]
    image = load_teacher("offline-scenes-image", "image").encode([pictures[row] for row in chosen])
    text = load_teacher("offline-scenes-text", "text").encode(texts)
    seen = ((image @ image.T + text @ text.T) / 2).clip(0, 1)
    _draw([pictures[row] for row in chosen], texts, np.eye(PAIRS), seen, truth)


def _captions(folder: Path) -> dict[int, list[str]]:
    rows = json.loads((folder / scenes.ANNOTATION).read_text())["images"]
    return {row["imgid"]: [sentence["raw"] for sentence in row["sentences"]] for row in rows}


def _batch(truth: np.ndarray) -> list[int]:
    """Return the window of consecutive images whose false negatives, about five, touch most rows and columns."""
    best, found = -1.0, 0
    for start in range(0, len(truth) - PAIRS, PAIRS):
        window = truth[start : start + PAIRS, start : start + PAIRS] & ~np.eye(PAIRS, dtype=bool)
        value = min(window.any(0).sum(), 4) + window.any(1).sum() / 10 - abs(window.sum() - 5) / 5
        if value > best:
            best, found = value, start
    return list(range(found, found + PAIRS))


def _draw(pictures: list[Image.Image], texts: list[str], hard: np.ndarray, seen: np.ndarray, truth: np.ndarray) -> None:
    scale = 2
    side = PAIRS * CELL
    width, height = 150 + 3 * (side + 34) + 70, 250 + side + 70
    sheet = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(sheet)

    def put(x: float, y: float, text: str, size: int, fill: object = INK, anchor: str = "la") -> None:
        font = ImageFont.load_default(size * scale)
        draw.text((x * scale, y * scale), text, fill=fill, font=font, anchor=anchor)

    put(24, 22, "One batch, three opinions", 24)
    put(24, 56, "Rows are images, columns are captions. Only the diagonal is paired in the data set.", 14, PALE)
    top = 250
    for row, picture in enumerate(pictures):
        thumb = picture.resize(((CELL - 6) * scale,) * 2, Image.Resampling.LANCZOS)
        sheet.paste(thumb, (70 * scale, (top + row * CELL + 3) * scale))
        put(58, top + row * CELL + CELL / 2, str(row + 1), 13, PALE, "rm")
    names = (
        ("InfoNCE's labels", "every other pair is a negative", hard),
        ("What the teachers see", "mean cosine of two frozen uni-modal teachers", seen),
        ("The truth", "which captions are true of which image", truth.astype(float)),
    )
    for number, (title, subtitle, matrix) in enumerate(names):
        left = 150 + number * (side + 34)
        put(left, 96, title, 18)
        put(left, 120, subtitle, 13, PALE)
        most = matrix.max()
        for i in range(PAIRS):
            for j in range(PAIRS):
                strength = float(matrix[i, j]) / most
                fill = tuple(round(255 + (channel - 255) * strength) for channel in ACCENT)
                x, y = (left + j * CELL + 2) * scale, (top + i * CELL + 2) * scale
                box = (x, y, x + (CELL - 4) * scale, y + (CELL - 4) * scale)
                missed = truth[i, j] and i != j
                outline, thick = (WRONG, 3) if missed else ("#dfe4ea", 1)
                draw.rounded_rectangle(box, 8 * scale, fill=fill, outline=outline, width=thick * scale)
        for j, text in enumerate(texts):
            label = Image.new("RGBA", (230 * scale, 16 * scale), (255, 255, 255, 0))
            short = text if len(text) < 30 else text[:28].rstrip() + "..."
            ImageDraw.Draw(label).text((0, 0), short, fill=INK, font=ImageFont.load_default(11 * scale))
            turned = label.rotate(33, expand=True, resample=Image.Resampling.BICUBIC)
            x = (left + j * CELL + CELL / 2 - 10) * scale
            sheet.paste(turned, (int(x), int((top - 4) * scale - turned.height)), turned)
    foot = top + side + 18
    put(
        150,
        foot,
        "Red frames: true matches that the data set does not pair. InfoNCE pushes them apart; "
        "CUSA's soft labels, made of the middle picture, do not.",
        14,
        WRONG,
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(OUT, optimize=True)
    print(f"wrote {OUT} ({OUT.stat().st_size >> 10} KiB)")


if __name__ == "__main__":
    main()
