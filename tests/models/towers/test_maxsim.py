"""MaxSim against a plain triple loop, sentence-transformers, and itself in blocks."""

from itertools import product

import pytest
import torch
from sentence_transformers.util import mean_maxsim
from torch import Tensor
from torch.nn import functional as F

from cusa.models.towers.maxsim import Average, maxsim, maxsim_of_pairs

AVERAGES: tuple[Average, ...] = ("tokens", "patches", "both")
PATCHES, TOKENS = (4, 1, 6, 3), (5, 2, 1, 7, 3)


def _ragged(lengths: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return padded unit vectors (n, longest, 8) whose padding is large, and which of them count."""
    rows = F.normalize(torch.randn(len(lengths), max(lengths), 8, generator=torch.Generator().manual_seed(seed)), dim=2)
    there = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return torch.where(there[:, :, None], rows, torch.full_like(rows, 9.0)), there


def _by_loops(image: list[list[float]], text: list[list[float]], average: Average) -> float:
    """Score one image with one caption, vector by vector."""
    if not image or not text:
        return 0.0

    def mean_of_best(queries: list[list[float]], answers: list[list[float]]) -> float:
        total = 0.0
        for query in queries:
            best = -float("inf")
            for answer in answers:
                best = max(best, sum(a * b for a, b in zip(query, answer, strict=True)))
            total += best
        return total / len(queries)

    of_tokens, of_patches = mean_of_best(text, image), mean_of_best(image, text)
    return {"tokens": of_tokens, "patches": of_patches, "both": (of_tokens + of_patches) / 2}[average]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(("patches", "tokens"), [(PATCHES, TOKENS), ((0, 3), (2, 0, 4))])
def test_maxsim__is_the_triple_loop(average: Average, patches: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    (images, image_there), (texts, text_there) = _ragged(patches, 0), _ragged(tokens, 1)
    scores = maxsim(images, texts, image_there_IP=image_there, text_there_CL=text_there, average=average)
    expected = [
        [_by_loops(images[i, :many].tolist(), texts[c, :few].tolist(), average) for c, few in enumerate(tokens)]
        for i, many in enumerate(patches)
    ]
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-6)
    for i, c in product(range(len(patches)), range(len(tokens))):
        alone = maxsim_of_pairs(
            images[i : i + 1],
            texts[c : c + 1],
            image_there_NP=image_there[i : i + 1],
            text_there_NL=text_there[c : c + 1],
            average=average,
        )
        assert float(alone) == pytest.approx(expected[i][c], abs=1e-6)


def test_maxsim__is_sentence_transformers_own_where_tokens_are_the_query() -> None:
    (images, image_there), (texts, text_there) = _ragged(PATCHES, 2), _ragged(TOKENS, 3)
    theirs = mean_maxsim(texts, images, a_mask=text_there, b_mask=image_there)
    ours = maxsim(images, texts, image_there_IP=image_there, text_there_CL=text_there)
    torch.testing.assert_close(ours.T, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("block_bytes", [1, 700, 4000])
def test_maxsim__blocks_change_neither_scores_nor_gradients(average: Average, block_bytes: int) -> None:
    results = []
    for size in (1 << 30, block_bytes):
        (images, image_there), (texts, text_there) = _ragged(PATCHES, 4), _ragged(TOKENS, 5)
        images.requires_grad_()
        texts.requires_grad_()
        scores = maxsim(
            images, texts, image_there_IP=image_there, text_there_CL=text_there, average=average, block_bytes=size
        )
        (scores * torch.arange(20.0).view(4, 5).sin()).sum().backward()
        results.append((scores.detach(), images.grad, texts.grad))
    for whole, blocked in zip(*results, strict=True):
        torch.testing.assert_close(blocked, whole, rtol=0, atol=1e-6)
    _, image_grad, text_grad = results[1]
    assert image_grad is not None
    assert text_grad is not None
    assert image_grad[1, 1:].abs().max() == 0  # the padding of an image of one patch
    assert text_grad[2, 1:].abs().max() == 0
    assert image_grad[1, 0].abs().max() > 0


def test_maxsim__memory_is_that_of_a_block() -> None:
    """Of 24 x 24 pairs of 16 x 16 similarities in blocks of one pair, nothing that is kept has more than a pair's."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    images = F.normalize(torch.randn(24, 16, 8), dim=2).requires_grad_()
    texts = F.normalize(torch.randn(24, 16, 8), dim=2).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maxsim(images, texts, block_bytes=4 * 16 * 16)
    assert max(kept, default=0) <= images.numel()
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maxsim(images, texts)
    assert max(kept) == 24 * 24 * 16 * 16


def test_maxsim__equal_best_patches_share_the_gradient() -> None:
    images = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]).requires_grad_()
    maxsim(images, torch.tensor([[[1.0, 0.0]]])).sum().backward()
    torch.testing.assert_close(images.grad, torch.tensor([[[0.5, 0.0], [0.5, 0.0], [0.0, 0.0]]]))


def test_maxsim__what_is_all_padding_gets_no_gradient_that_is_no_number() -> None:
    (images, image_there), (texts, text_there) = _ragged((2, 0), 6), _ragged((0, 3), 7)
    images.requires_grad_()
    texts.requires_grad_()
    maxsim(images, texts, image_there_IP=image_there, text_there_CL=text_there, average="both").sum().backward()
    for grad in (images.grad, texts.grad):
        assert grad is not None
        assert torch.isfinite(grad).all()


def test_maxsim__autocast_does_not_make_it_coarse() -> None:
    images, texts = (F.normalize(torch.randn(3, 4, 8, dtype=torch.float32), dim=2) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(maxsim(images, texts), maxsim(images.clone(), texts.clone()))
        rounded = maxsim(images, texts)
    torch.testing.assert_close(rounded, maxsim(images, texts), rtol=0, atol=1e-7)
