"""A tiny work folder with teacher rows, and a tiny CLIP of random weights that sentence-transformers loads offline."""

from pathlib import Path

import torch

from cusa.manifests.samples import Split
from cusa.models.quiet import quiet
from cusa.models.students import vocabulary
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from tests.worlds import Colours, Words, make_work


def write_clip(folder: Path) -> Path:
    """Write a CLIP model with its processor, as transformers does."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    marks = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**sizes, **marks, "vocab_size": 60, "max_position_embeddings": 16}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    captions = [f"a {colour} wall, seen 1 times from side 2." for colour in ("red", "green", "blue", "yellow")]
    with quiet():
        hf.CLIPModel(hf.CLIPConfig(projection_dim=12, text_config=text, vision_config=vision)).save_pretrained(folder)
        tokenizer = vocabulary.build(captions, size=60, context=16)
        pixels = hf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        hf.CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def make_taught(folder: Path, *, images: int = 12, captions: int = 3) -> Path:
    """Draw a world, shard it, and embed its train split with two teachers that know the colours."""
    work = make_work(folder, images=images, splits=("train",), captions=captions)
    for name, teacher in (("colours", Colours()), ("words", Words())):
        extract.run(
            ExtractConfig(),
            split=Split(work, "train"),
            teacher=name,
            modality=teacher.modality,
            load=lambda *_, one=teacher: one,  # type: ignore[misc]
        )
    return work
