"""The reference numbers, read into our words; and the same losses as loops over plain Python floats."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.temperature import shared

OUR_NAMES = {"tau.nce": "infonce", "tau.csa": "csa", "softtau.csa": "teacher", "tau.usa": "usa"}
HEADS = [f"{space}.{modality}" for space in ("cross", "uni") for modality in ("image", "text")]


def our_name(theirs: str) -> str:
    """Turn `tau.usa.image` into `usa.image`."""
    modality = theirs.removeprefix("soft").split(".")[2:]
    stem = ".".join(theirs.split(".")[:2])
    return ".".join([{**OUR_NAMES, "softtau.usa": "usa_teacher"}[stem], *modality])


def objective(setting: dict[str, Any], **options: Any) -> CUSALoss:
    """Build our loss from one entry of configs.json."""
    told: dict[str, Any] = {"infonce_weight": 0.0, "alpha": 0.0, "beta": 0.0}
    if nce := setting.get("nce"):
        told |= {
            "infonce_weight": nce["weight"],
            "reduction": {"sum": "standard", "mean": "release"}[nce["reduction"]],
            "temperature": Setting(nce["tau_init"], *nce["tau_clamp"], nce["tau_learnable"]),
        }
    if csa := setting.get("csa"):
        told |= {
            "alpha": csa["weight_alpha"],
            "fusion": csa["teacher_combination"],
            "divergence": _divergence(csa["divergence"]),
            "csa_temperature": _temperatures(csa, "student"),
            "teacher_temperature": _temperatures(csa, "teacher"),
        }
    if usa := setting.get("usa"):
        told |= {
            "beta": usa["weight_beta"],
            "divergence": _divergence(usa["divergence"]) if "divergence" in usa else told["divergence"],
            "usa_temperature": _temperatures(usa, "student") or "csa",
            "usa_teacher_temperature": _temperatures(usa, "teacher"),
        }
    return CUSALoss(**(told | options))


def _divergence(words: str) -> str:
    if words.startswith("KL"):
        return "kl"
    return "cross_entropy" if words.endswith("sum") else "cross_entropy_release"


def _temperatures(section: dict[str, Any], whose: str) -> Any:
    kind = section[f"{whose}_tau"]
    if kind.startswith("the CSA"):
        return None
    image, text = (
        Setting(
            section[f"{whose}_tau_init"][modality],
            *section[f"{whose}_tau_clamp"][modality],
            section[f"{whose}_tau_learnable"],
        )
        for modality in ("image", "text")
    )
    return shared(image, text) if kind.startswith("one shared") else (image, text)


def configurations(golden: Path) -> dict[str, dict[str, Any]]:
    """Return configs.json."""
    return json.loads((golden / "01_losses" / "configs.json").read_text())


class Case:
    """One file of the reference: inputs, heads, and what should come out.

    Args:
        path: an `.npz` file.
        dtype: in which to compute.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.arrays = np.load(path, allow_pickle=False)
        self.dtype = dtype
        self.features = {
            modality: self.tensor(f"in/{modality}_features").requires_grad_() for modality in ("image", "text")
        }
        self.teachers = {
            f"teacher_{modality}": self.tensor(f"in/teacher_{modality}_features") for modality in ("image", "text")
        }
        self.image_ids = torch.from_numpy(self.arrays["in/image_ids"])
        self.heads = nn.ModuleDict()
        for head in HEADS:
            width = self.features["image"].shape[1]
            module = nn.Sequential(nn.LayerNorm(width, eps=1e-5), nn.Linear(width, width)).to(dtype)
            for layer, part in (("layernorm", module[0]), ("linear", module[1])):
                for kind in ("weight", "bias"):
                    getattr(part, kind).data = self.tensor(f"w/head.{head}.{layer}.{kind}")
            self.heads[head.replace(".", "_")] = module

    def tensor(self, name: str) -> Tensor:
        """Return an array as a tensor of the case's type."""
        return torch.from_numpy(self.arrays[name]).to(self.dtype)

    def inputs(self, rows: Tensor | slice = slice(None), with_ids: bool = True) -> dict[str, Any]:
        """Return the keyword arguments of `CUSALoss` for some rows."""
        image, text = self.features["image"][rows], self.features["text"][rows]
        return {
            "image": self.heads["cross_image"](image),
            "text": self.heads["cross_text"](text),
            "image_uni": self.heads["uni_image"](image),
            "text_uni": self.heads["uni_text"](text),
            **{name: teacher[rows] for name, teacher in self.teachers.items()},
            "image_ids": self.image_ids[rows] if with_ids else None,
        }

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the heads' parameters under the reference's names."""
        found = {}
        for head in HEADS:
            layernorm, linear = self.heads[head.replace(".", "_")]
            for layer, part in (("layernorm", layernorm), ("linear", linear)):
                found |= {f"head.{head}.{layer}.{kind}": getattr(part, kind) for kind in ("weight", "bias")}
        return found


# The losses once more, without a tensor: what every formula says, element by element.

Matrix = Sequence[Sequence[float]]


def softmax(row: Sequence[float]) -> list[float]:
    """Return the softmax of one row."""
    most = max(row)
    powers = [math.exp(x - most) for x in row]
    return [power / sum(powers) for power in powers]


def cosines(rows: Matrix, columns: Matrix) -> list[list[float]]:
    """Return all cosines."""

    def length(row: Sequence[float]) -> float:
        return math.sqrt(sum(x * x for x in row))

    return [[sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b)) for b in columns] for a in rows]


def transpose(matrix: Matrix) -> list[list[float]]:
    """Return columns as rows."""
    return [list(column) for column in zip(*matrix, strict=True)]


def divided(matrix: Matrix, temperature: float) -> list[list[float]]:
    """Return every element divided by the temperature."""
    return [[x / temperature for x in row] for row in matrix]


def kl(teacher: Matrix, student: Matrix) -> float:
    """Return the mean over rows of KL(softmax(teacher) || softmax(student))."""
    total = 0.0
    for a, b in zip(teacher, student, strict=True):
        total += sum(q * (math.log(q) - math.log(p)) for q, p in zip(softmax(a), softmax(b), strict=True) if q > 0)
    return total / len(teacher)


def infonce(similarity: Matrix, ids: Sequence[int], temperature: float) -> float:
    """Return the textbook InfoNCE with uniform targets over equal ids."""
    total = 0.0
    for matrix in (similarity, transpose(similarity)):
        for i, row in enumerate(divided(matrix, temperature)):
            mine = [j for j, other in enumerate(ids) if other == ids[i]]
            total -= sum(math.log(softmax(row)[j]) for j in mine) / len(mine)
    return total / (2 * len(ids))
