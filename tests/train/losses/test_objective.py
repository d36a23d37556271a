"""CUSALoss against the authors' release (values and all gradients), and what it does with wrong input."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.config import LossConfig
from cusa.train.losses import CUSALoss, Setting, objective
from cusa.train.losses.by_rows.hardness import Hardness
from cusa.train.losses.by_rows.thresholds import Thresholds
from cusa.train.losses.pair_probability import PairProbability, Slope
from cusa.train.losses.streaming import tiles
from cusa.train.optimizers.groups import parameter_groups
from cusa.train.schedule import cosine
from tests.train.losses import reference
from tests.train.losses.matrices import unit

CONFIGURATIONS = [
    "cusa_published", "cusa_sum", "nce_only_mean", "nce_only_sum", "nce_only_sum_diag", "nce_sum_fixed_tau", "csa_each",
    "csa_each_separate_taus", "csa_add", "csa_add_softtau", "csa_dot", "csa_dot_softtau", "csa_each_ce_mean",
    "csa_each_ce_sum", "usa", "usa_softtau", "usa_one_tau", "csa_usa_shared_tau", "usa_ce_sum", "clamp_active",
]  # fmt: skip
AT_128 = ["csa_dot", "csa_each_separate_taus", "cusa_published", "cusa_sum", "nce_only_sum_diag", "usa_softtau"]
CASES = [(size, name) for size in (8, 33) for name in CONFIGURATIONS] + [(128, name) for name in AT_128]
SHARP = (Setting(0.2, 0.1, 1, False), Setting(0.4, 0.1, 1, False))
TERMS = {"infonce": "nce", "csa": "csa", "usa": "usa", "loss": "total"}


def test_every_configuration_of_the_reference_is_tested(golden: Path) -> None:
    assert set(CONFIGURATIONS) == set(reference.configurations(golden))
    for size in (8, 33, 128):
        with np.load(golden / "01_losses" / f"losses_b{size}.npz", allow_pickle=False) as arrays:
            there = {name.split("/")[0] for name in arrays.files} - {"in", "w"}
        assert there == {name for wanted, name in CASES if wanted == size}


@pytest.fixture(params=["plain", "streamed"])
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every reference number is asked of both ways to compute; tiles of 7 rows make a batch of 8 two of them."""
    monkeypatch.setattr(tiles, "TILE", 7)
    return request.param


@pytest.mark.parametrize(("size", "name"), CASES)
def test_equals_the_reference__float32(golden: Path, size: int, name: str, impl: str) -> None:
    case = reference.Case(golden / "01_losses" / f"losses_b{size}.npz")
    loss = reference.objective(reference.configurations(golden)[name], impl=impl)
    terms = loss(**case.inputs(with_ids=not name.endswith("_diag")))
    terms["loss"].backward()
    _compare(case, f"{name}/", loss, terms)


@pytest.mark.parametrize(("size", "name"), CASES)
def test_equals_the_reference__float64(golden: Path, size: int, name: str, impl: str) -> None:
    case = reference.Case(golden / "01_losses" / f"losses_b{size}.npz", torch.float64)
    loss = reference.objective(reference.configurations(golden)[name], impl=impl).double()
    terms = loss(**case.inputs(with_ids=not name.endswith("_diag")))
    terms["loss"].backward()
    compared = 0
    for ours, theirs in TERMS.items():
        if f"{name}/f64/loss.{theirs}" in case.arrays:
            assert terms[ours].item() == pytest.approx(float(case.arrays[f"{name}/f64/loss.{theirs}"]), rel=1e-6)
            compared += 1
    for array in case.arrays.files:
        if array.startswith(f"{name}/f64/grad."):
            temperature = loss.temperatures()[reference.our_name(array.removeprefix(f"{name}/f64/grad."))]
            assert temperature.value.grad is not None
            assert temperature.value.grad.item() == pytest.approx(float(case.arrays[array]), rel=1e-6)
            compared += 1
    # The reference's own gradients in float32 are off by up to 1.4e-6 of the array's maximum; ours in float64 are not.
    for modality, features in case.features.items():
        assert features.grad is not None
        _near_of_maximum(features.grad, case.arrays[f"{name}/grad.{modality}_features"])
    assert compared >= 2


