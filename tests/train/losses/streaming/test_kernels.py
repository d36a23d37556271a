"""Triton's kernels in its interpreter, on a CPU, against the tiles of torch operations and against whole matrices."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.streaming import kernel_tiles, tiles
from tests.train.losses.streaming.test_streamed import _assert_near, _everything

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has wheels for Linux only")
TEACHERS = (Setting(0.3, 0.1, 1.0, False), Setting(0.5, 0.1, 1.0, False))
SEPARATE = (Setting(0.3, 0.1, 1.0), Setting(0.4, 0.1, 1.0))


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interpret, with blocks so small that edges are met; return what the kernels were called for."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(tiles, "TILE", 20)
    called: list[str] = []
    measure = kernel_tiles.KernelTiles.measure

    def noted(self: kernel_tiles.KernelTiles) -> None:
        called.append("measure")
        measure(self)

    monkeypatch.setattr(kernel_tiles.KernelTiles, "measure", noted)
    return called


def _inputs(size: int = 23) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    widths = {"image": 20, "text": 20, "image_uni": 9, "text_uni": 17, "teacher_image": 12, "teacher_text": 21}
    inputs: dict[str, Any] = {name: torch.randn(size, width, generator=random) for name, width in widths.items()}
    for name in ("image", "text", "image_uni", "text_uni"):
        inputs[name].requires_grad_()
    return inputs | {"image_ids": torch.randint(0, 15, (size,), generator=random)}


@needs_triton
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "dot", "temperature": Setting(0.011, 0.01, 0.1), "beta": 0},
        {"fusion": "add", "reduction": "release", "infonce_weight": 0},
        {"alpha": 0},
        {"teacher_temperature": TEACHERS, "csa_temperature": SEPARATE, "divergence": "cross_entropy"},
    ],
)
def test_kernels_equal_whole_matrices(options: dict[str, Any], interpreter: list[str]) -> None:
    inputs = _inputs()
    observed = _everything("triton", options, inputs)
    assert interpreter == ["measure"]
    _assert_near(observed, _everything("plain", options, inputs), 1e-5)


@needs_triton
def test_kernels_read_bfloat16_and_add_in_float32(interpreter: list[str]) -> None:
    inputs = _inputs()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        observed = _everything("triton", {}, inputs)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = _everything("plain", {}, inputs)
    assert interpreter == ["measure"]
    for name, theirs in expected.items():
        error = (observed[name] - theirs).abs().max() / theirs.abs().max()
        # Eight bits a number: values average the rounding, slopes and their products carry it.
        assert error <= (2e-2 if theirs.ndim else 5e-3), name
    assert (observed["loss"] - expected["loss"]).abs() > 0


@needs_triton
@pytest.mark.parametrize(
    "options",
    [{"teacher_temperature": SEPARATE}, {"false_negatives": "mask", "mask_text": 0.2}],
)
def test_what_kernels_do_not_cover_goes_through_tiles(options: dict[str, Any], interpreter: list[str]) -> None:
    inputs = _inputs()
    _assert_near(_everything("triton", options, inputs), _everything("plain", options, inputs), 1e-5)
    wide: dict[str, Tensor] = {
        name: rows.detach().double() if rows.is_floating_point() else rows for name, rows in inputs.items()
    }
    _assert_near(_everything("triton", {}, wide), _everything("plain", {}, wide), 1e-12, least=0.1)
    assert interpreter == []


def test_kernels_without_cuda_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="impl=auto"):
        CUSALoss(impl="triton")(**_inputs())
