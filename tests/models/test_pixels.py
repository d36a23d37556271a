from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cusa.models import pixels
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.pixels import keeping, of_vision_model
from cusa.models.preprocess import Preprocess
from tests import towers

BEFORE = {"vit": 1, "dinov2": 1, "clip": 1, "siglip": 0}


def test_the_same_on_every_device() -> None:
    preprocess = Preprocess(16, mean=(0.1, 0.5, 0.4), std=(0.2, 0.3, 1.0))
    squares = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8))
    looked_up = pixels.normalise(squares, preprocess)
    assert np.array_equal(looked_up.numpy(), preprocess.normalise(squares.numpy()))
    torch.testing.assert_close(pixels.on_device(squares, preprocess), looked_up, rtol=0, atol=1e-6)


def _vision(kind: str) -> Any:
    model = towers.image_model(kind).eval()
    return getattr(model, "vision_model", model)


@pytest.mark.parametrize("kind", BEFORE)
def test_keeping__equals_the_layers_on_the_kept_tokens(kind: str) -> None:
    model, size = _vision(kind), 28 if kind == "dinov2" else 32
    patches = of_vision_model(model, size=size)
    assert patches is not None
    assert (patches.before, patches.count) == (BEFORE[kind], 4 if kind == "dinov2" else 16)
    shown = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[0, 2], [1, 3], [2, 3]])
    with torch.no_grad(), keeping(patches, kept):
        got = model(pixel_values=shown)
    # Each picture alone, from its own tokens.
    with torch.no_grad():
        tokens = patches.module(shown)
        for place in range(3):
            own = [*range(patches.before), *(patches.before + int(number) for number in kept[place])]
            handle = patches.module.register_forward_hook(
                lambda *_, own=own, place=place: tokens[place : place + 1, own]
            )
            alone = model(pixel_values=shown[place : place + 1])
            handle.remove()
            torch.testing.assert_close(got.pooler_output[place], alone.pooler_output[0], rtol=1e-4, atol=1e-5)
    assert got.last_hidden_state.shape[1] == patches.before + 2


@pytest.mark.parametrize("kind", BEFORE)
def test_keeping__all_patches_or_none_asked_for_is_the_tower_itself(kind: str) -> None:
    model, size = _vision(kind), 28 if kind == "dinov2" else 32
    patches = of_vision_model(model, size=size)
    assert patches is not None
    shown = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(pixel_values=shown).pooler_output
        with keeping(patches, torch.arange(patches.count).expand(2, -1)):
            assert torch.equal(model(pixel_values=shown).pooler_output, whole)
        with keeping(patches, None), keeping(None, None):
            assert torch.equal(model(pixel_values=shown).pooler_output, whole)
        with keeping(patches, torch.zeros(2, 1, dtype=torch.int64)):
            assert not torch.equal(model(pixel_values=shown).pooler_output, whole)
        assert torch.equal(model(pixel_values=shown).pooler_output, whole)


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
def test_of_vision_model__a_grid_has_none(kind: str) -> None:
    assert of_vision_model(towers.image_model(kind), size=32) is None


def test_students__which_can(tmp_path: Path) -> None:
    small = {"image_size": 16, "patch_size": 8, "image_width": 16, "image_layers": 1, "text_width": 16}
    small |= {"text_layers": 1, "head_width": 8, "width": 12}
    counts = {}
    for kind in ("dual-encoder", "blip", "x2vlm"):
        config = StudentConfig.model_validate({"kind": kind, **small})
        one = students.create(config, captions=["a dog on grass"], uni=False, seed=0).patches()
        counts[kind] = None if one is None else one.count
    assert counts == {"dual-encoder": 4, "blip": 4, "x2vlm": None}
    folder, words = towers.write_image("vit", tmp_path / "vit"), towers.write_sentences(tmp_path / "words")
    for pooling, expected in (("cls", 16), ("mean", None)):
        names = {"image": {"name": str(folder), "pooling": pooling}, "text": {"name": str(words)}}
        config = StudentConfig.model_validate({"kind": "two-tower", "towers": names})
        one = students.create(config, captions=[], uni=False, seed=0).patches()
        assert (None if one is None else one.count) == expected
