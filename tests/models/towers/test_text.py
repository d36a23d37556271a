"""Text encoders: rows as sentence-transformers and transformers give them, or refused with the way out."""

import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models.config import TextTowerConfig
from cusa.models.towers import text
from tests.towers import CAPTIONS


def _load(name: str | Path, **settings: object) -> text.TextTower:
    return text.load(TextTowerConfig.model_validate({"name": str(name), **settings})).eval()


@torch.no_grad()
def _rows(tower: text.TextTower) -> torch.Tensor:
    rows: torch.Tensor = tower(tower.tokenize(CAPTIONS)[0])
    return rows


def test_load__a_sentence_transformers_folder(folders: dict[str, Path]) -> None:
    tower = _load(folders["sentences"])
    expected = SentenceTransformer(str(folders["sentences"]), device="cpu").encode(CAPTIONS, convert_to_tensor=True)
    torch.testing.assert_close(_rows(tower), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(_rows(tower).norm(dim=1), torch.ones(4))  # its Normalize is honoured
    assert tower.reading["context"] == 10
    assert tower.card["licence"] == "cc-by-4.0"


@pytest.mark.parametrize(("pooling", "by_hand"), [("own", "mean"), ("cls", "cls")])
def test_load__another_text_model(folders: dict[str, Path], pooling: str, by_hand: str) -> None:
    tower = _load(folders["bert"], pooling=pooling)
    tokens = AutoTokenizer.from_pretrained(folders["bert"])(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folders["bert"]).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    expected = hidden[:, 0] if by_hand == "cls" else (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(_rows(tower), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_load__the_text_half_of_a_dual_encoder(folders: dict[str, Path], kind: str) -> None:
    tower = _load(folders[kind])
    tokens, truncated = tower.tokenize(CAPTIONS)
    model = AutoModel.from_pretrained(folders[kind]).eval()
    with torch.no_grad():
        torch.testing.assert_close(_rows(tower), model.get_text_features(**tokens).pooler_output)
    assert truncated == 0
    assert (tokens["input_ids"].shape[1] == 12) == (kind == "siglip")  # padded to its full length


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("", {}, r"student\.towers\.text\.name is empty"),
        ("vit", {}, r"a ViTModel, which reads images, not texts. Give it as student\.towers\.image\.name"),
        ("tests.towers:Colours", {}, r"which encodes images, not texts. Give it as student\.towers\.image\.name"),
        ("sentences", {"pooling": "cls"}, "a sentence-transformers model with a pooling that it was trained with"),
        ("clip", {"pooling": "mean"}, "a dual encoder, whose text half pools its own way"),
        ("clip", {"max_tokens": 13}, "max_tokens is 13, and .* reads 12 at most"),
    ],
)
def test_load__what_cannot_be(folders: dict[str, Path], name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _load(folders.get(name, name), **settings)  # type: ignore[arg-type]


def test_load__modules_of_another_package_are_not_run(tmp_path: Path) -> None:
    store.write_json(tmp_path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "tests.towers.Letters"}])
    with pytest.raises(DataError, match=r"code of another package \('tests\.towers\.Letters'\), which is not run"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("asked", "own", "tokenizers", "positions", "context"),
    [
        (0, 10, 12, 512, 10),
        (0, None, 77, 512, 77),
        (0, None, None, None, 512),
        (0, None, 10**30, 514, 514),
        (0, 10**30, 64, None, 64),
        (5, 10, 12, 12, 5),
        (12, 10, 12, 512, 12),  # more than the model was saved with, no more than it can read
        (512, 128, None, 512, 512),
    ],
)
def test_context__is_what_was_asked_for_or_the_model_s_own(
    asked: int, own: int | None, tokenizers: int | None, positions: int | None, context: int
) -> None:
    assert text._context(TextTowerConfig(name="x", max_tokens=asked), own, tokenizers, positions) == context


@pytest.mark.parametrize(("asked", "tokenizers", "positions"), [(13, 12, 512), (513, None, 512), (65, 64, 512)])
def test_context__more_than_the_model_reads_is_refused(
    asked: int, tokenizers: int | None, positions: int | None
) -> None:
    most = min(limit for limit in (tokenizers, positions) if limit)
    with pytest.raises(ConfigError, match=rf"max_tokens is {asked}, and 'x' reads {most} at most") as refused:
        text._context(TextTowerConfig(name="x", max_tokens=asked), 10, tokenizers, positions)
    assert refused.value.values["key"] == "student.towers.text.max_tokens"


def test_load__a_prompt_of_the_model_stands_before_every_text(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(folders["sentences"], folder)
    path = folder / "config_sentence_transformers.json"
    prompts = {"query": "two green triangles ", "passage": "a red square "}
    content = store.read_json(path) | {"prompts": prompts, "default_prompt_name": "passage"}
    store.write_json(path, content)
    tower = _load(folder)
    assert tower.reading["prompt"] == "a red square "
    model = SentenceTransformer(str(folder), device="cpu")
    torch.testing.assert_close(_rows(tower), model.encode(CAPTIONS, convert_to_tensor=True), rtol=0, atol=1e-6)
    assert (_rows(tower) - _rows(_load(folders["sentences"]))).abs().max() > 1e-2
    (pooling,) = folder.glob("*Pooling/config.json")
    store.write_json(pooling, store.read_json(pooling) | {"include_prompt": False})
    with pytest.raises(DataError, match="leaves its prompt out of the pooling"):
        _load(folder)
    store.write_json(path, content | {"default_prompt_name": None})
    assert _load(folder).reading["prompt"] == ""
