"""When `auto` takes the kernels: by measurements of the package, and after a self-test."""

import importlib.util
from typing import Any

import pytest
import torch

from cusa.train.losses import CUSALoss
from cusa.train.losses.streaming import kernel_tiles, preferred, tiles

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has wheels for Linux only")


def _row(
    size: int, impl: str, milliseconds: float, terms: str = "infonce", precision: str = "highest"
) -> dict[str, Any]:
    return {"size": size, "impl": impl, "milliseconds": milliseconds, "terms": terms, "precision": precision}


def test_from_measurements__kernels_must_win_at_every_larger_size_and_for_all_terms() -> None:
    rows = [
        *(_row(size, "streamed", 10.0) for size in (1, 2, 3, 4)),
        *(_row(size, "triton", time) for size, time in ((1, 5.0), (2, 11.0), (3, 9.0), (4, 9.9))),
        {"size": 8, "impl": "triton", "precision": "highest", "left_out": "no time"},
    ]
    assert preferred.from_measurements(rows) == {"highest": 3}
    slower = [_row(3, "streamed", 1.0, "all"), _row(3, "triton", 2.0, "all")]
    assert preferred.from_measurements([*rows, *slower]) == {"highest": 4}
    assert preferred.from_measurements([*rows, _row(4, "triton", 1.0, "all")]) == {}
    other = [_row(4, "streamed", 2.0, precision="medium"), _row(4, "triton", 1.0, precision="medium")]
    assert preferred.from_measurements([*rows, *other]) == {"highest": 3, "medium": 4}
    assert preferred.from_measurements([]) == {}


def test_the_packaged_file_is_read_and_no_cpu_prefers_kernels() -> None:
    for device, starts in preferred.measured().items():
        assert set(starts) <= {"highest", "high", "medium"}, device
    assert not preferred.prefers_kernels(torch.device("cpu"), 1 << 20)


@needs_triton
def test_on_a_measured_device_by_size_precision_and_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Card")
    monkeypatch.setattr(preferred, "measured", lambda: {"A Card": {"highest": 4096}})
    tested: list[str] = []
    monkeypatch.setattr(preferred, "passes_self_test", lambda device, precision: tested.append(device) is None)
    assert preferred.prefers_kernels(card, 4096)
    assert tested == ["cuda:0"]
    assert not preferred.prefers_kernels(card, 4095)
    monkeypatch.setattr(preferred, "measured", lambda: {"A Card": {"high": 4096}})
    assert not preferred.prefers_kernels(card, 4096)
    monkeypatch.setattr(preferred, "measured", lambda: {"A Card": {"highest": 4096}})
    monkeypatch.setattr(preferred, "passes_self_test", lambda device, precision: False)
    assert not preferred.prefers_kernels(card, 4096)


@needs_triton
def test_the_self_test_passes_in_the_interpreter_and_sees_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(tiles, "TILE", 32)
    monkeypatch.setattr(preferred, "_PAIRS", 37)
    preferred.passes_self_test.cache_clear()
    assert preferred.passes_self_test("cpu", "highest")
    right = kernel_tiles.KernelTiles.gradients

    def wrong(self: kernel_tiles.KernelTiles, grads: Any, needed: Any) -> Any:
        return [None if grad is None else grad * 1.001 for grad in right(self, grads, needed)]

    monkeypatch.setattr(kernel_tiles.KernelTiles, "gradients", wrong)
    preferred.passes_self_test.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"fail their self-test on cpu \(values or gradients differ by 0.0011? "):
        assert not preferred.passes_self_test("cpu", "highest")
    preferred.passes_self_test.cache_clear()


@needs_triton
def test_a_kernel_that_does_not_run_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    preferred.passes_self_test.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"\(ConfigError: impl is 'triton'"):
        assert not preferred.passes_self_test("cpu", "highest")
    preferred.passes_self_test.cache_clear()


@needs_triton
def test_auto_streams_by_kernels_where_they_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    from cusa.train.losses import objective

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(objective, "STREAMED_FROM", 8)
    called: list[int] = []
    measure = kernel_tiles.KernelTiles.measure
    monkeypatch.setattr(kernel_tiles.KernelTiles, "measure", lambda self: called.append(1) or measure(self))
    rows = {
        name: torch.randn(9, 5, generator=torch.Generator().manual_seed(k)) for k, name in enumerate(("image", "text"))
    }
    loss = CUSALoss(alpha=0, beta=0)
    without = loss(**rows)["loss"]
    assert not called
    monkeypatch.setattr(objective, "prefers_kernels", lambda device, size: size == 9)
    torch.testing.assert_close(loss(**rows)["loss"], without, rtol=1e-5, atol=1e-6)
    assert called
