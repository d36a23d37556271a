"""Image encoders: pooled as their own library pools, prepared as their folder says, or refused with the way out."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models.config import ImageTowerConfig
from cusa.models.naflex import NaFlex
from cusa.models.pixels import normalise
from cusa.models.preprocess import Preprocess
from cusa.models.quiet import quiet
from cusa.models.towers import image
from cusa.models.towers.image import HuggingFaceImage
from tests import towers


def _load(name: str | Path, pooling: str = "own") -> image.ImageTower:
    return image.load(ImageTowerConfig.model_validate({"name": str(name), "pooling": pooling})).eval()


@pytest.mark.parametrize("kind", towers.IMAGE_FOLDERS)
def test_load__gives_the_models_own_pooled_output(folders: dict[str, Path], kind: str) -> None:
    tower, model = _load(folders[kind]), towers.image_model(kind).eval()
    if kind == "siglip2":
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((30, 90), (50, 40))]
        inputs = dict(towers.naflex_processor()(images=pictures, return_tensors="pt"))
        arrays = torch.from_numpy(np.stack([tower.preprocess.array(picture) for picture in pictures]))
        pixels = normalise(arrays, tower.preprocess)
    else:
        size = getattr(tower.preprocess, "size", 0)
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        inputs = {"pixel_values": pixels}
    with torch.no_grad():
        forward = getattr(model, "get_image_features", model)
        expected = forward(**inputs).pooler_output.flatten(1)
        rows = tower(pixels)
    torch.testing.assert_close(rows, expected)
    assert rows.shape == (2, tower.width)


def test_load__pooling_of_tokens(folders: dict[str, Path]) -> None:
    model = towers.image_model("vit").eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = model(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(_load(folders["vit"], "cls")(pixels), hidden[:, 0])
        torch.testing.assert_close(_load(folders["vit"], "mean")(pixels), hidden[:, 1:].mean(1))


def test_load__reads_the_folders_preprocessing(folders: dict[str, Path]) -> None:
    half, quarter = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    assert _load(folders["vit"]).preprocess == Preprocess(32, fit="squash", mean=half, std=quarter)
    # As ConvNextImageProcessor: the shorter side to 32 / 0.875.
    assert _load(folders["convnext"]).preprocess == Preprocess(32, resize=36, mean=half, std=quarter)


def test_load__patches_of_any_number(folders: dict[str, Path]) -> None:
    tower = image.load(ImageTowerConfig(name=str(folders["siglip2"]), max_patches=40))
    assert tower.preprocess == NaFlex(40, patch=8)
    assert tower.patches() is None
    for name, most, words in (
        (
            "siglip2",
            257,
            r"student\.towers\.image\.max_patches is 257.*positions for 16 patches.*resized to 256 at most",
        ),
        ("siglip", 40, r"student\.towers\.image\.max_patches is 40.*reads squares of 32 pixels"),
        ("tests.towers:Colours", 40, r"student\.towers\.image\.max_patches is 40.*reads squares of 8 pixels"),
    ):
        with pytest.raises(ConfigError, match=words):
            image.load(ImageTowerConfig(name=str(folders.get(name, name)), max_patches=most))


def test_load__the_mean_of_patches_leaves_out_the_padding(folders: dict[str, Path]) -> None:
    tower = _load(folders["siglip2"], "mean")
    pictures = [Image.new("RGB", (30, 90), (20, 90, 200)), Image.new("RGB", (3, 200), (250, 9, 9))]
    pixels = normalise(torch.from_numpy(np.stack([tower.preprocess.array(one) for one in pictures])), tower.preprocess)
    with torch.no_grad():
        inputs = towers.naflex_processor()(images=pictures, return_tensors="pt")
        hidden = towers.image_model("siglip2").vision_model(**inputs).last_hidden_state
        rows = tower(pixels)
    for place, (height, width) in enumerate(inputs["spatial_shapes"].tolist()):
        torch.testing.assert_close(rows[place], hidden[place, : height * width].mean(0))


def test_from_timm() -> None:
    fields = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bilinear", "crop_mode": "center"}
    read = Preprocess.from_timm({**fields, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]})
    assert read == Preprocess(224, resize=235, resample="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def test_load__weights_without_a_pooler(tmp_path: Path) -> None:
    config = towers.image_model("vit").config
    with quiet():
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"a ViTModel of whose weights 2 are not there .*towers\.image\.pooling=cls or"):
        _load(tmp_path)
    tower = _load(tmp_path, "cls")
    assert isinstance(tower, HuggingFaceImage)
    assert not any("pooler" in name for name, _ in tower.named_parameters())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", r"student\.towers\.image\.name is empty"),
        ("bert", r"a BertModel, which reads texts, not images. Give it as student\.towers\.text\.name"),
        ("sentences", "a BertModel, which reads texts, not images"),
        ("tests.towers:Letters", r"which encodes texts, not images. Give it as student\.towers\.text\.name"),
        ("tests.towers:Grid", r"gives \(1, 6, 8, 8\) for one item, not the pooled \(1, 6\).*`\.mean\(\(2, 3\)\)`"),
        ("tests.towers:Nothing", "cannot be imported"),
    ],
)
def test_load__what_is_no_image_encoder(folders: dict[str, Path], name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _load(folders.get(name, name))  # type: ignore[arg-type]


def test_load__a_broken_folder(tmp_path: Path) -> None:
    store.write_json(tmp_path / "config.json", {"model_type": "vit", "hidden_size": 16})
    with pytest.raises(DataError, match="cannot be loaded as a Hugging Face model"):
        _load(tmp_path)
