"""The one command that waits for a card runs on a CPU, small and interpreted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has wheels for Linux only")
def test_the_gpu_benchmark_runs_small_on_a_cpu() -> None:
    command = [str(ROOT / "benchmarks" / "gpu" / "run.sh"), "--tiny"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHON": sys.executable}
    )
    found = json.loads(done.stdout[done.stdout.index("{") :])
    for way, errors in found["self_test"].items():
        assert errors["gradients"] < (0.05 if "bf16" in way else 1e-4), way
    assert found["step"]["unread_milliseconds_a_step"] > 0
    assert all("milliseconds" in one or "left_out" in one for one in found["streamed"])
