"""What the points of a blend are measured by: which split, tasks and numbers, and never by choice a test split."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError, DataError
from cusa.eval.config import EvalConfig
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.workflow.blend import measures
from cusa.workflow.blend.grid import Choice
from cusa.workflow.blend.measures import Measure, gather, of_results, texts_digest
from cusa.workflow.evaluated.model import EvaluatedModel
from tests.worlds import COLOURS, make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder whose test and val images have colours as labels, and no caption in test."""
    work = make_work(tmp_path_factory.mktemp("measures"), images=4, captions=1)
    for name in ("val", "test"):
        split = Split(work, name)
        rows = [
            {**row, "label": f"{colour} wall"} for row, colour in zip(split.samples.to_pylist(), COLOURS, strict=True)
        ]
        store.write_table(split.folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    store.write_table(work / "test/captions.parquet", schemas.CAPTIONS.empty_table())
    return work


def _model(run: Path | None, **data: str) -> EvaluatedModel:
    return EvaluatedModel("run", run, {"data": data} if data else {}, EvalConfig(), "1")


def _shown(measured: list[measures.Measured]) -> list[tuple[str, str, tuple[str, ...], bool]]:
    return [(one.split.work.name, one.split.name, one.tasks, one.is_new) for one in measured]


def test_gather__the_new_task_s_split_and_each_guard_s(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    store.write_json(run / "run.json", {"data": str(work)})
    new = ("work", "val", ("cross-modal",), True)
    assert _shown(gather(_model(run), None, "", [], None)) == [new]
    assert _shown(gather(_model(run, val="train"), None, "", [], None)) == [("work", "train", ("cross-modal",), True)]
    assert _shown(gather(_model(run, val="dev"), None, "", [], None)) == [new], "where the data have no such split"
    assert _shown(gather(_model(run, val="train"), None, "val", [], None)) == [new]
    other = Path(shutil.copytree(work, tmp_path / "a:b"))
    guards = [str(work), f"{work}:train", f"{other}:val", str(other)]
    assert _shown(gather(_model(None), work, "val", guards, None))[1:] == [
        ("work", "test", ("zero-shot",), False),
        ("work", "train", ("cross-modal",), False),
        ("a:b", "val", ("cross-modal", "zero-shot"), False),
        ("a:b", "test", ("zero-shot",), False),
    ]
    with pytest.raises(ConfigError, match="run is no run and knows no data"):
        gather(_model(None), None, "", [], None)
    with pytest.raises(ConfigError, match="is named twice"):
        gather(_model(None), work, "val", [f"{work}:val"], None)
    with pytest.raises(DataError, match="has no captions: it is no retrieval task"):
        gather(_model(None), work, "test", [], None)
    folders = [one.folder for one in gather(_model(None), work, "val", [f"{other}:val"], None)]
    assert folders == [f"{place.name}-val-{store.digest(str(place.resolve()))[:6]}" for place in (work, other)]


def test_gather__a_rule_never_looks_at_a_test_split(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    store.write_json(run / "run.json", {"data": str(work)})
    best, kept = Choice(), Choice(most_lost=1.0)

    def refused(choice: Choice, split: str, guards: list[str], **data: str) -> bool:
        try:
            gather(_model(run, **data), work, split, guards, choice)
        except ConfigError as error:
            return "--choose would choose by the test split" in str(error)
        return False

    assert not refused(best, "val", [str(work)]), "a guard does not decide which is best"
    assert refused(kept, "val", [str(work)])
    assert not refused(kept, "val", [f"{work}:train"])
    assert refused(kept, "val", [f"{work}:train"], test="train"), "the run's own test split"
    assert refused(best, "val", [], test="val")
    assert not refused(Choice(alpha=0.5), "val", [str(work)]), "a point of one's own is no choice by numbers"


def test_of_results__one_number_a_task_and_what_could_not_be_done(work: Path) -> None:
    (_, guard) = gather(_model(None), work, "train", [f"{work}:val"], None)
    retrieval = {"metrics": {"rsum": 300.0, "image-to-text/r@1": 9.0}, "intervals": {"rsum": [290.0, 310.0]}}
    classes = {"metrics": {"top@1": 50.0, "class_mean": 40.0}, "intervals": {"top@1": None}}
    result: dict[str, Any] = {"tasks": {"cross-modal": retrieval, "zero-shot": classes}}
    assert of_results(guard, result) == [
        (Measure("work", "val", "cross-modal", "rsum", False), 300.0, [290.0, 310.0]),
        (Measure("work", "val", "zero-shot", "top@1", False), 50.0, None),
    ]
    few = {"metrics": {"class_mean": 40.0}, "intervals": {"class_mean": [30.0, 50.0]}}
    (_, row) = of_results(guard, {"tasks": {"cross-modal": retrieval, "zero-shot": few}})
    assert row == (Measure("work", "val", "zero-shot", "class_mean", False), 40.0, [30.0, 50.0])
    assert [row[0].title for row in of_results(guard, result)] == [
        "RSUM, work val",
        "top-1 accuracy, zero-shot, work val",
    ]
    with pytest.raises(DataError, match="zero-shot on .*val: no classes"):
        of_results(guard, {"tasks": {"cross-modal": retrieval, "zero-shot": {"unavailable": "no classes"}}})


def test_texts_digest__follows_prompts_and_names(work: Path, tmp_path: Path) -> None:
    (new, guard) = gather(_model(None), work, "train", [f"{work}:val"], None)
    prompts = tmp_path / "p.txt"
    digests = []
    for text in ("a {}\n", "one {}\n"):
        prompts.write_text(text)
        digests.append(texts_digest(guard, EvalConfig(templates=str(prompts))))
    digests.append(texts_digest(guard, EvalConfig()))
    assert len(set(digests)) == 3
    assert texts_digest(new, EvalConfig(templates=str(prompts))) == texts_digest(new, EvalConfig()), "it asks none"


def _labelled(work: Path, to: Path, labels: list[str]) -> Path:
    """Copy a work folder with other labels of its test images, which have no captions, and of val, which has."""
    made = Path(shutil.copytree(work, to))
    for name in ("val", "test"):
        split = Split(made, name)
        rows = [{**row, "label": label} for row, label in zip(split.samples.to_pylist(), labels, strict=True)]
        store.write_table(split.folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    return made


def test_gather__a_guard_has_captions_or_labels_that_name_classes(work: Path, tmp_path: Path) -> None:
    some = _labelled(work, tmp_path / "some", ["red wall", "", "blue wall", ""])
    found = gather(_model(None), work, "train", [str(some), f"{some}:val"], None)
    assert [one.tasks for one in found[1:]] == [("zero-shot",), ("cross-modal", "zero-shot")]
    none = _labelled(work, tmp_path / "none", ["", "", "", ""])
    (_, plain) = gather(_model(None), work, "train", [f"{none}:val"], None)
    assert (plain.tasks, plain.left_out) == (("cross-modal",), "")
    with pytest.raises(DataError, match="guards nothing: it has neither captions, for retrieval, nor labels"):
        gather(_model(None), work, "train", [str(none)], None)
    numbers = _labelled(work, tmp_path / "numbers", ["id_1", "id_2", "id_3", "id_4"])
    (_, kept) = gather(_model(None), work, "train", [f"{numbers}:val"], None)
    assert kept.tasks == ("cross-modal",)
    assert kept.left_out.startswith("The guard numbers val is measured by retrieval alone. The labels differ in")
    with pytest.raises(DataError, match="The guard .*numbers/test: The labels differ in their numbers"):
        gather(_model(None), work, "train", [str(numbers)], None)
    names = tmp_path / "names.tsv"
    names.write_text("id_1\tred wall\n")
    model = EvaluatedModel("run", None, {}, EvalConfig(class_names=str(names)), "1")
    with pytest.raises(DataError, match="has no name for the label 'id_2'"):
        gather(model, work, "train", [f"{numbers}:val"], None)
    names.write_text("other\tred wall\n")
    (_, kept) = gather(model, work, "train", [f"{numbers}:val"], None)
    assert kept.tasks == ("cross-modal",), "names of other data, measured together with these"
