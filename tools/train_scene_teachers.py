"""Train the two small teachers of `scenes` on scenes of other seeds and write their weights.

    python tools/train_scene_teachers.py

Each encoder sees its own modality only: the image encoder learns what stands in each cell of a drawn scene, the text
encoder which attributes a caption names; neither ever sees which caption belongs to which image. The same machine and
number of threads give the same bytes. About three minutes on two cores.
"""

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.manifests.storage.store import sha256_file
from cusa.models.captions import clean_caption
from cusa.models.teachers.scenes import (
    CELL_HEADS,
    GRID,
    IMAGE_FAMILIES,
    IMAGE_SIDE,
    TEXT_FAMILIES,
    WEIGHTS,
    SceneImageEncoder,
    SceneTextEncoder,
    hash_words,
    load_weights,
)
from cusa.pipeline.scenes.captions import draw_captions
from cusa.pipeline.scenes.meaning import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Claim, Scene
from cusa.pipeline.scenes.pictures import draw_scene
from cusa.pipeline.scenes.stage import draw_meaning

TRAIN_SEED, TEST_SEED = "teachers/train", "teachers/test"  # never a seed of the data set, whose seeds are numbers
# The weight of each family of concepts in the embedding, chosen on scenes of a third seed: images by how well the
# cosine of i and j ranks the captions of j that are true of i, captions by the same with the modalities exchanged and
# by the candidates of an audit.
IMAGE_SCALE = {
    "shape": 1.0,
    "colour": 1.0,
    "texture": 0.3,
    "shape colour": 1.4,
    "shape cell": 0.4,
    "colour cell": 0.4,
    "background": 0.7,
}
TEXT_SCALE = {
    "shape": 1.0,
    "colour": 1.0,
    "size": 0.7,
    "texture": 0.8,
    "shape colour": 1.0,
    "column": 0.6,
    "row": 0.6,
    "side": 0.7,
    "count": 0.5,
    "background": 1.0,
}
VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
SIDES = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def draw(seed: str, number: int) -> list[tuple[Scene, Random]]:
    """Return scenes that no seed of the data set draws, each with its own source of chance."""
    rngs = [Random(f"{seed}/{n}") for n in range(number)]
    return [(draw_meaning(rng), rng) for rng in rngs]


# ---------------------------------------------------------------------------------------------------------- images


