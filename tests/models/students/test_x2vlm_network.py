import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from cusa.models.students.x2vlm_network import (
    BASE,
    LARGE,
    Sizes,
    X2vlmNetwork,
    draw_negatives,
    from_checkpoint,
    matching_loss,
    negative_weights,
    relative_position_index,
    resample_relative_positions,
)

NAMES = ["x2vlm_a", "x2vlm_b"]


def _golden(golden: Path, name: str) -> tuple[X2vlmNetwork, dict[str, Any]]:
    arrays = dict(np.load(golden / "09_x2vlm" / f"{name}.npz"))
    sizes = json.loads(str(arrays["config_json"]))
    network = X2vlmNetwork(
        Sizes(
            image_size=sizes["image"],
            patch_size=sizes["patch"],
            vision_width=sizes["vision_width"],
            vision_layers=sizes["vision_layers"],
            vision_heads=sizes["vision_heads"],
            text_width=sizes["text_width"],
            text_heads=sizes["text_heads"],
            text_inner=sizes["text_intermediate"],
            text_layers=sizes["text_fusion_start"],
            fusion_layers=sizes["text_layers_total"] - sizes["text_fusion_start"],
            vocabulary=sizes["vocab"],
            positions=sizes["max_pos"],
            width=sizes["embed"],
            temperature=sizes["temp"],
        )
    )
    network.load_state_dict(load_file(golden / "09_x2vlm" / f"{name}.safetensors"))
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind in "if"}
    return network.eval(), tensors


def _close(got: torch.Tensor, expected: torch.Tensor, what: str, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(got.detach().numpy(), expected.numpy(), rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize("name", NAMES)
def test_towers_fusion_and_losses_equal_the_reference(golden: Path, name: str) -> None:
    network, given = _golden(golden, name)
    image = network.encode_image(given["pixels"])
    text = network.encode_text(given["input_ids"], given["attention_mask"])
    _close(image, given["image_embeds"], "image_embeds")
    _close(text, given["text_embeds"], "text_embeds")
    image_feat, text_feat = network.project_image(image), network.project_text(text)
    _close(image_feat, given["image_feat"], "image_feat")
    _close(text_feat, given["text_feat"], "text_feat")
    count, mask = len(image), given["attention_mask"]
    first = network.fuse(image[:1], text[:1], mask[:1])
    _close(first[0], given["cross_embeds_pair_0_0"], "cross_embeds_pair_0_0")
    _close(network.fuse(image[:2], text[:2], mask[:2]), given["cross_embeds_from_ids_first2"], "first2")
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count)).T
    logits = network.match(image[pairs[0]], text[pairs[1]], mask[pairs[1]])
    _close(logits.view(count, count, 2), given["itm_logits_all_pairs"], "itm_logits_all_pairs")
    # Hard negatives and both losses.
    similarity, ids = image_feat @ text_feat.T / network.temp, given["image_ids"]
    for got, key in (
        (negative_weights(similarity, ids), "image_to_text"),
        (negative_weights(similarity.T, ids), "text_to_image"),
    ):
        _close(got, given[f"hard_negative_weights.{key}"], key)
    targets = (ids[:, None] == ids).float()
    targets = targets / targets.sum(1, keepdim=True)
    itc = (F.cross_entropy(similarity, targets) + F.cross_entropy(similarity.T, targets)) / 2
    _close(itc, given["loss_itc"], "loss_itc")
    images = torch.cat([torch.arange(count), given["image_negative_index"], torch.arange(count)])
    texts = torch.cat([torch.arange(count), torch.arange(count), given["text_negative_index"]])
    itm = matching_loss(
        network.match(image[images], text[texts], mask[texts]), torch.cat([torch.ones(count), torch.zeros(2 * count)])
    )
    _close(itm, given["loss_itm"], "loss_itm")
    (itc + itm).backward()
    named, seen = dict(network.named_parameters()), 0
    for key in (key for key in given if key.startswith("grad/")):
        grad = named[key.removeprefix("grad/")].grad
        assert grad is not None, key
        _close(grad, given[key], key, atol=5e-5 * float(given[key].abs().max()))
        seen += 1
    assert seen == 15
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_reranked_scores_equal_the_reference(golden: Path, name: str) -> None:
    network, given = _golden(golden, name)
    mask, k = given["rerank/attention_mask"], int(given["rerank/k_test"])
    with torch.no_grad():
        image = network.encode_image(given["pixels"])
        text = network.encode_text(given["rerank/input_ids"], mask)
        similarity = network.project_image(image) @ network.project_text(text).T
        for first, key in ((similarity, "score_i2t"), (similarity.T, "score_t2i")):
            expected = given[f"rerank/{key}"]
            for query, row in enumerate(first):
                best = row.topk(k).indices
                assert set((expected[query] > -100).nonzero().flatten().tolist()) == set(best.tolist())
                images, texts = (torch.full_like(best, query), best) if key == "score_i2t" else (best, best * 0 + query)
                logits = network.match(image[images], text[texts], mask[texts])[:, 1]
                _close(logits, expected[query, best], key)


