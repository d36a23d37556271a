"""Masks and listed positives against loops over plain Python floats, in whole matrices and in tiles."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.false_negatives import Extra, farthest_own, find_listed, pull, smoothed_pull, targets
from cusa.train.losses.streaming import tiles
from tests.train.losses import reference
from tests.train.losses.matrices import unit

seeds = st.integers(0, 10**6)
sizes = st.integers(1, 12)


@pytest.fixture(params=["plain", "streamed"])
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tiles, "TILE", 5)
    return request.param


def _batch(size: int = 12, seed: int = 0, groups: int = 7) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    widths = {"image": 5, "text": 5, "teacher_image": 3, "teacher_text": 4}
    rows = {name: unit(size, width, seed + k) for k, (name, width) in enumerate(widths.items())}
    ids = torch.randint(0, groups, (size,), generator=random)
    # As in real batches: one image, one teacher row.
    rows["teacher_image"] = unit(groups, 3, seed + 9)[ids]
    return rows | {"image_ids": ids}


def _loss(impl: Any, **options: Any) -> CUSALoss:
    loss = CUSALoss(alpha=0, beta=0, impl=impl, temperature=Setting(0.07, 0.01, 0.1), **options).double()
    loss.infonce_temperature.value.data = torch.tensor(0.07, dtype=torch.float64)
    return loss


def _infonce(
    similarity: list[list[float]], own: list[list[set[int]]], ignored: list[list[bool]], temperature: float = 0.07
) -> float:
    """Return InfoNCE by loops: `own[0][i]` are the texts that are positives of image i, `own[1]` the other way."""
    total = 0.0
    for positives, matrix in zip(own, (similarity, reference.transpose(similarity)), strict=True):
        for i, row in enumerate(matrix):
            norm = sum(math.exp(s / temperature) for j, s in enumerate(row) if not ignored[i][j])
            total -= sum(row[j] / temperature - math.log(norm) for j in positives[i]) / len(positives[i])
    return total / (2 * len(similarity))


def _groups(ids: list[int]) -> list[list[set[int]]]:
    return [[{j for j, other in enumerate(ids) if other == mine} for mine in ids] for _ in range(2)]


MASKS: list[dict[str, Any]] = [
    {"mask_text": 0.3},
    {"mask_image": 0.5},
    {"mask_image": 0.8, "mask_text": 0.6},
    {"mask_text": "positive"},
    {"mask_image": "positive", "mask_text": 0.7},
]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_takes_near_pairs_out_of_the_denominators(mask: dict[str, Any], seed: int, impl: Any) -> None:
    batch = _batch(seed=seed)
    loss = _loss(impl, false_negatives="mask", **mask)
    ids = batch["image_ids"].tolist()
    size = len(ids)
    groups = _groups(ids)
    ignored = [[False] * size for _ in range(size)]
    for name in ("image", "text"):
        if (threshold := mask.get(f"mask_{name}")) is not None:
            cosines = reference.cosines(*[batch[f"teacher_{name}"].tolist()] * 2)
            for i in range(size):
                least = min(cosines[i][j] for j in groups[0][i]) if threshold == "positive" else threshold
                for j in range(size):
                    ignored[i][j] |= ids[i] != ids[j] and cosines[i][j] >= least - 1e-9
    assert any(map(any, ignored)) or mask.get("mask_image") == "positive" or mask.get("mask_text") == "positive"
    expected = _infonce(reference.cosines(batch["image"].tolist(), batch["text"].tolist()), groups, ignored)
    assert loss(**batch)["infonce"].item() == pytest.approx(expected, rel=1e-10)
    share = sum(map(sum, ignored)) / sum(a != b for a in ids for b in ids)
    teachers = {name: batch[name] for name in ("teacher_image", "teacher_text")}
    described = loss.diagnostics(**teachers, image_ids=batch["image_ids"], rows=5)
    assert described["share_masked"].item() == pytest.approx(share)
    assert 0 <= share < 1


@pytest.mark.parametrize("seed", range(6))
def test_listed_pairs_become_positives(seed: int, impl: Any) -> None:
    batch = _batch(seed=seed)
    ids = batch["image_ids"].tolist()
    texts = [100 + 3 * k for k in range(len(ids))]
    texts[5] = texts[2]  # the same caption twice
    random = torch.Generator().manual_seed(seed)
    chosen = torch.stack([torch.randint(0, 9, (8,), generator=random), torch.randint(0, 12, (8,), generator=random)], 1)
    pairs = torch.tensor([(int(i), texts[int(j)]) for i, j in chosen] + [(77, 103), (0, 4), (0, 4)])
    listed = {tuple(pair) for pair in pairs.tolist()}
    own = _groups(ids)
    for i in range(len(ids)):
        own[0][i] |= {j for j in range(len(ids)) if (ids[i], texts[j]) in listed}
        own[1][i] |= {j for j in range(len(ids)) if (ids[j], texts[i]) in listed}
    nothing = [[False] * len(ids)] * len(ids)
    expected = _infonce(reference.cosines(batch["image"].tolist(), batch["text"].tolist()), own, nothing)
    loss = _loss(impl, false_negatives="positive")
    told = {"text_ids": torch.tensor(texts), "positive_pairs": pairs}
    assert loss(**batch, **told)["infonce"].item() == pytest.approx(expected, rel=1e-10)
    extra = sum(map(len, own[0])) - sum(map(len, _groups(ids)[0]))
    described = loss.diagnostics(image_ids=batch["image_ids"], **told)
    assert described["extra_positives"].item() == pytest.approx(extra / len(ids))
    assert extra > 0


@pytest.mark.parametrize("reduction", ["standard", "release"])
@pytest.mark.parametrize("seed", range(4))
def test_ignored_pairs_leave_the_denominators(seed: int, reduction: Any, impl: Any) -> None:
    batch = _batch(seed=seed)
    ids, size = batch["image_ids"].tolist(), len(batch["image_ids"])
    texts = list(range(100, 100 + size))
    random = torch.Generator().manual_seed(seed)
    drawn = torch.stack(
        [torch.randint(0, 9, (14,), generator=random), torch.randint(100, 112, (14,), generator=random)], 1
    )
    pairs, ignored = drawn[:5], drawn[5:]
    positive, left = ({tuple(pair) for pair in each.tolist()} for each in (pairs, ignored))
    total, similarity = 0.0, reference.cosines(batch["image"].tolist(), batch["text"].tolist())
    for matrix, of in (
        (similarity, lambda i, j: (ids[i], texts[j])),
        (reference.transpose(similarity), lambda i, j: (ids[j], texts[i])),
    ):
        for i, row in enumerate(matrix):
            own = {j for j in range(size) if ids[i] == ids[j] or of(i, j) in positive}
            gone = {j for j in range(size) if ids[i] != ids[j] and of(i, j) in left}
            norm = sum(math.exp(row[j] / 0.07) for j in range(size) if j not in gone)
            total -= sum(row[j] / 0.07 - math.log(norm) for j in own) / len(own)
    expected = total / (2 * size * (size if reduction == "release" else 1))
    loss = _loss(impl, false_negatives="positive", reduction=reduction)
    batch["image"].requires_grad_()
    told = {"text_ids": torch.tensor(texts), "positive_pairs": pairs}
    found = loss(**batch, **told, ignored_pairs=ignored)["infonce"]
    assert found.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(found, batch["image"])
    assert torch.isfinite(gradient).all()
    assert found.item() != loss(**batch, **told)["infonce"].item()
    nothing = loss(**batch, **told, ignored_pairs=ignored[:0])["infonce"]
    assert nothing.item() == loss(**batch, **told)["infonce"].item()
    with pytest.raises(ConfigError, match="ignored_pairs"):
        loss(**batch, **told, ignored_pairs=ignored[0])


@given(seeds, sizes, st.integers(1, 6), st.integers(1, 6), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_find_listed_finds_what_loops_find(seed: int, size: int, images: int, texts: int, listed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def draw(high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=random)

    image_ids, text_ids = draw(images, size), draw(texts, size)
    pairs = torch.stack([draw(images + 1, listed), draw(texts + 1, listed)], 1)
    there = {tuple(pair) for pair in pairs.tolist()}
    expected = sorted(
        (i, j)
        for i in range(size)
        for j in range(size)
        if (int(image_ids[i]), int(text_ids[j])) in there and image_ids[i] != image_ids[j]
    )
    found = find_listed(pairs, image_ids, text_ids)
    assert sorted(zip(found.image_Q.tolist(), found.text_Q.tolist(), strict=True)) == expected
    image, text = unit(size, 4, seed), unit(size, 4, seed + 1)
    rows = slice(size // 3, size)
    for_images, for_texts = targets(image_ids, rows, found, torch.float64)
    drawn = (for_images * (image[rows] @ text.T)).sum() + (for_texts * (text[rows] @ image.T)).sum()
    assert pull(image, text, image_ids, rows, found).item() == pytest.approx(drawn.item(), rel=1e-12, abs=1e-12)


@given(seeds, sizes, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_farthest_own_is_the_lowest_cosine_within_an_image(seed: int, size: int, groups: int) -> None:
    rows = unit(size, 3, seed)
    ids = torch.randint(0, groups, (size,), generator=torch.Generator().manual_seed(seed))
    cosines = reference.cosines(rows.tolist(), rows.tolist())
    expected = [min(cosines[i][j] for j in range(size) if ids[i] == ids[j]) for i in range(size)]
    assert farthest_own(rows, ids).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_duplicate_caption_is_as_near_as_itself(impl: Any) -> None:
    # Two images with word-for-word the same caption: neither is a negative of the other.
    batch = {name: rows.float() for name, rows in _batch(4).items() if name != "image_ids"}
    batch["teacher_text"][2] = batch["teacher_text"][0] * 3
    warm: dict[str, Any] = {"alpha": 0, "beta": 0, "impl": impl, "temperature": Setting(1.0, 0.1, 1.0)}
    loss = CUSALoss(**warm, false_negatives="mask", mask_text="positive")
    described = loss.diagnostics(teacher_image=batch["teacher_image"], teacher_text=batch["teacher_text"])
    assert described["share_masked"].item() == pytest.approx(2 / 12)
    assert loss(**batch)["loss"].item() < CUSALoss(**warm)(**batch)["loss"].item()


def test_a_mask_that_takes_everything_leaves_nothing_to_learn(impl: Any) -> None:
    for temperature in (0.005, 0.05):  # below the bound of a common shift, and above
        setting = Setting(temperature, temperature, 1)
        loss = CUSALoss(
            alpha=0, beta=0, impl=impl, temperature=setting, false_negatives="mask", mask_text=-1.0
        ).double()
        batch = _batch()
        batch["image_ids"] = torch.arange(12)
        batch["image"].requires_grad_()
        value = loss(**batch)["loss"]
        value.backward()
        assert abs(value.item()) < 1e-12
        assert batch["image"].grad.abs().max().item() < 1e-10


@pytest.mark.parametrize(("threshold", "leaves"), [(0.0, True), (1e-6, False), (-1.0, True)])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_cosine_at_the_threshold_leaves(modality: str, threshold: float, leaves: bool, impl: Any) -> None:
    # Of orthogonal rows every foreign cosine is exactly 0, so either all foreign pairs leave or none does.
    batch = _batch(4)
    batch |= {f"teacher_{modality}": torch.eye(4, dtype=torch.float64), "image_ids": torch.arange(4)}
    observed = _loss(impl, false_negatives="mask", **{f"mask_{modality}": threshold})(**batch)["infonce"]
    similarity = (batch["image"] @ batch["text"].T).tolist()
    ignored = [[leaves and i != j for j in range(4)] for i in range(4)]
    expected = _infonce(similarity, _groups([0, 1, 2, 3]), ignored)
    assert (expected == pytest.approx(0, abs=1e-12)) == leaves
    assert observed.item() == pytest.approx(expected, abs=1e-12)


def test_only_the_teacher_that_a_mask_asks_is_needed(impl: Any) -> None:
    batch = _batch()
    del batch["teacher_image"]
    loss = _loss(impl, false_negatives="mask", mask_text=0.5)
    assert "share_masked" in loss.diagnostics(teacher_text=batch["teacher_text"])
    assert loss(**batch)["loss"].item() > 0
    with pytest.raises(ConfigError, match="teacher_image is missing, and mask_image"):
        _loss(impl, false_negatives="mask", mask_image=0.5)(**batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_negatives": "mask"}, "no threshold"),
        ({"false_negatives": "mask", "mask_text": 1.5}, "mask_text is 1.5"),
        ({"false_negatives": "mask", "mask_image": "near"}, "mask_image is 'near'"),
        ({"mask_text": 0.5}, "thresholds of false_negatives='mask'"),
        ({"false_negatives": "drop"}, "allowed: soft, mask, debiased, hardness, thresholds, positive"),
        ({"negatives": "all"}, "allowed: local, global, release"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CUSALoss(**options)


@pytest.mark.parametrize("missing", ["image_ids", "text_ids", "positive_pairs"])
def test_what_positive_needs_is_named(missing: str) -> None:
    told = _batch() | {"text_ids": torch.arange(12), "positive_pairs": torch.zeros(0, 2, dtype=torch.int64)}
    loss = CUSALoss(alpha=0, beta=0, false_negatives="positive")
    assert loss(**told)["loss"].item() == CUSALoss(alpha=0, beta=0)(**told)["loss"].item()
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        loss(**told | {missing: None})
    with pytest.raises(ConfigError, match=r"positive_pairs is \(3,\)"):
        loss(**told | {"positive_pairs": torch.zeros(3)})


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("rows", [slice(0, 9), slice(0, 4), slice(3, 7), slice(7, 9), slice(8, 9)])
def test_targets__of_some_rows_are_those_rows_of_the_whole(rows: slice, smoothing: float) -> None:
    """With listed positives before, inside and behind the rows, and at their ends; each written out."""
    ids = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5])
    listed = [(0, 8), (2, 3), (3, 2), (4, 0), (6, 7), (7, 6), (8, 1)]
    extra = Extra(*(torch.tensor([pair[k] for pair in listed]) for k in (0, 1)))
    for direction, got in enumerate(targets(ids, rows, extra, torch.float64, smoothing=smoothing)):
        for at, i in enumerate(range(rows.start, rows.stop)):
            true = [j for j in range(9) if ids[i] == ids[j] or ((i, j) if direction == 0 else (j, i)) in listed]
            expected = [(1 - smoothing) * (j in true) / len(true) + smoothing / 9 for j in range(9)]
            torch.testing.assert_close(got[at], torch.tensor(expected).double())
            assert got[at].sum().item() == pytest.approx(1)
    alone = targets(ids, rows, None, torch.float64, smoothing=smoothing)
    torch.testing.assert_close(alone[0], alone[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("rows", [slice(0, 9), slice(2, 6)])
def test_pull__is_the_sum_of_similarities_by_the_targets(rows: slice, listed: bool, smoothing: float) -> None:
    ids = torch.tensor([7, 7, 1, 2, 3, 3, 3, 4, 5])
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(9, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    extra = Extra(torch.tensor([0, 2, 8]), torch.tensor([8, 3, 2])) if listed else None
    by_image, by_text = targets(ids, rows, extra, torch.float64, smoothing=smoothing)
    expected = (by_image * (image[rows] @ text.T)).sum() + (by_text * (text[rows] @ image.T)).sum()
    got = smoothed_pull(image, text, ids, rows, extra, smoothing=smoothing)
    torch.testing.assert_close(got, expected)
