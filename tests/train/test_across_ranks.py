"""W processes that share a batch give the loss and the gradients of one process that has it alone."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cusa.train import across_ranks
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.by_rows.hardness import Hardness
from cusa.train.losses.by_rows.thresholds import Thresholds
from cusa.train.losses.pair_probability import PairProbability, Slope
from cusa.train.losses.streaming import tiles
from tests.train.losses import reference
from tests.train.losses.test_objective import TERMS
from tests.train.ranks import run_on_ranks

COUNTS = {2: [(6, 6), (7, 4), (5, 0)], 4: [(4, 3, 3, 1)]}
"""Rows of each rank: even, uneven as a last batch is, and a rank that has none."""
PROBABILITY = PairProbability(
    intercept=-1.0,
    image=Slope(2.0, -1.0),
    text=Slope(3.0, 0.5),
    image_mean=torch.linspace(-0.3, 0.4, 8, dtype=torch.float64),
    text_mean=torch.linspace(0.2, -0.2, 9, dtype=torch.float64),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "cusa": {},
    "release": {"reduction": "release", "fusion": "dot", "divergence": "cross_entropy_release"},
    "learned teachers": {
        "fusion": "add",
        "teacher_temperature": (Setting(0.3, 0.1, 1.0), Setting(0.4, 0.1, 1.0)),
        "csa_temperature": (Setting(0.3, 0.1, 1.0), Setting(0.5, 0.1, 1.0)),
    },
    "cold": {"temperature": Setting(0.003, 0.001, 0.1)},
    "mask": {"false_negatives": "mask", "mask_text": "positive", "mask_image": 0.5},
    "positive": {"false_negatives": "positive"},
    "hardness": {"false_negatives": "hardness", "hardness": Hardness(0.3, 0.01), "temperature": Setting(0.2, 0.1, 1.0)},
    "calibrated": {"false_negatives": "debiased", "soft_labels": "calibrated", "pair_probability": PROBABILITY},
    "sigmoid": {"contrast": "sigmoid", "sigmoid_bias": -2.0, "temperature": Setting(0.2, 0.1, 1.0)},
    "smoothed": {"label_smoothing": 0.3},
    "weighted": {"pair_weights": True},
}
ACCURACY = {"cold": 1e-9}


def _world(size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs of a whole batch, and listed pairs."""
    random = torch.Generator().manual_seed(size)
    widths = {"image": 6, "text": 6, "image_uni": 5, "text_uni": 4, "teacher_image": 8, "teacher_text": 9}
    rows = {name: torch.randn(size, width, generator=random, dtype=torch.float64) for name, width in widths.items()}
    ids = torch.randint(0, size - 2, (size,), generator=random)
    listed = torch.randint(0, size, (size, 2), generator=random)
    weights = torch.rand(size, generator=random, dtype=torch.float64)
    return rows | {"image_ids": ids, "text_ids": torch.arange(size), "pair_weights": weights}, listed


