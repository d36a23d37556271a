"""Encoders of texts: sentence-transformers and other text models, the text half of a CLIP, or one's own.

Legend: B texts, W width of the features, L tokens.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cusa.errors import ConfigError, DataError
from cusa.manifests.origin import teacher_name
from cusa.models.captions import choose_tokens, token_positions
from cusa.models.config import CLASS_NAME, TextTowerConfig
from cusa.models.quiet import quiet
from cusa.models.towers import hugging_face, plugged
from cusa.models.towers.base import HiddenStates, TextTower, first_line
from cusa.models.towers.place import Place, locate

_KEY = "student.towers.text.name"
_MOST_TOKENS = 1 << 20  # a tokenizer that knows no limit says 1e30
_TOKENIZING = threading.Lock()  # a fast tokenizer that two threads set up at once raises "Already borrowed"


class HuggingFaceText(TextTower):
    """What all encoders with a tokenizer of Hugging Face share.

    Args:
        model: the encoder.
        tokenizer: its own.
        card: with `name`.
        reading: see `TextTower.reading`.
        width: W.
    """

    def __init__(
        self, model: Any, tokenizer: Any, card: Mapping[str, Any], reading: Mapping[str, Any], *, width: int
    ) -> None:
        super().__init__(card, width)
        self.model = model
        self.tokenizer = tokenizer
        self.reading = dict(reading)

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        """Tokenise behind the prompt, where there is one."""
        reading = self.reading
        prompted = [f"{reading['prompt']}{text}" for text in texts]
        with _TOKENIZING:
            tokens = self.tokenizer(
                prompted,
                padding=reading["padding"],
                truncation=True,
                max_length=reading["context"],
                return_tensors="pt",
            )
            truncated = sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())
        return {name: tokens[name] for name in reading["inputs"]}, truncated


class SentenceText(HuggingFaceText):
    """A sentence-transformers model, with its own pooling and normalisation."""

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Encode tokens: (B, W)."""
        features: Tensor = self.model(dict(tokens))["sentence_embedding"]  # its modules write into what they are given
        return features[:, : self.width]

    def hidden_states(self, inputs: dict[str, Tensor]) -> HiddenStates:
        """Return what its modules give of each token."""
        out = self.model(dict(inputs))
        return HiddenStates(
            out["sentence_embedding"][:, : self.width], out["token_embeddings"], out["attention_mask"].bool()
        )

    def save(self, folder: Path) -> None:
        """Write a folder that `SentenceTransformer` reads."""
        self.model.save(str(folder), create_model_card=False)


class ClipText(HuggingFaceText):
    """The text half of a dual encoder."""

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Encode tokens: (B, W)."""
        features = hugging_face.pooled_output(self.model(**tokens), "text")
        assert features is not None
        return features

    def hidden_states(self, inputs: dict[str, Tensor]) -> HiddenStates:
        """Return the last hidden states of tokens; of SigLIP, which reads no mask, the padding is not there."""
        output = self.model(**inputs)
        pooled = hugging_face.pooled_output(output, "text")
        assert pooled is not None
        mask = inputs.get("attention_mask")
        if mask is not None:
            there = mask.bool()
        else:
            there = inputs["input_ids"] != self.tokenizer.pad_token_id
            there[:, 0] |= ~there.any(1)  # an empty text is one mark, which may be the padding's
        return HiddenStates(pooled, output.last_hidden_state, there)

    def save(self, folder: Path) -> None:
        """Write the model and its tokenizer, as transformers reads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load(config: TextTowerConfig) -> TextTower:
    """Load the encoder that a configuration names.

    Raises:
        ConfigError: if none is named, it reads images, or is asked to pool otherwise than it can.
        DataError: if it cannot be loaded.
    """
    name = config.name
    if not name:
        raise ConfigError(
            f"{_KEY} is empty: a two-tower student needs an encoder of texts. Set it to a sentence-transformers model "
            "(all-MiniLM-L6-v2), another hub name, a folder, or module:Class.",
            key=_KEY,
        )
    if CLASS_NAME.fullmatch(name):
        return plugged.make_text(name)
    short = "/" not in name and not Path(name).expanduser().exists() and not name.startswith((".", "~"))
    place = locate(f"sentence-transformers/{name}" if short else name, _KEY)
    try:
        of_sentences = place.file("modules.json") is not None
    except OSError as error:
        raise DataError(
            f"{_KEY} is {name!r}, which cannot be brought from the hub: {first_line(error)} Check the name (a short "
            "one is looked up under sentence-transformers/), or give a folder.",
            key=_KEY,
        ) from error
    card = {
        "name": teacher_name(name) if Path(place.name).is_dir() else place.name,
        "source": "sentence-transformers",
        "licence": place.licence(),
        "pooling": config.pooling,
    }
    if not of_sentences:
        settings = hugging_face.check_modality(place, "text", _KEY)
        if hugging_face.is_dual(settings) or _is_clip_half(place):
            return _load_clip(place, card, config)
    return _load_sentences(place, card, config, own_pooling=of_sentences)


