"""`cusa doctor`: what it says is what the machine and the installation say, and what is missing has a hint."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cusa import doctor


def _look(out: Path = Path()) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.look(out)}


def test_look__tells_what_is_there(tmp_path: Path) -> None:
    found = _look(tmp_path / "not" / "yet")
    for name in doctor.LIBRARIES:
        assert (found[name].value, found[name].hint) == (metadata.version(name), "")
    assert found["cusa"].value == metadata.version("cusa")
    assert found["python"].value == ".".join(map(str, sys.version_info[:3]))
    assert found["cores"].value.startswith(f"{len(os.sched_getaffinity(0))} usable")
    free = shutil.disk_usage(tmp_path).free / 2**30
    assert float(found["disk"].value.partition(" ")[0]) == pytest.approx(free, abs=1)
    assert str(tmp_path) in found["disk"].value


def test_look__what_is_missing_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"moon": ("no_such_module_here", "work on the moon")})
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library-here",))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = _look(tmp_path)
    assert found["extra moon"].value == "not installed"
    assert found["extra moon"].hint == "For work on the moon: pip install 'cusa[moon]'."
    assert found["no-such-library-here"].hint == "Install it: pip install no-such-library-here."
    assert "unset HF_HUB_OFFLINE" in found["hub"].hint
    assert "unset OMP_NUM_THREADS" in found["cores"].hint


def test_extras__are_those_of_the_package() -> None:
    declared = set(metadata.metadata("cusa").get_all("Provides-Extra") or ())
    assert set(doctor.EXTRAS) <= declared


def test_doctor__as_json_and_as_a_table() -> None:
    command = [sys.executable, "-c", "from cusa.cli import main; main()", "doctor"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"cusa", "torch", "memory", "accelerator", "model cache"} <= {row["what"] for row in rows}
    assert all(set(row) == {"what", "found", "hint"} for row in rows)


def test_optimizers_are_those_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    finding = _look()["optimizers"]
    assert (finding.value, finding.hint) == ("adamw, nadamw, adafactor, muon, sgd", "")
    monkeypatch.delattr(torch.optim, "Muon")
    finding = _look()["optimizers"]
    assert "muon" not in finding.value
    assert "has no Muon; upgrade it" in finding.hint


def test_faiss__which_one_and_where_it_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    versions = {"faiss-cpu": "1.2"}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "not installed"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delattr(faiss, "index_cpu_to_all_gpus", raising=False)
    assert doctor._faiss() == doctor.Finding("faiss", "faiss-cpu 1.2, searches on the CPU")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert "pip install faiss-gpu" in doctor._faiss().hint
    versions["faiss-gpu"] = "1.3"
    assert "Both bring the module faiss" in doctor._faiss().hint
    del versions["faiss-cpu"]
    assert "sees no GPU" in doctor._faiss().hint
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", None, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    assert doctor._faiss() == doctor.Finding("faiss", "faiss-gpu 1.3, searches on 2 GPUs")
    versions.clear()
    assert doctor._faiss().value == "not installed"
