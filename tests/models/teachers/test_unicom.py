"""Unicom against numbers of the reference implementation, and its weights file: verified, safe, the right network."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cusa.errors import ConfigError, DataError
from cusa.models.preprocess import Preprocess
from cusa.models.teachers.unicom import UNICOM, Unicom, UnicomSize, load_unicom, unicom_names, unicom_teacher
from cusa.models.weights_file import WeightsFile

Fixture = tuple[UnicomSize, dict[str, torch.Tensor], dict[str, np.ndarray]]


def _tiny(folder: Path, letter: str) -> Fixture:
    arrays = dict(np.load(folder / "08_unicom" / f"unicom_{letter}.npz"))
    facts = json.loads(str(arrays["config_json"]))
    size = UnicomSize(
        size=facts["input_size"],
        patch=facts["patch_size"],
        dim=facts["dim"],
        depth=facts["depth"],
        heads=facts["num_heads"],
        width=facts["embedding_size"],
        file=WeightsFile("tiny.pt", "", ""),
    )
    return size, load_file(folder / "08_unicom" / f"unicom_{letter}.safetensors"), arrays


@pytest.mark.parametrize("letter", ["a", "b"])
def test_unicom__equals_the_reference(golden: Path, letter: str) -> None:
    size, weights, arrays = _tiny(golden, letter)
    model = Unicom(size).eval()
    model.load_state_dict(weights)
    pixels = torch.from_numpy(arrays["pixels"])
    with torch.inference_mode():
        np.testing.assert_allclose(model.tokens(pixels), arrays["tokens_flat"], rtol=0, atol=3e-5)
        np.testing.assert_allclose(model(pixels), arrays["embedding"], rtol=0, atol=3e-5)


def test_unicom__the_activation_ends_at_six(golden: Path) -> None:
    """Against a plain block, with hidden numbers on both sides of 0 and of 6."""
    size, weights, _ = _tiny(golden, "a")
    model = Unicom(size).eval()
    model.load_state_dict(weights)
    block = model.blocks[0]
    state = {name: value * (60 if name.startswith("mlp.fc1") else 1) for name, value in block.state_dict().items()}
    block.load_state_dict(state)
    x = torch.randn(2, size.patches, size.dim, generator=torch.Generator().manual_seed(0))

    def norm(rows: torch.Tensor, name: str) -> torch.Tensor:
        centred = rows - rows.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    query, key, value = (
        (norm(x, "norm1") @ part.T).unflatten(-1, (size.heads, -1)).transpose(1, 2)
        for part in state["attn.qkv.weight"].chunk(3)
    )
    mixed = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value
    mixed = mixed.transpose(1, 2).flatten(2) @ state["attn.proj.weight"].T + state["attn.proj.bias"]
    hidden = norm(x + mixed, "norm2") @ state["mlp.fc1.weight"].T + state["mlp.fc1.bias"]
    assert (hidden > 8).float().mean() > 0.05
    assert (hidden < 0).any()
    expected = x + mixed + hidden.clamp(0, 6) @ state["mlp.fc2.weight"].T + state["mlp.fc2.bias"]
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_unicom__names_shapes_and_files_are_the_released_ones(golden: Path) -> None:
    facts = json.loads((golden / "08_unicom" / "facts.json").read_text())
    names = {"ViT-B/32": "b-32", "ViT-B/16": "b-16", "ViT-L/14": "l-14", "ViT-L/14@336px": "l-14-336"}
    for official, ours in names.items():
        fact, size = facts[official], UNICOM[f"unicom-vit-{ours}"]
        assert (size.file.name, size.file.url, size.file.sha256) == (fact["file"], fact["url"], fact["sha256"])
        assert (size.size, size.width) == (fact["input_resolution"], fact["output_dim"])
        with torch.device("meta"):
            model = Unicom(size)
        assert sum(parameter.numel() for parameter in model.parameters()) == fact["parameters"]
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        if "state_dict" in fact:
            assert shapes == fact["state_dict"]
        else:
            assert fact["state_dict_feature_part"].items() <= shapes.items()
            assert f"blocks.{fact['depth'] - 1}.norm1.weight" in shapes
            assert f"blocks.{fact['depth']}.norm1.weight" not in shapes
    preprocessing = facts["preprocessing"]
    assert Preprocess().mean == tuple(preprocessing["mean"])
    assert Preprocess().std == tuple(preprocessing["std"])
    assert len(unicom_names()) == 8
    assert UNICOM["unicom-vit-b-32"].patches * UNICOM["unicom-vit-b-32"].dim == 37_632  # the paper's stored vector


@pytest.fixture
def tiny(golden: Path, tmp_path: Path) -> tuple[UnicomSize, Path, dict[str, np.ndarray]]:
    """A checkpoint as the authors publish theirs: a flat dictionary, float16."""
    size, weights, arrays = _tiny(golden, "a")
    path = tmp_path / "tiny.pt"
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in weights.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(size, file=WeightsFile("tiny.pt", "", digest)), path, arrays


def _pictures(number: int) -> list[Image.Image]:
    rng = np.random.default_rng(number)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 61, 3), dtype=np.uint8)) for i in range(number)]


@pytest.mark.parametrize("ending", ["", "-tokens"])
def test_teacher__rows_are_the_networks_output_on_clip_preprocessed_pixels(
    tiny: tuple[UnicomSize, Path, dict[str, np.ndarray]], ending: str
) -> None:
    size, path, _ = tiny
    teacher = unicom_teacher(f"unicom-tiny{ending}", size, path)
    pictures = _pictures(5)
    how = Preprocess(size.size)
    pixels = torch.from_numpy(np.stack([how.normalise(how.array(picture)) for picture in pictures]))
    model = Unicom(size).eval()
    model.load_state_dict({key: value.float() for key, value in torch.load(path, weights_only=True).items()})
    with torch.inference_mode():
        expected = (model.tokens(pixels) if ending else model(pixels)).double()
    expected = (expected / expected.norm(dim=1, keepdim=True)).numpy()
    rows = teacher.encode(pictures)
    assert rows.dtype == np.float32
    assert rows.shape == (5, teacher.width)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
    said = teacher.provenance()
    assert said["teacher"] == f"unicom-tiny{ending}"
    assert said["weights_sha256"] == size.file.sha256
    assert said["precision"] == "float32"
    assert "bicubic shorter side to 32, centre 32 x 32" in said["preprocessing"]


def test_teacher__half_precision_is_close_and_exact_is_exact(
    tiny: tuple[UnicomSize, Path, dict[str, np.ndarray]],
) -> None:
    size, path, _ = tiny
    full = unicom_teacher("tiny", size, path)
    half = unicom_teacher("tiny", size, path, precision="bfloat16")
    prepared = full.prepare(_pictures(6))
    rows = full.embed(prepared)
    cosines = (half.embed(prepared) * rows).sum(1)
    assert 1e-7 < (1 - cosines).max() < 1e-3
    np.testing.assert_array_equal(half.embed(prepared, exact=True), rows)
    assert half.provenance()["precision"] == "bfloat16"


def test_teacher__a_file_of_another_network_or_of_code_is_refused(
    tiny: tuple[UnicomSize, Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    size, path, _ = tiny
    with pytest.raises(DataError, match="holds another network: .* the first"):
        unicom_teacher("tiny", replace(size, dim=48), path)

    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (Path.touch, (marker,))

    torch.save({"pos_embed": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="no file of weights that can be read safely"):
        unicom_teacher("tiny", size, tmp_path / "evil.pt")
    assert not marker.exists()
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="no file of weights"):
        unicom_teacher("tiny", size, tmp_path / "cut.pt")


def test_load_unicom__an_unknown_name_and_a_file_that_is_not_the_published_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'unicom-vit-b-32'"):
        load_unicom("unicom-vit-b32")
    (tmp_path / "FP16-ViT-B-32.pt").write_bytes(b"something else")
    with pytest.raises(DataError, match="is not the published FP16-ViT-B-32.pt: its SHA-256 is"):
        load_unicom("unicom-vit-b-32-tokens", weights=str(tmp_path))
    with pytest.raises(DataError, match="does not exist. Give --weights the file FP16-ViT-B-32.pt"):
        load_unicom("unicom-vit-b-32", weights=str(tmp_path / "nowhere.pt"))
