"""Patches in a picture's own proportions, against transformers' own processor of SigLIP 2 on photographs and others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cusa.errors import ConfigError, DataError
from cusa.models import naflex, pixels
from cusa.models.naflex import NaFlex
from cusa.models.preprocess import Preprocess
from tests.towers import naflex_processor


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Image.Image]:
    """Some as they are, and some cut wide, tall and tiny."""
    mini = shared / "data" / "coco-mini"
    rows = json.loads((mini / "dataset_coco.json").read_text())["images"][:6]
    whole = [Image.open(mini / row["filepath"] / row["filename"]).convert("RGB") for row in rows]
    boxes = ((0, 0, 600, 40), (10, 5, 50, 420), (0, 0, 7, 5), (0, 0, 1, 1), (3, 3, 400, 4))
    return [*whole, *(whole[0].crop(box) for box in boxes)]


def _theirs(pictures: list[Image.Image], how: NaFlex) -> Any:
    return naflex_processor(how.max_patches, how.patch)(images=pictures, return_tensors="pt")


def _ours(pictures: list[Image.Image], how: NaFlex) -> dict[str, torch.Tensor]:
    arrays = np.stack([how.array(picture) for picture in pictures])
    assert arrays.dtype == np.uint8
    assert arrays.shape == (len(pictures), 1 + how.max_patches, 3 * how.patch**2)
    return pixels.model_inputs(pixels.normalise(torch.from_numpy(arrays), how), how)


@pytest.mark.parametrize(("most", "patch"), [(256, 16), (64, 16), (1, 8), (77, 14)])
def test_array__pixels_mask_and_shapes_are_transformers_own(
    photographs: list[Image.Image], most: int, patch: int
) -> None:
    how = NaFlex(most, patch)
    theirs, ours = _theirs(photographs, how), _ours(photographs, how)
    assert set(theirs) == set(ours)
    for name in ("spatial_shapes", "pixel_attention_mask"):
        assert torch.equal(theirs[name], ours[name]), name
        assert theirs[name].dtype == ours[name].dtype
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], rtol=0, atol=1e-6)
    if most == 256:
        shapes = {tuple(shape) for shape in ours["spatial_shapes"].tolist()}
        assert any(wide > 3 * tall for tall, wide in shapes)
        assert any(tall > 3 * wide for tall, wide in shapes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1100), st.sampled_from([2, 14, 16]))
def test_grid__is_transformers_own(height: int, width: int, most: int, patch: int) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    grid = NaFlex(most, patch).grid(height, width)
    assert grid[0] * grid[1] <= most
    tall, wide = get_image_size_for_max_num_patches(height, width, patch, most)
    assert (grid[0] * patch, grid[1] * patch) == (tall, wide)


@pytest.mark.parametrize(("size", "grid"), [((200_000_000, 1), (1, 3)), ((1, 200_000_000), (3, 1))])
def test_grid__of_pictures_too_long_for_any_scale(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Transformers' search ends at a millionth, which leaves 13 patches here."""
    assert NaFlex(3, 16).grid(size[1], size[0]) == grid


