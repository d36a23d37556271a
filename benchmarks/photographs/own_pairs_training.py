"""What wrong own pairs cost in training, and how much of it the audit gets back: heads on frozen features of Flickr8k.

    python -m benchmarks.photographs.own_pairs_training WORK --out FILE.json

A share of the training captions is moved to images drawn at random (one caption at a time). Linear heads on frozen
EfficientNet-Lite0 and MiniLM features learn InfoNCE (`CUSALoss`) on the whole of it; `cusa audit --pairs` looks with
EfficientNet-Lite2 and mpnet. Arms: nothing moved; moved; pairs dropped by p_wrong > 0.5; weighted by 1 - p_wrong.
Baselines, both told the share that was moved: the student's own cosine (trained once, its lowest pairs dropped, trained
anew), and small loss (each batch's worst share left out after the first epoch). RSUM on the 1,000 test images.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.photographs.own_pairs import NEAR, look, one_caption
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods
from cusa.train.losses import CUSALoss

LITE = "benchmarks.photographs.lite_"
STUDENT = Encoders(f"{LITE}Lite0", "all-MiniLM-L6-v2")
TEACHERS = Encoders(f"{LITE}Lite2", "all-mpnet-base-v2")
EPOCHS, BATCH, WIDTH, RATE = 8, 512, 256, 2e-3


def features(split: Split) -> tuple[Tensor, Tensor]:
    """Return the student's frozen features of images and captions."""
    rows = (tables.read_teacher(split, name).embeddings.astype(np.float32) for name in (STUDENT.image, STUDENT.text))
    image, text = (torch.from_numpy(each) for each in rows)
    return image, text


def train(
    image: Tensor,
    text: Tensor,
    owner: np.ndarray,
    *,
    seed: int,
    weights: np.ndarray | None = None,
    small_loss: float = 0.0,
) -> nn.ModuleList:
    """Train heads on the pairs whose weight is not 0."""
    torch.manual_seed(seed)
    heads = nn.ModuleList([nn.Linear(image.shape[1], WIDTH), nn.Linear(text.shape[1], WIDTH)])
    loss = CUSALoss(alpha=0, beta=0)
    optimizer = torch.optim.AdamW([*heads.parameters(), *loss.parameters()], lr=RATE)
    kept = np.arange(len(owner)) if weights is None else np.flatnonzero(weights > 0)
    owners = torch.from_numpy(owner)
    # As many steps whatever is dropped: arms differ in what they see, not in how long they learn.
    steps = EPOCHS * (len(owner) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw, queue = np.random.default_rng(seed), np.zeros(0, dtype=np.int64)
    for step in range(steps):
        if len(queue) < BATCH:
            queue = np.concatenate([queue, draw.permutation(kept)])
        rows, queue = torch.from_numpy(queue[:BATCH]), queue[BATCH:]
        ids = owners[rows]
        if small_loss and step >= steps // EPOCHS:
            with torch.no_grad():
                one, other = (head(x) for head, x in zip(heads, (image[ids], text[rows]), strict=True))
                logits = nn.functional.normalize(one, dim=1) @ nn.functional.normalize(other, dim=1).T / 0.05
                own = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal())
                rows = rows[own.argsort()[: int((1 - small_loss) * BATCH)]]
            ids = owners[rows]
        weighted = None if weights is None else torch.from_numpy(weights[rows.numpy()]).float()
        embedded = heads[0](image[ids]), heads[1](text[rows])
        terms = loss(image=embedded[0], text=embedded[1], image_ids=ids, pair_weights=weighted)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        schedule.step()
    return heads


@torch.no_grad()
def embed(heads: nn.ModuleList, image: Tensor, text: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return unit embeddings."""
    rows = (nn.functional.normalize(head(x), dim=1).numpy() for head, x in zip(heads, (image, text), strict=True))
    one, other = rows
    return one, other


def rsum(heads: nn.ModuleList, image: Tensor, text: Tensor, owner: np.ndarray) -> float:
    """Return R@1 + R@5 + R@10 in both directions, per cent."""
    images, texts = embed(heads, image, text)
    scores = images @ texts.T
    own = scores[owner, np.arange(len(owner))]
    to_image = (scores > own).sum(0)
    best = np.full(len(images), -np.inf)
    np.maximum.at(best, owner, own)
    to_text = (scores > best[:, None]).sum(1)
    return float(100 * sum((ranks < k).mean() for ranks in (to_image, to_text) for k in (1, 5, 10)))


def main() -> None:
    """Train every arm with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    split, test = Split(given.work, "train"), Split(given.work, "test")
    image, text = features(split)
    tested = (*features(test), test.caption_owner)
    opened = open_neighbourhoods(split, choose(split, TEACHERS), depth=NEAR)
    owner = split.caption_owner
    results: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        moved = one_caption(owner, None, given.share, np.random.default_rng(seed))
        p_wrong = look(opened, moved, split.num_images).p_wrong_M

        swapped = train(image, text, moved, seed=seed)
        images, texts = embed(swapped, image, text)
        cosines = np.einsum("md,md->m", images[moved], texts)
        far = cosines < np.quantile(cosines, given.share)
        arms = {
            "nothing moved": train(image, text, owner, seed=seed),
            "moved": swapped,
            "dropped by p_wrong": train(image, text, moved, seed=seed, weights=(p_wrong <= 0.5).astype(float)),
            "weighted by p_wrong": train(image, text, moved, seed=seed, weights=1 - p_wrong),
            "own cosine": train(image, text, moved, seed=seed, weights=(~far).astype(float)),
            "small loss": train(image, text, moved, seed=seed, small_loss=given.share),
        }
        for name, heads in arms.items():
            results.setdefault(name, []).append(rsum(heads, *tested))
        print(seed, {name: round(values[-1], 1) for name, values in results.items()}, flush=True)
    cost = [clean - bad for clean, bad in zip(results["nothing moved"], results["moved"], strict=True)]
    back = {
        name: [(value - bad) / lost for value, bad, lost in zip(values, results["moved"], cost, strict=True)]
        for name, values in results.items()
    }
    summary = {
        name: {
            "rsum": statistics.mean(values),
            "got_back": statistics.mean(back[name]),
            "got_back_by_seed": back[name],
            "rsum_by_seed": values,
        }
        for name, values in results.items()
    }
    print({name: (round(one["rsum"], 1), round(one["got_back"], 3)) for name, one in summary.items()})
    if given.out is not None:
        store.write_json(given.out, {"share": given.share, "seeds": given.seeds, "arms": summary})


if __name__ == "__main__":
    main()
