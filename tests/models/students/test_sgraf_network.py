import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cusa.models.students import sgraf_network
from cusa.models.students.sgraf_network import SgrafNetwork, SgrafSizes, hinge

NAMES = ["sgraf_a", "sgraf_b"]
MODULES = ["SGR", "SAF"]


def _golden(golden: Path, name: str, module: str, *, dropout: float = 0.4) -> tuple[SgrafNetwork, Any]:
    arrays = np.load(golden / "07_sgraf" / f"{name}.npz")
    state = load_file(golden / "07_sgraf" / f"{name}_{module}.safetensors")
    sizes = SgrafSizes(
        region_width=state["img_enc.fc.weight"].shape[1],
        vocabulary=len(state["txt_enc.embed.weight"]),
        word_width=state["txt_enc.embed.weight"].shape[1],
        width=len(state["img_enc.fc.weight"]),
        similarity_width=len(state["sim_enc.sim_tranloc_w.weight"]),
        steps=len({key.split(".")[2] for key in state if key.startswith("sim_enc.SGR_module")}),
        dropout=dropout,
    )
    network = SgrafNetwork(module.lower(), sizes)  # type: ignore[arg-type]
    network.load_state_dict(state)
    return network, arrays


def _score(network: SgrafNetwork, regions: Tensor, ids: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Any:
    embedded, words = network.encode_regions(regions), network.encode_words(ids, lengths)
    image, text = network.pool_regions(embedded, mask), network.pool_words(words, lengths)
    scores = network.similarity(embedded, words, lengths, image_global_ID=image, text_global_CD=text, mask_IR=mask)
    return embedded, words, image, text, scores


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_equals_the_reference(golden: Path, name: str, module: str) -> None:
    network, arrays = _golden(golden, name, module)
    network.eval()
    given = [torch.from_numpy(arrays[key]) for key in ("regions", "captions", "lengths")]
    keys = ("region_embeddings", "word_embeddings", "visual_global", "text_global", "similarity")
    for got, key in zip(_score(network, *given), keys, strict=True):
        np.testing.assert_allclose(got.detach(), arrays[f"{module}/eval/{key}"], rtol=1e-5, atol=2e-6, err_msg=key)
        similarity = got.detach()
    for margin in (0.2, 0.05):
        for hardest, word in ((True, "max"), (False, "sum")):
            expected = float(arrays[f"{module}/eval/triplet_margin{margin}_{word}"])
            assert float(hinge(similarity, margin=margin, hardest=hardest)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_ensemble_is_the_mean(golden: Path, name: str) -> None:
    scores = []
    for module in MODULES:
        network, arrays = _golden(golden, name, module)
        with torch.no_grad():
            scores.append(
                _score(network.eval(), *(torch.from_numpy(arrays[k]) for k in ("regions", "captions", "lengths")))[-1]
            )
    np.testing.assert_allclose((scores[0] + scores[1]) / 2, arrays["ensemble/similarity"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_training_equals_the_reference(golden: Path, name: str, module: str) -> None:
    network, arrays = _golden(golden, name, module, dropout=0)
    network.train()
    regions = torch.from_numpy(arrays["regions"]).requires_grad_()
    *_, scores = _score(network, regions, torch.from_numpy(arrays["captions"]), torch.from_numpy(arrays["lengths"]))
    start = f"{module}/train_nodropout"
    np.testing.assert_allclose(scores.detach(), arrays[f"{start}/similarity"], rtol=1e-5, atol=1e-6)
    loss = hinge(scores, margin=0.2)
    assert float(loss.detach()) == pytest.approx(float(arrays[f"{start}/triplet_margin0.2_max"]), rel=1e-5)
    loss.backward()
    named = {**dict(network.named_parameters()), "regions": regions}
    seen = 0
    for key in (key for key in arrays.files if key.startswith(f"{start}/grad.")):
        expected = arrays[key]
        grad = named[key.removeprefix(f"{start}/grad.")].grad
        got = np.zeros_like(expected) if grad is None else grad.numpy()
        # The gradient of a bias before a BatchNorm is 0; both sides hold rounding there.
        atol = max(5e-5 * np.abs(expected).max(), 1e-6)
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=key)
        seen += 1
    assert seen == len(named)
    buffers, moved = dict(network.named_buffers()), 0
    for key in (key for key in arrays.files if key.startswith(f"{start}/buffer_after.")):
        got = buffers[key.removeprefix(f"{start}/buffer_after.")].numpy()
        np.testing.assert_allclose(got, arrays[key], rtol=1e-5, atol=1e-6, err_msg=key)
        moved += 1
    assert moved == len(buffers)


@pytest.mark.parametrize("where", ["f30k", "coco"])
@pytest.mark.parametrize("module", MODULES)
def test_real_sizes_have_the_reference_names_and_counts(golden: Path, where: str, module: str) -> None:
    real = json.loads((golden / "07_sgraf" / "state_dict_shapes.json").read_text())[f"{where}/{module}"]
    with torch.device("meta"):
        network = SgrafNetwork(module.lower(), SgrafSizes(2048, real["vocab_size"]))  # type: ignore[arg-type]
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == real["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == real["parameters"]


def _small(module: str, seed: int = 0) -> SgrafNetwork:
    torch.manual_seed(seed)
    sizes = SgrafSizes(
        region_width=7, vocabulary=20, regions=5, word_width=6, width=8, similarity_width=4, steps=2, dropout=0
    )
    return SgrafNetwork(module.lower(), sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", MODULES)
def test_blocks_change_nothing(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _small(module).eval()
    regions, ids = torch.randn(9, 5, 7), torch.randint(1, 20, (11, 6))
    lengths = torch.tensor([6, 1, 3, 3, 2, 6, 6, 5, 1, 4, 3])
    with torch.no_grad():
        whole = _score(network, regions, ids, lengths)[-1]
        for block in (1, 100, 400):
            monkeypatch.setattr(sgraf_network, "BLOCK", block)
            torch.testing.assert_close(_score(network, regions, ids, lengths)[-1], whole, rtol=1e-5, atol=1e-6)
        # One pair alone is the same number.
        alone = _score(network, regions[4:5], ids[7:8], lengths[7:8])[-1]
    torch.testing.assert_close(alone[0, 0], whole[4, 7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_masked_regions_are_not_there(module: str) -> None:
    network = _small(module)
    regions, ids, lengths = torch.randn(4, 5, 7), torch.randint(1, 20, (3, 4)), torch.tensor([4, 2, 4])
    everywhere = torch.ones(4, 5, dtype=torch.bool)
    # A full mask is no mask, in training too (statistics and buffers).
    twin = _small(module)
    *_, plain = _score(network.train(), regions, ids, lengths)
    *_, masked = _score(twin.train(), regions, ids, lengths, everywhere)
    torch.testing.assert_close(masked, plain, rtol=1e-5, atol=1e-6)
    for one, other in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    # What stands behind a mask changes nothing, neither evaluated nor trained.
    some = everywhere.clone()
    some[1, 3:] = False
    garbage = torch.where(some[..., None], regions, torch.full_like(regions, 3.0))
    for mode in (False, True):
        results = []
        for given in (regions, garbage):
            network.load_state_dict(twin.state_dict())
            results.append(_score(network.train(mode), given, ids, lengths, some)[-1].detach())
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_hinge_by_hand() -> None:
    similarity = torch.tensor([[0.5, 0.6, 0.1], [0.2, 0.9, 0.3], [0.7, 0.8, 0.4]])
    values = similarity.numpy()
    for ids in (None, torch.tensor([1, 2, 1])):
        for hardest in (True, False):
            total = 0.0
            for i in range(3):
                allowed = [j for j in range(3) if (j != i if ids is None else ids[i] != ids[j])]
                rows = [max(0.0, 0.2 + values[i, j] - values[i, i]) for j in allowed] or [0.0]
                columns = [max(0.0, 0.2 + values[j, i] - values[i, i]) for j in allowed] or [0.0]
                total += (max(rows) + max(columns)) if hardest else (sum(rows) + sum(columns))
            assert float(hinge(similarity, hardest=hardest, image_ids=ids)) == pytest.approx(total, rel=1e-5)
