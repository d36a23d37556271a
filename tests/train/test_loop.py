import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import ConfigError, DataError, StaleError, StoppedError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train import checkpoint, loop, schedule
from cusa.train.config import LossConfig
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.reading import Data
from cusa.train.data.stream import PairStream
from cusa.train.optimizers.groups import parameter_groups
from cusa.train.terms import make_loss
from cusa.train.terms import terms as loss_terms
from tests.train.conftest import LOSS, STUDENT, TRAIN, Train, make_world

TIMED = {"samples_per_second", "data_wait_share", "peak_memory_bytes"}


class Validation:
    """Gives a number that rises and falls, and disturbs every random number it can reach."""

    def __init__(self, values: Mapping[int, float] | None = None) -> None:
        self.calls = 0
        self._values = values or {}

    def __call__(self, student: students.Student) -> dict[str, float]:
        assert not student.training
        self.calls += 1
        torch.rand(7)
        weight = next(student.parameters())
        return {"rsum": self._values.get(self.calls, float(weight.detach().sum())), "other": 1.0}


def _weights(out: Path) -> dict[str, torch.Tensor]:
    place = out / "checkpoints" / f"step-{TRAIN.steps:09d}"
    state = torch.load(place / "state.pt", weights_only=True)
    optimizer = {
        f"{name}.{index}": torch.as_tensor(value)
        for index, slots in state["optimizer"]["state"].items()
        for name, value in slots.items()
    }
    return {**state["student"], **state["loss"], **optimizer, "rng": state["random"]["torch"]}


def _metrics(out: Path) -> list[tuple[int, str, float]]:
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return [(row["step"], row["name"], row["value"]) for row in rows if row["name"] not in TIMED]


def _equal(one: Path, other: Path) -> bool:
    first, second = _weights(one), _weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_ten_steps_equal_a_plain_loop(world: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    split = Split(world, "train")
    torch.manual_seed(TRAIN.seed)
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=TRAIN.seed)
    loss = make_loss(LOSS)
    named = [*student.named_parameters("student"), *loss.named_parameters("loss")]
    optimizer = torch.optim.AdamW(parameter_groups(named, weight_decay=TRAIN.weight_decay), lr=1.0, fused=False)
    embeddings = {}
    for teacher in ("colours", "words"):
        parts = sorted((world / "train" / "teachers" / teacher).glob("0*.parquet"))
        embeddings[teacher] = torch.tensor(
            [row for part in parts for row in pq.read_table(part)["embedding"].to_pylist()]
        )
    order = Order(split.num_captions, TRAIN.batch, TRAIN.seed)
    stream = PairStream(Pairs(split), order, student)
    for step in range(TRAIN.steps):
        rows = torch.from_numpy(order.rows(step))
        owners = torch.from_numpy(split.caption_owner)[rows]
        for group in optimizer.param_groups:
            group["lr"] = schedule.cosine(step, steps=TRAIN.steps, lr=TRAIN.lr)
        terms = loss(
            **student(student.pixels(stream[step].images), student.tokenize([split.texts[row] for row in rows])),
            teacher_image=embeddings["colours"][owners],
            teacher_text=embeddings["words"][rows],
            image_ids=owners,
        )
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    got = _weights(tmp_path / "run")
    expected = {**student.state_dict(), **loss.state_dict()}
    assert expected.keys() - got.keys() == {"backbone.logit_scale"}  # which does not learn
    for name in expected.keys() & got.keys():
        if name.endswith("k_proj.bias"):
            continue  # a softmax does not see it: its gradient is rounding, which Adam scales up
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6)
    last = {name: value for step, name, value in _metrics(tmp_path / "run") if step == TRAIN.steps}
    for name, value in terms.items():
        assert last[name] == pytest.approx(float(value.detach()), rel=1e-4)


@pytest.mark.parametrize(
    "options", [{"min_lr": 1e-3}, {"warmup_steps": 3}, {"schedule": "epoch", "min_lr": 1e-4, "warmup_steps": 2}]
)
def test_every_step_has_the_rate_of_the_schedule(train: Train, tmp_path: Path, options: dict[str, Any]) -> None:
    train(tmp_path / "run", train={"log_every": 1, **options})
    rates = {step: value for step, name, value in _metrics(tmp_path / "run") if name == "lr"}
    low, warm = options.get("min_lr", 0), options.get("warmup_steps", 0)
    for step in range(TRAIN.steps):
        at = step // 4 * 4 if "schedule" in options else step  # four steps an epoch: 36 pairs, 8 a step
        cosine = low + (3e-3 - low) / 2 * (1 + math.cos(math.pi * (at - warm) / (TRAIN.steps - warm)))
        assert rates[step + 1] == pytest.approx(3e-3 * (at + 1) / (warm + 1) if at < warm else cosine)