def _compare(
    case: reference.Case, prefix: str, loss: CUSALoss, terms: dict[str, Tensor], rows: slice = slice(None)
) -> None:
    """Hold values, temperatures and every gradient against the arrays of one configuration."""
    arrays = case.arrays
    for ours, theirs in TERMS.items():
        if f"{prefix}loss.{theirs}" in arrays:
            assert terms[ours].item() == pytest.approx(float(arrays[f"{prefix}loss.{theirs}"]), rel=1e-5, abs=1e-6)
        else:
            assert terms[ours].item() == 0
    temperatures = loss.temperatures()
    expected = {name.removeprefix(f"{prefix}value.") for name in arrays.files if name.startswith(f"{prefix}value.")}
    assert {reference.our_name(name) for name in expected} == set(temperatures)
    for name in expected:
        parameter = temperatures[reference.our_name(name)].value
        assert parameter.item() == pytest.approx(float(arrays[f"{prefix}value.{name}"]), rel=1e-6)
        if f"{prefix}grad.{name}" in arrays:
            assert parameter.grad is not None
            # The reference's float32 temperature gradients suffer cancellation; float64 is held to 1e-6 above.
            assert parameter.grad.item() == pytest.approx(float(arrays[f"{prefix}grad.{name}"]), rel=1e-3, abs=1e-8)
        else:
            assert parameter.grad is None
    for name, head in case.head_parameters().items():
        if f"{prefix}grad.{name}" in arrays:
            assert head.grad is not None
            _near_of_maximum(head.grad, arrays[f"{prefix}grad.{name}"])
    for modality, features in case.features.items():
        assert features.grad is not None
        _near_of_maximum(features.grad[rows], arrays[f"{prefix}grad.{modality}_features"])


