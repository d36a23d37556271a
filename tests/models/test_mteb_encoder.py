"""A student in mteb's hands: tasks of mteb's own classes on local data, scored by mteb."""

import json
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import torch
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from PIL import Image

from cusa.errors import ConfigError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.mteb_encoder import MtebEncoder

SMALL = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)


def _metadata(**fields: Any) -> Any:
    return mteb.TaskMetadata(
        dataset={"path": "local", "revision": "1"}, description="local data", eval_langs=["eng-Latn"], **fields
    )


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = json.loads((shared / "data/coco-mini/dataset_coco.json").read_text())["images"]
    captions = [sentence["raw"] for row in rows[:100] for sentence in row["sentences"]]
    student = students.create(SMALL.model_copy(update={"cross_head": True}), captions=captions, uni=True, seed=0)
    student.save(tmp_path_factory.mktemp("mteb") / "mini")
    return tmp_path_factory.getbasetemp() / "mteb0" / "mini"


def test_mteb_scores_a_task_on_texts_in_the_uni_modal_space(shared: Path, folder: Path) -> None:
    lines = (shared / "data/sts/STS/STSBenchmark/sts-test.csv").read_text().splitlines()[:120]
    cells = [line.split("\t") for line in lines]
    columns = {
        "sentence1": [c[5] for c in cells],
        "sentence2": [c[6] for c in cells],
        "score": [float(c[4]) for c in cells],
    }

    class Local(AbsTaskSTS):
        metadata = _metadata(name="LocalSTS", type="STS", main_score="cosine_pearson")

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {"default": {"test": datasets.Dataset.from_dict(columns)}}
            self.data_loaded = True

    encoder = MtebEncoder(str(folder))
    assert isinstance(encoder, mteb.EncoderProtocol)
    result = mteb.evaluate(encoder, Local(), cache=None, co2_tracker=False, show_progress_bar=False)
    student = students.load(folder)
    expected = {}
    for space in ("uni", "cross"):
        with torch.no_grad():
            one, other = (student.encode_text(student.tokenize(columns[f"sentence{n}"]), space) for n in (1, 2))
        expected[space] = np.corrcoef((one * other).sum(1), columns["score"])[0, 1]
    assert result.task_results[0].get_score() == pytest.approx(expected["uni"], abs=1e-5)
    assert abs(expected["uni"] - expected["cross"]) > 1e-3
    assert result.model_name == "cusa/mini"


def test_mteb_scores_retrieval_of_pictures_in_the_cross_modal_space(shared: Path, folder: Path) -> None:
    mini = shared / "data/coco-mini"
    rows = json.loads((mini / "dataset_coco.json").read_text())["images"][:12]
    pictures = [Image.open(mini / row["filepath"] / row["filename"]).convert("RGB") for row in rows]
    texts = [row["sentences"][0]["raw"] for row in rows]
    queries = datasets.Dataset.from_dict({"id": [f"q{n}" for n in range(12)], "text": texts, "modality": ["text"] * 12})
    corpus = datasets.Dataset.from_dict(
        {"id": [f"d{n}" for n in range(12)], "image": pictures, "modality": ["image"] * 12},
        features=datasets.Features(
            {"id": datasets.Value("string"), "image": datasets.Image(), "modality": datasets.Value("string")}
        ),
    )

    class Local(AbsTaskRetrieval):
        metadata = _metadata(
            name="LocalT2I",
            type="Any2AnyRetrieval",
            main_score="recall_at_5",
            category="t2i",
            modalities=["text", "image"],
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            wanted = {f"q{n}": {f"d{n}": 1} for n in range(12)}
            split = {"corpus": corpus, "queries": queries, "relevant_docs": wanted, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    result = mteb.evaluate(MtebEncoder(str(folder)), Local(), cache=None, co2_tracker=False, show_progress_bar=False)
    student = students.load(folder)
    with torch.no_grad():
        image = student.encode_image(torch.stack([student.image_transform(picture) for picture in pictures]))
        scores = student.encode_text(student.tokenize(texts)) @ image.T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    assert result.task_results[0].get_score() == pytest.approx(float((rank < 5).float().mean()), abs=1e-4)


def test_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cross'"):
        MtebEncoder(str(folder), space="cros")  # type: ignore[arg-type]
    students.create(SMALL, captions=["a dog"], uni=False, seed=0).save(tmp_path / "plain")
    with pytest.raises(ConfigError, match="no uni-modal heads"):
        MtebEncoder(str(tmp_path / "plain"), space="uni")
    encoder, task = MtebEncoder(str(folder)), _metadata(name="Both", type="STS", main_score="cosine_spearman")
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="image, text"):
        encoder.encode([{"text": ["a"], "image": [picture]}], task_metadata=task, hf_split="test", hf_subset="default")
    assert MtebEncoder(str(tmp_path / "plain")).mteb_model_meta.revision != encoder.mteb_model_meta.revision
