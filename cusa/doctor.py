"""What this machine and this installation have, and what is missing for which command."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cusa.train.optimizers.labels import LABELS

LIBRARIES = ("torch", "transformers", "sentence-transformers", "pyarrow", "duckdb", "numpy", "pillow")
EXTRAS = {
    "wandb": ("wandb", "metrics in Weights & Biases (`train.wandb`)"),
    "ray": ("ray", "work on several machines (`--engine ray`)"),
    "s3": ("s3fs", "work folders at `s3://`"),
}
"""Extra of the package -> module it brings, what it is for."""

_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One fact of the machine or the installation."""

    name: str
    value: str
    hint: str = ""
    """What to do about it, as a sentence; empty if nothing is missing."""


def look(out: Path = Path()) -> list[Finding]:
    """Look at versions, cores, memory, disk, accelerator, extras and cache folders.

    Args:
        out: where the work would go: its disk is looked at.
    """
    findings = [Finding("cusa", _version("cusa")), Finding("python", platform.python_version())]
    findings += [Finding(name, _version(name), _missing(name)) for name in LIBRARIES]
    findings += [_faiss(), _cores(), _memory(), _disk(out), _accelerator(), _optimizers()]
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        hint = "" if there else f"For {purpose}: pip install 'cusa[{extra}]'."
        findings.append(Finding(f"extra {extra}", _version(module) if there else "not installed", hint))
    return findings + [_hub(), _network()]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _missing(name: str) -> str:
    return f"Install it: pip install {name}." if _version(name) == "not installed" else ""


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    text = f"{usable} usable of {os.cpu_count()}" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    few = threads.isdecimal() and int(threads) > usable
    return Finding("cores", text, "More threads than cores wait for each other; unset OMP_NUM_THREADS." if few else "")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    except (ValueError, OSError, AttributeError):  # not every system tells
        return Finding("memory", "unknown")
    small = total < 4
    hint = "The demo needs about 1 GiB, CLIP ViT-B/32 about 4; lower train.batch and train.cache_mib." if small else ""
    return Finding("memory", f"{total:.1f} GiB", hint)


def _disk(out: Path) -> Finding:
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / _GIB
    writable = os.access(place, os.W_OK)
    hint = "" if writable else f"{place} cannot be written; choose another --out."
    if writable and free < 60:
        hint = "COCO takes about 60 GiB with its archives; `cusa plan RECIPE` says what a recipe needs."
    return Finding("disk", f"{free:.1f} GiB free at {place}", hint)


def _accelerator() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("accelerator", "unknown", "Install torch first.")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("accelerator", ", ".join(names))
    built = f"; torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "; torch is built for CPUs"
    hint = "The demo and the smokes run without; for the paper's recipes take a machine with a CUDA device."
    return Finding("accelerator", f"none{built}", hint)


def _faiss() -> Finding:
    """Say which FAISS is there, and where it searches."""
    there = [name for name in ("faiss-cpu", "faiss-gpu") if _version(name) != "not installed"]
    versions = " and ".join(f"{name} {_version(name)}" for name in there)
    if not there or importlib.util.find_spec("faiss") is None:
        return Finding("faiss", versions or "not installed", "Install it: pip install faiss-cpu, or faiss-gpu.")
    if len(there) > 1:
        hint = "Both bring the module faiss: pip uninstall faiss-cpu faiss-gpu, then pip install the one you want."
        return Finding("faiss", versions, hint)
    import faiss

    number = int(faiss.get_num_gpus()) if hasattr(faiss, "index_cpu_to_all_gpus") else 0
    if number:
        return Finding("faiss", f"{versions}, searches on {number} GPU{'s' if number > 1 else ''}")
    hint = ""
    if there == ["faiss-gpu"]:
        hint = "It sees no GPU: look at the driver and at CUDA_VISIBLE_DEVICES."
    elif shutil.which("nvidia-smi"):
        hint = "To search on the GPU: pip uninstall faiss-cpu, then pip install faiss-gpu."
    return Finding("faiss", f"{versions}, searches on the CPU", hint)


def _optimizers() -> Finding:
    """Say which of `train.optimizer` the installed torch has."""
    try:
        import torch
    except ImportError:
        return Finding("optimizers", "unknown", "Install torch first.")
    missing = [label for label in LABELS if not hasattr(torch.optim, label.torch_class)]
    there = ", ".join(label.name for label in LABELS if label not in missing)
    lacking = " and ".join(label.torch_class for label in missing)
    return Finding("optimizers", there, f"torch {_version('torch')} has no {lacking}; upgrade it." if missing else "")


def _hub() -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    return Finding("model cache", f"{folder}, {models} models" if folder.is_dir() else f"{folder}, not made yet")


def _network() -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    hint = (
        "Models that are not in the cache cannot be loaded: unset HF_HUB_OFFLINE, or give folders." if offline else ""
    )
    return Finding(
        "hub", "offline by HF_HUB_OFFLINE" if offline else "asked for models that are not in the cache", hint
    )