def _near_of_maximum(ours: Tensor, theirs: np.ndarray, tolerance: float = 2e-5) -> None:
    assert np.abs(ours.numpy() - theirs).max() <= tolerance * np.abs(theirs).max() + 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_reference__one_process_on_both_ranks_rows(golden: Path, reduction: str, impl: str) -> None:
    case = reference.Case(golden / "01_losses" / "losses_2ranks_b8.npz")
    loss = _published(reduction, impl)
    terms = loss(**case.inputs())
    terms["loss"].backward()
    _compare(case, f"global_single_process/{reduction}/", loss, terms)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_reference__each_rank_on_its_own_rows(golden: Path, reduction: str, impl: str) -> None:
    heads: dict[str, list[Tensor]] = {}
    for rank in range(2):
        case = reference.Case(golden / "01_losses" / "losses_2ranks_b8.npz")
        loss = _published(reduction, impl)
        rows = slice(8 * rank, 8 * rank + 8)
        terms = loss(**case.inputs(rows))
        terms["loss"].backward()
        _compare(case, f"local_negatives/{reduction}/rank{rank}/", loss, terms, rows)
        for name, parameter in case.head_parameters().items():
            assert parameter.grad is not None
            heads.setdefault(name, []).append(parameter.grad)
        for name, temperature in loss.temperatures().items():
            if temperature.value.grad is not None:
                heads.setdefault(name, []).append(temperature.value.grad)
    averages = f"local_negatives/{reduction}/ddp_average/grad."
    names = [array.removeprefix(averages) for array in case.arrays.files if array.startswith(averages)]
    assert len(names) == 20
    for name in names:
        grads = heads[name if name.startswith("head.") else reference.our_name(name)]
        tolerance = 2e-5 if name.startswith("head.") else 1e-3
        _near_of_maximum(torch.stack(grads).mean(0), case.arrays[averages + name], tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_reference__gathered_features_without_their_gradient(
    golden: Path, reduction: str, impl: str
) -> None:
    # What the release's gather does, without processes: the other rank's rows are there, but detached.
    for rank in range(2):
        case = reference.Case(golden / "01_losses" / "losses_2ranks_b8.npz")
        loss = _published(reduction, impl)
        rows = slice(8 * rank, 8 * rank + 8)
        mine = torch.zeros(16, 1, dtype=torch.bool)
        mine[rows] = True
        inputs = {
            name: torch.where(mine, value, value.detach()) if value.requires_grad else value
            for name, value in case.inputs().items()
        }
        terms = loss(**inputs)
        terms["loss"].backward()
        _compare(case, f"all_gather/{reduction}/rank{rank}/", loss, terms, rows)


def _published(reduction: str, impl: str) -> CUSALoss:
    return CUSALoss.release(impl=impl) if reduction == "mean" else CUSALoss.paper(impl=impl)


def test_training_follows_the_reference_step_by_step(golden: Path, impl: str) -> None:
    case = reference.Case(golden / "01_losses" / "training_trace.npz")
    arrays = case.arrays
    meta = json.loads(str(arrays["meta_json"]))
    loss = reference.objective(meta["config"], impl=impl)
    wanted = meta["optimizer"]
    named = {f"temperature.{name}": module.value for name, module in loss.temperatures().items()}
    groups = parameter_groups(
        [*named.items(), *case.head_parameters().items()], weight_decay=wanted["weight_decay"], decay="release"
    )
    for group in groups:
        theirs = next(g for g in wanted["groups"] if g["weight_decay"] == group["weight_decay"])
        ours = [n.removeprefix("temperature.") for n in group["names"]]
        assert set(ours) == {n if n.startswith("head.") else reference.our_name(n) for n in theirs["parameters"]}
    optimizer = torch.optim.AdamW(groups, lr=wanted["lr"], betas=(0.9, 0.999), eps=1e-8)
    schedule, steps = meta["schedule"], len(arrays["batch_indices"])
    for step, rows in enumerate(torch.from_numpy(arrays["batch_indices"])):
        rate = cosine(
            step,
            steps=steps,
            lr=wanted["lr"],
            min_lr=schedule["min_lr"],
            steps_per_epoch=schedule["steps_per_epoch"],
        )
        assert rate == pytest.approx(arrays["lr_per_step"][step], rel=1e-9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with torch.no_grad():
            for features in case.features.values():
                features.grad = None
        terms = loss(**case.inputs(rows))
        observed = [terms[name].item() for name in ("infonce", "csa", "usa", "loss")]
        np.testing.assert_allclose(observed, arrays["losses_nce_csa_usa_total"][step], rtol=1e-4, atol=2e-5)
        terms["loss"].backward()
        optimizer.step()
        after = [loss.temperatures()[reference.our_name(name)].value.item() for name in arrays["tau_names"]]
        np.testing.assert_allclose(after, arrays["tau_after_step"][step], rtol=1e-4, atol=2e-5)
    for name, parameter in case.head_parameters().items():
        np.testing.assert_allclose(parameter.detach().numpy(), arrays[f"final/{name}"], rtol=1e-4, atol=2e-5)


def _batch(size: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    widths = {"image": 5, "text": 5, "image_uni": 4, "text_uni": 3, "teacher_image": 7, "teacher_text": 8}
    batch: dict[str, Any] = {
        name: torch.randn(size, width, generator=random, dtype=dtype) for name, width in widths.items()
    }
    return batch | {"image_ids": torch.arange(size) // 2}


def test_equals_loops_over_plain_floats(impl: Any) -> None:
    batch = _batch(dtype=torch.float64)
    plain = {name: rows.tolist() for name, rows in batch.items()}
    loss = CUSALoss(
        alpha=0.3,
        beta=0.7,
        temperature=Setting(0.08, 0.01, 0.1),
        csa_temperature=(Setting(0.2, 0.1, 1), Setting(0.3, 0.1, 1)),
        usa_temperature=(Setting(0.4, 0.1, 1), Setting(0.6, 0.1, 1)),
        teacher_temperature=(Setting(0.5, 0.1, 1, False), Setting(0.7, 0.1, 1, False)),
        impl=impl,
    ).double()
    for module in loss.temperatures().values():  # float32 rounding of the settings is not under test
        module.value.data = torch.tensor(round(module.value.item(), 6), dtype=torch.float64)
    similarity = reference.cosines(plain["image"], plain["text"])
    teachers = [reference.cosines(plain[name], plain[name]) for name in ("teacher_image", "teacher_text")]
    unis = [reference.cosines(plain[name], plain[name]) for name in ("image_uni", "text_uni")]
    targets = [reference.divided(teacher, t) for teacher, t in zip(teachers, (0.5, 0.7), strict=True)]
    students = [reference.divided(similarity, 0.2), reference.divided(reference.transpose(similarity), 0.3)]
    projected = [reference.divided(uni, t) for uni, t in zip(unis, (0.4, 0.6), strict=True)]
    expected = {
        "infonce": reference.infonce(similarity, plain["image_ids"], 0.08),
        "csa": 0.3 * sum(reference.kl(q, p) for q, p in zip(targets, students, strict=True)) / 2,
        "usa": 0.7 * sum(reference.kl(q, p) for q, p in zip(targets, projected, strict=True)) / 2,
    }
    observed = {name: term.item() for name, term in loss(**batch).items()}
    assert observed == pytest.approx({"loss": sum(expected.values()), **expected}, rel=1e-12)


def test_the_paper_and_the_release_differ_by_one_over_b() -> None:
    batch = _batch()
    paper, release = CUSALoss.paper()(**batch), CUSALoss.release()(**batch)
    assert release["infonce"].item() == pytest.approx(paper["infonce"].item() / 6)
    assert release["csa"].item() == paper["csa"].item()
    assert CUSALoss.paper().effective_weights(128) == {"infonce": 1, "csa": 0.1, "usa": 0.5}
    assert CUSALoss.release().effective_weights(128) == {"infonce": 1, "csa": 12.8, "usa": 64}


def test_clamps_in_training_only() -> None:
    loss = CUSALoss(alpha=0, beta=0, temperature=Setting(0.2, 0.01, 0.1))
    batch = _batch()
    loss.eval()(image=batch["image"], text=batch["text"])
    assert loss.temperatures()["infonce"].value.item() == pytest.approx(0.2)
    loss.train()(image=batch["image"], text=batch["text"])
    assert loss.temperatures()["infonce"].value.item() == pytest.approx(0.1)


def test_a_term_without_weight_asks_for_nothing_and_learns_nothing() -> None:
    loss = CUSALoss(alpha=0, beta=0)
    batch = _batch()
    terms = loss(image=batch["image"], text=batch["text"])
    assert terms["csa"].item() == terms["usa"].item() == 0
    assert terms["loss"].item() == terms["infonce"].item() > 0
    assert [name for name, parameter in loss.named_parameters() if parameter.requires_grad] == [
        "infonce_temperature.value"
    ]


@pytest.mark.parametrize("alpha", [0, 0.1])
@pytest.mark.parametrize("beta", [0, 0.5])
@pytest.mark.parametrize("weight", [0, 1])
def test_every_learned_temperature_gets_a_gradient(alpha: float, beta: float, weight: float) -> None:
    if not (alpha or beta or weight):
        return
    loss = CUSALoss(alpha=alpha, beta=beta, infonce_weight=weight)
    loss(**_batch())["loss"].backward()
    for name, parameter in loss.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("missing", ["image_uni", "text_uni", "teacher_image", "teacher_text"])
def test_a_missing_input_is_named(missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        CUSALoss()(**_batch() | {missing: None})


@pytest.mark.parametrize("name", ["text", "image_uni", "text_uni", "teacher_image", "teacher_text", "image_ids"])
def test_a_wrong_shape_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        CUSALoss()(**_batch() | {name: _batch(5)[name]})


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="no rows"):
        CUSALoss(alpha=0, beta=0)(image=torch.zeros(0, 4), text=torch.zeros(0, 4))


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1}, {"beta": math.nan}, {"infonce_weight": math.inf}, {"reduction": "sum"}, {"fusion": "max"}]
    + [{"divergence": "js"}, {"impl": "tiled"}, {"temperature": Setting(0.1, 0, 1)}, {"usa_temperature": "infonce"}],
)
def test_an_impossible_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"allowed|must be|at least"):
        CUSALoss(**options)


