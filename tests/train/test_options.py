"""What a recipe can ask of a step: each option against a plain loop, or against the run without it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.errors import ConfigError, DataError, StaleError, StoppedError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import LoraConfig
from cusa.train import schedule
from cusa.train.average import Average
from cusa.train.config import LossConfig
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream
from cusa.train.learned import learned_state, load_learned
from cusa.train.optimizer import parameter_groups
from cusa.train.prepare import freeze
from cusa.train.terms import make_loss
from tests.train.conftest import LOSS, STUDENT, TRAIN, Train, replace_row
from tests.train.test_survival import metrics, same, state


def _student(world: Path) -> students.Student:
    return students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)


def test_parts_equal_a_plain_loop(world: Path, train: Train, tmp_path: Path) -> None:
    told = {"accumulate": 3, "batch": 8, "steps": 5}
    train(tmp_path / "run", train=told)
    split, student, loss = Split(world, "train"), _student(world), make_loss(LOSS)
    named = [*student.named_parameters("student"), *loss.named_parameters("loss")]
    optimizer = torch.optim.AdamW(parameter_groups(named, weight_decay=TRAIN.weight_decay), lr=1.0)
    image = TeacherRows(split, "colours", fallback=tmp_path)
    text = TeacherRows(split, "words", fallback=tmp_path)
    order = Order(split.num_captions, 8, 0)
    stream = PairStream(Pairs(split), order, student)
    for step in range(5):
        rows, batch = order.rows(step), stream[step]
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = schedule.cosine(step, steps=5, lr=TRAIN.lr)
        total = torch.zeros(())
        for part in (slice(0, 2), slice(2, 5), slice(5, 8)):
            owners = split.caption_owner[rows[part]]
            terms = loss(
                **student(student.pixels(batch.images[part]), student.tokenize([split.texts[r] for r in rows[part]])),
                teacher_image=torch.from_numpy(image[owners]),
                teacher_text=torch.from_numpy(text[rows[part]]),
                image_ids=torch.from_numpy(owners),
            )
            total = total + terms["loss"] * len(owners) / 8
        total.backward()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for _, p in named if p.grad is not None]))
        optimizer.step()
    got = state(tmp_path / "run", 5)
    expected = student.state_dict()
    for name, value in got["student"].items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    assert got["last"]["loss"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert got["last"]["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_parts_of_the_last_small_step_hold_pairs(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"smallest step has 1 pairs, too few for 1 ranks and train\.accumulate=2"):
        train(tmp_path / "run", train={"batch": 5, "drop_last": False, "accumulate": 2})


def test_chunks_equal_the_whole(train: Train, tmp_path: Path) -> None:
    done = {}
    for name, told in (("whole", {}), ("chunks", {"chunk": 3}), ("large", {"chunk": 99})):
        train(tmp_path / name, train={"log_every": 1, "clip_norm": 1.0, "accumulate": 2, **told})
        done[name] = metrics(tmp_path / name)
    for name in ("chunks", "large"):
        assert done[name].keys() == done["whole"].keys()
        for place, value in done["whole"].items():
            if place[1] in ("loss", "infonce", "csa", "usa", "grad_norm"):
                assert done[name][place] == pytest.approx(value, rel=2e-4), (name, place)


def test_chunks_and_masks_need_embeddings(world: Path, train: Train, tmp_path: Path) -> None:
    texts = Split(world, "train").texts
    fused = students.create(STUDENT.model_copy(update={"kind": "x2vlm"}), captions=texts, uni=True, seed=0)
    with pytest.raises(ConfigError, match="train.chunk is 4, which needs embeddings"):
        train(tmp_path / "chunk", student=fused, train={"chunk": 4})
    with pytest.raises(ConfigError, match="false_negatives is 'mask'"):
        masked = LossConfig(alpha=0.5, beta=0.5, false_negatives="mask", mask_text=0.9)
        train(tmp_path / "mask", student=fused, loss=masked)


def test_fp16_scales_and_goes_on(train: Train, tmp_path: Path) -> None:
    done = train(tmp_path / "whole", train={"precision": "fp16"})
    assert done.last["loss_scale"] >= 1
    asked = iter([False] * 4)
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", train={"precision": "fp16"}, should_stop=lambda: next(asked, True))
    train(tmp_path / "parts", train={"precision": "fp16"})
    assert 0 < state(tmp_path / "whole")["scaler"]["_growth_tracker"] <= 10  # a first scale may overflow
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    exact = train(tmp_path / "exact")
    assert done.last["loss"] == pytest.approx(exact.last["loss"], rel=0.05)


def test_average_equals_a_plain_loop() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = Average(model, 0.95)
    expected = model.weight.detach().clone()
    for step in range(300):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update(step)
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.state_dict()["weight"], expected)
    assert list(average.state_dict()) == ["weight"]
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)
    with pytest.raises(RuntimeError, match="other parameters"):
        average.load_state_dict({})


def test_the_average_is_validated_and_saved_and_training_is_as_without(train: Train, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(student: students.Student) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in student.state_dict().items()})
        return {"rsum": float(len(seen))}

    train(tmp_path / "plain", validate=lambda student: {"rsum": 0.0})
    train(tmp_path / "run", validate=validate, train={"ema": 0.5})
    got = state(tmp_path / "run")
    assert same(got["student"], state(tmp_path / "plain")["student"])
    name = "heads.uni.image.linear.weight"
    assert torch.equal(seen[-1][name], got["average"][name])
    assert not torch.equal(got["average"][name], got["student"][name])
    assert torch.equal(students.load(tmp_path / "run").state_dict()[name], got["average"][name])


def test_frozen_parts_stand_still(world: Path, train: Train, tmp_path: Path) -> None:
    before = _student(world).state_dict()
    train(tmp_path / "run", train={"freeze": ("backbone.vision_model", "backbone.visual_projection"), "steps": 3})
    after = state(tmp_path / "run", 3)["student"]
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("backbone.vis") for name in moved)
    assert {"backbone.text_projection.weight", "heads.uni.image.linear.weight"} <= moved


@pytest.mark.parametrize("told", [{"lora": LoraConfig(rank=2)}, {}])
def test_checkpoints_hold_what_learns_and_resume_to_the_same_bits(
    world: Path, train: Train, tmp_path: Path, told: dict[str, Any]
) -> None:
    config, options = STUDENT.model_copy(update=told), {"steps": 6, "freeze": () if told else ("text",)}

    def fresh(seed: int = 0) -> students.Student:
        return students.create(config, captions=Split(world, "train").texts, uni=True, seed=seed)

    whole = fresh()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    train(tmp_path / "whole", student=whole, train=options)
    moved = {name for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    kept = state(tmp_path / "whole", 6)["student"]
    assert moved == {name for name in kept if not name.endswith("position_ids")}
    assert all(("lora_" in name or name.startswith("heads.")) if told else "text_model" not in name for name in moved)
    stops = iter([False, False, False, True])
    with pytest.raises(StoppedError):
        train(tmp_path / "cut", student=fresh(), train=options, should_stop=lambda: next(stops, False))
    with pytest.raises(StaleError, match="goes with other frozen weights"):
        train(tmp_path / "cut", student=fresh(seed=1), train=options)
    cut = fresh()
    train(tmp_path / "cut", student=cut, train=options)
    assert same(cut.state_dict(), whole.state_dict())


def test_a_checkpoint_of_other_frozen_parts_is_refused(world: Path) -> None:
    student = _student(world)
    freeze(student, ["text"])
    kept = learned_state(student)
    with pytest.raises(RuntimeError, match="do not learn in both, the first 'backbone.text_model"):
        load_learned(_student(world), kept)
    load_learned(student, kept)


def test_names_to_freeze_are_checked(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"'backbone\.vision', which begins no parameter's name.*vision_model"):
        freeze(_student(world), ["backbone.vision"])
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        freeze(_student(world), ["backbone", "heads"])


def test_layers_computed_again_give_the_same_bits(train: Train, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    again = train(tmp_path / "again", train={"gradient_checkpointing": True})
    assert again.last["loss"] == plain.last["loss"]
    assert same(state(tmp_path / "plain")["student"], state(tmp_path / "again")["student"])


def test_compile_is_asked_of_the_student(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(tmp_path / "plain", train={"steps": 3})
    compiled = torch.nn.Module.compile
    # Kernels are a C++ compiler's work; here only the tracing of the graph is tried.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    traced = train(tmp_path / "traced", train={"steps": 3, "compile": True})
    assert traced.last["loss"] == pytest.approx(plain.last["loss"], rel=1e-5)
    assert students.load(tmp_path / "traced").name == "scratch"


def test_teachers_on_the_device_change_nothing(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "file")
    train(tmp_path / "device", train={"teacher_mib": 1})
    assert same(state(tmp_path / "file"), state(tmp_path / "device"))


def test_teachers_beyond_the_budget_stay_in_their_file(world: Path, tmp_path: Path) -> None:
    rows = TeacherRows(Split(world, "train"), "words", fallback=tmp_path)
    assert rows.on(torch.device("cpu"), budget=rows.nbytes - 1) is None
    table = rows.on(torch.device("cpu"), budget=rows.nbytes)
    assert table is not None
    assert torch.equal(table.float(), torch.from_numpy(rows[list(range(len(rows)))]))  # type: ignore[index]


def test_allowed_changes_are_named_and_told(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(StaleError, match=r"train\.lr was 0\.003.*--allow-changed train\.lr"):
        train(tmp_path / "run", train={"lr": 1e-3, "steps": 12}, allow_changed=["train.steps"])
    with pytest.raises(ConfigError, match=r"'train\.rate' is nothing.*Did you mean"):
        train(tmp_path / "run", allow_changed=["train.rate"])
    told = {"lr": 1e-3, "steps": 12, "weight_decay": 0.5}
    done = train(
        tmp_path / "run", train=told, allow_changed=["train.lr", "train.steps", "train.weight_decay", "data.train"]
    )
    assert (done.steps, done.started_at) == (12, 10)
    assert any("From step 10 on train.lr was 0.003 and is now 0.001, as was allowed." in note for note in done.notes)
    assert state(tmp_path / "run", 12)["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert metrics(tmp_path / "run")[12, "lr"] < 1e-3
    train(tmp_path / "run", train=told)  # the new checkpoints belong to the new recipe


def test_a_changed_teacher_can_be_allowed(train: Train, own_world: Path, tmp_path: Path) -> None:
    asked = iter([False] * 3)
    with pytest.raises(StoppedError):
        train(tmp_path / "run", work=own_world, should_stop=lambda: next(asked, True))
    replace_row(own_world, "colours")
    with pytest.raises(StaleError, match=r"the image teacher changed.*--allow-changed teachers\.image"):
        train(tmp_path / "run", work=own_world)
    done = train(tmp_path / "run", work=own_world, allow_changed=["teachers.image"])
    assert done.started_at == 4
    assert "the image teacher changed, as was allowed" in done.notes[0]


def test_going_on_can_be_demanded(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no checkpoint to go on from"):
        train(tmp_path / "run", must_resume=True)
    with pytest.raises(ConfigError, match="leave one of them out"):
        train(tmp_path / "run", must_resume=True, force=True)
    train(tmp_path / "run")
    assert train(tmp_path / "run", must_resume=True).started_at == 10


def test_windows_of_shards_are_an_order_of_their_own(train: Train, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    windows = train(tmp_path / "windows", train={"shuffle_window": 1})
    assert windows.seen != plain.seen
    with pytest.raises(StaleError, match=r"train\.shuffle_window was 1 and is now 2"):
        train(tmp_path / "windows", train={"shuffle_window": 2})


class _Fake:
    """Stands in for wandb: remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def init(self, **options: Any) -> "_Fake":
        self.told.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.told.append(exit_code)


def test_wandb_hears_every_row(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    heard: list[Any] = []
    train(
        tmp_path / "run", train={"wandb": "trial"}, on_metrics=lambda step, values: heard.append((step, dict(values)))
    )
    options, *rows, code = fake.told
    assert (options["project"], options["name"], options["resume"], code) == ("trial", "run", "allow", 0)
    assert rows == heard
    train(tmp_path / "run", train={"wandb": "trial"})
    assert fake.told[len(heard) + 2]["id"] == options["id"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is not installed.*pip install 'cusa\[wandb\]'"):
        train(tmp_path / "other", train={"wandb": "trial"})
