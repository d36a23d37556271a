"""What augmentation costs beside decoding, and a step whose image tower sees half of its patches; in one run.

    python benchmarks/augment.py --work WORK [--split train] [--count 200] [--rounds 5] [--shorter 480]

Pictures whose shorter side is below `--shorter` are enlarged to it first (and encoded with quality 90), as in
decoding.py: of pictures stored at the student's own size, decoding costs less than any change. One thread, seconds of
the CPU, all ways in turn on the same images of a work folder, the best of the rounds; `ratio` is to decoding and the
crop of evaluation. The step is of a ViT-B/16's sizes with fewer layers (`--layers`), forward and backward, a batch of
8; its ratio is to the step on all patches.

Writes benchmarks/results/augment-<machine>-<date>.json.
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

from cusa.manifests.samples import Split

RESULTS = Path(__file__).parent / "results"


def enlarged(data: bytes, shorter: int) -> bytes:
    """Return a photograph whose shorter side has so many pixels at least, as a JPEG."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    factor = shorter / min(image.size)
    if factor <= 1:
        return data
    buffer = io.BytesIO()
    size = (round(image.width * factor), round(image.height * factor))
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def pictures(split: Split, count: int, shorter: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds an image and the ratio to the crop of evaluation, by way."""
    from cusa.models.preprocess import Preprocess, decode_rgb
    from cusa.train.data.augment.augmentation import Augmentation
    from cusa.train.data.augment.config import AugmentConfig

    preprocess = Preprocess()
    rows = np.linspace(0, split.num_images - 1, count).astype(int).tolist()
    encoded = [enlarged(split.image_bytes(row), shorter) for row in rows]
    no_sides = np.zeros(split.num_images, dtype=bool)

    def way(**options: float) -> Callable[[], None]:
        made = Augmentation(AugmentConfig.model_validate(options), 0, preprocess, no_sides)

        def run() -> None:
            for row, data in zip(rows, encoded, strict=True):
                image = decode_rgb(data)
                square = made.crop(image, row=row, epoch=0) if made.config.crop else preprocess.array(image)
                made.changed(square, row=row, image=row, epoch=0)

        return run

    colours = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
    ways = {
        "the crop of evaluation": way(),
        "crop": way(crop=0.5),
        "flip": way(flip=0.5),
        "brightness, contrast, saturation": way(**colours),
        "crop, flip": way(crop=0.5, flip=0.5),
        "crop, flip, colours, hue": way(crop=0.5, flip=0.5, hue=0.02, **colours),
    }
    seconds = best(ways, rounds)
    first = seconds["the crop of evaluation"]
    return {one: {"ms": 1e3 * took / count, "ratio": took / first} for one, took in seconds.items()}


def patches(layers: int, rounds: int) -> dict[str, float]:
    """Return seconds of a step of an image tower on all patches and on half of them, and their ratio."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from cusa.models.pixels import keeping, of_vision_model
    from cusa.train.data.augment.draws import kept_patches

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": layers}
    model: torch.nn.Module = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=224, patch_size=16))
    there = of_vision_model(model, size=224)
    assert there is not None
    pixels = torch.randn(8, 3, 224, 224)
    half = torch.from_numpy(kept_patches(np.arange(8), patches=196, kept=98, seed=0, epoch=0))

    def way(kept: torch.Tensor | None) -> Callable[[], None]:
        def run() -> None:
            with keeping(there, kept):
                model(pixel_values=pixels).pooler_output.sum().backward()

        return run

    seconds = best({"all": way(None), "half": way(half)}, rounds)
    return {**seconds, "ratio": seconds["half"] / seconds["all"]}


def best(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the fewest CPU seconds of each way, all ways in turn."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shorter", type=int, default=480)
    given = parser.parse_args()
    split = Split(given.work, given.split)
    results = {
        "machine": f"{os.cpu_count()}-core-x86",
        "pictures": pictures(split, given.count, given.shorter, given.rounds),
        "shorter": given.shorter,
        "half_the_patches": patches(given.layers, given.rounds),
    }
    print(json.dumps(results, indent=1))
    path = RESULTS / f"augment-{results['machine']}-{date.today()}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
