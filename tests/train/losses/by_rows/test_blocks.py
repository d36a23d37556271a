"""Blocks of rows against whole matrices, where the rows that count are some of a batch's."""

import pytest
import torch

from cusa.train.losses.batch import Embeddings, LossInputs
from cusa.train.losses.by_rows import blocks
from cusa.train.losses.by_rows.hardness import Hardness
from tests.train.losses.matrices import unit


@pytest.mark.parametrize("rows", [slice(0, 3), slice(2, 7), slice(5, 11), None])
@pytest.mark.parametrize("elements", [11, 22, 44, 1000])
def test_a_rank_s_rows_are_its_own_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, rows: slice | None, elements: int
) -> None:
    """Blocks of 1, 2, 4 and all rows; a block ends where the rank's rows end."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", elements)
    image, text = (unit(11, 5, seed).requires_grad_() for seed in (1, 2))
    temperature = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 1, 2, 3, 0, 4, 5, 6, 7, 7])
    batch = LossInputs(Embeddings(image, text), ids, rows=rows)
    results = []
    for way in (blocks.plain_rows, blocks.streamed_rows):
        value = way(batch, temperature, Hardness(0.5, 0.02))
        results.append((value.detach(), *torch.autograd.grad(value, (image, text, temperature))))
    for plain, streamed in zip(*results, strict=True):
        torch.testing.assert_close(streamed, plain, rtol=1e-10, atol=1e-12)
