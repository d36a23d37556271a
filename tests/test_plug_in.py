"""The page for people with a training loop of their own: its code runs and does what it says."""

import re

import torch
from torch import Tensor, nn

from cusa import CUSALoss
from tests.conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plug-in.md").read_text(encoding="utf-8"), flags=re.DOTALL)
Batch = tuple[Tensor, Tensor, dict[str, Tensor]]


class _Towers(nn.Module):
    """Someone's model."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 8), nn.Linear(5, 8)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(images), self.text(texts)


def _batches(steps: int, size: int = 16) -> list[Batch]:
    """Draw pairs that share a hidden cause, which both teachers know."""
    random = torch.Generator().manual_seed(0)
    image_from, text_from = torch.randn(4, 6, generator=random), torch.randn(4, 5, generator=random)
    batches = []
    for _ in range(steps):
        cause = torch.randn(size, 4, generator=random)
        teachers = {"teacher_image": cause[:, :3], "teacher_text": cause, "image_ids": torch.arange(size)}
        batches.append((cause @ image_from, cause @ text_from, teachers))
    return batches


def test_the_loop_is_twenty_lines_and_learns() -> None:
    loop = BLOCKS[0]
    body = loop[loop.index("def train") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    space: dict[str, object] = {}
    exec(loop, space)
    train = space["train"]
    assert callable(train)
    torch.manual_seed(0)
    model = _Towers()
    first, _ = train(model, 8, _batches(1))
    last, described = train(model, 8, _batches(150))
    assert last["loss"] < first["loss"] - 1
    assert {"temperature.infonce", "target_entropy.image", "target_off_diagonal.text"} <= described.keys()


def test_the_three_ways_differ_by_one_argument() -> None:
    space: dict[str, object] = {}
    exec(BLOCKS[1], space)
    losses = [space[name] for name in ("soft", "mask", "listed")]
    assert [loss.false_negatives for loss in losses if isinstance(loss, CUSALoss)] == ["soft", "mask", "positive"]


def test_the_cached_step_gives_the_gradients_of_the_whole_batch() -> None:
    space: dict[str, object] = {}
    exec(BLOCKS[2], space)
    step = space["step"]
    assert callable(step)
    images, texts, teachers = _batches(1)[0]
    model, loss = _Towers(), CUSALoss(beta=0)
    image, text = model(images, texts)
    loss(image=image, text=text, **teachers)["loss"].backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    step(model, loss, images, texts, teachers, chunk=5)
    for parameter, theirs in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs, rtol=1e-4, atol=1e-6)
