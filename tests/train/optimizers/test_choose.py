"""Each optimiser against a loop written out with torch's own class, and its state through a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cusa.errors import ConfigError, StaleError, StoppedError
from cusa.models import student as students
from cusa.models.students.base import Student
from cusa.train.config import MOMENTUM, LossConfig, TrainConfig
from cusa.train.optimizers.choose import make_optimizer
from cusa.train.optimizers.labels import LABELS
from cusa.train.terms import make_loss
from tests.train import processes
from tests.train.conftest import STUDENT, Train
from tests.train.test_survival import metrics, same, state, wait_for_checkpoint

NAMES = [label.name for label in LABELS]


def _student() -> Student:
    return students.create(STUDENT.model_copy(update={"image_layers": 2}), captions=["a dog"], uni=True, seed=0)


def _named(student: Student, loss: nn.Module) -> dict[str, nn.Parameter]:
    return {**dict(student.named_parameters("student")), **dict(loss.named_parameters("loss"))}


def _slopes(named: dict[str, nn.Parameter], step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=draw) * 1e-2


def _plain(name: str, parameter_name: str, parameter: nn.Parameter, decay: float) -> torch.optim.Optimizer:
    """Return the optimiser of one parameter alone, as its authors' options are written in the documentation."""
    one = [parameter]
    adam: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": decay}
    layer = ("_proj.weight", "fc1.weight", "fc2.weight", "linear.weight", "projection.weight")
    if name == "muon" and parameter_name.endswith(layer):
        return torch.optim.Muon(
            one, momentum=0.7, nesterov=True, weight_decay=decay, ns_steps=5, adjust_lr_fn="match_rms_adamw"
        )
    if name in ("adamw", "muon"):
        return torch.optim.AdamW(one, fused=False, **adam)
    if name == "nadamw":
        return torch.optim.NAdam(one, decoupled_weight_decay=True, **adam)
    if name == "adafactor":
        return torch.optim.Adafactor(one, weight_decay=decay)
    return torch.optim.SGD(one, momentum=0.7, nesterov=True, weight_decay=decay)


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_those_of_torchs_own_loop(name: str) -> None:
    options: dict[str, Any] = {"optimizer": name, "lr": 1e-2, "lr_text": 1e-3, "layer_decay_image": 0.5}
    options |= {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}
    config = TrainConfig(**options, momentum=0.7 if name in MOMENTUM else None)
    student, loss = _student(), make_loss(LossConfig())
    named = _named(student, loss)
    optimizer = make_optimizer(student, loss, config)
    learned = {key: one for key, one in named.items() if one.requires_grad}
    copies = {key: nn.Parameter(one.detach().clone()) for key, one in learned.items()}
    decays = {key: 0.1 if one.ndim > 1 and not key.endswith("bias") else 0.0 for key, one in learned.items()}
    loops = {key: _plain(name, key, one, decays[key]) for key, one in copies.items()}
    for step in range(3):
        rate = 1e-2 / (1 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        _slopes(learned, step)
        optimizer.step()
        _slopes(copies, step)
        for key, one in loops.items():
            scale = 0.1 if key.startswith("student.backbone.text_") else 1.0
            if key.startswith("student.backbone.vision_model."):
                number = key.partition(".layers.")[2][:1]
                scale = 0.5 ** (2 - int(number)) if number else 0.125 if "embed" in key or "pre_" in key else 1.0
            one.param_groups[0]["lr"] = rate * scale
            one.step()
    for key, one in learned.items():
        torch.testing.assert_close(one, copies[key], rtol=1e-5, atol=1e-7, msg=key)
    grouped = [key for group in optimizer.param_groups for key in group["names"]]
    assert sorted(grouped) == sorted(learned)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_spared_never_decays(name: str) -> None:
    for decay in ("matrices", "release"):
        student, loss = _student(), make_loss(LossConfig())
        named = _named(student, loss)
        before = {key: one.detach().clone() for key, one in named.items()}
        config = TrainConfig(optimizer=name, lr=0.1, weight_decay=0.5, decay=decay)  # type: ignore[arg-type]
        optimizer = make_optimizer(student, loss, config)
        for one in named.values():
            one.grad = torch.zeros_like(one)
        optimizer.step()
        shrunk = {key for key, one in named.items() if not torch.equal(one.detach(), before[key])}
        few = {0, 1} if decay == "matrices" else {1}
        spared = {key for key, one in named.items() if one.ndim in few or key.endswith("bias")}
        assert not shrunk & spared
        assert {key for key in shrunk if named[key].ndim > 1}
        assert ("loss.infonce_temperature.value" in shrunk) == (decay == "release")


def test_one_kernel_a_parameter_only_where_torch_has_it() -> None:
    fused = {}
    for name in NAMES:
        config = TrainConfig(optimizer=name)  # type: ignore[arg-type]
        groups = make_optimizer(_student(), make_loss(LossConfig()), config).param_groups
        fused[name] = {group.get("fused") for group in groups}
    assert fused == {"adamw": {True}, "nadamw": {None}, "adafactor": {None}, "muon": {None, True}, "sgd": {True}}


def test_muon_is_for_matrices_of_linear_layers() -> None:
    student, loss = _student(), make_loss(LossConfig())
    groups = make_optimizer(student, loss, TrainConfig(optimizer="muon")).param_groups
    muon = {name for group in groups if "ns_steps" in group for name in group["names"]}
    adam = {name for group in groups if "betas" in group for name in group["names"]}
    assert {group["momentum"] for group in groups if "momentum" in group} == {0.95}
    assert muon
    assert not muon & adam
    assert all(name.endswith(".weight") for name in muon)
    assert any("token_embedding" in name for name in adam)
    assert not any("embedding" in name for name in muon)
    for name, one in student.named_parameters("student"):
        if "_proj." in name or ".fc" in name:
            assert (name in muon) == (one.ndim == 2), name
    for one in student.parameters():
        one.requires_grad_(False)
    with pytest.raises(ConfigError, match="no matrix of a linear layer learns"):
        make_optimizer(student, loss, TrainConfig(optimizer="muon"))


@pytest.mark.parametrize("name", NAMES)
def test_stopped_and_resumed_it_ends_with_the_same_bits(train: Train, tmp_path: Path, name: str) -> None:
    options = {"optimizer": name, "layer_decay_image": 1.0, "lr_text": 1e-3}
    train(tmp_path / "whole", train=options)
    asked = iter([False] * 4)
    with pytest.raises(StoppedError):
        train(tmp_path / "stopped", train=options, should_stop=lambda: next(asked, True))
    assert train(tmp_path / "stopped", train=options).started_at == 5
    assert same(state(tmp_path / "whole"), state(tmp_path / "stopped"))


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_two_ranks_go_on_with_the_state_of_one(world: Path, tmp_path: Path, name: str) -> None:
    told = {"dropout": 0.0, "optimizer": name, "checkpoint_every": 1}
    processes.Run(world, tmp_path / "one", told).ends()
    begun = processes.Run(world, tmp_path / "both", told, waits_at=10)
    assert begun.reaches(4)
    wait_for_checkpoint(tmp_path / "both", 4)
    begun.kill()
    results = [run.ends() for run in processes.together(world, tmp_path / "both", told, world=2)]
    assert all(result.started_at >= 4 for result in results)
    first, second = state(tmp_path / "one"), state(tmp_path / "both")
    for key, value in first["student"].items():
        if not key.endswith("k_proj.bias"):  # a softmax does not see it: its gradient is rounding
            # Muon multiplies matrices in bf16, whose rounding differs with the order of a gradient's sum.
            torch.testing.assert_close(second["student"][key], value, rtol=2e-2, atol=2e-3)


def test_another_optimizer_starts_anew_where_it_is_allowed(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    told = {"optimizer": "sgd", "steps": 12}
    with pytest.raises(StaleError, match=r"train\.optimizer was 'adamw' and is now 'sgd'"):
        train(tmp_path / "run", train=told)
    done = train(tmp_path / "run", train=told, allow_changed=["train.optimizer", "train.steps"])
    assert any("The state of adamw means nothing to sgd, which starts anew." in note for note in done.notes)
    assert set(state(tmp_path / "run", 12)["optimizer"]["state"][0]) == {"momentum_buffer"}


def test_labels_name_every_choice() -> None:
    choices = TrainConfig.model_fields["optimizer"].annotation.__args__  # type: ignore[union-attr]
    assert tuple(NAMES) == choices
    for label in LABELS:
        assert set(label.reads) <= set(TrainConfig.model_fields)
        assert ("momentum" in label.reads) == (label.name in MOMENTUM)


def test_a_momentum_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum 0.5 is not read by the optimizer 'adamw'"):
        TrainConfig(momentum=0.5)
    assert make_optimizer(_student(), make_loss(LossConfig()), TrainConfig(optimizer="sgd", momentum=0)).param_groups


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_overflow_leave_the_step_out(train: Train, tmp_path: Path, name: str) -> None:
    train(tmp_path / "run", train={"optimizer": name, "precision": "fp16", "steps": 4, "log_every": 1})
    assert (
        metrics(tmp_path / "run")[1, "loss_scale"] < 2.0**16
    )  # the first scale is too high for fp16: halved, and no weight moved
    first = state(tmp_path / "run", 4)
    assert all(torch.isfinite(value).all() for value in first["student"].values())
