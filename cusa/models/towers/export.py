"""A two-tower student for the users of transformers and sentence-transformers, and what a model card says of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests.storage.paths import without_folders
from cusa.models.features import FEATURES
from cusa.models.quiet import quiet
from cusa.models.towers import hugging_face
from cusa.models.towers.image import HuggingFaceImage
from cusa.models.towers.two_tower import TwoTower

_SENTENCES = "sentence-transformers"


def refuse_own_code(student: TwoTower) -> None:
    """Refuse an export to transformers of an encoder that transformers does not know.

    Raises:
        ConfigError: naming the class.
    """
    for modality, card in student.card["towers"].items():
        if "class" in card:
            raise ConfigError(
                f"--to hf takes encoders of transformers or sentence-transformers, and the {modality} tower is of the "
                f"class {card['class']!r}. Use --to folder, sentence-transformers or onnx.",
                to="hf",
            )


@torch.no_grad()
def largest_difference(
    student: TwoTower, folder: Path, *, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> float:
    """Load both towers with their own libraries, put projections and heads on, and compare with the student.

    Returns:
        The largest difference of a unit row's number, over both modalities and all spaces.
    """
    pixels = torch.stack([student.image_transform(picture) for picture in pictures])
    features = {
        "image": _image_features(student, folder / "image", pixels),
        "text": _text_features(student, folder / "text", texts),
    }
    ours = {"image": student.image_parts(pixels), "text": student.text_parts(student.tokenize(texts))}
    theirs = {"image": student.image_parts(features["image"]), "text": student.text_parts({FEATURES: features["text"]})}
    return max(
        float((student.embed(ours[one], space, one) - student.embed(theirs[one], space, one)).abs().max())  # type: ignore[arg-type]
        for one in ours
        for space in student.spaces
    )


def use(student: TwoTower) -> list[str]:
    """Return the model card's lines on how to load the towers."""
    cards = student.card["towers"]
    image_class = hugging_face.loading_class(cards["image"]["architecture"])
    lines = [f"from transformers import AutoImageProcessor, {image_class}"]
    if cards["text"]["source"] == _SENTENCES:
        lines += ["from sentence_transformers import SentenceTransformer", ""]
        text = ["text = SentenceTransformer(FOLDER + '/text')"]
    else:
        text_class = hugging_face.loading_class(cards["text"]["architecture"])
        lines += [f"from transformers import AutoTokenizer, {text_class}", ""]
        text = [
            f"text = {text_class}.from_pretrained(FOLDER + '/text')",
            "tokenizer = AutoTokenizer.from_pretrained(FOLDER + '/text')",
        ]
    return [
        *lines,
        f"image = {image_class}.from_pretrained(FOLDER + '/image')",
        "processor = AutoImageProcessor.from_pretrained(FOLDER + '/image')",
        *text,
        "# Projections and heads lie in heads.safetensors; cusa.models.student.load(FOLDER) applies them.",
    ]


def towers_table(student: TwoTower) -> list[str]:
    """Return a table of the towers and their licences, in Markdown."""
    card = student.card
    how = {"frozen": "frozen", "lora": "low-rank adapters, merged", "learn": "trained as a whole"}
    lines = ["## Towers", "", "| tower | encoder | licence | width | parameters | in training |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for modality, tower in card["towers"].items():
        licence = tower["licence"] or "not stated"
        mode = how.get(card["modes"].get(modality, ""), "not recorded")
        name = without_folders(tower["name"])
        lines.append(f"| {modality} | `{name}` | {licence} | {tower['width']:,} | {tower['parameters']:,} | {mode} |")
    return [
        *lines,
        "",
        f"Pictures: RGB, {student.preprocess.in_words()}. Captions: {card['text']['context']} tokens at most. The "
        "licences of both encoders hold for this model.",
        "",
    ]


def _image_features(student: TwoTower, folder: Path, pixels: Tensor) -> Tensor:
    import transformers

    card = student.card["towers"]["image"]
    with quiet(reports=False):
        model = getattr(transformers, hugging_face.loading_class(card["architecture"])).from_pretrained(folder)
    features: Tensor = HuggingFaceImage(model.eval(), student.preprocess, card)(pixels)
    return features.float()


def _text_features(student: TwoTower, folder: Path, texts: Sequence[str]) -> Tensor:
    card, reading = student.card["towers"]["text"], student.card["text"]
    cleaned = student.cleaned(texts)
    with quiet(reports=False):
        if card["source"] == _SENTENCES:
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(str(folder), device="cpu")
            prompt = reading["prompt"] or None
            encoded: Tensor = model.encode(cleaned, prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
            return encoded.float()
        import transformers

        half = getattr(transformers, hugging_face.loading_class(card["architecture"])).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        cleaned, padding=reading["padding"], truncation=True, max_length=reading["context"], return_tensors="pt"
    )
    output = half(**{name: tokens[name] for name in reading["inputs"]})
    rows: Tensor = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
    return rows.float()
