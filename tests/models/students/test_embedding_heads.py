"""Heads on tables: what goes on from an earlier run, and which encoder may make a new row."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError, DataError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.features import FeatureTable
from cusa.models.students.embedding_heads import EmbeddingHeads
from cusa.models.teachers import registry

MADE = {"revision": "v1", "weights_sha256": "aa", "preprocessing": "squares", "transform": "clean"}
IMAGE = FeatureTable("pictures", 6, MADE, "offline-gist")
TEXT = FeatureTable("words", 4, {**MADE, "weights_sha256": "bb"}, "offline-ngrams")


def _make(
    *, image: FeatureTable = IMAGE, text: FeatureTable = TEXT, uni: bool = True, seed: int = 0, **settings: Any
) -> EmbeddingHeads:
    heads = {"width": 8, "hidden": 12, **settings.pop("heads", {})}
    config = StudentConfig.model_validate({"kind": "heads", "heads": heads, **settings})
    made = students.create(config, captions=[], uni=uni, seed=seed, features={"image": image, "text": text})
    assert isinstance(made, EmbeddingHeads)
    return made


def _rows() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(3, 6, generator=random), {"features": torch.randn(3, 4, generator=random)}


@pytest.mark.parametrize("uni", [False, True])
def test_forward__is_each_table_s_projection_and_heads(uni: bool) -> None:
    student = _make(uni=uni, cross_head=True).eval()
    images, texts = _rows()
    out = student(images, texts)
    spaces: tuple[Literal["cross", "uni"], ...] = ("cross", "uni") if uni else ("cross",)
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    assert len(out) == 2 * len(spaces)
    for modality, rows in zip(modalities, (images, texts["features"]), strict=True):
        for space in spaces:
            expected = student.heads.embed(student.heads.project(rows, modality), space, modality)
            assert torch.equal(out[modality if space == "cross" else f"{modality}_uni"], expected)


def test_create__without_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="create it with features=") as refused:
        students.create(StudentConfig(kind="heads"), captions=[], uni=True, seed=0)
    assert refused.value.values["key"] == "student.kind"


def test_name__the_heads_of_a_run_go_on_and_new_ones_stay_new(tmp_path: Path) -> None:
    before = _make(uni=False, cross_head=True, seed=1)
    before.save(tmp_path / "run/model")
    for name in (tmp_path / "run", tmp_path / "run/model"):
        after, fresh = (_make(cross_head=True, seed=2, name=one) for one in (str(name), "scratch"))
        old, state, new = before.state_dict(), after.state_dict(), fresh.state_dict()
        assert set(state) - set(old) == {key for key in state if ".uni." in key} != set()
        assert all(torch.equal(state[key], value) for key, value in old.items())
        assert all(torch.equal(state[key], new[key]) for key in set(state) - set(old))
    bare = _make(uni=False, name=str(tmp_path / "run"))
    assert not bare.has_uni
    assert not any("cross" in key for key in bare.state_dict())


@pytest.mark.parametrize("part", ["revision", "weights_sha256", "preprocessing", "transform"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_name__heads_that_learned_on_other_rows_are_refused(tmp_path: Path, modality: str, part: str) -> None:
    _make().save(tmp_path / "run/model")
    table = IMAGE if modality == "image" else TEXT
    other = replace(table, table="mine", provenance={**table.provenance, part: "other"})
    words = rf"learned on {modality} rows of '{table.table}', and this work folder's table 'mine' was made by another"
    with pytest.raises(DataError, match=words) as refused:
        _make(name=str(tmp_path / "run"), **{modality: other})
    assert refused.value.values["key"] == f"student.heads.{modality}_table"


def test_name__another_table_of_the_same_rows_is_taken_and_other_widths_are_not(tmp_path: Path) -> None:
    _make().save(tmp_path / "run/model")
    _make(name=str(tmp_path / "run"), image=replace(IMAGE, table="renamed", encoder=""))
    with pytest.raises(DataError, match="was made by another encoder"):
        _make(name=str(tmp_path / "run"), text=replace(TEXT, width=5))
    with pytest.raises(DataError, match="expected"):
        _make(name=str(tmp_path / "run"), heads={"width": 12})
    with pytest.raises(ConfigError, match="which is no run or model folder of a student of heads") as refused:
        _make(name=str(tmp_path))
    assert refused.value.values["key"] == "student.name"


class _Encoder:
    """Gives the lengths of what it is asked for, and remembers it."""

    def __init__(self, width: int) -> None:
        self.width, self.asked = width, list[Any]()

    def encode(self, items: Any) -> np.ndarray:
        self.asked += list(items)
        return np.array([[len(str(item))] * self.width for item in items], dtype=np.float64)


def _encoders(monkeypatch: pytest.MonkeyPatch, widths: dict[str, int], digests: dict[str, str]) -> dict[str, _Encoder]:
    made = {modality: _Encoder(width) for modality, width in widths.items()}
    monkeypatch.setattr(registry, "load_teacher", lambda name, modality: made[modality])
    monkeypatch.setattr(registry, "weights_digest", lambda name: digests[name])
    return made


@pytest.mark.parametrize(("transform", "read"), [("clean", "two dogs"), ("none", "Two dogs!"), ("", "Two dogs!")])
def test_tokenize__gives_the_encoder_captions_as_the_table_s_were(
    monkeypatch: pytest.MonkeyPatch, transform: str, read: str
) -> None:
    made = _encoders(monkeypatch, {"text": 4}, {"offline-ngrams": "bb"})
    student = _make(text=replace(TEXT, provenance={**TEXT.provenance, "transform": transform}))
    rows = student.tokenize(["Two dogs!"])["features"]
    assert made["text"].asked == [read]
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[len(read)] * 4]


def test_encoders__that_did_not_make_the_table_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _encoders(monkeypatch, {"image": 6, "text": 5}, {"offline-gist": "cc" * 9, "offline-ngrams": "bb"})
    student = _make()
    with pytest.raises(
        DataError, match=r"'offline-gist' has other weights \(SHA-256 cccccccccccc\).*\(aa\)"
    ) as refused:
        student.image_array("picture")  # type: ignore[arg-type]
    assert refused.value.values["key"] == "student.heads.image_encoder"
    with pytest.raises(DataError, match=r"gives rows of 5 numbers, and the heads read 4.*'words'") as refused:
        student.tokenize(["a"])
    assert refused.value.values["key"] == "student.heads.text_encoder"
    with pytest.raises(DataError, match=r"--text ENCODER.*--set student\.heads\.text_encoder=ENCODER"):
        _make(text=replace(TEXT, encoder="")).tokenize(["a"])


@pytest.mark.parametrize("unknown", ["", "none", "unknown (imported)"])
def test_encoders__of_tables_without_known_weights_are_taken(monkeypatch: pytest.MonkeyPatch, unknown: str) -> None:
    made = _encoders(monkeypatch, {"image": 6}, {"offline-gist": "cc"})
    student = _make(image=replace(IMAGE, provenance={**MADE, "weights_sha256": unknown}))
    assert student.image_array("picture").tolist() == [7] * 6  # type: ignore[arg-type]
    student.image_array("other")  # type: ignore[arg-type]
    assert made["image"].asked == ["picture", "other"]


def test_encoders__that_are_classes_run_where_they_are_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _encoders(monkeypatch, {"image": 6}, {"some.module:Class": "aa"})
    student = _make(image=replace(IMAGE, encoder="some.module:Class"))
    assert student.trusted == {"some.module:Class"}
    student.image_array("picture")  # type: ignore[arg-type]
    student.save(tmp_path / "model")
    for trust in ((), ("some.module:Class",)):
        again: Any = students.load(tmp_path / "model", trust=trust)
        if trust:
            assert again.image_array("picture").tolist() == [7] * 6
        else:
            with pytest.raises(DataError, match=r"--trust some\.module:Class"):
                again.image_array("picture")


def test_name_encoder__is_kept_by_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _encoders(monkeypatch, {"image": 6, "text": 4}, {"mine": "aa", "other": "no"})
    student = _make(image=replace(IMAGE, encoder=""))
    student.name_encoder("image", "mine")
    assert student.card["features"]["image"] == {**IMAGE.to_json(), "encoder": "mine"}
    assert student.card["features"]["text"] == TEXT.to_json()
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model")
    assert {name: table.encoder for name, table in again.features.items()} == {
        "image": "mine",
        "text": "offline-ngrams",
    }
    with pytest.raises(DataError, match="'other' has other weights"):
        _make().name_encoder("image", "other")
