"""Tiny encoders with random weights, in the folders that their own libraries write, for tests of two towers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.manifests.storage import store
from cusa.models.preprocess import Preprocess
from cusa.models.quiet import quiet
from cusa.models.students import vocabulary

CAPTIONS = ["A red square.", "a blue circle, left of a red square", "Two green triangles!", "a yellow star on grass"]
_TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE_FOLDERS = ("vit", "dinov2", "convnext", "resnet", "clip", "siglip", "siglip2")


def image_model(kind: str) -> Any:
    """Return a vision model, or a dual encoder, with random weights."""
    import transformers as hf

    torch.manual_seed(1)
    if kind == "vit":
        return hf.ViTModel(hf.ViTConfig(**_TRANSFORMER, image_size=32, patch_size=8))
    if kind == "dinov2":
        return hf.Dinov2Model(hf.Dinov2Config(**_TRANSFORMER, image_size=28, patch_size=14))
    if kind == "convnext":
        return hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, image_size=32))
    if kind == "resnet":
        return hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
        )
    text = {**_TRANSFORMER, "vocab_size": 60, "max_position_embeddings": 12}
    vision = {**_TRANSFORMER, "image_size": 32, "patch_size": 8}
    if kind == "siglip":
        return hf.SiglipModel(hf.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision))
    if kind == "siglip2":
        return naflex_model(**_TRANSFORMER)
    marks = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return hf.CLIPModel(hf.CLIPConfig(projection_dim=12, text_config={**text, **marks}, vision_config=vision))


def naflex_model(*, positions: int = 16, tokens: int = 12, words: int = 60, **sizes: int) -> Any:
    """Return a SigLIP 2 that reads any number of patches, with random weights under which no two inputs are alike."""
    import transformers as hf

    marks = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**sizes, "vocab_size": words, "max_position_embeddings": tokens, **marks}
    vision = {**sizes, "patch_size": 8, "num_patches": positions}
    model = hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return model


def naflex_processor(most: int = 16, patch: int = 8) -> Any:
    """Return SigLIP 2's own image processor, with Pillow."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    return Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=most)


def write_image(kind: str, folder: Path) -> Path:
    """Write a vision model or a dual encoder as transformers does, with its preprocessing."""
    with quiet():
        image_model(kind).save_pretrained(folder)
        vocabulary.build([caption.lower() for caption in CAPTIONS], size=60, context=12).save_pretrained(folder)
    if kind == "siglip2":
        naflex_processor().save_pretrained(folder)
        return folder
    side = 28 if kind == "dinov2" else 32
    fields: dict[str, Any] = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    if kind in ("convnext", "resnet"):
        fields |= {"size": {"shortest_edge": side}, "crop_pct": 0.875}
    store.write_json(folder / "preprocessor_config.json", fields)
    return folder


def write_bert(folder: Path) -> Path:
    """Write a text model as transformers does."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(2)
    with quiet():
        BertModel(BertConfig(**_TRANSFORMER, vocab_size=60, max_position_embeddings=12)).save_pretrained(folder)
        vocabulary.build([caption.lower() for caption in CAPTIONS], size=60, context=12).save_pretrained(folder)
    return folder


def write_sentences(folder: Path, *, pooling: str = "mean") -> Path:
    """Write a sentence-transformers folder whose rows have unit length, of 10 tokens at most, with a licence."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with quiet(reports=False):
        transformer = Transformer(str(write_bert(folder / "bert")), max_seq_length=10)
        modules = [transformer, Pooling(16, pooling), Normalize()]  # type: ignore[arg-type]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    store.write_text(folder / "model" / "README.md", "---\nlanguage: en\nlicense: cc-by-4.0\n---\n# Words\n")
    return folder / "model"


