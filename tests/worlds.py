"""Small worlds for tests: a few drawn pictures with captions, in Karpathy's layout, sharded by the real code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "yellow": (220, 200, 50)}


def write_karpathy(
    folder: Path,
    *,
    images: int = 12,
    splits: Sequence[str] = ("train", "val", "test"),
    captions: int = 5,
    seed: int = 0,
) -> Path:
    """Draw `images` pictures a split (one colour each, with noise) and write `dataset_mini.json`; return its path."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    number = 0
    for split in splits:
        for _ in range(images):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = np.clip(rng.normal(COLOURS[colour], 12, (40, 48, 3)), 0, 255).astype(np.uint8)
            file = folder / split / f"picture_{number:04d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, quality=90)
            texts = [f"A {colour} wall, seen {number} times from side {position}." for position in range(captions)]
            rows.append(
                {
                    "filepath": split,
                    "filename": file.name,
                    "imgid": number,
                    "split": split,
                    "sentids": [number * captions + position for position in range(captions)],
                    "sentences": [
                        {"raw": text, "tokens": text.lower().split(), "imgid": number, "sentid": number * captions + i}
                        for i, text in enumerate(texts)
                    ],
                }
            )
            number += 1
    path = folder / "dataset_mini.json"
    path.write_text(json.dumps({"images": rows, "dataset": "mini"}))
    return path


def make_work(folder: Path, *, config: ShardConfig | None = None, **world: Any) -> Path:
    """Draw a world and shard it; return the work folder."""
    source = write_karpathy(folder / "raw", **world)
    reading = readers.read("karpathy", source, source.parent)
    shard.run(config or ShardConfig(workers=1), reading=reading, out=folder / "work")
    return folder / "work"


class Colours:
    """An image teacher for tests: the mean colour, centred, as a unit vector."""

    name = "colours"
    modality = "image"
    width = 3

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        self.calls += 1
        rows = np.array([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in items]) - 100
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def provenance(self) -> dict[str, str]:
        return {"teacher": self.name, "revision": "1", "weights_sha256": "none", "preprocessing": "mean colour"}


class Words:
    """A text teacher for tests: which colour a caption names, as a unit vector."""

    name = "words"
    modality = "text"
    width = 5

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        rows = np.array([[*(float(colour in text) for colour in COLOURS), 0.3] for text in items], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def provenance(self) -> dict[str, str]:
        return {"teacher": self.name, "revision": "1", "weights_sha256": "none", "preprocessing": "colour words"}


def open_split(work: Path, name: str = "train") -> Split:
    """Open a split of a world."""
    return Split(work, name)


def write_sentence_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny sentence-transformers model of random weights that knows the words of the drawn captions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder.with_name(f"{folder.name}-bert")
    source.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *["a", "wall", "seen", "times", "from", "side"]]
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(source)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(source)
    transformer = Transformer(str(source))
    pooling = Pooling(sizes["hidden_size"])
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


def write_flickr8k(folder: Path, *, images: int = 6, seed: int = 0) -> Path:
    """Draw a data set in Flickr8k's official layout, with human judgements of test pairs; return its folder."""
    source = write_karpathy(folder / "drawn", images=images, seed=seed)
    rows = json.loads(source.read_text())["images"]
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    for row in rows:
        (source.parent / row["filepath"] / row["filename"]).rename(folder / "Flicker8k_Dataset" / row["filename"])
    tokens = [f"{row['filename']}#{k}\t{one['raw']}" for row in rows for k, one in enumerate(row["sentences"])]
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens))
    for split, part in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [row["filename"] for row in rows if row["split"] == split]
        (folder / f"Flickr_8k.{part}Images.txt").write_text("\n".join(names))
    test = [row["filename"] for row in rows if row["split"] == "test"]
    rng = np.random.default_rng(seed)
    experts, crowd = [], []
    for image, owner in ((image, owner) for image in range(images) for owner in range(images)):
        like = 3 if image == owner else 2 if (image - owner) % len(COLOURS) == 0 else 0
        scores = [str(int(np.clip(1 + like + rng.integers(-1, 2), 1, 4))) for _ in range(3)]
        yes = int(rng.binomial(3, 0.1 + 0.28 * like))
        pair = f"{test[image]}\t{test[owner]}#{int(rng.integers(5))}"
        experts.append("\t".join([pair, *scores]))
        if owner % 3:
            crowd.append(f"{pair}\t{yes / 3:.15g}\t{yes}\t{3 - yes}")
    (folder / "ExpertAnnotations.txt").write_text("\n".join(experts))
    (folder / "CrowdFlowerAnnotations.txt").write_text("\n".join(crowd))
    return folder
