"""A dual encoder as two ONNX files, `image.onnx` and `text.onnx`, each with an output for every space it has heads for.

Legend: B items, D width of the embedding, L tokens, S pixels a side.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.errors import ConfigError
from cusa.manifests.storage import store
from cusa.models.pixels import grey, model_inputs, packed
from cusa.models.preprocess import Preprocess
from cusa.models.quiet import quiet
from cusa.models.students.dual_encoder import DualEncoder
from cusa.models.towers.two_tower import TwoTower

_Modality = Literal["image", "text"]
_MODALITIES: tuple[_Modality, ...] = ("image", "text")
_NAFLEX = ("pixel_values", "spatial_shapes")
_ONE_FILE = 1 << 30
"""Bytes of weights up to which they lie in the file itself; protobuf ends at two gigabytes."""


def write(student: DualEncoder | TwoTower, folder: Path) -> None:
    """Write `image.onnx`, `text.onnx`, the tokenizer, and `reading.json`: how pictures and captions are made ready.

    Inputs: `pixels` (B, 3, S, S) float32, normalised, or of a NaFlex `pixel_values` (B, N, 3 P P) and `spatial_shapes`
    (B, 2), as `cusa.models.pixels.model_inputs` has them; `input_ids` and, where the towers read one, `attention_mask`
    (B, L) int64. Outputs: `cross` and, with uni-modal heads, `uni`: (B, D) float32 unit rows. B is free, and L too
    where the student does not pad to its full length.

    Args:
        student: in evaluation mode, on the CPU.
        folder: must be there.

    Raises:
        ConfigError: if the packages of the extra `onnx` are not installed.
    """
    _import("onnx", "onnxscript", "onnxruntime")
    batch, text = torch.export.Dim("batch"), student.card["text"]
    dimensions: dict[int, Any] = {0: batch}
    if text["padding"] != "max_length":
        dimensions[1] = torch.export.Dim("length", max=text["context"])
    tokens = student.tokenize(["a dog on the grass", "two people"])
    inputs = {"image": _image_inputs(student, grey(student.preprocess).repeat_interleave(2, 0)), "text": tokens}
    shapes: dict[str, dict[str, Any]] = {
        "image": dict.fromkeys(inputs["image"], {0: batch}),
        "text": dict.fromkeys(tokens, dimensions),
    }
    for modality in _MODALITIES:
        tower = _Tower(student, modality, list(inputs[modality])).eval()
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                tower,
                tuple(inputs[modality].values()),
                folder / f"{modality}.onnx",
                input_names=list(inputs[modality]),
                output_names=list(student.spaces),
                dynamic_shapes={"values": tuple(shapes[modality][name] for name in inputs[modality])},
                custom_translation_table=_translations(),
                external_data=sum(value.numel() * 4 for value in student.parameters()) > _ONE_FILE,
                verbose=False,
            )
    if student.tokenizer is not None:
        with quiet():
            student.tokenizer.save_pretrained(folder)
    store.write_json(
        folder / "reading.json", {"image": student.preprocess.to_json(), "text": text, "tasks": student.card["tasks"]}
    )


def largest_difference(
    student: DualEncoder | TwoTower, folder: Path, *, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> float:
    """Run the pair with onnxruntime on one item and on all, and compare with the student.

    Returns:
        The largest difference of a unit row's number, over both files and all their outputs.
    """
    runtime = _import("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    worst = 0.0
    for modality in _MODALITIES:
        session = runtime.InferenceSession(
            str(folder / f"{modality}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for count in (1, len(pictures if modality == "image" else texts)):
            if modality == "image":
                pixels = torch.stack([student.image_transform(picture) for picture in pictures[:count]])
                inputs = _image_inputs(student, pixels)
            else:
                inputs = student.tokenize(texts[:count])
            with torch.no_grad():
                ours = _rows(student, modality, inputs)
            outputs = session.run([*student.spaces], {name: value.numpy() for name, value in inputs.items()})
            for rows, theirs in zip(ours, outputs, strict=True):
                worst = max(worst, float(np.abs(rows.numpy() - theirs).max()))
    return worst


def use(student: DualEncoder | TwoTower) -> list[str]:
    """Return the model card's lines on how to run the pair."""
    text = student.card["text"]
    clean = "captions are cleaned first: cusa.models.captions.clean_caption" if text["transform"] == "clean" else ""
    if text.get("prompt"):
        clean = f"{clean}; {text['prompt']!r} before each".removeprefix("; ")
    own = student.tokenizer is None
    load = f"{student.card['towers']['text']['class']}().tokenize" if own else "AutoTokenizer.from_pretrained(FOLDER)"
    call = (
        "tokens = tokenizer(['a dog on grass'])"
        if own
        else f"tokens = tokenizer(['a dog on grass'], padding={text['padding']!r}, truncation=True, "
        f"max_length={text['context']}, return_tensors='np')"
    )
    return [
        "import onnxruntime",
        "from transformers import AutoImageProcessor, AutoTokenizer",
        "",
        f"read, tokenizer = AutoImageProcessor.from_pretrained(FOLDER), {load}",
        f"image, text = (onnxruntime.InferenceSession(f'{{FOLDER}}/{{modality}}.onnx') for modality in {_MODALITIES})",
        *_use_image(student),
        call + (f"  # {clean}" if clean else ""),
        f"rows = text.run({[*student.spaces]}, {{name: tokens[name] for name in {text['inputs']}}})",
    ]