class _Towers(torch.nn.Module):
    """What stands behind the embeddings: parameters whose gradients come through every row of every rank."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        self.weights = torch.nn.ParameterDict(
            {
                name: torch.randn(width, width, generator=random, dtype=torch.float64)
                for name, width in (("image", 6), ("text", 6), ("image_uni", 5), ("text_uni", 4))
            }
        )

    def forward(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: rows[name] @ weight for name, weight in self.weights.items()}


def _once(options: dict[str, Any], inputs: dict[str, Tensor], listed: Tensor, parallel: bool) -> dict[str, Tensor]:
    """Return the terms and every gradient of one step."""
    weighted = options.get("pair_weights", False)
    towers: Any = _Towers()
    loss: Any = CUSALoss(**{name: value for name, value in options.items() if name != "pair_weights"}).double()
    if parallel:
        towers, loss = DistributedDataParallel(towers), DistributedDataParallel(loss)
    others = {name: inputs[name] for name in ("teacher_image", "teacher_text", "image_ids", "text_ids")}
    if weighted:
        others["pair_weights"] = inputs["pair_weights"]
    # Other pairs than the listed ones, all of them on every rank.
    ignored = torch.tensor([[0, 3], [2, 7], [5, 1], [1, 4]])
    terms = loss(**towers(inputs), **others, positive_pairs=listed, ignored_pairs=ignored)
    terms["loss"].backward()
    named = [*towers.named_parameters(), *loss.named_parameters()]
    grads = {f"d {name.removeprefix('module.')}": p.grad for name, p in named if p.grad is not None}
    return {name: term.detach() for name, term in terms.items()} | grads


def _cases(ranks: int) -> list[tuple[str, tuple[int, ...], str]]:
    everywhere = ("cusa", "positive")
    uneven = COUNTS[ranks][-1] if ranks == 4 else COUNTS[ranks][1]
    return [
        (name, counts, impl)
        for name in (OPTIONS if ranks == 2 else (*everywhere, "mask"))
        for counts in COUNTS[ranks]
        for impl in ("plain", "streamed")
        if counts == uneven or name in everywhere
    ]


def _every_case(rank: int, *, ranks: int, golden: str) -> dict[str, Any]:
    tiles.TILE = 3
    found: dict[str, Any] = {}
    for name, counts, impl in _cases(ranks):
        inputs, listed = _world(sum(counts))
        start = sum(counts[:rank])
        mine = {key: rows[start : start + counts[rank]] for key, rows in inputs.items()}
        touching = torch.isin(listed[:, 0], mine["image_ids"]) | torch.isin(listed[:, 1], mine["text_ids"])
        options: dict[str, Any] = {**OPTIONS[name], "impl": impl, "negatives": "global"}
        found[str((name, counts, impl))] = _once(options, mine, listed[touching], parallel=True)
    if ranks == 2:
        found["memory"] = _memory(rank)
        for mode in ("global", "release", "local"):
            for impl in ("plain", "streamed"):
                found[f"thresholds {mode} {impl}"] = _thresholds(rank, 2, mode, impl)
    if golden:
        for mode in ("global", "release", "local"):
            for reduction in ("mean", "sum"):
                for impl in ("plain", "streamed"):
                    found[f"{mode} {reduction} {impl}"] = _reference(rank, golden, mode, reduction, impl)
    return found


def _thresholds(rank: int, ranks: int, mode: Any, impl: Any) -> dict[str, Tensor]:
    """Return what four steps with learned thresholds leave: on a rank, or in one process with `ranks` of 1."""
    thresholds = Thresholds(11, 13, share=0.2, rate=0.05, after=1)
    loss = CUSALoss(
        alpha=0, beta=0, false_negatives="thresholds", thresholds=thresholds, negatives=mode, impl=impl,
    ).double()  # fmt: skip
    left = {}
    for step in range(4):
        inputs, _ = _world(13)
        order = torch.randperm(13, generator=torch.Generator().manual_seed(step))
        rows = order if ranks == 1 else order[slice(0, 8) if rank == 0 else slice(8, 13)]
        left[f"loss {step}"] = loss(
            **{name: inputs[name][rows] for name in ("image", "text", "image_ids", "text_ids")}
        )["loss"].detach()
    return left | {name: value.double() for name, value in thresholds.state_dict().items()}


def _memory(rank: int) -> dict[str, Tensor]:
    """Return what is left in tensors that a collective was given, and what others got of the same gradient."""
    own, other = (torch.full((2, 3), 1.0 + rank, requires_grad=True) for _ in range(2))
    # An addition hands the very same tensor to both of its summands.
    (across_ranks.gather(own, (2, 2))[2 * rank :][:2] + other).backward(torch.full((2, 3), 10.0 + rank))
    whole = torch.full((4, 3), 1.0, requires_grad=True)
    gradient = torch.full((4, 3), 10.0 + rank)
    (across_ranks.gather(own, (2, 2)) + whole).backward(gradient)
    part = torch.full((), 3.0 + rank)
    summed = across_ranks.total(part)
    return {"other": other.grad, "whole": whole.grad, "gradient": gradient, "part": part, "sum": summed}  # type: ignore[dict-item]


def _reference(rank: int, golden: str, mode: Any, reduction: str, impl: Any) -> dict[str, Any]:
    case = reference.Case(Path(golden) / "01_losses" / "losses_2ranks_b8.npz")
    make = CUSALoss.release if reduction == "mean" else CUSALoss.paper
    loss = make(impl=impl, negatives=mode)
    rows = slice(8 * rank, 8 * rank + 8)
    terms = loss(**case.inputs(rows))
    terms["loss"].backward()
    local = {f"{name}_features": features.grad[rows] for name, features in case.features.items()}
    shared = {name: parameter.grad for name, parameter in case.head_parameters().items()}
    shared |= {name: t.value.grad for name, t in loss.temperatures().items() if t.value.grad is not None}
    average = {name: grad.clone() for name, grad in shared.items()}
    for grad in average.values():
        dist.all_reduce(grad)
        grad /= 2
    return {"terms": {name: t.detach() for name, t in terms.items()}, "local": local | shared, "average": average}


Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what each of two ranks found, for every case, and with the reference's inputs where they are there."""
    shared = Path(os.environ.get("CUSA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    golden = str(shared / "golden") if (shared / "golden").is_dir() else ""
    work = partial(_every_case, ranks=2, golden=golden)
    return run_on_ranks(work, 2, tmp_path_factory.mktemp("ranks2"))


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what each of four ranks found, for every case."""
    return run_on_ranks(partial(_every_case, ranks=4, golden=""), 4, tmp_path_factory.mktemp("ranks4"))


def test_collectives_leave_the_tensors_of_others_alone(two_ranks: Found) -> None:
    for rank in range(2):
        left = two_ranks[rank]["memory"]
        for name in ("other", "whole", "gradient"):
            assert torch.equal(left[name], torch.full_like(left[name], 10.0 + rank)), name
        assert (float(left["part"]), float(left["sum"])) == (3.0 + rank, 7.0)


def test_two_ranks_give_what_one_process_gives(two_ranks: Found) -> None:
    _check_every_case(2, two_ranks)


def test_four_ranks_give_what_one_process_gives(four_ranks: Found) -> None:
    _check_every_case(4, four_ranks)


@pytest.mark.parametrize("impl", ["plain", "streamed"])
def test_thresholds_are_the_same_on_every_rank_as_in_one_process(two_ranks: Found, impl: str) -> None:
    whole = _thresholds(0, 1, "global", "plain")
    assert whole["image_met"].sum() > 20
    for mode in ("global", "release", "local"):
        first, second = (two_ranks[rank][f"thresholds {mode} {impl}"] for rank in range(2))
        for name, value in whole.items():
            if mode == "local":  # each rank's loss and negatives are its own; what is learned is shared
                assert name.startswith("loss") or torch.equal(first[name], second[name]), name
                assert not name.endswith("_met") or torch.equal(first[name], value), name
            else:
                assert torch.equal(first[name], second[name]), (mode, name)
                torch.testing.assert_close(first[name], value, rtol=1e-12, atol=1e-12)


def _check_every_case(ranks: int, found: Found) -> None:
    for name, counts, impl in _cases(ranks):
        inputs, listed = _world(sum(counts))
        expected = _once({**OPTIONS[name], "impl": "plain"}, inputs, listed, parallel=False)
        for rank in range(ranks):
            observed = found[rank][str((name, counts, impl))]
            assert observed.keys() == expected.keys()
            for key, theirs in expected.items():
                error = (observed[key] - theirs).abs().max()
                allowed = ACCURACY.get(name, 1e-12) * max(theirs.abs().max().item(), 0.1)
                assert error <= allowed, (name, counts, impl, rank, key)


PREFIXES = {"global": "global_single_process", "release": "all_gather", "local": "local_negatives"}


@pytest.mark.parametrize("impl", ["plain", "streamed"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mode", list(PREFIXES))
def test_the_ranks_equal_the_reference(golden: Path, two_ranks: Found, mode: str, reduction: str, impl: str) -> None:
    with np.load(golden / "01_losses" / "losses_2ranks_b8.npz", allow_pickle=False) as file:
        arrays = dict(file)
    compared = 0
    for rank in range(2):
        mine = two_ranks[rank][f"{mode} {reduction} {impl}"]
        stem = f"{PREFIXES[mode]}/{reduction}/"
        own = stem if mode == "global" else f"{stem}rank{rank}/"
        for ours, theirs in TERMS.items():
            assert mine["terms"][ours].item() == pytest.approx(float(arrays[f"{own}loss.{theirs}"]), rel=1e-5, abs=1e-6)
        # Ours gives the global gradient after averaging; before, each rank's own embeddings have W times theirs.
        sides = {f"{stem}grad.": "average"} if mode == "global" else {f"{own}grad.": "local"}
        if mode != "global":
            sides[f"{stem}ddp_average/grad."] = "average"
        for prefix, side in sides.items():
            for array in [name for name in arrays if name.startswith(prefix)]:
                name = array.removeprefix(prefix)
                if name.endswith("_features"):
                    if side == "average" and mode != "global":
                        continue
                    rows = slice(8 * rank, 8 * rank + 8)
                    theirs = arrays[array] if len(arrays[array]) == 8 else arrays[array][rows]
                    observed = mine["local"][name] / (2 if mode == "global" else 1)
                else:
                    theirs = arrays[array]
                    observed = mine[side][name if name.startswith("head.") else reference.our_name(name)]
                tolerance = 1e-3 if name.startswith(("tau", "softtau")) else 2e-5
                assert np.abs(observed.numpy() - theirs).max() <= tolerance * np.abs(theirs).max() + 1e-12, array
                compared += 1
    assert compared >= 40