def test_packed__and_back(photographs: list[Image.Image]) -> None:
    how = NaFlex(100, 16)
    for picture in photographs:
        array = how.array(picture)
        whole = how.unpacked(array)
        tall, wide = how.grid(picture.height, picture.width)
        assert whole.shape == (3, tall * 16, wide * 16)
        scaled = picture.resize((wide * 16, tall * 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(whole.transpose(1, 2, 0), np.asarray(scaled))
        np.testing.assert_array_equal(how.packed(whole), array)
        mirrored = np.asarray(ImageOps.mirror(scaled)).transpose(2, 0, 1)
        np.testing.assert_array_equal(how.unpacked(how.packed(mirrored)), mirrored)


def test_array_of__a_part_has_the_grid_of_its_own_proportions(photographs: list[Image.Image]) -> None:
    how, box = NaFlex(50, 16), (20, 30, 220, 80)
    part = how.unpacked(how.array_of(photographs[0], box))
    assert part.shape[1:] == tuple(16 * side for side in how.grid(50, 200))
    scaled = photographs[0].resize(part.shape[:0:-1], Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(part.transpose(1, 2, 0), np.asarray(scaled))


def test_array__thin_pictures_are_scaled_along_their_length_first(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:3000, :6]
    image = Image.fromarray(np.stack([x * 40, y * 255 / 3000, 255 - y * 255 / 3000], axis=-1).astype(np.uint8))
    how = NaFlex(64, 16)
    whole = how.array(image).astype(int)
    monkeypatch.setattr(naflex, "MOST_PIXELS", 0)
    assert np.abs(how.array(image).astype(int) - whole).max() <= 2


def test_array__features_of_a_detector_are_refused() -> None:
    with pytest.raises(DataError, match="hold arrays of shape"):
        NaFlex().array(np.zeros((36, 2048), np.float32))


def test_normalise__is_the_same_by_arithmetic_as_by_table(photographs: list[Image.Image]) -> None:
    """The table serves a CPU, arithmetic an accelerator."""
    how = NaFlex(20, 8, mean=(0.1, 0.5, 0.4), std=(0.2, 0.3, 1.0))
    patches = torch.from_numpy(np.stack([how.array(picture)[1:] for picture in photographs[:2]]))
    by_table = torch.from_numpy(how.normalise(patches.numpy()))
    torch.testing.assert_close(pixels.colours_on_device(patches, how), by_table, rtol=0, atol=1e-6)
    first = patches[0, 0].reshape(8, 8, 3).numpy() / 255
    expected = ((first - np.array(how.mean)) / np.array(how.std)).reshape(-1)
    np.testing.assert_allclose(by_table[0, 0].numpy(), expected, rtol=0, atol=1e-6)


def test_packed__of_tensors_is_what_was_taken_apart(photographs: list[Image.Image]) -> None:
    how = NaFlex(20, 8)
    arrays = torch.from_numpy(np.stack([how.array(picture) for picture in photographs]))
    whole = pixels.normalise(arrays, how)
    inputs = pixels.model_inputs(whole, how)
    assert torch.equal(pixels.packed(inputs["pixel_values"], inputs["spatial_shapes"]), whole)


def test_json__and_hugging_faces() -> None:
    how = NaFlex(77, 14, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert naflex.from_json(json.loads(json.dumps(how.to_json()))) == how
    assert NaFlex.from_hugging_face(how.to_hugging_face(), patch=14, name="x") == how
    assert NaFlex.from_hugging_face(naflex_processor(16, 8).to_dict(), patch=8, name="x") == NaFlex(16, 8)
    assert NaFlex.from_hugging_face({}, patch=16, name="x") == NaFlex()
    plain = NaFlex.from_hugging_face({**how.to_hugging_face(), "do_normalize": False}, patch=14, name="x")
    assert (plain.mean, plain.std) == ((0, 0, 0), (1, 1, 1))
    squares = Preprocess(32)
    assert naflex.from_json(squares.to_json()) == squares
    for wrong in ({"max_patches": 0}, {"patch": 1}, {"resample": "best"}, {"more": 1}):
        with pytest.raises(DataError, match="is not understood"):
            naflex.from_json({**how.to_json(), **wrong})


class _Vision:
    model_type = "siglip2_vision_model"
    patch_size = 16
    num_patches = 256


class _Fixed:
    model_type = "siglip_vision_model"
    patch_size = 16
    image_size = 224


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224}},
            r"'x' reads any number of patches.*one of a fixed size \(SiglipImageProcessor, size .*224.*patch_size 16",
        ),
        ({"max_num_patches": 0}, "max_num_patches 0 and"),
        ({"max_num_patches": "many"}, "max_num_patches 'many' and"),
        ({"max_num_patches": 256, "patch_size": 14}, r"has patch_size 14.*Its model reads patch_size 16"),
        ({"max_num_patches": 256, "do_resize": False}, "do_resize False"),
    ],
)
def test_from_hugging_face__processors_of_other_models(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        naflex.from_hugging_face(fields, _Vision(), name="x")


def test_from_hugging_face__a_model_of_a_fixed_size_with_a_processor_of_any() -> None:
    with pytest.raises(
        DataError, match=r"'x' is a siglip_vision_model of a fixed size, and its image processor one of"
    ):
        naflex.from_hugging_face(NaFlex().to_hugging_face(), _Fixed(), name="x")
    assert naflex.from_hugging_face({"size": 64}, _Fixed(), name="x") == Preprocess(64)


def test_choose_patches() -> None:
    where: dict[str, Any] = {"key": "student.max_patches", "name": "x"}
    assert naflex.choose_patches(NaFlex(), 0, _Vision(), **where) == NaFlex()
    assert naflex.choose_patches(NaFlex(), 4096, _Vision(), **where) == NaFlex(4096)
    with pytest.raises(ConfigError, match=r"is 4097, and 'x' has positions for 256 patches.*4096 at most.*own 256"):
        naflex.choose_patches(NaFlex(), 4097, _Vision(), **where)
    with pytest.raises(ConfigError, match=r"is 9, and 'x' reads squares of 224 pixels.*student\.max_patches=0"):
        naflex.choose_patches(Preprocess(), 9, _Fixed(), **where)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (3000, 200), (64, 64)])
@pytest.mark.parametrize("most", [1, 16, 256, 1000])
def test_decoded_side__a_picture_of_that_side_is_not_enlarged(size: tuple[int, int], most: int) -> None:
    how = NaFlex(most, 16)
    shrunk = max(how.decoded_side / min(size), 0)
    tall, wide = how.grid(size[1], size[0])
    if shrunk <= 1:
        assert wide * 16 <= size[0] * shrunk + 16
        assert tall * 16 <= size[1] * shrunk + 16
