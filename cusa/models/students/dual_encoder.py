"""Students of two towers: any Hugging Face model with `get_image_features` and `get_text_features`.

Legend: B pairs or items, D width of the embedding, L tokens, C H W channels and pixels of an input.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models import checkpoint_file, naflex, source
from cusa.models.captions import clean_caption, prepare, token_positions
from cusa.models.config import StudentConfig
from cusa.models.pixels import Patches, model_inputs, normalise, of_vision_model
from cusa.models.preprocess import Preprocess
from cusa.models.quiet import quiet
from cusa.models.students import architecture, lora, openai_clip, vocabulary
from cusa.models.students import folder as folders
from cusa.models.students.base import CARD, Space, Student
from cusa.models.students.heads import Head
from cusa.models.teachers import hub

_HEADS = "heads.safetensors"
_FORMAT = 1
_READ_TO_THEIR_END = ("clip",)
"""Models whose text tower is causal and pooled at a caption's end: it never sees what is padded behind."""
_TOKENIZING = threading.Lock()  # a fast tokenizer that two threads set up at once raises "Already borrowed"


class DualEncoder(Student):
    """A Hugging Face dual encoder with the heads of CUSA.

    Args:
        backbone: a model whose `get_image_features(pixel_values)` and `get_text_features(input_ids...)` give features
            of the same width.
        tokenizer: its Hugging Face tokenizer.
        card: what `student.json` holds: name, width, preprocess, text, heads.
        head_std: deviation of new heads' weights.

    Source: Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789; the heads as in their release.
    """

    embeds_parts = True

    def __init__(self, backbone: nn.Module, tokenizer: Any, card: Mapping[str, Any], *, head_std: float = 0.02) -> None:
        super().__init__()
        self.card = dict(card)
        self.name = str(card["name"])
        self.width = int(card["width"])
        self.has_uni = "uni" in card["heads"]
        self.backbone = backbone
        self.heads = nn.ModuleDict(
            {
                space: nn.ModuleDict({modality: Head(self.width, std=head_std) for modality in ("image", "text")})
                for space in card["heads"]
            }
        )
        self.preprocess = naflex.from_json(card["preprocess"])
        self.tokenizer = tokenizer
        for name, parameter in self.backbone.named_parameters():
            # CLIP's own temperature and SigLIP's bias: the losses have temperatures of their own.
            if name in ("logit_scale", "logit_bias"):
                parameter.requires_grad_(False)

    @staticmethod
    def create(config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> "DualEncoder":
        """Make a student for training; see `cusa.models.student.create`."""
        spaces = [*(["cross"] if config.cross_head else []), *(["uni"] if uni else [])]
        text = {"transform": config.captions, "max_words": config.max_words}
        # The caller's random numbers stay as they are; towers and heads draw from seeds of their own.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads: dict[str, Tensor] = {}
            notes: tuple[str, ...] = ()
            if config.name == "scratch":
                backbone, tokenizer, card = _from_scratch(config, captions)
            elif (file := source.checkpoint_file(config.name)) is not None:
                backbone, tokenizer, card, heads, notes = _from_checkpoint(file)
            elif (folder := folders.find(config.name, "dual-encoder")) is not None:
                there = DualEncoder.load(folder)
                backbone, tokenizer, heads = there.backbone, there.tokenizer, there.heads.state_dict()
                card = {**there.card, "name": config.name}
            else:
                backbone, tokenizer, card = _from_hugging_face(config.name, revision=config.revision)
            torch.manual_seed(seed + 1)
            # Heads that a checkpoint or a run brings go on learning; others are new.
            known = {name: value for name, value in heads.items() if name.partition(".")[0] in spaces}
            card = {**folders.as_wished(card, config, backbone.config), "heads": spaces}
            card["text"] = {**card["text"], **text}
            student = DualEncoder(backbone, tokenizer, card, head_std=config.head_std).train()
            student.notes = notes
            student.heads.load_state_dict(known, strict=False)
            return student

    @staticmethod
    def from_hugging_face(name: str) -> "DualEncoder":
        """Take a Hugging Face model as it is, without heads; see `cusa.models.student.load`."""
        return DualEncoder(*_from_hugging_face(name))

    @staticmethod
    def from_checkpoint(file: source.CheckpointFile | Path, *, tokenizer: Any = None) -> "DualEncoder":
        """Read a CLIP of OpenAI or open_clip, or the authors' CUSA checkpoint with its heads.

        Args:
            file: what `cusa.models.checkpoint_file.read` reads, with its architecture where the file does not say it.
            tokenizer: for a vocabulary that is not OpenAI's.

        Raises:
            ConfigError: if there is no such architecture.
            DataError: if the file is of another kind, may be of several architectures, or its vocabulary is unknown and
                no tokenizer is given.
        """
        if isinstance(file, Path):
            file = source.checkpoint_file(file) or source.CheckpointFile(file, "", None)
        backbone, tokenizer, card, heads, notes = _from_checkpoint(file, tokenizer=tokenizer)
        student = DualEncoder(backbone, tokenizer, card)
        student.heads.load_state_dict(heads)
        student.notes = notes
        return student

    @staticmethod
    def load(folder: Path) -> "DualEncoder":
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing or broken, or the heads are not those the card names.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        card = store.read_json(folder / CARD)
        if card.get("format") != _FORMAT:
            raise DataError(
                f"{folder / CARD} has format {card.get('format')!r}; this version reads {_FORMAT}. "
                "Use the version that wrote it.",
                path=folder,
            )
        backbone, tokenizer = _load_backbone(str(folder), "")
        student = DualEncoder(backbone, tokenizer, card)
        try:
            student.heads.load_state_dict(load_file(folder / _HEADS) if card["heads"] else {})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(
                f"{folder / _HEADS} does not hold the heads that {CARD} names ({', '.join(card['heads'])}): "
                f"{str(error).splitlines()[0]} Restore it, or train again.",
                path=folder,
            ) from error
        return student

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads and whose towers `transformers` reads: whole or not at all.

        Adapters are merged into the towers there, and lie beside them for peft.
        """
        from safetensors.torch import save_file

        adapted = lora.has_adapters(self.backbone)
        merged = {"state_dict": lora.merged_state(self.backbone)} if adapted else {}
        with store.whole_folder(folder) as place, folders.system_errors():
            with quiet():
                self.backbone.save_pretrained(place, **merged)  # type: ignore[operator]
                self.tokenizer.save_pretrained(place)
            if len(self.heads):
                heads = {name: value.detach().contiguous().cpu() for name, value in self.heads.state_dict().items()}
                save_file(heads, place / _HEADS)
            if adapted:
                lora.write_adapters(self.backbone, place / lora.FOLDER)
            store.write_json(place / CARD, self.card)

    def image_array(self, image: Image.Image) -> np.ndarray:
        """Scale and cut an RGB image: (3, S, S) uint8, or patches as `NaFlex.array` gives them."""
        return self.preprocess.array(image)

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the names of a tower and its projection, as Hugging Face gives them."""
        starts = ("vision", "visual") if modality == "image" else ("text",)
        return tuple(f"backbone.{name}" for name, _ in self.backbone.named_children() if name.startswith(starts))

    def patches(self) -> Patches | None:
        """Return those of the image tower, where it is one that takes any number of them."""
        model = getattr(self.backbone, "vision_model", None)
        if model is None or not isinstance(self.preprocess, Preprocess):
            return None
        return of_vision_model(model, size=self.preprocess.size)

    def pixels(self, arrays: Tensor) -> Tensor:
        """Normalise a batch of arrays to float32; see `cusa.models.pixels.normalise`."""
        return normalise(arrays, self.preprocess)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions: `input_ids` (B, L), and `attention_mask` where the towers read one.

        Raises:
            DataError: if nothing is left of a caption once cleaned.
        """
        text = self.card["text"]
        cleaned, shortened = prepare(texts, text)
        with _TOKENIZING:
            tokens = self.tokenizer(
                cleaned, padding=text["padding"], truncation=True, max_length=text["context"], return_tensors="pt"
            )
            truncated = sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())
        self.count_captions(len(texts), truncated=truncated, shortened=shortened)
        return {name: tokens[name] for name in text["inputs"]}

    def cleaned(self, texts: Sequence[str]) -> list[str]:
        """Return captions as the tokenizer gets them."""
        return prepare(texts, self.card["text"])[0]

    def read_patches(self, most: int, *, key: str) -> None:
        """Read pictures as so many patches at most; see `Student.read_patches`."""
        config: Any = self.backbone.config
        self.preprocess = naflex.choose_patches(self.preprocess, most, config.vision_config, key=key, name=self.name)
        self.card["preprocess"] = self.preprocess.to_json()

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `pooled` (B, W): what the image tower gives."""
        inputs = model_inputs(pixels, self.preprocess)
        return {"pooled": _pooled(self.backbone.get_image_features(**inputs))}  # type: ignore[operator]

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `pooled` (B, W): what the text tower gives."""
        if self.training and getattr(getattr(self.backbone, "config", None), "model_type", "") in _READ_TO_THEIR_END:
            # With a mask, transformers asks the device in every step whether anything is padded.
            tokens = {name: values for name, values in tokens.items() if name != "attention_mask"}
        return {"pooled": _pooled(self.backbone.get_text_features(**tokens))}  # type: ignore[operator]

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Project what a tower gave: (B, D) float32 unit rows; without uni-modal heads both spaces are one."""
        features_BD = parts["pooled"]
        if space not in self.heads:
            space = "cross"
        if space in self.heads:
            features_BD = self.heads[space][modality](features_BD)  # type: ignore[index]
        # Under autocast the features are bf16; cosines of bf16 rows would be off by a percent.
        return F.normalize(features_BD.float(), dim=-1)

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed pairs for the loss; see `Student.forward`."""
        images, texts = self.image_parts(pixels_BCHW), self.text_parts(tokens)
        out = {"image": self.embed(images, "cross", "image"), "text": self.embed(texts, "cross", "text")}
        if self.has_uni:
            out |= {"image_uni": self.embed(images, "uni", "image"), "text_uni": self.embed(texts, "uni", "text")}
        return out


def _pooled(features: Any) -> Tensor:
    # transformers 5 returns an output object here, earlier versions the tensor itself.
    return features if isinstance(features, Tensor) else features.pooler_output


def _from_scratch(config: StudentConfig, captions: Sequence[str]) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Build a small CLIP with random weights and a vocabulary of the captions' words."""
    from transformers import CLIPConfig, CLIPModel

    if config.captions == "clean":
        captions = [clean_caption(caption, config.max_words) for caption in captions]
    tokenizer = vocabulary.build(captions, size=config.vocabulary, context=config.context)
    backbone = CLIPModel(
        CLIPConfig(
            projection_dim=config.width,
            vision_config={
                "image_size": config.image_size,
                "patch_size": config.patch_size,
                **config.tower("image"),
                "projection_dim": config.width,
                "hidden_act": "gelu",
            },
            text_config={
                "vocab_size": len(tokenizer),
                "max_position_embeddings": config.context,
                **config.tower("text"),
                "projection_dim": config.width,
                "hidden_act": "gelu",
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
            },
        )
    )
    return backbone, tokenizer, _card("scratch", backbone, Preprocess(config.image_size), config.context, tokenizer)


def _from_hugging_face(name: str, *, revision: str = "") -> tuple[nn.Module, Any, dict[str, Any]]:
    backbone, tokenizer = _load_backbone(name, revision)
    config: Any = backbone.config
    fields = hub.image_processor(name, _where(name, revision))
    preprocess = naflex.from_hugging_face(fields, config.vision_config, name=name)
    context = token_positions(config.text_config) or tokenizer.model_max_length
    return backbone, tokenizer, _card(name, backbone, preprocess, context, tokenizer)


class _Checkpoint(NamedTuple):
    """A checkpoint file as the parts of a student."""

    backbone: nn.Module
    tokenizer: Any
    card: dict[str, Any]
    heads: dict[str, Tensor]
    notes: tuple[str, ...]


def _from_checkpoint(file: source.CheckpointFile, *, tokenizer: Any = None) -> _Checkpoint:
    state, notes = checkpoint_file.read(file.path)
    parts = openai_clip.split(state)
    clip = openai_clip.plain(parts.clip, file.path)
    chosen = architecture.choose(
        clip, path=file.path, named=file.architecture, config=file.config, openai=parts.of_authors
    )
    backbone = openai_clip.to_hugging_face(clip, chosen)
    if tokenizer is None:
        if chosen.vocabulary != openai_clip.VOCABULARY:
            raise DataError(
                f"{file.path} has a vocabulary of {chosen.vocabulary:,} ids; only OpenAI's of "
                f"{openai_clip.VOCABULARY:,} is known here. Pass its tokenizer: "
                "DualEncoder.from_checkpoint(path, tokenizer=...).",
                path=file.path,
            )
        tokenizer = openai_clip.tokenizer(chosen.context)
    card = _card(file.path.stem, backbone, chosen.preprocess, chosen.context, tokenizer)
    card["heads"] = [space for space in ("cross", "uni") if any(name.startswith(f"{space}.") for name in parts.heads)]
    if parts.temperatures:
        card["temperatures"] = parts.temperatures
    return _Checkpoint(backbone, tokenizer, card, parts.heads, (*notes, *chosen.remarks))


def _where(name: str, revision: str) -> dict[str, Any]:
    return hub.where(f"{name}@{revision}" if revision else name)


def _load_backbone(name: str, revision: str) -> tuple[nn.Module, Any]:
    """Load towers and tokenizer from a folder or the hub; safetensors, never code from there."""
    from transformers import AutoModel, AutoTokenizer

    where = _where(name, revision)
    checkpoint_file.refuse_placeholders(Path(name))
    try:
        with quiet():
            backbone = AutoModel.from_pretrained(name, trust_remote_code=False, **where)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError... for a bad model
        raise DataError(
            f"{name!r} cannot be loaded as a Hugging Face model: {str(error).strip().splitlines()[0]} "
            "Check the name, the network, or give a local folder with config.json, weights and tokenizer.",
            name=name,
        ) from error
    if not (hasattr(backbone, "get_image_features") and hasattr(backbone, "get_text_features")):
        raise DataError(
            f"{name!r} is a {type(backbone).__name__}, which embeds no pairs of images and texts. Give a dual encoder "
            "such as openai/clip-vit-base-patch32.",
            name=name,
        )
    vision = backbone.config.vision_config
    if not naflex.is_variable(vision) and not isinstance(getattr(vision, "image_size", None), int):
        raise DataError(
            f"{name!r} is a {type(backbone).__name__} whose pictures have no fixed size, which is read of SigLIP 2's "
            "NaFlex models alone. Give one of them, or a model of a fixed size such as "
            "google/siglip2-base-patch16-224.",
            name=name,
        )
    return backbone, tokenizer


def _card(
    name: str, backbone: nn.Module, preprocess: naflex.AnyPreprocess, context: int, tokenizer: Any
) -> dict[str, Any]:
    """Return what a folder needs to be read again, heads apart."""
    from transformers import CLIPTokenizer

    config: Any = backbone.config
    siglip = str(config.model_type).startswith("siglip")
    width = getattr(config, "projection_dim", None) or config.text_config.projection_size
    return {
        "kind": "dual-encoder",
        "format": _FORMAT,
        "name": name,
        "width": int(width),
        "preprocess": preprocess.to_json(),
        # SigLIP learned with captions padded to the full length and reads no mask.
        "text": {
            "transform": "clean",
            "max_words": 64,
            "repair": isinstance(tokenizer, CLIPTokenizer),
            "context": int(context),
            "padding": "max_length" if siglip else "longest",
            "inputs": ["input_ids"] if siglip else ["input_ids", "attention_mask"],
        },
        "heads": [],
        "tasks": {"cross-modal": "cross", "image-image": "uni", "text-text": "uni"},
    }
