"""Sentence-transformers models of images and texts as teachers of either, against the library's own `encode`."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from cusa.errors import ConfigError, DataError
from cusa.models.preprocess import decode_rgb
from cusa.models.teachers.base import MeasuringTeacher, PreparingTeacher
from cusa.models.teachers.registry import load_teacher, weights_digest
from cusa.models.teachers.sentence_image import SentenceImageTeacher
from tests import towers

LAYOUTS = ("clip", "legacy", "dense", "router")
TEXTS = [*towers.CAPTIONS, "", "red", towers.CAPTIONS[0], "a blue circle " * 30]


def _library(folder: str) -> Any:
    """Return the library's own model; its types know no list of pictures."""
    return SentenceTransformer(folder, device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return models of images and texts with random weights, in the layouts that the library writes."""
    home = tmp_path_factory.mktemp("multimodal")
    return {layout: towers.write_multimodal(layout, home / layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Return pictures of many kinds, as the shards give them."""
    rng = np.random.default_rng(1)
    shapes = [(40, 60, 3), (61, 37, 3), (37, 90, 3), (33, 33, 3), (3, 50, 3), (1, 1, 3)]
    made = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    files: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (made[0], "PNG", {}),
        (made[1].convert("L"), "PNG", {}),
        (made[2].convert("CMYK"), "JPEG", {}),
    ]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    files += [(made[0], "JPEG", {"exif": rotated}), (made[1].convert("P"), "GIF", {})]
    decoded = []
    for picture, kind, how in files:
        out = io.BytesIO()
        picture.save(out, kind, **how)
        decoded.append(decode_rgb(out.getvalue()))
    assert decoded[3].size == (40, 60)
    return [*made, *decoded]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_images__equal_the_library_s_whatever_the_batch(
    folders: dict[str, Path], pictures: list[Image.Image], layout: str, batch_size: int
) -> None:
    folder = str(folders[layout])
    expected = _library(folder).encode(pictures, normalize_embeddings=True)
    teacher = SentenceImageTeacher(folder, batch_size=batch_size)
    rows = teacher.encode(pictures)
    assert rows.shape == (len(pictures), teacher.width) == expected.shape
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
    assert np.abs(rows[:2] - rows[2:4]).max() > 1e-3, "random weights tell the pictures apart"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts__equal_the_library_s_whatever_the_batch(folders: dict[str, Path], layout: str) -> None:
    folder = str(folders[layout])
    expected = _library(folder).encode(TEXTS, normalize_embeddings=True)
    teacher = load_teacher(folder, "text")
    assert isinstance(teacher, MeasuringTeacher)
    np.testing.assert_allclose(teacher.encode(TEXTS), expected, rtol=0, atol=1e-6)
    one_by_one = np.concatenate([teacher.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(one_by_one, expected, rtol=0, atol=1e-6)
    assert teacher.width == expected.shape[1]
    assert teacher.lengths(["red", "red red red"]).tolist() == [3, 5]


def test_images__prepared_ones_may_be_embedded_twice(folders: dict[str, Path], pictures: list[Image.Image]) -> None:
    teacher = load_teacher(str(folders["clip"]), "image")
    assert isinstance(teacher, PreparingTeacher)
    assert not isinstance(teacher, MeasuringTeacher), "images are not decoded to be measured"
    prepared = teacher.prepare(pictures)
    assert np.array_equal(teacher.embed(prepared), teacher.embed(prepared))
    assert teacher.encode([]).shape == (0, 12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts__that_read_like_files_are_texts(folders: dict[str, Path], tmp_path: Path, layout: str) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "red.png")
    odd = [str(tmp_path / "red.png"), "https://nobody.invalid/red.png", "data:image/png;base64,AAAA", "a red square"]
    teacher = load_teacher(str(folders[layout]), "text")
    rows = teacher.encode(odd)
    assert rows.shape == (4, teacher.width)
    library = _library(str(folders[layout]))
    expected = library.encode([f" {text}" for text in odd], normalize_embeddings=True)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)


def test_prompt__stands_before_texts_alone(
    folders: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(folders["clip"], folder)
    plain = load_teacher(str(folder), "image").encode(pictures)
    path = folder / "config_sentence_transformers.json"
    prompts = {"prompts": {"caption": "two green "}, "default_prompt_name": "caption"}
    path.write_text(json.dumps(json.loads(path.read_text()) | prompts))
    library = _library(str(folder))
    text, image = load_teacher(str(folder), "text"), load_teacher(str(folder), "image")
    np.testing.assert_allclose(text.encode(TEXTS), library.encode(TEXTS, normalize_embeddings=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(image.encode(pictures), plain, rtol=0, atol=0)
    assert text.provenance()["preprocessing"].endswith("prompt 'two green '")
    assert image.provenance()["preprocessing"] == "RGB, sentence-transformers CLIPImageProcessorPil"


def test_truncate_dim__of_the_folder_is_kept(
    folders: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder = tmp_path / "truncated"
    shutil.copytree(folders["clip"], folder)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncate_dim": 7}))
    expected = _library(str(folder)).encode(pictures, normalize_embeddings=True)
    teacher = load_teacher(str(folder), "image")
    assert teacher.width == 7
    np.testing.assert_allclose(teacher.encode(pictures), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["legacy", "router"])
def test_digest__covers_every_file(folders: dict[str, Path], tmp_path: Path, layout: str) -> None:
    folder = tmp_path / layout
    shutil.copytree(folders[layout], folder)
    before = weights_digest(str(folder))
    assert load_teacher(str(folder), "image").provenance()["weights_sha256"] == before
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {"model.safetensors", "processor_config.json", "tokenizer.json"} <= {path.name for path in files}
    seen = {before}
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        seen.add(weights_digest(str(folder)))
        path.write_bytes(content)
    assert len(seen) == len(files) + 1
    assert weights_digest(str(folder)) == before


def test_files_elsewhere__are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "borrowed"
    shutil.copytree(folders["legacy"], folder)
    path = folder / "0_CLIPModel/sentence_bert_config.json"
    fields = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(fields | {"processor_name": str(folders["clip"])}))
    with pytest.raises(DataError, match=r"takes files from elsewhere: processor_name of 0_CLIPModel/sentence_bert"):
        load_teacher(str(folder), "image")
    path.write_text(json.dumps(fields))
    (folder / "0_CLIPModel").rename(tmp_path / "moved")
    (folder / "0_CLIPModel").symlink_to(tmp_path / "moved")
    with pytest.raises(DataError, match=r"0_CLIPModel is a link to a folder"):
        load_teacher(str(folder), "image")


def test_a_model_of_the_other_modality_is_refused(tmp_path: Path) -> None:
    texts = str(towers.write_sentences(tmp_path / "texts"))
    with pytest.raises(ConfigError, match=rf"reads texts, not images\. Give it as --text {texts}, and as --image a"):
        load_teacher(texts, "image")
    images = str(towers.write_multimodal("images", tmp_path / "images"))
    with pytest.raises(ConfigError, match=rf"reads images, not texts\. Give it as --image {images}, and as --text a"):
        load_teacher(images, "text")
    assert load_teacher(images, "image").encode([Image.new("RGB", (30, 40), "red")]).shape == (1, 16)


def test_code_of_a_folder_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(folders["clip"], folder)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: ...\n")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"type": "mine.Module"}]))
    for modality in ("image", "text"):
        with pytest.raises(DataError, match=r"references the module class 'mine\.Module'"):
            load_teacher(str(folder), modality)
    assert not (tmp_path / "ran").exists()
