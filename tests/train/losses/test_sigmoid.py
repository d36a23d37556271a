"""The sigmoid loss against a plain loop, against SigLIP's own in transformers, and streamed against whole matrices."""

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cusa.train.losses import CUSALoss, Setting, sigmoid
from cusa.train.losses.batch import Embeddings, LossInputs
from cusa.train.losses.sigmoid import plain_sigmoid, streamed_sigmoid
from tests.train.losses.matrices import unit

IDS = torch.tensor([0, 1, 1, 2, 3, 0, 4, 5, 6, 7, 7])


def by_loops(image: Tensor, text: Tensor, ids: Tensor, *, left: set[tuple[int, int]]) -> float:
    """Sum the definition pair by pair: temperature 0.2, bias -3."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            if (i, j) in left:
                continue
            logit = float(image[i] @ text[j]) / 0.2 - 3
            z = 1 if ids[i] == ids[j] else -1
            total += math.log1p(math.exp(-z * logit))
    return total / len(image)


@pytest.mark.parametrize("way", [plain_sigmoid, streamed_sigmoid])
def test_equals_a_plain_loop(way: Callable[..., Tensor]) -> None:
    image, text = unit(11, 5, 1), unit(11, 5, 2)
    batch = LossInputs(Embeddings(image, text), IDS)
    value = way(batch, torch.tensor(0.2, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64))
    assert float(value) == pytest.approx(by_loops(image, text, IDS, left=set()), rel=1e-12)


def test_equals_siglip_in_transformers() -> None:
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 32, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
        out = model(input_ids=torch.randint(0, 32, (6, 8)), pixel_values=torch.randn(6, 3, 16, 16), return_loss=True)
    ours = sigmoid(
        out.image_embeds @ out.text_embeds.T, torch.eye(6, dtype=torch.bool), temperature=math.exp(-1.5), bias=-2.0
    )
    assert float(ours) == pytest.approx(float(out.loss), rel=1e-6)


@pytest.mark.parametrize("ignored", ["none", "mask", "listed"])
def test_streamed_equals_plain_in_value_and_gradients(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["cusa.train.losses.sigmoid"], "BLOCK_ELEMENTS", 3 * 11
    )  # blocks of 3, 3, 3 and 2 rows
    values = {}
    for impl in ("plain", "streamed"):
        image, text = (unit(11, 5, seed).requires_grad_() for seed in (1, 2))
        loss = CUSALoss(
            contrast="sigmoid",
            alpha=0.3,
            beta=0,
            sigmoid_bias=-3.0,
            temperature=Setting(0.2, 0.01, 1.0),
            impl=impl,  # type: ignore[arg-type]
            **({"false_negatives": "mask", "mask_text": 0.2} if ignored == "mask" else {}),
            **({"false_negatives": "positive"} if ignored == "listed" else {}),
        ).double()
        pairs = {"positive_pairs": torch.tensor([[0, 3]]), "ignored_pairs": torch.tensor([[2, 9], [5, 0]])}
        terms = loss(
            image=image,
            text=text,
            teacher_image=unit(11, 6, 3),
            teacher_text=unit(11, 6, 4),
            image_ids=IDS,
            text_ids=torch.arange(11),
            **(pairs if ignored == "listed" else {}),
        )
        assert set(terms) == {"loss", "sigmoid", "csa", "usa"}
        terms["loss"].backward()
        assert loss.sigmoid_bias.grad is not None
        assert loss.infonce_temperature.value.grad is not None
        gradients = [image.grad, text.grad, loss.sigmoid_bias.grad, loss.infonce_temperature.value.grad]
        values[impl] = [terms["sigmoid"].detach(), *gradients]
    for plain, streamed in zip(values["plain"], values["streamed"], strict=True):
        torch.testing.assert_close(streamed, plain, rtol=1e-10, atol=1e-12)
        assert float(plain.abs().max()) > 1e-4


def test_a_masked_pair_leaves_where_either_side_says_so() -> None:
    image, text = unit(11, 5, 1), unit(11, 5, 2)
    teacher = unit(11, 6, 4)
    near = teacher @ teacher.T >= 0.2
    left = {(i, j) for i in range(11) for j in range(11) if near[i, j] and IDS[i] != IDS[j]}
    assert left
    loss = CUSALoss(
        contrast="sigmoid", alpha=0, beta=0, sigmoid_bias=-3.0, temperature=Setting(0.2, 0.01, 1.0),
        false_negatives="mask", mask_text=0.2,
    ).double()  # fmt: skip
    terms = loss(image=image, text=text, teacher_text=teacher, image_ids=IDS)
    # The loss's temperature was made in float32.
    assert float(terms["loss"].detach()) == pytest.approx(by_loops(image, text, IDS, left=left), rel=1e-6)


def test_rows_of_a_part_add_up_to_the_whole() -> None:
    image, text = unit(11, 5, 1), unit(11, 5, 2)
    temperature, bias = torch.tensor(0.2), torch.tensor(-3.0)
    whole = plain_sigmoid(LossInputs(Embeddings(image, text), IDS), temperature, bias)
    for way in (plain_sigmoid, streamed_sigmoid):
        parts = [
            way(LossInputs(Embeddings(image, text), IDS, rows), temperature, bias)
            for rows in (slice(0, 4), slice(4, 11))
        ]
        torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-10, atol=0)