def _use_image(student: DualEncoder | TwoTower) -> list[str]:
    """Return the lines that embed a picture."""
    if isinstance(student.preprocess, Preprocess):
        pixels, inputs = "pixels = read(images=[PIL_IMAGE], return_tensors='np')['pixel_values']", "{'pixels': pixels}"
    else:
        pixels = "picture = read(images=[PIL_IMAGE], return_tensors='np')"
        inputs = f"{{name: picture[name] for name in {_NAFLEX}}}"
    return [pixels, f"rows = image.run({[*student.spaces]}, {inputs})  # unit rows of each space"]


class _Tower(nn.Module):
    """One tower of a student as a function of tensors alone."""

    def __init__(self, student: DualEncoder | TwoTower, modality: _Modality, names: Sequence[str]) -> None:
        super().__init__()
        self.student = student
        self._modality = modality
        self._names = names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return _rows(self.student, self._modality, dict(zip(self._names, values, strict=True)))


def _rows(student: DualEncoder | TwoTower, modality: _Modality, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Embed one modality in every space, its tower run once."""
    if modality == "text":
        parts = student.text_parts(dict(inputs))
    else:
        parts = student.image_parts(inputs["pixels"] if "pixels" in inputs else packed(**inputs))
    return tuple(student.embed(parts, space, modality) for space in student.spaces)


def _image_inputs(student: DualEncoder | TwoTower, pixels: Tensor) -> dict[str, Tensor]:
    """Return the inputs of `image.onnx`, of normalised pixels."""
    if isinstance(student.preprocess, Preprocess):
        return {"pixels": pixels}
    inputs = model_inputs(pixels, student.preprocess)
    return {name: inputs[name].contiguous() for name in _NAFLEX}


def _translations() -> dict[Any, Any]:
    """Return what the exporter does not know of: the check of NaFlex models that grids fit, which is always true."""
    from onnxscript import opset18

    op: Any = opset18

    def is_all_true(values: Any) -> Any:
        return op.Cast(op.ReduceMin(op.Cast(values, to=7), keepdims=0), to=9)  # int64, and back to booleans

    return {torch.ops.aten._is_all_true.default: is_all_true}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about deprecated internals and absent packages off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _import(*names: str) -> Any:
    """Import packages and return the first.

    Raises:
        ConfigError: if one is not installed.
    """
    import importlib

    try:
        return [importlib.import_module(name) for name in names][0]
    except ImportError as error:
        raise ConfigError(
            f"--to onnx needs the package {error.name!r}, which is not installed. Run `pip install 'cusa[onnx]'`.",
            to="onnx",
        ) from None