def test_two_batches_may_be_walked_back_at_once(impl: Any) -> None:
    loss, apart = CUSALoss(impl=impl), CUSALoss(impl=impl)
    (loss(**_batch(seed=1))["loss"] + loss(**_batch(seed=2))["loss"]).backward()
    for seed in (1, 2):
        apart(**_batch(seed=seed))["loss"].backward()
    for name, temperature in loss.temperatures().items():
        if temperature.value.requires_grad:
            ours, theirs = temperature.value.grad, apart.temperatures()[name].value.grad
            assert ours is not None
            assert theirs is not None
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_a_temperature_shared_with_csa_is_usa_s_where_csa_has_no_weight() -> None:
    alone = CUSALoss(alpha=0, usa_temperature="csa").temperatures()
    assert list(alone) == ["infonce", "usa", "usa_teacher"]
    assert alone["usa"].value.requires_grad


def test_learned_state_survives_saving(tmp_path: Path) -> None:
    loss = CUSALoss(usa_temperature="csa")
    with torch.no_grad():
        loss.temperatures()["csa"].value.fill_(0.3)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    again = CUSALoss(usa_temperature="csa")
    again.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert again.temperatures()["csa"].value.item() == pytest.approx(0.3)
    assert "usa" not in again.temperatures()


def test_autocast_does_not_reach_the_loss(impl: Any) -> None:
    found = []
    for enabled in (False, True):
        batch, loss = _batch(64), CUSALoss(impl=impl)
        batch["image"].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = loss(**batch)
            if impl == "streamed":
                terms["loss"].backward()
        found.append(({name: term.item() for name, term in terms.items()}, batch["image"].grad))
    assert found[0][0] == found[1][0]
    if impl == "streamed":  # its backward multiplies matrices of its own
        assert torch.equal(found[0][1], found[1][1])


