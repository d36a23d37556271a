"""Exports, loaded by the libraries they are for and compared on real images and captions."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Siglip2Model

from cusa.errors import ConfigError, DataError
from cusa.models import export
from cusa.models import student as students
from cusa.models.captions import clean_caption
from cusa.models.config import SgrafConfig, StudentConfig
from tests import towers

SMALL = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[list[Image.Image], list[str]]:
    mini = shared / "data" / "coco-mini"
    rows = json.loads((mini / "dataset_coco.json").read_text())["images"][:6]
    pictures = [Image.open(mini / row["filepath"] / row["filename"]).convert("RGB") for row in rows]
    return pictures, [row["sentences"][0]["raw"] for row in rows]


def _student(kind: str, captions: list[str], *, uni: bool = True) -> Any:
    settings = {"kind": kind, "cross_head": True}
    if kind == "sgraf":
        settings["sgraf"] = SgrafConfig(regions_from="patches", regions=4, patch=6, width=12, similarity_width=6)
    return students.create(SMALL.model_copy(update=settings), captions=captions, uni=uni, seed=0).eval()


def test_transformers_reads_the_towers_and_the_heads_are_kept(real: Any, tmp_path: Path) -> None:
    pictures, captions = real
    student = _student("dual-encoder", captions)
    facts = {"recipe": {"name": "mini"}, "metrics": {"split": "test", "dataset": "coco", "tasks": {}}}
    assert export.run(student, "hf", tmp_path / "hf", facts=facts) <= 1e-5
    clip = CLIPModel.from_pretrained(tmp_path / "hf").eval()
    pixels, tokens = torch.stack([student.image_transform(picture) for picture in pictures]), student.tokenize(captions)
    with torch.no_grad():
        for modality, rows in (("image", clip.get_image_features(pixels)), ("text", clip.get_text_features(**tokens))):
            rows = rows.pooler_output
            for space in ("cross", "uni"):
                head = student.heads[space][modality]
                ours = (
                    student.encode_image(pixels, space) if modality == "image" else student.encode_text(tokens, space)
                )
                torch.testing.assert_close(F.normalize(head(rows), dim=-1), ours, rtol=0, atol=1e-5)
    again = students.load(tmp_path / "hf")
    torch.testing.assert_close(again.encode_text(tokens, "uni"), student.encode_text(tokens, "uni"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("space", ["cross", "uni"])
@pytest.mark.parametrize("kind", ["dual-encoder", "x2vlm", "sgraf"])
def test_sentence_transformers_encodes_texts_and_pictures(real: Any, tmp_path: Path, kind: str, space: Any) -> None:
    pictures, captions = real
    student = _student(kind, captions)
    assert export.run(student, "sentence-transformers", tmp_path / "st", space=space) <= 1e-5
    model = SentenceTransformer(str(tmp_path / "st"), device="cpu", trust_remote_code=True)
    with torch.no_grad():
        text = student.encode_text(student.tokenize(captions), space).numpy()
        arrays = torch.from_numpy(np.stack([student.image_array(picture) for picture in pictures]))
        image = student.encode_image(student.pixels(arrays), space).numpy()
    np.testing.assert_allclose(model.encode(captions), text, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.encode(pictures), image, rtol=0, atol=1e-5)
    assert model.get_embedding_dimension() == student.width


@pytest.mark.parametrize(("cross", "uni"), [(True, True), (False, False)])
def test_an_onnx_pair_gives_the_students_rows(real: Any, tmp_path: Path, cross: bool, uni: bool) -> None:
    import onnx
    import onnxruntime

    pictures, captions = real
    student = students.create(SMALL.model_copy(update={"cross_head": cross}), captions=captions, uni=uni, seed=0).eval()
    assert export.run(student, "onnx", tmp_path / "pair") <= 1e-5
    image, text = (
        onnxruntime.InferenceSession(tmp_path / "pair" / f"{modality}.onnx", providers=["CPUExecutionProvider"])
        for modality in ("image", "text")
    )
    spaces = ["cross", "uni"] if uni else ["cross"]
    assert [output.name for output in image.get_outputs()] == [output.name for output in text.get_outputs()] == spaces
    settings = json.loads((tmp_path / "pair" / "reading.json").read_text())["text"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pair")
    for some in (slice(0, 1), slice(1, 6)):  # the batch is free, and captions are as long as the longest
        pixels = torch.stack([student.image_transform(picture) for picture in pictures[some]])
        cleaned = [clean_caption(caption, settings["max_words"]) for caption in captions[some]]
        tokens = tokenizer(
            cleaned, padding=settings["padding"], truncation=True, max_length=settings["context"], return_tensors="np"
        )
        rows = {
            "image": image.run(spaces, {"pixels": pixels.numpy()}),
            "text": text.run(spaces, {name: tokens[name] for name in settings["inputs"]}),
        }
        with torch.no_grad():
            for number, space in enumerate(spaces):
                ours = student.encode_image(pixels, space).numpy()
                np.testing.assert_allclose(rows["image"][number], ours, rtol=0, atol=1e-5)
                ours = student.encode_text(student.tokenize(captions[some]), space).numpy()
                np.testing.assert_allclose(rows["text"][number], ours, rtol=0, atol=1e-5)
    held = {modality: _numbers(onnx.load(tmp_path / "pair" / f"{modality}.onnx")) for modality in ("image", "text")}
    whole = sum(parameter.numel() for parameter in student.parameters())
    assert held["image"] + held["text"] < 1.1 * whole  # each file its own tower only
    assert "onnxruntime.InferenceSession" in (tmp_path / "pair" / "README.md").read_text()


@pytest.mark.parametrize("to", ["folder", "hf", "sentence-transformers", "onnx"])
def test_pictures_in_their_own_proportions(real: Any, tmp_path: Path, to: str) -> None:
    pictures, captions = real
    folder = towers.write_image("siglip2", tmp_path / "naflex")
    wish = StudentConfig(name=str(folder), cross_head=True, max_patches=20)
    student = students.create(wish, captions=[], uni=True, seed=0).eval()
    out = tmp_path / "out"
    assert export.run(student, to, out) <= 1e-5
    if to == "sentence-transformers":
        return
    read = AutoImageProcessor.from_pretrained(out, backend="pil")
    inputs = read(images=pictures, return_tensors="pt")
    pixels = torch.stack([student.image_transform(picture) for picture in pictures])
    with torch.no_grad():
        expected = student.encode_image(pixels)
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out / "image.onnx", providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        assert names == ["pixel_values", "spatial_shapes"]
        (rows,) = session.run(["cross"], {name: inputs[name].numpy() for name in names})
        np.testing.assert_allclose(rows, expected.numpy(), rtol=0, atol=1e-5)
        assert "'pixel_values', 'spatial_shapes'" in (out / "README.md").read_text()
        return
    with torch.no_grad():
        features = Siglip2Model.from_pretrained(out).eval().get_image_features(**inputs).pooler_output
        rows = F.normalize(student.heads["cross"]["image"](features), dim=-1)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


def _numbers(model: Any) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def test_onnx_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    student = _student("dual-encoder", ["a dog"])
    with pytest.raises(ConfigError, match=r"onnxscript.*pip install 'cusa\[onnx\]'"):
        export.run(student, "onnx", tmp_path / "pair")
    assert not (tmp_path / "pair").exists()


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    student = _student("dual-encoder", ["a dog"])
    loss = {"infonce_weight": 1.0, "reduction": "standard", "alpha": 0.1, "beta": 0.5}
    tasks = {"cross-modal": {"metrics": {"rsum": 123.4}}}
    facts = {
        "recipe": {"name": "mine", "loss": loss},
        "data": "coco-mini",
        "metrics": {"split": "test", "dataset": "coco", "tasks": tasks},
    }
    export.run(student, "hf", tmp_path / "hf", facts=facts)
    page = (tmp_path / "hf" / "README.md").read_text()
    for words in ("# mine", "0.1 x CSA", "coco-mini", "| cross-modal | rsum | 123.4 |", "10.1609/aaai.v38i16.29789"):
        assert words in page
    head = yaml.safe_load(page.split("---\n")[1])
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["image-text-retrieval", "cusa"],
        "license": "unknown",
        "datasets": ["coco"],
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/clip-vit-base-patch32", ["openai/clip-vit-base-patch32"]),
        ("openai/clip-vit-base-patch32@abc123", ["openai/clip-vit-base-patch32"]),
        ("/home/anna/models/clip", None),
        ('/home/anna/models/"clip": [no', None),
    ],
)
def test_the_card_names_what_the_model_was_made_of_and_no_folder(name: str, expected: list[str] | None) -> None:
    student = _student("dual-encoder", ["a dog"])
    student.name = name
    loss = {"infonce_weight": 1.0, "reduction": "standard", "alpha": 0.2, "beta": 0.5}
    recipe = {"name": "mine", "loss": loss, "student": {"name": name}, "data": {"dataset": "/home/anna/own.toml"}}
    run = {"changes": [{"key": "loss.alpha", "recipe": "0.1", "set": "0.2"}]}
    page = export.card(student, "folder", space="cross", facts={"recipe": recipe, "run": run})
    head = yaml.safe_load(page.split("---\n")[1])
    assert head.get("base_model") == expected
    assert (head["license"], head["datasets"]) == ("other", ["own"])
    assert head["license_name"] == f"that of {name.rpartition('models/')[2]}"
    assert "anna" not in page
    assert "Changed of the recipe of that name, in brackets its own: `loss.alpha = 0.2` (0.1)." in page
    folded = page.partition("<details>")[2].partition("</details>")[0]
    assert json.loads(folded.split("```")[1].removeprefix("json"))["loss"] == loss


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a dog", "a cat"]
    with pytest.raises(ConfigError, match="Did you mean 'hf'"):
        export.run(_student("dual-encoder", captions), "hff", tmp_path / "x")
    for kind, to in (("x2vlm", "hf"), ("x2vlm", "onnx"), ("sgraf", "onnx")):
        with pytest.raises(ConfigError, match=f"--to {to} takes dual encoders"):
            export.run(_student(kind, captions), to, tmp_path / "x")
    with pytest.raises(ConfigError, match="no uni-modal heads"):
        export.run(_student("dual-encoder", captions, uni=False), "hf", tmp_path / "x", space="uni")
    monkeypatch.setattr(export, "_compare_hf", lambda student, folder: 1e-3)
    with pytest.raises(DataError, match=r"differ by 0\.001"):
        export.run(_student("dual-encoder", captions), "hf", tmp_path / "x")
    assert not (tmp_path / "x").exists()