def read(folder: Path, card: Mapping[str, Any], reading: Mapping[str, Any]) -> TextTower:
    """Read an encoder that `Tower.save` wrote.

    Args:
        folder: of the encoder.
        card: what its `card` was.
        reading: what its `reading` was.
    """
    if "class" in card:
        return plugged.read_text(folder, str(card["class"]))
    place = Place(str(folder), "")
    if card["source"] == "transformers":
        model, tokenizer = _clip(place)
        return ClipText(model, tokenizer, card, reading, width=_clip_width(model))
    sentences = _sentences(place)
    sentences.max_seq_length = reading["context"]
    return SentenceText(
        sentences, sentences.tokenizer, card, reading, width=int(sentences.get_embedding_dimension() or 0)
    )


def _load_sentences(place: Place, card: dict[str, Any], config: TextTowerConfig, *, own_pooling: bool) -> SentenceText:
    """Load a sentence-transformers model, or another text model with a pooling of its tokens."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    model = _sentences(place)
    if not isinstance(model[0], Transformer):
        raise DataError(
            f"{_KEY} is {config.name!r}, whose first module is a {type(model[0]).__name__}; a tower needs a "
            "transformer. Give another model, or extract it as a teacher and train heads on its table.",
            key=_KEY,
        )
    poolings = [module for module in model if isinstance(module, Pooling)]
    if config.pooling != "own":
        if own_pooling or not poolings:
            raise ConfigError(
                f"student.towers.text.pooling is {config.pooling!r}, but {config.name!r} is a sentence-transformers "
                "model with a pooling that it was trained with. Set own.",
                key="student.towers.text.pooling",
            )
        poolings[0].pooling_mode = config.pooling
    prompt = (model.prompts or {}).get(model.default_prompt_name or "") or ""
    if prompt and any(not module.include_prompt for module in poolings):
        raise DataError(
            f"{_KEY} is {config.name!r}, which leaves its prompt out of the pooling; that is not read here. Give "
            "another model.",
            key=_KEY,
        )
    settings = model[0].model.config
    positions = token_positions(settings)
    tokenizer: Any = model.tokenizer
    limits = (model.max_seq_length, tokenizer.model_max_length, positions)
    context = _context(config, *limits, marks=_marks(tokenizer))
    model.max_seq_length = context
    inputs = list(model.preprocess(["a dog on grass"]).keys() & {*tokenizer.model_input_names})
    reading = {
        "repair": False,
        "prompt": prompt,
        "context": context,
        "padding": "longest",
        "inputs": [name for name in tokenizer.model_input_names if name in inputs],
    }
    return SentenceText(model, tokenizer, card, reading, width=int(model.get_embedding_dimension() or 0))


def _sentences(place: Place) -> Any:
    """Load a model as sentence-transformers does, with none but its own modules, in float32."""
    from sentence_transformers import SentenceTransformer

    modules: Any = place.json("modules.json")
    for module in modules or ():
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise DataError(
                f"{_KEY} is {place.name!r}, whose modules.json names code of another package ({module.get('type')!r}), "
                "which is not run. Give a model of sentence-transformers' own modules, or a module:Class of yours.",
                key=_KEY,
            )
    try:
        with quiet(reports=False):
            model = SentenceTransformer(
                place.name, device="cpu", trust_remote_code=False, revision=place.revision or None
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError... for a bad model
        raise DataError(
            f"{_KEY} is {place.name!r}, which cannot be loaded as a text model: {first_line(error)} Check the name, "
            "the network, or give a folder with config.json, weights and tokenizer.",
            key=_KEY,
            name=place.name,
        ) from error
    return model.float().eval()


def _load_clip(place: Place, card: dict[str, Any], config: TextTowerConfig) -> ClipText:
    """Load the text half of a dual encoder."""
    from transformers import CLIPTokenizer

    if config.pooling != "own":
        raise ConfigError(
            f"student.towers.text.pooling is {config.pooling!r}, but {config.name!r} is a dual encoder, whose text "
            "half pools its own way. Set own.",
            key="student.towers.text.pooling",
        )
    model, tokenizer = _clip(place)
    siglip = str(model.config.model_type).startswith("siglip")
    positions = token_positions(model.config)
    reading = {
        "repair": isinstance(tokenizer, CLIPTokenizer),
        "prompt": "",
        "context": _context(config, positions, None, positions, marks=_marks(tokenizer)),
        # SigLIP learned with captions padded to the full length and reads no mask.
        "padding": "max_length" if siglip else "longest",
        "inputs": ["input_ids"] if siglip else ["input_ids", "attention_mask"],
    }
    card = {**card, "source": "transformers", "architecture": type(model).__name__}
    return ClipText(model, tokenizer, card, reading, width=_clip_width(model))


def _is_clip_half(place: Place) -> bool:
    """Return whether a folder holds what `ClipText.save` wrote."""
    fields = place.json("config.json")
    architecture = str((fields.get("architectures") or [""])[0])
    return architecture.endswith("TextModelWithProjection") or fields.get("model_type") in (
        "siglip_text_model",
        "siglip2_text_model",
    )


def _clip(place: Place) -> tuple[Any, Any]:
    """Return the text half of a dual encoder, and its tokenizer."""
    from transformers import AutoTokenizer

    model = hugging_face.load(place, "text", _KEY)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place.name, trust_remote_code=False, **place.where)
        return model, tokenizer
    except Exception as error:  # transformers raises almost anything
        raise DataError(
            f"{_KEY} is {place.name!r}, whose tokenizer cannot be loaded: {first_line(error)} Give the folder with its "
            "tokenizer's files.",
            key=_KEY,
        ) from error


def _clip_width(model: Any) -> int:
    projected = hasattr(model, "text_projection")
    return int(model.config.projection_dim if projected else getattr(model.config, "projection_size", 0))


def _marks(tokenizer: Any) -> int:
    """Return how many tokens a tokenizer puts around a text's own."""
    return int(tokenizer.num_special_tokens_to_add())


def _context(
    config: TextTowerConfig, own: int | None, tokenizers: int | None, positions: int | None, *, marks: int = 2
) -> int:
    """Return how many tokens a caption may have.

    Raises:
        ConfigError: if more are asked for than the model has positions for.
    """
    limits = [limit for limit in (own, tokenizers, positions) if limit and limit < _MOST_TOKENS]
    most = min((limit for limit in (tokenizers, positions) if limit and limit < _MOST_TOKENS), default=None)
    usual = own if own in limits and own is not None else min(limits, default=512)
    return choose_tokens(
        config.max_tokens, usual, most, key="student.towers.text.max_tokens", name=config.name, marks=marks
    )