def test_bfloat16_embeddings_cost_their_rounding_only() -> None:
    batch = _batch(64)
    rounded = {name: rows.bfloat16() if rows.is_floating_point() else rows for name, rows in batch.items()}
    observed = CUSALoss()(**rounded)["loss"]
    assert observed.dtype == torch.float32
    assert observed.item() == pytest.approx(CUSALoss()(**batch)["loss"].item(), rel=2e-2)


@pytest.mark.parametrize("fusion", ["each", "add", "dot"])
def test_diagnostics_say_how_soft_the_labels_are(fusion: Any) -> None:
    batch = _batch(7, dtype=torch.float64)
    teachers = {name: batch[name] for name in ("teacher_image", "teacher_text")}
    loss = CUSALoss.release(fusion=fusion)
    found = loss.diagnostics(**teachers, rows=3)
    image, text = (reference.cosines(rows.tolist(), rows.tolist()) for rows in teachers.values())
    if fusion != "each":
        pairs = [list(zip(a, b, strict=True)) for a, b in zip(image, text, strict=True)]
        join = {"add": lambda a, b: (a + b) / 2, "dot": lambda a, b: math.sqrt(max(a, 0) * max(b, 0))}[fusion]
        image = text = [[join(a, b) for a, b in row] for row in pairs]
    for modality, matrix in (("image", image), ("text", text)):
        targets = [reference.softmax(row) for row in matrix]
        entropy = -sum(q * math.log(q) for row in targets for q in row) / (7 * math.log(7))
        other = sum(q for i, row in enumerate(targets) for j, q in enumerate(row) if i != j) / 7
        assert found[f"target_entropy.{modality}"].item() == pytest.approx(entropy, rel=1e-9)
        assert found[f"target_off_diagonal.{modality}"].item() == pytest.approx(other, rel=1e-9)
    assert found["temperature.infonce"].item() == pytest.approx(0.05)
    assert found["effective_weight.usa"].item() == pytest.approx(3.5)
    assert not any(value.requires_grad for value in found.values())


def test_diagnostics_without_teachers_are_the_temperatures() -> None:
    assert set(CUSALoss(alpha=0, beta=0).diagnostics()) == {"temperature.infonce"}


def test_it_is_what_the_package_offers() -> None:
    import cusa

    assert cusa.CUSALoss is CUSALoss
    with pytest.raises(AttributeError, match="no attribute 'Loss'"):
        _ = cusa.Loss


