"""What one core of this machine does in a second, for the estimates of `cusa plan`; writes cusa/manifests/rates.toml.

    OMP_NUM_THREADS=1 python benchmarks/rates.py MACHINE WORK --image TEACHER --text TEACHER [--only audit]

Networks of the published sizes with random weights: forward and backward for training (the optimiser's step left out),
forward alone for teachers and evaluations. Shards are made of noise as JPEGs of 640 x 480 pixels. `cusa index` and
`cusa audit` are timed whole, as a user runs them (tables read and written, probabilities, duplicates, the gallery), on
a split of WORK, train if none is named, whose tables they make anew; --only times these alone and leaves the other
rows as they are. Seconds are CPU seconds of one thread, which others on the machine change little unless they are many.
"""

import argparse
import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, MPNetConfig, MPNetModel

from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.models.students.sgraf_network import SgrafNetwork, SgrafSizes, hinge
from cusa.models.students.x2vlm import X2vlm
from cusa.models.students.x2vlm_network import Sizes, X2vlmNetwork
from cusa.models.teachers.offline import load_offline
from cusa.models.teachers.unicom import UNICOM, Unicom
from cusa.pipeline import audit, index, readers, scenes, shard
from cusa.pipeline.config import AuditConfig, IndexConfig, ScenesConfig, ShardConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders

OUT = Path(__file__).parents[1] / "cusa" / "manifests" / "rates.toml"


