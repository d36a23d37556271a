"""The device of a network, and what happens to the memory of its activations on a CPU."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cusa.models.device import Device, choose, unit_rows

FAULTS = """
import resource, torch
from cusa.models.device import choose
if {chosen}:
    choose("cpu")
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 24).add_(1)  # 64 MiB, freed at once
before = faults()
for _ in range(8):
    torch.ones(1 << 24).add_(1)
print(faults() - before)
"""


def _faults(chosen: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(chosen=chosen)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_choose__the_named_device_or_a_cpu_where_there_is_no_other() -> None:
    assert choose("meta") == torch.device("meta")
    assert choose().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="what glibc does with freed memory")
def test_choose__a_cpu_keeps_the_memory_of_large_arrays() -> None:
    """Counted in page faults: each is a page of 4 KiB (or one of 2 MiB) that the system had to clear."""
    given_back = _faults(chosen=False)
    assert given_back >= 8 * 32  # else there is nothing to mend
    assert _faults(chosen=True) < given_back / 4


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_device__runs_a_frozen_network_in_its_numbers(precision: str, dtype: torch.dtype) -> None:
    device = Device(precision, "cpu")  # type: ignore[arg-type]
    assert device.precision == str(dtype).removeprefix("torch.")
    network = device.place(torch.nn.Linear(3, 2).train())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    inputs = device.send(np.ones((4, 3), dtype=np.float32))
    with device.autocast():
        assert network(inputs).dtype == dtype
    with device.autocast(exact=True):
        assert network(inputs).dtype == torch.float32


def test_unit_rows__are_of_length_one_in_float32_and_zeros_stay() -> None:
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=0, atol=1e-7)
    assert rows.dtype == np.float32