def write_multimodal(layout: str, folder: Path) -> Path:
    """Write a sentence-transformers folder that reads images, with random weights.

    Args:
        layout: `clip` (one module in the folder itself), `legacy` (in `0_CLIPModel`, as older versions wrote it),
            `dense` (with a Dense of 5 behind it), `router` (a CLIP for images, a text model for texts), or `images`
            (a vision model: it reads no texts).
        folder: where to; its parent takes what it is made of.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    source = write_image("vit" if layout == "images" else "clip", folder.parent / f"{folder.name}-source")
    _write_processor(source, tokenizer=layout != "images")
    with quiet(reports=False):
        first = Transformer(str(source))
        modules: list[Any] = [first]
        if layout == "images":
            modules.append(Pooling(16, "mean"))
        if layout == "dense":
            torch.manual_seed(5)
            modules.append(Dense(12, 5))
        if layout == "router":
            torch.manual_seed(6)
            words = Transformer(str(write_bert(folder.parent / f"{folder.name}-bert")), max_seq_length=10)
            routes: Any = {"text": [words, Pooling(16, "mean"), Dense(16, 12)], "image": [first]}
            modules = [Router(routes)]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    if layout == "legacy":
        own = {"modules.json", "config_sentence_transformers.json"}
        (folder / "0_CLIPModel").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file() and path.name not in own]:
            path.rename(folder / "0_CLIPModel" / path.name)
        (folder / "0_CLIPModel" / "sentence_bert_config.json").unlink()
        kind = "sentence_transformers.models.CLIPModel"
        store.write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}])
    return folder


def _write_processor(folder: Path, *, tokenizer: bool) -> None:
    """Write what prepares images, and texts where there is a tokenizer, as transformers' own processors do."""
    from transformers import AutoTokenizer, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sides = {"height": 32, "width": 32}
    make: Any = CLIPImageProcessorPil
    images = make(size={"shortest_edge": 32}, crop_size=sides)
    if tokenizer:
        CLIPProcessor(image_processor=images, tokenizer=AutoTokenizer.from_pretrained(folder)).save_pretrained(folder)
        return
    images.save_pretrained(folder)
    for path in folder.glob("*token*"):
        path.unlink()


class Colours(nn.Module):
    """Someone's encoder of images: the colours of four quarters."""

    width = 6
    licence = "mit"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.preprocess = Preprocess(8, fit="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.linear = nn.Linear(12, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        """Average quarters, and mix them."""
        mixed: Tensor = self.linear(F.adaptive_avg_pool2d(pixels, 2).flatten(1))
        return mixed


class Letters(nn.Module):
    """Someone's encoder of texts: the mean of its letters' vectors."""

    width = 5
    context = 20

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.table = nn.Embedding(128, 5, padding_idx=0)

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        """Return the codes of letters."""
        rows = [[min(ord(letter), 127) for letter in text[: self.context]] for text in texts]
        longest = max(map(len, rows))
        return {"codes": torch.tensor([row + [0] * (longest - len(row)) for row in rows])}

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Average."""
        codes = tokens["codes"]
        total: Tensor = self.table(codes).sum(1)
        return total / (codes > 0).sum(1, keepdim=True)


class Grid(Colours):
    """An encoder that forgets to pool."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return a feature map."""
        return pixels.repeat(1, 2, 1, 1)


class Patchwork(Colours):
    """The same, which also gives its four quarters apart."""

    def hidden_states(self, pixels: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the mixture, and the colour of each quarter."""
        return self(pixels), F.adaptive_avg_pool2d(pixels, 2).flatten(2).mT, None


class Spelling(Letters):
    """The same, which also gives its letters apart."""

    def hidden_states(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean, the letters, and where there are any."""
        return self(tokens), self.table(tokens["codes"]), tokens["codes"] > 0


class Untidy(Colours):
    """An encoder whose hidden states have no width."""

    def hidden_states(self, pixels: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return a number a quarter."""
        return self(pixels), F.adaptive_avg_pool2d(pixels, 2).mean(1).flatten(1), None