def _treated(impl: str, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE and its gradients by images and texts."""
    loss = CUSALoss(alpha=0, beta=0, impl=impl, **options).double()  # type: ignore[arg-type]
    image, text = (inputs[name].clone().requires_grad_() for name in ("image", "text"))
    terms = loss(**{**inputs, "image": image, "text": text})
    terms["loss"].backward()
    assert image.grad is not None
    assert text.grad is not None
    return terms["loss"].detach(), image.grad, text.grad


def _inputs(size: int = 13) -> dict[str, Tensor]:
    ids = torch.arange(size) // 2
    rows = {name: unit(size, 5, seed) for seed, name in enumerate(("image", "text", "teacher_image", "teacher_text"))}
    # Captions of one image read alike, some foreign ones nearly so.
    rows["teacher_text"] = torch.nn.functional.normalize(rows["teacher_text"] * 0.4 + unit(3, 5, 9)[ids % 3], dim=1)
    return {**rows, "image_ids": ids}


@pytest.mark.parametrize("reduction", ["standard", "release"])
def test_smoothed_targets__equal_torch_and_each_other(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 7)
    inputs = _inputs()
    plain, streamed = (
        _treated(impl, inputs, label_smoothing=0.2, reduction=reduction) for impl in ("plain", "streamed")
    )
    for one, other in zip(plain, streamed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    # PyTorch's own smoothing, where every image stands once.
    alone = {**inputs, "image_ids": torch.arange(13)}
    logits = alone["image"] @ alone["text"].T / torch.tensor(0.05).double()
    theirs = [
        torch.nn.functional.cross_entropy(rows, torch.arange(13), label_smoothing=0.2) for rows in (logits, logits.T)
    ]
    ours = _treated("streamed", alone, label_smoothing=0.2, reduction=reduction)[0]
    scale = 13 if reduction == "release" else 1
    torch.testing.assert_close(ours * scale, (theirs[0] + theirs[1]) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("margin", "kind"), [(0.0, "absolute"), (0.2, "absolute"), (0.2, "relative")])
def test_a_margin_below_the_positive_pair__by_loops(margin: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 7)
    inputs = _inputs()
    options = {"false_negatives": "mask", "mask_text": "positive", "mask_margin": margin, "mask_margin_kind": kind}
    plain, streamed = (_treated(impl, inputs, **options) for impl in ("plain", "streamed"))
    for one, other in zip(plain, streamed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    ids, teacher = inputs["image_ids"], inputs["teacher_text"]
    size, total, masked = len(ids), 0.0, 0
    for near_first in (inputs["image"] @ inputs["text"].T, inputs["text"] @ inputs["image"].T):
        for i in range(size):
            own = [j for j in range(size) if ids[j] == ids[i]]
            lowest = min(float(teacher[i] @ teacher[j]) if j != i else 1.0 for j in own)
            limit = lowest - (margin if kind == "absolute" else margin * abs(lowest))
            kept = [j for j in range(size) if j in own or float(teacher[i] @ teacher[j]) < limit]
            masked += size - len(kept)
            denominator = math.log(sum(math.exp(float(near_first[i, j]) / 0.05) for j in kept))
            total += denominator - sum(float(near_first[i, j]) / 0.05 for j in own) / len(own)
    assert masked > 0
    assert float(plain[0]) == pytest.approx(total / (2 * size), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": 0.1, "contrast": "sigmoid"}, "label_smoothing"),
        ({"label_smoothing": 0.1, "false_negatives": "positive"}, "label_smoothing"),
        ({"contrast": "sigmoid", "reduction": "release"}, "reduction"),
        ({"contrast": "softmax"}, "contrast"),
        ({"mask_margin": 0.1}, "false_negatives"),
        ({"false_negatives": "mask", "mask_text": 0.5, "mask_margin": 0.1}, "mask_margin"),
        ({"false_negatives": "mask", "mask_text": "positive", "mask_margin": -1}, "mask_margin"),
        ({"false_negatives": "mask", "mask_text": "positive", "mask_margin_kind": "x"}, "mask_margin_kind"),
    ],
)
def test_treatments_that_exclude_each_other_are_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        CUSALoss(**options)
    assert refused.value.values["key"] == key
    with pytest.raises(ValueError, match=f"{key}|{next(iter(options))}"):
        LossConfig(**options)


@pytest.mark.parametrize("value", [[[1.0, 0.0]], np.eye(2, dtype=np.float32)])
@pytest.mark.parametrize("name", ["image", "teacher_text", "image_ids", "positive_pairs"])
def test_forward__lists_and_arrays_are_named_as_such(name: str, value: Any) -> None:
    rows = ("image", "text", "image_uni", "text_uni", "teacher_image", "teacher_text")
    given: dict[str, Any] = {row: torch.eye(2) for row in rows} | {name: value}
    kind = "builtins.list" if isinstance(value, list) else "numpy.ndarray"
    with pytest.raises(ConfigError, match=rf"{name} is a {kind}; it must be a torch tensor. Give torch.as_tensor"):
        CUSALoss()(**given)


def test_repr__has_weights_and_temperatures() -> None:
    shown = repr(CUSALoss(alpha=0.25, beta=0, temperature=Setting(0.07, 0.01, 0.1)))
    assert "infonce_weight=1, alpha=0.25, beta=0" in shown
    assert "temperatures: infonce=0.07, csa=0.45, teacher=1" in shown
    assert "usa" not in shown.partition("temperatures:")[2].splitlines()[0]


TREATMENTS: list[dict[str, Any]] = [
    {},
    {"false_negatives": "mask", "mask_text": 0.3, "mask_image": "positive"},
    {"contrast": "sigmoid", "false_negatives": "mask", "mask_text": 0.3},
    {"false_negatives": "debiased"},
    {"soft_labels": "calibrated"},
    {"soft_labels": "calibrated", "false_negatives": "debiased", "divergence": "cross_entropy"},
    {"fusion": "dot"},
]


@pytest.mark.parametrize("options", TREATMENTS)
def test_teachers_learn_nothing_by_any_treatment(impl: Any, options: dict[str, Any]) -> None:
    batch = _batch(8, dtype=torch.float64)
    for name in batch:
        if name != "image_ids":
            batch[name].requires_grad_()
    if {"debiased", "calibrated"} & set(options.values()):
        means = {"image_mean": torch.full((7,), 0.1).double(), "text_mean": torch.full((8,), 0.1).double()}
        options = options | {
            "pair_probability": PairProbability(intercept=-1.0, image=Slope(1.0, -0.5), text=Slope(2.0), **means)
        }
    CUSALoss(alpha=0.3, beta=0.7, impl=impl, **options).double()(**batch)["loss"].backward()
    for name in ("teacher_image", "teacher_text"):
        assert batch[name].grad is None, name
    for name in ("image", "text", "image_uni", "text_uni"):
        assert batch[name].grad.abs().sum() > 0, name


@pytest.mark.parametrize(("negatives", "pairs"), [("global", 14), ("release", 14), ("local", 7)])
def test_diagnostics__weights_are_of_the_batch_that_ranks_share(
    monkeypatch: pytest.MonkeyPatch, negatives: Any, pairs: int
) -> None:
    monkeypatch.setattr(objective, "num_ranks", lambda: 2)
    teachers = {name: rows for name, rows in _batch(7).items() if name.startswith("teacher")}
    loss = CUSALoss(alpha=0.3, beta=0.5, infonce_weight=0.7, reduction="release", negatives=negatives)
    found = loss.diagnostics(**teachers)
    weights = {name: float(found[f"effective_weight.{name}"]) for name in ("infonce", "csa", "usa")}
    assert weights == pytest.approx({"infonce": 0.7, "csa": 0.3 * pairs, "usa": 0.5 * pairs})


def test_paper_and_release_pass_everything_else_on() -> None:
    made = ((CUSALoss.paper, "standard", "global"), (CUSALoss.release, "release", "local"))
    for make, reduction, negatives in made:
        plain, told = make(), make(fusion="dot", beta=0.25, false_negatives="mask", mask_text=0.5)
        assert (plain.alpha, plain.beta, plain.reduction) == (0.1, 0.5, reduction)
        assert (plain.fusion, plain.false_negatives, plain.negatives) == ("each", "soft", negatives)
        assert (told.alpha, told.beta, told.fusion, told.false_negatives) == (0.1, 0.25, "dot", "mask")
        assert told.nearness.text == 0.5


def test_modes__the_lowest_temperatures_stand_in_the_order_of_the_values() -> None:
    """Each temperature is set to its minimum: bounds and values are then the same list."""
    settings = {
        name: Setting(value, value, 1.0)
        for name, value in (("temperature", 0.01), ("csa_temperature", 0.02), ("usa_temperature", 0.03))
    }
    teachers = {"teacher_temperature": Setting(0.04, 0.04, 1.0), "usa_teacher_temperature": Setting(0.05, 0.05, 1.0)}
    loss = CUSALoss(alpha=1, beta=1, **settings, **teachers)
    values = loss.temperature_values()
    flat = [values.infonce, *values.csa, *values.usa, *values.teacher, *values.usa_teacher]
    assert list(loss.modes().lowest) == pytest.approx([float(one.detach()) for one in flat])
    assert loss.eval().modes().lowest == (0.0,) * 9, "outside training nothing is clamped"


def _thresholds() -> Thresholds:
    """Return thresholds that half of the pairs are above, of items that were met often."""
    made = Thresholds(7, 13, after=1)
    for name in ("image", "text"):
        getattr(made, name).fill_(0.1)
        getattr(made, f"{name}_met").fill_(3)
    return made


CONTRASTS: dict[str, dict[str, Any]] = {
    "soft": {},
    "smoothed": {"label_smoothing": 0.2},
    "mask": {"false_negatives": "mask", "mask_text": 0.3},
    "positive": {"false_negatives": "positive"},
    "hardness": {"false_negatives": "hardness", "hardness": Hardness(0.5, 0.02)},
    "thresholds": {"false_negatives": "thresholds"},
    "debiased": {"false_negatives": "debiased"},
    "weights": {},
    "sigmoid": {"contrast": "sigmoid"},
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_infonce_s_weight_and_the_releases_division_apply_to_all_of_it(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tiles, "TILE", 5)
    inputs = _inputs() | {"text_ids": torch.arange(13)}
    given: dict[str, Any] = dict(inputs)
    if name == "positive":
        given |= {"positive_pairs": torch.tensor([[0, 4]]), "ignored_pairs": torch.tensor([[1, 7], [4, 0]])}
    if name == "weights":
        given["pair_weights"] = torch.linspace(0, 1, 13)

    def contrast(**options: Any) -> float:
        told = {**CONTRASTS[name], "alpha": 0, "beta": 0, "temperature": Setting(0.2, 0.1, 1), **options}
        if name == "thresholds":
            told["thresholds"] = _thresholds()
        if name == "debiased":
            told["pair_probability"] = PairProbability(
                intercept=-1.0, text=Slope(2.0), text_mean=torch.full((5,), 0.1).double()
            )
        terms = CUSALoss(**told).double()(**given)
        value = float(terms["sigmoid" if name == "sigmoid" else "infonce"].detach())
        assert float(terms["loss"].detach()) == value
        return value

    whole = contrast(impl="plain")
    if name not in ("soft", "sigmoid"):
        untreated = CUSALoss(alpha=0, beta=0, temperature=Setting(0.2, 0.1, 1)).double()(**inputs)["loss"]
        assert abs(whole - float(untreated.detach())) > 1e-3, "the treatment does something"
    for impl in ("plain", "streamed"):
        assert contrast(impl=impl, infonce_weight=0.3) == pytest.approx(0.3 * whole, rel=1e-9)
        if name not in ("weights", "sigmoid"):
            assert contrast(impl=impl, reduction="release") == pytest.approx(whole / 13, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "missing", "says"),
    [
        ({"beta": 0}, "teacher_image", "teacher_image is missing, and alpha or beta is set.*set alpha or beta to 0"),
        ({"alpha": 0}, "teacher_text", "teacher_text is missing, and alpha or beta is set"),
        ({"alpha": 0}, "image_uni", "image_uni is missing, and beta is set. Pass it, or set beta to 0"),
        ({"alpha": 0}, "text_uni", "text_uni is missing, and beta is set"),
        (
            {"alpha": 0, "beta": 0, "false_negatives": "mask", "mask_text": 0.5},
            "teacher_text",
            "teacher_text is missing, and mask_text is set. Pass it, or set mask_text to None",
        ),
        (
            {"alpha": 0, "beta": 0, "false_negatives": "mask", "mask_image": 0.5},
            "teacher_image",
            "teacher_image is missing, and mask_image is set",
        ),
    ],
)
def test_what_asks_for_a_missing_input_is_named(options: dict[str, Any], missing: str, says: str) -> None:
    batch = _batch()
    loss = CUSALoss(**options)
    with pytest.raises(ConfigError, match=says) as refused:
        loss(**batch | {missing: None})
    assert refused.value.values["key"] == missing
    unread = {"image_uni", "text_uni", "teacher_image", "teacher_text"} - {missing}
    if not loss.beta and not loss.alpha:  # nothing else is asked for
        assert loss(**{name: rows for name, rows in batch.items() if name not in unread})["loss"].isfinite()


def test_diagnostics__without_csa_are_of_usa_s_labels_and_without_both_of_none() -> None:
    teachers = {name: rows for name, rows in _batch(7, dtype=torch.float64).items() if name.startswith("teacher")}
    separate = {"teacher_temperature": Setting(0.9, 0.1, 1, False), "usa_teacher_temperature": SHARP, "fusion": "dot"}
    found = CUSALoss(alpha=0, beta=1, **separate).double().diagnostics(**teachers)
    for modality, tau in (("image", SHARP[0].initial), ("text", SHARP[1].initial)):
        rows = teachers[f"teacher_{modality}"].tolist()
        labels = [reference.softmax(row) for row in reference.divided(reference.cosines(rows, rows), tau)]
        off = sum(q for i, row in enumerate(labels) for j, q in enumerate(row) if i != j) / 7
        assert found[f"target_off_diagonal.{modality}"].item() == pytest.approx(off, rel=1e-6)
    none = CUSALoss(alpha=0, beta=0, **separate).diagnostics(**teachers)
    assert not [name for name in none if name.startswith("target")]
    assert {name: round(float(none[f"effective_weight.{name}"]), 6) for name in ("infonce", "csa", "usa")} == {
        **{"infonce": 1, "csa": 0, "usa": 0}
    }
