"""Decoding and resizing a photograph for a student's input: Pillow's exact way beside faster ones, in one run.

    python benchmarks/decoding.py --images FOLDER [--count 200]

One thread, seconds of the CPU, all ways in turn on the same photographs, the best of the rounds. Photographs whose
shorter side is below `--shorter` are enlarged to it first (and encoded with quality 90), as small copies would measure
nothing. Distance: the mean over pixels of the absolute difference to the exact way, in units of 1/255, as mean over the
pictures and as their worst.
simplejpeg, PyTurboJPEG and pyvips are measured where they are installed; PyTurboJPEG needs a libturbojpeg.

Writes benchmarks/results/decoding-<machine>-<date>.json.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / "results"
SIZE = 224
BICUBIC = Image.Resampling.BICUBIC
Way = Callable[[bytes], np.ndarray]


def cut(image: Image.Image, gap: float | None = None) -> np.ndarray:
    """Scale the shorter side and cut the centre, as `Preprocess.square` does."""
    width, height = image.size
    scaled = (SIZE, SIZE * height // width) if width <= height else (SIZE * width // height, SIZE)
    left, top = round((scaled[0] - SIZE) / 2), round((scaled[1] - SIZE) / 2)
    made = image.resize(scaled, BICUBIC, reducing_gap=gap).crop((left, top, left + SIZE, top + SIZE))
    return np.ascontiguousarray(np.asarray(made).transpose(2, 0, 1))


def opened(data: bytes, draft: int = 0) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if draft:
        image.draft(None, (draft, draft))
    return image if image.mode == "RGB" else image.convert("RGB")


def ways() -> dict[str, Way]:
    """Return all ways that can be measured here; first the exact one."""
    from cusa.models.preprocess import Preprocess, decode_rgb

    preprocess = Preprocess()
    found: dict[str, Way] = {
        "exact": lambda data: preprocess.array(decode_rgb(data)),
        "draft (scaled)": lambda data: preprocess.array(decode_rgb(data, draft=SIZE)),
        "reducing_gap 2": lambda data: cut(opened(data), 2.0),
        "draft + reducing_gap 2": lambda data: cut(opened(data, SIZE), 2.0),
    }
    try:
        import simplejpeg

        def simple(data: bytes, least: int, **options: bool) -> np.ndarray:
            kept = {"min_height": least, "min_width": least} if least else {}
            return cut(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", **kept, **options)))

        found["simplejpeg"] = lambda data: simple(data, 0)
        found["simplejpeg scaled"] = lambda data: simple(data, SIZE)
        found["simplejpeg scaled, fast"] = lambda data: simple(data, SIZE, fastdct=True, fastupsample=True)
        found["simplejpeg, header by Pillow"] = lambda data: (opened_header(data), simple(data, SIZE))[1]
    except ImportError:
        pass
    try:
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()

        def scaled_turbo(data: bytes) -> np.ndarray:
            width, height, *_ = turbo.decode_header(data)
            eighths = next(m for m in range(1, 9) if min(width, height) * m / 8 >= SIZE or m == 8)
            return cut(Image.fromarray(turbo.decode(data, turbojpeg.TJPF_RGB, scaling_factor=(eighths, 8))))

        found["PyTurboJPEG scaled"] = scaled_turbo
    except (ImportError, RuntimeError):
        pass
    try:
        import pyvips

        def vips(data: bytes) -> np.ndarray:
            image = pyvips.Image.thumbnail_buffer(data, SIZE, height=SIZE, crop="centre", no_rotate=True)
            return np.ascontiguousarray(image.numpy().transpose(2, 0, 1))

        found["pyvips thumbnail"] = vips
    except (ImportError, OSError):
        pass
    return found


def large(data: bytes, shorter: int) -> bytes:
    """Return a photograph whose shorter side has at least so many pixels."""
    image = Image.open(io.BytesIO(data))
    factor = shorter / min(image.size)
    if factor <= 1:
        return data
    made = io.BytesIO()
    image.resize((round(image.width * factor), round(image.height * factor)), BICUBIC).save(made, "JPEG", quality=90)
    return made.getvalue()


def opened_header(data: bytes) -> int:
    """Read what decides whether a JPEG is upright RGB."""
    image = Image.open(io.BytesIO(data))
    return image.getexif().get(0x0112, 1) if image.mode == "RGB" else 0


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--shorter", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    files = sorted(asked.images.rglob("*.jpg"))[: asked.count]
    photographs = [large(file.read_bytes(), asked.shorter) for file in files if Image.open(file).mode == "RGB"]
    found = ways()
    exact = [found["exact"](data) for data in photographs]
    rates: dict[str, float] = {}
    for _ in range(asked.rounds):
        for name, way in found.items():
            start = time.process_time()
            for data in photographs:
                way(data)
            rates[name] = max(rates.get(name, 0), len(photographs) / (time.process_time() - start))
    distances = {
        name: [
            float(np.abs(way(data).astype(int) - right).mean()) for data, right in zip(photographs, exact, strict=True)
        ]
        for name, way in found.items()
    }
    result = {
        "machine": "2-core-x86",
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "photographs": len(photographs),
        "median_pixels": int(np.median([np.prod(Image.open(io.BytesIO(data)).size) for data in photographs])),
        "ways": {
            name: {
                "images_per_cpu_second": round(rate, 1),
                "to_exact": round(rate / rates["exact"], 3),
                "distance_mean": round(float(np.mean(distances[name])), 3),
                "distance_worst": round(max(distances[name]), 3),
            }
            for name, rate in rates.items()
        },
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / f"decoding-{asked.images.name}-2-core-x86-{date.today().isoformat()}.json"
    place.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
