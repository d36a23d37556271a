"""Text encoders: rows as sentence-transformers and transformers give them, or refused with the way out."""

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
