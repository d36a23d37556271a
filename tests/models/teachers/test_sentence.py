"""Text teachers with a prompt of their own and in small batches, against sentence-transformers itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from cusa.models.teachers.sentence import SentenceTeacher
from tests.towers import CAPTIONS, write_sentences

PROMPTS = {"query": "two green triangles ", "passage": "a red square on "}
TEXTS = [*CAPTIONS, CAPTIONS[1], "", "a blue star", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose default prompt is the second of two."""
    folder = write_sentences(tmp_path_factory.mktemp("sentences"))
    path = folder / "config_sentence_transformers.json"
    content = json.loads(path.read_text()) | {"prompts": PROMPTS, "default_prompt_name": "passage"}
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_encode__equals_the_library_s_with_the_default_prompt(folder: Path, batch_size: int) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    teacher = SentenceTeacher(str(folder), batch_size=batch_size)
    rows = teacher.encode(TEXTS)
    np.testing.assert_allclose(rows, model.encode(TEXTS, normalize_embeddings=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(rows, model.encode(TEXTS, prompt=PROMPTS["passage"]), rtol=0, atol=1e-6)
    assert np.abs(rows - model.encode(TEXTS, prompt="")).max() > 1e-2


def test_prepared_texts_may_be_embedded_twice(folder: Path) -> None:
    teacher = SentenceTeacher(str(folder))
    prepared = teacher.prepare(TEXTS)
    first = teacher.embed(prepared)
    assert np.array_equal(teacher.embed(prepared), first)
    np.testing.assert_allclose(first, teacher.encode(TEXTS), rtol=0, atol=1e-6)


def test_lengths__are_those_of_the_texts_in_the_order_given(folder: Path) -> None:
    teacher = SentenceTeacher(str(folder))
    marks = 2
    words = [len(text.replace(".", " .").replace(",", " ,").replace("!", " !").split()) for text in TEXTS]
    assert teacher.lengths(TEXTS).tolist() == [min(number + marks, 10) for number in words]
    assert teacher.lengths([]).tolist() == []


def test_provenance__says_the_prompt_and_where_texts_are_cut(folder: Path) -> None:
    said = SentenceTeacher(str(folder)).provenance()
    assert said["preprocessing"] == "sentence-transformers tokenizer, 10 tokens at most, prompt 'a red square on '"
    (folder / "config_sentence_transformers.json").unlink()
    without = SentenceTeacher(str(folder)).provenance()
    assert without["preprocessing"] == "sentence-transformers tokenizer, 10 tokens at most"
    assert without["weights_sha256"] != said["weights_sha256"]
    assert said["precision"] == without["precision"] == "float32"