def seconds(function: Callable[[], object], repeats: int = 1) -> float:
    """Return the shortest of some runs in CPU seconds: a rate that plans days need not be exact."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def contrastive(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    logits = F.normalize(image) @ F.normalize(text).T / 0.05
    target = torch.arange(len(logits))
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def clip(batch: int, **vision: int) -> dict[str, float]:
    sizes = {"text_config": vision.pop("text", {}), "projection_dim": vision.pop("projection", 512)}
    model = CLIPModel(CLIPConfig(vision_config=vision, **sizes))
    side = vision.get("image_size", 224)
    pixels, ids = torch.randn(batch, 3, side, side), torch.randint(1, 1000, (batch, 20))

    def step() -> None:
        out = model(pixel_values=pixels, input_ids=ids)
        contrastive(out.image_embeds, out.text_embeds).backward()

    reading = read(batch, lambda: model.get_image_features(pixel_values=pixels), lambda: model.get_text_features(ids))
    return {**rate(model, batch, step), **reading}


def rate(model: nn.Module, batch: int, step: Callable[[], None]) -> dict[str, float]:
    return {"pairs": batch / seconds(step), "parameters": sum(p.numel() for p in model.parameters())}


@torch.inference_mode()
def read(batch: int, images: Callable[[], object], captions: Callable[[], object]) -> dict[str, float]:
    """Images and captions that an evaluation reads in a second."""
    return {"images": batch / seconds(images, 2), "captions": batch / seconds(captions, 2)}


def sgraf(module: str, batch: int) -> dict[str, float]:
    network = SgrafNetwork(module, SgrafSizes(region_width=2048, vocabulary=11353))  # type: ignore[arg-type]
    regions, ids = torch.randn(batch, 36, 2048), torch.randint(4, 11353, (batch, 14))
    lengths = torch.randint(8, 15, (batch,))

    def step() -> None:
        seen, said = network.encode_regions(regions), network.encode_words(ids, lengths)
        both = {"image_global_ID": network.pool_regions(seen), "text_global_CD": network.pool_words(said, lengths)}
        hinge(network.similarity(seen, said, lengths, **both)).backward()

    trained = rate(network, batch, step)
    network.eval()
    with torch.inference_mode():
        seen, said = network.encode_regions(regions), network.encode_words(ids, lengths)
        both = {"image_global_ID": network.pool_regions(seen), "text_global_CD": network.pool_words(said, lengths)}
        scored = batch**2 / seconds(lambda: network.similarity(seen, said, lengths, **both))
    reading = read(batch, lambda: network.encode_regions(regions), lambda: network.encode_words(ids, lengths))
    return {**trained, **reading, "scores": scored}


def x2vlm(batch: int) -> dict[str, float]:
    student = X2vlm(X2vlmNetwork(Sizes()), None, {"kind": "x2vlm", "name": "scratch", "uni": True})
    pixels = torch.randn(batch, 3, 384, 384)
    tokens = {"input_ids": torch.randint(1000, 20000, (batch, 20)), "attention_mask": torch.ones(batch, 20)}

    def step() -> None:
        out = student(pixels, tokens)
        loss = student.base_loss(out, image_ids=torch.arange(batch))
        sum(loss.values()).backward()

    trained = rate(student, batch, step)
    student.eval()
    with torch.inference_mode():
        images, texts = student.image_parts(pixels), student.text_parts(tokens)
        matched = batch / seconds(lambda: student.match(images, texts))
    reading = read(batch, lambda: student.image_parts(pixels), lambda: student.text_parts(tokens))
    return {**trained, **reading, "matches": matched}


@torch.inference_mode()
def teachers() -> dict[str, dict[str, float]]:
    unicom = Unicom(UNICOM["unicom-vit-b-32"]).eval()
    pixels = torch.randn(16, 3, 224, 224)
    mpnet = MPNetModel(MPNetConfig()).eval()
    ids = torch.randint(4, 30000, (64, 18))
    found = {
        "unicom-vit-b-32": {"width": 512, "rows": 16 / seconds(lambda: unicom(pixels))},
        "unicom-vit-b-32-tokens": {"width": 37632, "rows": 16 / seconds(lambda: unicom.tokens(pixels))},
        "all-mpnet-base-v2": {"width": 768, "rows": 64 / seconds(lambda: mpnet(input_ids=ids))},
    }
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (96, 96, 3), np.uint8)) for n in range(64)]
    for name in ("offline-gist", "offline-scenes-image", "offline-ngrams", "offline-scenes-text"):
        teacher = load_offline(name)
        items = pictures if teacher.modality == "image" else [f"a red circle above square {n}" for n in range(64)]
        found[name] = {"width": teacher.width, "rows": 64 / seconds(lambda t=teacher, i=items: t.encode(i))}
    return found


def stages(split: Split, encoders: Encoders) -> dict[str, dict[str, object]]:
    """Time `cusa index` of both teachers and `cusa audit`, whole."""
    spent = multiplications = 0.0
    for teacher in encoders.teachers().values():
        spent += seconds(lambda name=teacher: index.run(IndexConfig(), split=split, teacher=name, force=True))
        table = tables.read_teacher(split, teacher)
        multiplications += len(table.embeddings) ** 2 * table.embeddings.shape[1]
    audited = seconds(lambda: audit.run(AuditConfig(), split=split, encoders=encoders, force=True))
    about = {"date": str(date.today()), "of": f"{split.num_images} images, {split.num_captions} captions, whole"}
    return {
        "index": {"multiplications": multiplications / spent, **about},
        "audit": {"images": split.num_images / audited, **about},
    }


def pipeline() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drawn = ScenesConfig(train=300, val=1, test=1)
        found["scenes"] = {"images": 302 / seconds(lambda: scenes.run(drawn, out=place / "scenes"), 1)}
        (place / "raw" / "train").mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 60, (480, 640, 3), np.uint8)
        for number in range(400):
            Image.fromarray(noise + np.uint8(number % 100)).save(place / "raw/train" / f"{number:04d}.jpg", quality=85)
            (place / "raw/train" / f"{number:04d}.txt").write_text("a caption\nanother\n")
        reading = readers.read("folder", place / "raw")
        config = ShardConfig(workers=1)
        found["shard"] = {"images": 400 / seconds(lambda: shard.run(config, reading=reading, out=place / "work"), 1)}
    urls = json.loads((Path(__file__).parent / "results" / "urls-2-core-x86-2026-11-30.json").read_text())["speed"]
    found["urls"] = {"images": urls["rows"] / min(run["cpu"] for run in urls["runs"]["cusa_1_process"])}
    return found


def toml(found: dict[str, object], prefix: str = "") -> list[str]:
    lines = [f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value!r}".replace("'", '"')
             for key, value in found.items() if not isinstance(value, dict)]  # fmt: skip
    for key, value in found.items():
        if isinstance(value, dict):
            inner = toml(value, f"{prefix}{key}.")
            head = [f"\n[{prefix}{key}]"] if any("=" in line and not line.startswith("[") for line in inner[:1]) else []
            lines += [*head, *inner]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("machine")
    parser.add_argument("work", type=Path)
    parser.add_argument("--image", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--only", choices=("index", "audit"), action="append")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    whole = stages(Split(asked.work, asked.split), Encoders(asked.image, asked.text))
    head = "# What one core does in a CPU second, for the estimates of `cusa plan`. Written by benchmarks/rates.py.\n"
    if asked.only:
        before = tomllib.loads(OUT.read_text())
        OUT.write_text(head + "\n".join(toml({**before, **{name: whole[name] for name in asked.only}})) + "\n")
        return
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    found: dict[str, object] = {"machine": asked.machine, "date": str(date.today()), "teachers": teachers(), **whole}
    trained = {
        "clip-vit-b-32": lambda: clip(8, patch_size=32),
        "sgr": lambda: sgraf("sgr", 32),
        "saf": lambda: sgraf("saf", 32),
        "x2vlm-base": lambda: x2vlm(2),
        "clip-vit-l-14-336": lambda: clip(1, patch_size=14, image_size=336, text=text, projection=768, **large),
    }
    rates: dict[str, object] = {}
    found["train"] = rates
    for step in (lambda: found.update(pipeline()), *trained):
        if isinstance(step, str):
            rates[step] = trained[step]()
        else:
            step()
        OUT.write_text(head + "\n".join(toml(found)) + "\n")  # as they come: the large ones take minutes
        print(OUT.read_text(), flush=True)


if __name__ == "__main__":
    main()
