"""CUSA in the trainer of sentence-transformers, the real one, on a tiny CLIP."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor

import cusa
from cusa.errors import ConfigError
from cusa.integrations.sentence_transformers import CUSALoss, pairs
from cusa.integrations.teachers import Teachers
from cusa.train.losses import CUSALoss as Objective
from tests.conftest import ROOT
from tests.integrations.small import make_taught, write_clip
from tests.train.ranks import run_on_ranks


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_taught(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "model")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains_and_its_model_loads_again(taught: Path, clip: Path, tmp_path: Path) -> None:
    script = _load(ROOT / "examples/sentence_transformers_trainer.py")
    words = [str(taught), str(clip), str(tmp_path / "out"), "--steps", "20", "--batch", "12", "--lr", "1e-2"]
    logged = script.main([*words, "--device", "cpu"])
    assert {"infonce", "csa", "usa"} <= logged.keys()
    trained = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    before = SentenceTransformer(str(clip), device="cpu")
    rows = [model.encode(["a red wall"], convert_to_tensor=True) for model in (before, trained)]
    assert not torch.allclose(rows[0], rows[1])
    assert sorted(trained.state_dict()) == sorted(before.state_dict())


def test_the_loss_is_that_of_the_plain_objective(taught: Path, clip: Path) -> None:
    model = SentenceTransformer(str(clip), device="cpu").eval()
    teachers = cusa.teacher_rows(taught)
    data = pairs(teachers)
    chosen = [0, 4, 7, 30]
    rows = [data[number] for number in chosen]
    columns = [model.preprocess([row[name] for row in rows]) for name in ("image", "text")]
    loss = CUSALoss(model, teachers, objective=Objective(alpha=0.3, beta=0)).eval()
    with torch.no_grad():
        given = loss(columns, torch.tensor([row["label"] for row in rows]))
        image, text = (model(column)["sentence_embedding"] for column in columns)
    split = teachers.split
    keys = [split.caption_keys[number] for number in chosen]
    expected = Objective(alpha=0.3, beta=0).eval()(
        image=image, text=text, **teachers.rows([key.partition("#")[0] for key in keys], keys)
    )
    assert set(given) == {"infonce", "csa", "usa"}
    for name, value in given.items():
        torch.testing.assert_close(value, expected[name])
    assert [row["text"] for row in rows] == [split.texts[number] for number in chosen]


def test_projectors_and_temperatures_are_trained_with_the_model(taught: Path, clip: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(clip), device="cpu")
    teachers = cusa.teacher_rows(taught)
    loss = CUSALoss(model, teachers, uni_width=8)
    own = {name: value.detach().clone() for name, value in loss.named_parameters() if not name.startswith("model.")}
    assert "image_projector.weight" in own
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=5,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
    )
    trainer = SentenceTransformerTrainer(model=model, args=settings, train_dataset=pairs(teachers), loss=loss)
    trainer.train()
    trained = dict(loss.named_parameters())
    learned = [name for name in own if trained[name].requires_grad]
    assert learned
    assert all(not torch.equal(own[name], trained[name]) for name in learned)


def test_teachers_may_be_arrays(clip: Path) -> None:
    rng = np.random.default_rng(0)
    teachers = Teachers(rng.normal(size=(4, 3)), rng.normal(size=(9, 5)))
    given = teachers.at([3, 0], [8, 1])
    assert [tuple(each.shape) for each in given.values()] == [(2, 3), (2, 5), (2,)]
    assert given["image_ids"].tolist() == [3, 0]


@pytest.mark.parametrize("kind", ["texts alone", "swapped", "no label", "one number"])
def test_other_columns_are_named(taught: Path, clip: Path, kind: str) -> None:
    model = SentenceTransformer(str(clip), device="cpu")
    teachers = cusa.teacher_rows(taught)
    row = pairs(teachers)[0]
    image, text = (model.preprocess([row[name]]) for name in ("image", "text"))
    labels: Tensor | None = torch.tensor([row["label"]])
    columns = [image, text]
    if kind == "texts alone":
        columns = [text, text]
    elif kind == "swapped":
        columns = [text, image]
    elif kind == "no label":
        labels = None
    else:
        labels = torch.tensor([1.0])
    with pytest.raises(ConfigError, match="label" if "label" in kind or "number" in kind else "image"):
        CUSALoss(model, teachers)(columns, labels)


def test_lists_of_false_negatives_are_refused(taught: Path, clip: Path) -> None:
    model = SentenceTransformer(str(clip), device="cpu")
    with pytest.raises(ConfigError, match="false_negatives"):
        CUSALoss(model, cusa.teacher_rows(taught), objective=Objective(false_negatives="positive"))


class _Small(torch.nn.Module):
    """What the loss asks of a model: embeddings of a column, and their width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = torch.nn.Linear(4, 6)

    def get_embedding_dimension(self) -> int:
        return 6

    def forward(self, column: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.linear(next(iter(column.values())))}


def _own_gradients(rows: slice) -> dict[str, Tensor]:
    """Return the gradients of the loss's own parameters for some rows of one batch."""
    random = torch.Generator().manual_seed(0)
    image, text, teacher_image, teacher_text = (torch.randn(8, 4, generator=random) for _ in range(4))
    labels = torch.arange(8)[:, None].expand(8, 2)
    torch.manual_seed(1)
    loss = CUSALoss(_Small(), Teachers(teacher_image, teacher_text), uni_width=3)  # type: ignore[arg-type]
    terms = loss([{"pixel_values": image[rows]}, {"input_ids": text[rows]}], labels[rows])
    sum(terms.values()).backward()  # type: ignore[union-attr]
    named = loss.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None and not name.startswith("model.")}


def _on_a_rank(rank: int) -> dict[str, Tensor]:
    return _own_gradients(slice(4 * rank, 4 * rank + 4))


def test_two_ranks_give_the_loss_the_gradients_of_one(tmp_path: Path) -> None:
    expected = _own_gradients(slice(0, 8))
    assert {"image_projector.weight", "objective.infonce_temperature.value"} <= expected.keys()
    for given in run_on_ranks(_on_a_rank, 2, tmp_path):
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-6, msg=name)