@pytest.mark.parametrize("move", ["grid14_to_grid24", "grid4_to_grid6", "grid6_to_grid4"])
def test_relative_positions_are_resampled_as_the_reference_does(golden: Path, move: str) -> None:
    arrays = np.load(golden / "09_x2vlm" / "relpos_interpolation.npz")
    moved = resample_relative_positions(torch.from_numpy(arrays[f"{move}/source"]), int(move.rsplit("grid", 1)[1]))
    np.testing.assert_allclose(moved.numpy(), arrays[f"{move}/result"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(relative_position_index(3).numpy(), arrays["relative_position_index_grid3"])


def test_a_grid_of_the_same_size_is_left_alone() -> None:
    table = torch.randn(52, 2)
    assert torch.equal(resample_relative_positions(table, 4), table)


def test_real_sizes_have_the_reference_names_and_counts(golden: Path) -> None:
    real = json.loads((golden / "09_x2vlm" / "state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = X2vlmNetwork(BASE)
        small = X2vlmNetwork(Sizes(image_size=224))
        large = X2vlmNetwork(LARGE)
    shapes = {
        name: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in network.state_dict().items()
    }
    assert shapes == real["base_384"]["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == real["base_384"]["parameters"] == 253_158_467
    changed = {
        name: [list(value.shape)]
        for name, value in small.state_dict().items()
        if value.shape != network.state_dict()[name].shape
    }
    assert changed == real["differences_at_224"]
    assert 580e6 < sum(p.numel() for p in large.parameters()) < 600e6  # the paper: 593 M


def test_a_checkpoint_of_another_resolution_loads(golden: Path) -> None:
    state = load_file(golden / "09_x2vlm" / "x2vlm_a.safetensors")
    sizes = Sizes(
        image_size=48,
        patch_size=8,
        vision_width=48,
        vision_layers=2,
        vision_heads=4,
        text_width=40,
        text_heads=4,
        text_inner=80,
        text_layers=2,
        fusion_layers=2,
        vocabulary=70,
        positions=24,
        width=16,
    )
    network = X2vlmNetwork(sizes)
    network.load_state_dict(from_checkpoint(state, sizes))
    assert network.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 37, 48)


def test_negatives_are_never_of_the_same_image() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, 0, 2])
    for _ in range(50):
        rows, columns = draw_negatives(negative_weights(torch.randn(4, 4) * 5, ids))
        assert rows.tolist() == [0, 1, 2, 3]
        assert (ids[rows] != ids[columns]).all()
    rows, columns = draw_negatives(negative_weights(torch.randn(2, 2), torch.tensor([7, 7])))
    assert len(rows) == len(columns) == 0


def test_matching_loss_is_linear_in_the_label() -> None:
    logits = torch.randn(6, 2, dtype=torch.float64)
    hard, soft = torch.zeros(6), torch.rand(6)
    by_hand = [-(soft[i] * logits[i].log_softmax(0)[1] + (1 - soft[i]) * logits[i].log_softmax(0)[0]) for i in range(6)]
    assert float(matching_loss(logits, soft)) == pytest.approx(float(sum(by_hand)) / 6, rel=1e-6)
    mixed = 0.7 * matching_loss(logits, hard) + 0.3 * matching_loss(logits, soft)
    torch.testing.assert_close(matching_loss(logits, 0.3 * soft), mixed, rtol=1e-5, atol=1e-6)
    reference = F.cross_entropy(logits.float(), torch.tensor([1, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(matching_loss(logits, torch.tensor([1.0, 1, 0, 0, 0, 0])), reference)
