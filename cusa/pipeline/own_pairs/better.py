"""Captions of other images that fit an image better than its own doubtful one.

Captions are looked for where the right one is likely to be: among those of images that look alike, and among the
captions of other doubtful pairs, because captions that were mixed up lie with each other's images.
"""

import numpy as np

from cusa.manifests.neighbours import Neighbours
from cusa.pipeline.own_pairs.features import NEIGHBOURHOOD, PairEvidence
from cusa.pipeline.own_pairs.planted import WrongPairs

DOUBTFUL = 0.1
"""Probability of being wrong from which better captions are looked for."""
_MOST_DOUBTFUL = 20_000  # pairs that get better captions at most, the worst
_MOST_LOOSE = 5_000  # captions of doubtful pairs that are candidates everywhere
_CLOSER_LOOK = 20  # captions of which all the evidence is computed


def better_captions(
    wrong: WrongPairs,
    evidence: PairEvidence,
    caption_owner: np.ndarray,
    *,
    near_images: Neighbours | None,
    number: int,
) -> dict[int, np.ndarray]:
    """Return for each doubtful caption row the captions of other images that fit its image better, the best first.

    Args:
        wrong: the probabilities.
        evidence: of the same split.
        caption_owner: (M,) the image row that owns each caption.
        near_images: neighbours by the image teacher; None = nothing can be compared, and nothing is found.
        number: captions a pair at most.
    """
    if near_images is None or not number or not set(NEIGHBOURHOOD) <= set(wrong.names):
        return {}
    p_wrong = np.nan_to_num(wrong.p_wrong_M)
    worst = np.argsort(-p_wrong, kind="stable")
    doubtful = worst[p_wrong[worst] >= DOUBTFUL][:_MOST_DOUBTFUL]
    loose = doubtful[:_MOST_LOOSE]
    columns = [wrong.names.index(name) for name in NEIGHBOURHOOD]
    scale = np.maximum(np.nanstd(wrong.evidence_MF[:, columns], axis=0), 1e-9)
    own = (wrong.evidence_MF[:, columns] / scale).sum(1)
    chosen: dict[int, np.ndarray] = {}
    for image in np.unique(caption_owner[doubtful]):
        near = np.concatenate([evidence.captions_of(other) for other in near_images.ids[image]] or [loose[:0]])
        pool = np.unique(np.concatenate([near, loose]))
        pool = pool[caption_owner[pool] != image]
        if not len(pool):
            continue
        pool = pool[np.argsort(-evidence.prediction(int(image), pool), kind="stable")[:_CLOSER_LOOK]]
        measured = evidence.of_pairs(np.full(len(pool), image), pool, pool, moved_together=True)
        score = (measured[:, columns] / scale).sum(1)
        best = np.argsort(-score, kind="stable")
        for caption in evidence.captions_of(int(image)):
            if p_wrong[caption] >= DOUBTFUL:
                chosen[int(caption)] = pool[best][score[best] > own[caption]][:number]
    return chosen
