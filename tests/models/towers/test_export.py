"""Exports of two towers: what other libraries compute from them is compared with the student by `export.run` itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from cusa.errors import ConfigError
from cusa.manifests.storage import store
from cusa.models import export
from cusa.models.pixels import model_inputs
from tests.models.towers.test_two_tower import COLOURS, LETTERS, make, pictures
from tests.towers import CAPTIONS


@pytest.fixture(params=[("vit", "sentences"), ("clip", "clip"), ("resnet", "bert"), ("siglip2", "siglip2")], ids=str)
def parts(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Path, Path]:
    image, text = request.param
    return folders[image], folders[text]


def test_run__hf(parts: tuple[Path, Path], tmp_path: Path) -> None:
    student = make(*parts, cross_head=True).eval()
    assert export.run(student, "hf", tmp_path / "out") <= export.TOLERANCE
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| image | `" in card
    assert "heads.safetensors" in card
    read = AutoImageProcessor.from_pretrained(tmp_path / "out" / "image", backend="pil")
    theirs = read(images=pictures(), return_tensors="pt")["pixel_values"]
    pixels = torch.stack([student.image_transform(picture) for picture in pictures()])
    ours = model_inputs(pixels, student.preprocess)["pixel_values"]
    # A crop's offset may be rounded to the other side: one column of pixels.
    assert theirs.shape == ours.shape
    if student.preprocess.own_proportions:
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_run__hf_by_hand(folders: dict[str, Path], tmp_path: Path) -> None:
    student = make(folders["dinov2"], folders["sentences"], uni=False).eval()
    export.run(student, "hf", tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out" / "image").eval()
    heads = load_file(tmp_path / "out" / "heads.safetensors")
    pixels = torch.stack([student.image_transform(picture) for picture in pictures()])
    with torch.no_grad():
        rows = model(pixel_values=pixels).pooler_output
        rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        for layer in (0, 3):
            rows = rows @ heads[f"projections.image.{layer}.weight"].T + heads[f"projections.image.{layer}.bias"]
            rows = rows * 0.5 * (1 + torch.erf(rows / 2**0.5)) if layer == 0 else rows
        expected = rows / rows.norm(dim=1, keepdim=True)
        torch.testing.assert_close(student.encode_image(pixels), expected, rtol=0, atol=1e-5)


def test_run__hf_refuses_a_class(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the image tower is of the class 'tests\.towers:Colours'"):
        export.run(make(COLOURS, folders["bert"]).eval(), "hf", tmp_path / "out")


@pytest.mark.parametrize("of_classes", [False, True])
def test_run__sentence_transformers(folders: dict[str, Path], tmp_path: Path, of_classes: bool) -> None:
    student = make(COLOURS, LETTERS) if of_classes else make(folders["vit"], folders["sentences"])
    assert export.run(student.eval(), "sentence-transformers", tmp_path / "out", space="uni") <= export.TOLERANCE
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert ("trust" in card.partition("## Training")[0].partition("model_kwargs")[2]) == of_classes


def test_run__onnx(folders: dict[str, Path], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    student = make(folders["vit"], folders["sentences"], cross_head=True).eval()
    assert export.run(student, "onnx", tmp_path / "out") <= export.TOLERANCE
    session = runtime.InferenceSession(str(tmp_path / "out" / "text.onnx"))
    tokens = student.tokenize(CAPTIONS[:3])
    (cross,) = session.run(["cross"], {name: value.numpy() for name, value in tokens.items()})
    with torch.no_grad():
        assert np.abs(cross - student.encode_text(tokens).numpy()).max() < 1e-5
    reading = store.read_json(tmp_path / "out" / "reading.json")
    assert reading["text"]["context"] == 10
    assert reading["image"]["fit"] == "squash"


def test_run__onnx_of_classes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export.run(make(COLOURS, LETTERS).eval(), "onnx", tmp_path / "out") <= export.TOLERANCE
    assert "tests.towers:Letters().tokenize" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_card__names_towers_and_licences(folders: dict[str, Path]) -> None:
    student = make(COLOURS, folders["sentences"], text_mode="learn")
    lines = export.card(student, "folder", space="cross", facts={}).splitlines()
    assert "| image | `tests.towers:Colours` | mit | 6 | 78 | frozen |" in lines
    parameters = sum(parameter.numel() for parameter in student.towers["text"].parameters())
    assert f"| text | `words-model` | cc-by-4.0 | 16 | {parameters:,} | trained as a whole |" in lines


@pytest.mark.parametrize(
    ("licences", "head"),
    [
        (("mit", "mit"), ['license: "mit"']),
        (("mit", "apache-2.0"), ['license: "other"', 'license_name: "that of a/vit and b/words"']),
        (("mit", ""), ['license: "other"', 'license_name: "that of a/vit and b/words"']),
        (("see the page", "see the page"), ['license: "other"', 'license_name: "that of a/vit and b/words"']),
    ],
)
def test_card__the_licence_is_that_of_both_towers(licences: tuple[str, str], head: list[str]) -> None:
    student = make(COLOURS, LETTERS)
    for tower, name, licence in zip(("image", "text"), ("a/vit", "b/words"), licences, strict=True):
        student.card["towers"][tower] |= {"name": name, "licence": licence}
    lines = export.card(student, "folder", space="cross", facts={}).splitlines()
    assert [line for line in lines if line.startswith("license")] == head
    assert 'base_model: ["a/vit", "b/words"]' in lines
    for name, licence in zip(("a/vit", "b/words"), licences, strict=True):
        assert any(f"`{name}` | {licence or 'not stated'} |" in line for line in lines)