def test_the_seed_is_that_of_every_generator_a_model_may_draw_from(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    seeds = []
    train(tmp_path / "run", train={"seed": 7, "steps": 1}, on_event=lambda *event: seeds.append(torch.initial_seed()))
    assert seeds == [7, 7]
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_train_is_refused_before_anything_is_loaded(
    world: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*args: Any, **options: Any) -> None:
        raise AssertionError("data was opened")

    monkeypatch.setattr(Data, "open", loaded)
    for options, words in (
        ({"steps": 0, "epochs": 2, "warmup_steps": 8}, r"warmup_steps is 8, and the run has 8 steps \(36 pairs"),
        ({"batch": 64}, r"train\.batch is 64, but the split has only 36 pairs"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(tmp_path / "run", train=options)
    with pytest.raises(ConfigError, match="All weights of the loss are 0"):
        train(tmp_path / "run", loss=LossConfig(infonce_weight=0, alpha=0, beta=0))
    assert not (tmp_path / "run").exists()
    loop.check(TRAIN.model_copy(update={"steps": 0, "epochs": 2, "warmup_steps": 7}), LOSS, Split(world, "train"))


def test_the_loss_falls(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", train={"steps": 40})
    losses = [value for _, name, value in _metrics(tmp_path / "run") if name == "loss"]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_what_is_logged(train: Train, tmp_path: Path) -> None:
    heard: dict[int, dict[str, float]] = {}
    events = []
    done = train(
        tmp_path / "run",
        validate=Validation(),
        on_metrics=lambda step, values: heard.setdefault(step, {}).update(values),
        on_event=lambda *event: events.append(event),
    )
    assert sorted(heard) == [1, 3, 4, 6, 8, 9, 10]
    assert {
        *("loss", "infonce", "csa", "usa", "lr", "temperature.csa", "temperature.infonce", "target_entropy.image"),
        *("effective_weight.usa", "target_off_diagonal.text", "undecodable", *TIMED),
    } <= set(heard[9])
    assert set(heard[4]) == {"val.rsum", "val.other"}
    assert heard[9]["loss"] == pytest.approx(heard[9]["infonce"] + heard[9]["csa"] + heard[9]["usa"], rel=1e-5)
    assert heard[1]["lr"] == TRAIN.lr
    assert 0 <= heard[9]["data_wait_share"] <= 1
    table = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    assert {(row["step"], row["name"]): row["value"] for row in table} == {
        (step, name): value for step, values in heard.items() for name, value in values.items()
    }
    assert events == [("train", step, 10) for step in range(11)]
    assert done.last["loss"] == heard[10]["loss"]
    assert (done.steps, done.started_at, done.notes) == (10, 0, ())
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_the_best_by_validation_is_kept(train: Train, tmp_path: Path) -> None:
    weights = {}
    validation = Validation({1: 5.0, 2: 9.0, 3: 7.0})

    def validate(student: students.Student) -> dict[str, float]:
        weights[validation.calls + 1] = {name: value.clone() for name, value in student.state_dict().items()}
        return validation(student)

    done = train(tmp_path / "run", validate=validate, train={"keep_checkpoints": 1})
    assert (done.best_step, done.best["rsum"]) == (8, 9.0)
    saved = students.load(tmp_path / "run").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in weights[2].items())
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [8, 10]


@pytest.mark.parametrize(
    ("told", "validated", "saved"),
    [
        ({"validate_every": 0, "checkpoint_every": 0}, [4, 8, 10], [4, 8, 10]),
        ({"validate_every": 3, "checkpoint_every": 0}, [3, 6, 9, 10], [3, 6, 9, 10]),
        ({"validate_every": 0, "checkpoint_every": 5}, [4, 8, 10], [5, 10]),
        ({"steps": 0, "epochs": 2, "validate_every": 0, "checkpoint_every": 6}, [4, 8], [6, 8]),
        ({"steps": 0, "epochs": 1, "drop_last": False, "validate_every": 2}, [2, 4, 5], [2, 4, 5]),
    ],
)
def test_an_epoch_is_what_runs_between_validations_and_checkpoints_by_default(
    train: Train, tmp_path: Path, told: dict[str, Any], validated: list[int], saved: list[int]
) -> None:
    """36 pairs in batches of 8: four full steps an epoch, or five."""
    heard: list[int] = []
    done = train(
        tmp_path / "run",
        validate=Validation(),
        train={"keep_checkpoints": 9, **told},
        on_metrics=lambda step, values: heard.append(step) if "val.rsum" in values else None,
    )
    assert heard == validated
    assert done.steps == validated[-1]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == saved


def test_without_validation_the_last_is_kept(train: Train, tmp_path: Path) -> None:
    done = train(tmp_path / "run")
    assert (done.best_step, done.best) == (10, {})
    saved = students.load(tmp_path / "run").state_dict()
    last = _weights(tmp_path / "run")
    assert all(torch.equal(saved[name], last[name]) for name in saved.keys() & last.keys())


def _stop_after(steps: int) -> Callable[[], bool]:
    asked = iter([False] * (steps - 1))
    return lambda: next(asked, True)


@pytest.mark.parametrize("stops", [[1], [3], [4], [2, 1, 5]])
def test_stopped_and_gone_on_it_ends_with_the_same_bits(train: Train, tmp_path: Path, stops: list[int]) -> None:
    def fresh(world: Path) -> students.Student:
        student = students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)
        # Dropout draws random numbers in every step: they must go on, too.
        student.heads["uni"]["image"].linear = torch.nn.Sequential(
            student.heads["uni"]["image"].linear, torch.nn.Dropout()
        )  # type: ignore[index, union-attr]
        return student

    world = make_world(tmp_path)
    train(tmp_path / "whole", work=world, student=fresh(world), validate=Validation())
    taken = 0
    for number, stop in enumerate(stops):
        taken += stop
        with pytest.raises(StoppedError, match=rf"after step {taken} of 10.*go on"):
            train(
                tmp_path / "parts",
                work=world,
                student=fresh(world),
                validate=Validation(),
                should_stop=_stop_after(stop),
                train={"workers": number + 1, "cache_mib": number},
            )
    done = train(tmp_path / "parts", work=world, student=fresh(world), validate=Validation())
    assert done.started_at == taken
    assert _equal(tmp_path / "whole", tmp_path / "parts")
    assert _metrics(tmp_path / "whole") == _metrics(tmp_path / "parts")
    whole = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "parts" / "model" / "model.safetensors").read_bytes() == whole


def test_learned_thresholds_are_in_the_checkpoint(train: Train, tmp_path: Path) -> None:
    loss = LOSS.model_copy(update={"false_negatives": "thresholds", "threshold_after": 1, "threshold_share": 0.1})
    whole = train(tmp_path / "whole", loss=loss)
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", loss=loss, should_stop=_stop_after(4))
    train(tmp_path / "parts", loss=loss)
    assert _equal(tmp_path / "whole", tmp_path / "parts")
    assert _metrics(tmp_path / "whole") == _metrics(tmp_path / "parts")
    assert whole.last["share_masked"] > 0
    assert -1 <= whole.last["threshold.text"] < 1


def test_a_finished_run_is_finished(train: Train, tmp_path: Path) -> None:
    first = train(tmp_path / "run", validate=Validation())
    validation = Validation()
    again = train(tmp_path / "run", validate=validation)
    assert validation.calls == 0
    assert (again.started_at, again.best, again.last) == (10, first.best, first.last)
    forced = train(tmp_path / "run", validate=validation, force=True)
    assert (forced.started_at, validation.calls) == (0, 3)
    assert forced.best == first.best


def test_a_broken_checkpoint_is_passed_over(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "whole", validate=Validation())
    with pytest.raises(StoppedError):
        train(tmp_path / "run", validate=Validation(), should_stop=_stop_after(7))
    state = tmp_path / "run" / "checkpoints" / "step-000000007" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    done = train(tmp_path / "run", validate=Validation())
    assert done.started_at == 6
    assert "step-000000007 is broken" in done.notes[0]
    assert _equal(tmp_path / "whole", tmp_path / "run")


def test_lost_metrics_are_told_and_no_reason_to_stop(train: Train, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path / "run", should_stop=_stop_after(7))
    (tmp_path / "run" / "metrics.parquet").unlink()
    done = train(tmp_path / "run")
    assert "metrics before step 7 are lost" in done.notes[0]
    assert min(step for step, _, _ in _metrics(tmp_path / "run")) == 9


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train": {"lr": 1e-4}}, r"train\.lr was 0\.003 and is now 0\.0001"),
        ({"loss": LOSS.model_copy(update={"alpha": 0.9})}, r"loss\.alpha was 0\.5 and is now 0\.9"),
        ({"digests": {"the recipe's student": "b"}}, "the recipe's student changed"),
    ],
)
def test_another_recipe_is_refused(train: Train, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    train(tmp_path / "run", digests={"the recipe's student": "a"})
    with pytest.raises(StaleError, match=words):
        train(tmp_path / "run", **{"digests": {"the recipe's student": "a"}, **changed})
    assert train(tmp_path / "run", digests={"the recipe's student": "a"}, train={"workers": 3}).started_at == 10


def test_another_teacher_is_refused(train: Train, own_world: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", work=own_world)
    folder = own_world / "train" / "teachers" / "colours"
    (folder / "ledger.json").unlink()  # beside its ledger a changed part would be refused before
    for part in folder.glob("0*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"revision": b"2"}), part)
    with pytest.raises(StaleError, match="the image teacher changed"):
        train(tmp_path / "run", work=own_world)


def test_another_model_is_refused(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    wider = students.create(STUDENT.model_copy(update={"width": 20}), captions=["a"], uni=True, seed=0)
    with pytest.raises(DataError, match="state of another model"):
        train(tmp_path / "run", student=wider)


class _Broken(torch.nn.Module):
    """A tower that gives no numbers from its fifth step on."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def get_image_features(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        features = self.inner.get_image_features(**inputs).pooler_output
        return features * (float("nan") if self.calls == 5 else 1.0)

    def get_text_features(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.inner.get_text_features(**inputs).pooler_output


def test_a_loss_that_is_no_number_stops_with_the_keys(world: Path, train: Train, tmp_path: Path) -> None:
    student = students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)
    student.backbone = _Broken(student.backbone)
    with pytest.raises(DataError, match="no finite number at step 5") as caught:
        train(tmp_path / "run", student=student)
    expected = [Split(world, "train").caption_keys[row] for row in Order(36, 8, 0).rows(4)]
    assert list(caught.value.values["keys"]) == expected
    assert expected[0] in str(caught.value)
    assert "step-000000004" in str(caught.value)
    place = tmp_path / "run" / "checkpoints" / "step-000000004"
    meta = json.loads((place / "meta.json").read_text())
    identity = checkpoint.Identity(meta["settings"], meta["digests"])
    assert checkpoint.load(place.parent, identity=identity)[0] == 4


@pytest.mark.parametrize("options", [{"log_every": 100}, {"log_every": 4, "ema": 0.9}, {"accumulate": 2}])
def test_nothing_after_a_loss_that_is_no_number_is_saved(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    calls = []

    def broken(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = float("nan") if len(calls) == 6 * options.get("accumulate", 1) else 1.0
        return {name: term * factor for name, term in loss_terms(*args, **kwargs).items()}

    monkeypatch.setattr("cusa.train.step.loss_terms", broken)
    config = {"log_every": 4, "checkpoint_every": 5, "validate_every": 5, "steps": 10, **options}
    steps: list[int] = []
    with pytest.raises(DataError, match="no finite number at step 6"):
        train(
            tmp_path / "run",
            train=config,
            validate=Validation(),
            on_event=lambda what, done, total: steps.append(done),
        )
    assert max(steps) <= (9 if options.get("log_every") == 100 else 7), "found where losses are read next"
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [5]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-000000005" / "state.pt", weights_only=True)
    for part in ("student", "loss", "average"):
        assert all(value.isfinite().all() for value in saved[part].values())
    assert bool(saved["average"]) == ("ema" in options)
    assert all(math.isfinite(value) for _, _, value in _metrics(tmp_path / "run"))
    assert max(step for step, _, _ in _metrics(tmp_path / "run")) <= 5
    assert all(value.isfinite().all() for value in students.load(tmp_path / "run").state_dict().values())


def test_too_many_undecodable_images_stop_it(own_world: Path, train: Train, tmp_path: Path) -> None:
    row = Split(own_world, "train").samples.slice(9, 1).to_pylist()[0]
    with (own_world / "train" / row["shard"]).open("r+b") as file:
        file.seek(row["image_offset"])
        file.write(b"no picture")
    with pytest.raises(DataError, match=rf"1 of 12 images cannot be decoded.*max_undecodable=0\.01.*{row['key']}"):
        train(tmp_path / "strict", work=own_world)
    done = train(tmp_path / "run", work=own_world, train={"max_undecodable": 0.1})
    assert "1 image could not be decoded" in done.notes[0]
    assert f"1 in {row['shard']}" in done.notes[0]
    assert done.last["undecodable"] == 1


def test_infonce_alone_needs_no_teacher(own_world: Path, train: Train, tmp_path: Path) -> None:
    shutil.rmtree(own_world / "train" / "teachers")
    with pytest.raises(DataError, match="cusa extract-teachers"):
        train(tmp_path / "cusa", work=own_world)
    done = train(tmp_path / "run", work=own_world, loss=LossConfig(alpha=0, beta=0))
    assert set(done.last) >= {"loss", "infonce"}
    assert done.last.get("csa", 0) == done.last.get("usa", 0) == 0
    assert not students.load(tmp_path / "run").has_uni


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": {"batch": 64}}, r"train\.batch is 64.*only 36 pairs"),
        ({"train": {"warmup_steps": 10}}, "warmup_steps is 10"),
        (
            {"train": {"monitor": "recall"}, "validate": Validation()},
            r"train\.monitor is 'recall'.*Allowed: other, rsum",
        ),
        ({"loss": LossConfig(alpha=0, beta=0, infonce_weight=0)}, "All weights of the loss are 0"),
    ],
)
def test_impossible_recipes_are_refused(train: Train, tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tmp_path / "run", **arguments)


def test_usa_needs_its_heads(train: Train, tmp_path: Path) -> None:
    plain = students.create(STUDENT, captions=["a"], uni=False, seed=0)
    with pytest.raises(ConfigError, match=r"loss\.beta is 0\.5, but the student has no uni-modal heads"):
        train(tmp_path / "run", student=plain)


def test_the_callers_random_numbers_are_left_alone(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    train(tmp_path / "run", validate=Validation())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"alpha": 0.5, "beta": 0.25}, "CSA weighs 4 and USA weighs 2 times InfoNCE in a batch of 8 pairs"),
        ({"alpha": 0.5, "beta": 0}, "CSA weighs 4 times InfoNCE"),
        ({"alpha": 0, "beta": 0}, ""),
        ({"reduction": "standard"}, ""),
    ],
)
def test_weights_that_depend_on_the_batch_are_said(
    train: Train, tmp_path: Path, loss: dict[str, Any], said: str
) -> None:
    messages: list[str] = []
    config = LossConfig(**{"reduction": "release", **loss})
    train(tmp_path / "run", loss=config, train={"steps": 1}, on_message=messages.append)
    told = [message for message in messages if "loss.reduction=release" in message]
    assert len(told) == bool(said)
    assert all(said in message for message in told)


def test_clipping_and_bf16(train: Train, tmp_path: Path) -> None:
    done = train(tmp_path / "run", train={"clip_norm": 0.5, "precision": "bf16", "schedule": "epoch"})
    assert done.last["grad_norm"] > 0
    rates = {step: value for step, name, value in _metrics(tmp_path / "run") if name == "lr"}
    assert rates[1] == rates[3] == TRAIN.lr  # four steps are an epoch
    assert rates[6] < TRAIN.lr


def test_chunks_and_masks_need_embeddings(world: Path, train: Train, tmp_path: Path) -> None:
    texts = Split(world, "train").texts
    fused = students.create(STUDENT.model_copy(update={"kind": "x2vlm"}), captions=texts, uni=True, seed=0)
    with pytest.raises(ConfigError, match="train.chunk is 4, which needs embeddings"):
        train(tmp_path / "chunk", student=fused, train={"chunk": 4})
    with pytest.raises(ConfigError, match="false_negatives is 'mask'"):
        masked = LossConfig(alpha=0.5, beta=0.5, false_negatives="mask", mask_text=0.9)
        train(tmp_path / "mask", student=fused, loss=masked)
