"""Planted swaps against `cusa audit --pairs`: how well they are found, and whether p_wrong is a probability.

    python -m benchmarks.photographs.own_pairs WORK --split train --image TEACHER --text TEACHER --out FILE.json

Captions of a work folder with image and text teachers are moved to other images in memory: one caption at a time or all
captions of an image, to an image drawn at random or among its 50 nearest. Neighbour tables and embeddings do not depend
on who owns a caption, so they are read once. Baseline: the cosine of a caption and the mean of its siblings.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.own_pairs.features import NEIGHBOURS, PairEvidence
from cusa.pipeline.own_pairs.planted import WrongPairs, find_wrong_pairs
from cusa.pipeline.pairs.neighbourhoods import Encoders, Neighbourhoods, choose, open_neighbourhoods

NEAR = 50


def one_caption(owner: np.ndarray, near: np.ndarray | None, share: float, draw: np.random.Generator) -> np.ndarray:
    """Swap captions in couples until a share of them is moved; `near` (N, K): only with images among the nearest."""
    moved = owner.copy()
    done = np.zeros(len(owner), dtype=bool)
    starts = np.searchsorted(owner, np.arange(owner.max() + 2))
    for caption in draw.permutation(len(owner)):
        if done.sum() >= share * len(owner):
            break
        image = int(owner[caption])
        other = int(draw.choice(near[image])) if near is not None else int(draw.integers(owner.max() + 1))
        free = [c for c in range(starts[other], starts[other + 1]) if not done[c]]
        if done[caption] or other == image or not free:
            continue
        partner = int(draw.choice(free))
        moved[caption], moved[partner] = owner[partner], owner[caption]
        done[[caption, partner]] = True
    return moved


def all_captions(owner: np.ndarray, near: np.ndarray | None, share: float, draw: np.random.Generator) -> np.ndarray:
    """Swap all captions of images in couples, likewise."""
    number = int(owner.max()) + 1
    to, done = np.arange(number), np.zeros(number, dtype=bool)
    for image in draw.permutation(number):
        if done.sum() >= share * number:
            break
        other = int(draw.choice(near[image])) if near is not None else int(draw.integers(number))
        if done[image] or done[other] or other == image:
            continue
        to[image], to[other] = other, image
        done[[image, other]] = True
    return np.asarray(to[owner])


PLANTS: dict[str, Callable[[np.ndarray, np.ndarray | None, float, np.random.Generator], np.ndarray]] = {
    "one caption": one_caption,
    "all captions": all_captions,
}


def look(opened: Neighbourhoods, owner: np.ndarray, number: int) -> WrongPairs:
    """Find wrong pairs as the stage does."""
    assert opened.images is not None
    assert opened.texts is not None
    evidence = PairEvidence(owner, num_images=number, images=opened.images, texts=opened.texts)
    near = opened.images.near
    shallow = type(near)(near.ids[:, :NEIGHBOURS], near.similarities[:, :NEIGHBOURS])
    return find_wrong_pairs(evidence, owner, num_images=number, near_images=shallow)


def calibration_error(probability: np.ndarray, wrong: np.ndarray) -> float:
    """Return the expected calibration error over ten bins."""
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [abs(probability[bins == one].sum() - wrong[bins == one].sum()) for one in range(10)]
    return float(sum(gaps) / len(wrong))


def measure(opened: Neighbourhoods, owner: np.ndarray, moved: np.ndarray, number: int) -> dict[str, float]:
    """Find the moved captions, and compare with who was moved."""
    wrong = moved != owner
    began = time.perf_counter()
    found = look(opened, moved, number)
    seconds = time.perf_counter() - began
    ways = {f"share {name}": one.share for name in WAYS if (one := getattr(found, name)) is not None}
    return {
        "moved": float(wrong.mean()),
        "auroc": float(roc_auc_score(wrong, found.p_wrong_M)),
        "average_precision": float(average_precision_score(wrong, found.p_wrong_M)),
        "siblings_auroc": float(roc_auc_score(wrong, -found.evidence_MF[:, 0])),
        "expected_share": float(found.p_wrong_M.mean()),
        "calibration_error": calibration_error(found.p_wrong_M, wrong),
        "probably_wrong": int((found.p_wrong_M > 0.5).sum()),
        "of_these_moved": float(wrong[found.p_wrong_M > 0.5].mean()) if (found.p_wrong_M > 0.5).any() else 0.0,
        "seconds": seconds,
        **ways,
    }


WAYS = ("caption_alone", "look_alike", "whole_image")


def main() -> None:
    """Measure every kind of swap at every share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--image", default="")
    parser.add_argument("--text", default="")
    parser.add_argument("--shares", default="0.02,0.05,0.1,0.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    split = Split(given.work, given.split)
    chosen = choose(split, Encoders(given.image, given.text))
    opened = open_neighbourhoods(split, chosen, depth=NEAR)
    assert opened.images is not None
    owner, number = split.caption_owner, split.num_images
    natural = look(opened, owner, number)
    results: dict[str, object] = {
        "images": number,
        "captions": len(owner),
        "image_teacher": chosen.image,
        "text_teacher": chosen.text,
        "as_it_is": {
            "expected_share": float(natural.p_wrong_M.mean()),
            "probably_wrong": int((natural.p_wrong_M > 0.5).sum()),
        },
    }
    print(results, flush=True)
    for kind, plant in PLANTS.items():
        for where, near in (("anywhere", None), (f"{NEAR} nearest", opened.images.near.ids)):
            for share in map(float, given.shares.split(",")):
                moved = plant(owner, near, share, np.random.default_rng(given.seed))
                name = f"{kind}, {where}, {share:.0%}"
                results[name] = measured = measure(opened, owner, moved, number)
                print(name, " ".join(f"{key} {value:.4g}" for key, value in measured.items()), flush=True)
    if given.out is not None:
        store.write_json(given.out, results)


if __name__ == "__main__":
    main()