def picture_set(seed: str, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels (N, 3, H, W) uint8, the cells' contents (N, 1 + heads, 9), -1 for nothing, and backgrounds (N,)."""
    scenes = draw(seed, number)
    pixels = np.stack([np.asarray(draw_scene(scene, size=IMAGE_SIDE, rng=rng)) for scene, rng in scenes])
    cells = torch.full((number, 1 + len(CELL_HEADS), GRID * GRID), -1)
    cells[:, 0] = 0
    for n, (scene, _) in enumerate(scenes):
        for thing in scene.things:
            cell = thing.row * GRID + thing.column
            cells[n, 0, cell] = 1
            for head, name in enumerate(CELL_HEADS):
                cells[n, 1 + head, cell] = VALUES[name].index(getattr(thing, name))
    backgrounds = torch.tensor([BACKGROUNDS.index(scene.background) for scene, _ in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), cells, backgrounds


def train_images(number: int, epochs: int) -> SceneImageEncoder:
    """Train the image encoder on what stands in each cell."""
    torch.manual_seed(0)
    pixels, cells, backgrounds = picture_set(TRAIN_SEED, number)
    model = SceneImageEncoder()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1, weight_decay=1e-2)
    batch = 64
    steps = epochs * (number // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        order = torch.randperm(number)
        total = 0.0
        for start in range(0, number - batch + 1, batch):
            rows = order[start : start + batch]
            inputs = augment(pixels[rows].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            things, background = model(inputs)
            loss = cell_loss(things.flatten(2), cells[rows]) + F.cross_entropy(background, backgrounds[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"image epoch {epoch + 1}/{epochs}: loss {total / (number // batch):.4f}", flush=True)
    return model.eval()


def augment(pixels_BCHW: Tensor) -> Tensor:
    """Shift brightness and add noise, so that JPEG's traces do not matter."""
    shade = 1 + 0.06 * torch.randn(len(pixels_BCHW), 1, 1, 1)
    return pixels_BCHW * shade + 0.03 * torch.randn_like(pixels_BCHW)


def cell_loss(things: Tensor, cells: Tensor) -> Tensor:
    """Ask every cell whether it holds a thing, and the cells that do what it is."""
    loss = F.binary_cross_entropy_with_logits(things[:, 0], cells[:, 0].float()) * 3
    for head, part in enumerate(torch.split(things[:, 1:], list(CELL_HEADS.values()), dim=1)):
        loss = loss + F.cross_entropy(part, cells[:, 1 + head], ignore_index=-1)
    return loss


@torch.inference_mode()
def judge_images(model: SceneImageEncoder, number: int) -> dict[str, float]:
    """Return held-out accuracies."""
    pixels, cells, backgrounds = picture_set(TEST_SEED, number)
    outputs = [model(block.float() / 127.5 - 1) for block in pixels.split(128)]
    things = torch.cat([out[0] for out in outputs]).flatten(2)
    there = cells[:, 0] == 1
    figures = {
        "occupied cells exactly right": ((things[:, 0] > 0) == there).all(1),
        "background": torch.cat([out[1] for out in outputs]).argmax(1) == backgrounds,
    }
    for head, part in enumerate(torch.split(things[:, 1:], list(CELL_HEADS.values()), dim=1)):
        figures[list(CELL_HEADS)[head]] = (part.argmax(1) == cells[:, 1 + head])[there]
    return {name: right.float().mean().item() for name, right in figures.items()}


# ----------------------------------------------------------------------------------------------------------- texts


def claim_row(claim: Claim) -> list[int]:
    """Return 1 for each concept a claim names, 0 for each it does not, -1 where its words leave it open."""
    mentions = claim.mentions
    row = {name: [0] * number for name, number in TEXT_FAMILIES.items()}
    for mention in mentions:
        for name in CELL_HEADS:
            if getattr(mention, name):
                row[name][VALUES[name].index(getattr(mention, name))] = 1
        column, line = PLACES[mention.place] if mention.place else (None, None)
        for name, cell in (("column", column), ("row", line)):
            if cell is not None:
                row[name][cell] = 1
    pairs = {(mention.shape, mention.colour) for mention in mentions}
    for s, shape in enumerate(SHAPES):
        for c, colour in enumerate(COLOURS):
            # "A circle" may be a red one: whether red and circle belong together is not said.
            open_pair = (shape, None) in pairs or (None, colour) in pairs
            row["shape colour"][s * len(COLOURS) + c] = 1 if (shape, colour) in pairs else -1 if open_pair else 0
    if claim.relation in SIDES:
        for mention, side in zip(mentions, (claim.relation, OPPOSITE[claim.relation]), strict=False):
            if mention.shape:
                row["side"][SIDES.index(side) * len(SHAPES) + SHAPES.index(mention.shape)] = 1
    if claim.count:
        row["count"][claim.count - 1] = 1
    if claim.background:
        row["background"][BACKGROUNDS.index(claim.background)] = 1
    return [value for values in row.values() for value in values]


def caption_set(seed: str, number: int) -> tuple[Tensor, Tensor]:
    """Return hashed words (N, L) and what each caption names (N, K)."""
    captions = [caption for scene, rng in draw(seed, number) for caption in draw_captions(scene, rng)]
    # Half of them as a text teacher reads them by default, cleaned; the others raw.
    texts = [clean_caption(text) if n % 2 else text for n, (text, _) in enumerate(captions)]
    return hash_words(texts), torch.tensor([claim_row(claim) for _, claim in captions], dtype=torch.int8)


def train_texts(number: int, epochs: int) -> SceneTextEncoder:
    """Train the text encoder on what each caption names."""
    torch.manual_seed(0)
    words, named = caption_set(TRAIN_SEED, number)
    model = SceneTextEncoder()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1, weight_decay=1e-2)
    batch = 256
    steps = epochs * (len(words) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        order = torch.randperm(len(words))
        total = 0.0
        for start in range(0, len(words) - batch + 1, batch):
            rows = order[start : start + batch]
            # A word missing now and then makes the network look at all of them.
            seen = words[rows] * (torch.rand(words[rows].shape) > 0.03)
            loss = named_loss(model(seen), named[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"text epoch {epoch + 1}/{epochs}: loss {total / (len(words) // batch):.4f}", flush=True)
    # Rows of words never met keep no random direction: an unknown word says nothing.
    unseen = torch.ones(len(model.words.weight), dtype=torch.bool)
    unseen[words.unique()] = False
    model.words.weight.data[unseen] = 0
    return model.eval()


def named_loss(logits: Tensor, named: Tensor) -> Tensor:
    """Binary cross-entropy a concept, summed over concepts; what the words leave open does not count."""
    loss = F.binary_cross_entropy_with_logits(logits, named.clamp(min=0).float(), reduction="none")
    return (loss * (named >= 0)).sum(1).mean()


@torch.inference_mode()
def judge_texts(model: SceneTextEncoder, number: int) -> dict[str, float]:
    """Return held-out accuracies: captions whose concepts of a family are all right."""
    words, named = caption_set(TEST_SEED, number)
    right = ((model(words) > 0) == (named == 1)) | (named < 0)
    figures, start = {}, 0
    for name, width in TEXT_FAMILIES.items():
        figures[name] = right[:, start : start + width].all(1).float().mean().item()
        start += width
    return figures


# --------------------------------------------------------------------------------------------------------- command


def save(model: nn.Module, families: dict[str, int], scale: dict[str, float], path: Path) -> None:
    """Write a network in half precision with the weights of its concepts; the same network gives the same bytes."""
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    tensors["scale"] = torch.cat([torch.full((number,), scale[name]) for name, number in families.items()])
    # One entry only: the order of several is not fixed by the format's writer.
    about = {"made by": "tools/train_scene_teachers.py", "trained on": TRAIN_SEED, "revision": "1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"about": json.dumps(about)})
    path.chmod(0o644)  # the writer leaves it to its owner alone


def main() -> None:
    """Train both, write them, read them back and print digest, size and held-out accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the two files")
    parser.add_argument("--scenes", type=int, default=10_000, help="training scenes")
    parser.add_argument("--threads", type=int, default=2, help="threads; another number gives other last digits")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    image_path, text_path = (told.out / f"offline-scenes-{modality}.safetensors" for modality in ("image", "text"))
    save(train_texts(told.scenes, epochs=8), TEXT_FAMILIES, TEXT_SCALE, text_path)
    print(f"text: {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    save(train_images(told.scenes, epochs=8), IMAGE_FAMILIES, IMAGE_SCALE, image_path)
    print(f"image: {time.perf_counter() - start:.0f} s")
    text, image = SceneTextEncoder(), SceneImageEncoder()
    load_weights(text, text_path)
    load_weights(image, image_path)
    for path, figures in ((text_path, judge_texts(text, 1000)), (image_path, judge_images(image, 1000))):
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {sha256_file(path)}")
        print("  held out: " + ", ".join(f"{name} {value:.2%}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
