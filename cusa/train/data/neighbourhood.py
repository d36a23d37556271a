"""Near images in batches: how often they meet, and orders that change it.

Two images are near if a teacher's neighbour table lists them, or any of their captions, with a high enough cosine;
in a batch, the caption of the one is then a likely false negative of the other. Legend: N images, M captions, B pairs.
"""

from collections.abc import Mapping

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.train.data.blocks import Blocks
from cusa.train.data.order import Order

DEPTH = 50  # neighbours a row that are looked at: the default of `cusa index`
_STEPS = 32  # steps that `share_met` measures


def near_images(
    split: Split, teachers: Mapping[str, str], owner_M: np.ndarray, *, similarity: float, depth: int = DEPTH
) -> sparse.csr_array:
    """Return which images are near each other.

    Args:
        split: the split.
        teachers: modality -> name of a teacher whose neighbour table lies there.
        owner_M: (M,) image row of each caption.
        similarity: cosine from which two rows of a table are near.
        depth: neighbours a row that are looked at; fewer where the table has fewer.

    Returns:
        (N, N), symmetric, 1 where near, nothing on the diagonal.

    Raises:
        DataError: if a neighbour table is missing or less deep than wanted.
        StaleError: if it was made from another state.
    """
    ones, others = [], []
    for modality, teacher in teachers.items():
        neighbours = read_neighbours(split, teacher, depth=depth)
        rows, places = np.nonzero(neighbours.similarities >= similarity)
        pair = rows, neighbours.ids[rows, places]
        one, other = pair if modality == "image" else (owner_M[pair[0]], owner_M[pair[1]])
        ones.append(one[one != other])
        others.append(other[one != other])
    one, other = np.concatenate(ones), np.concatenate(others)
    shape = (split.num_images, split.num_images)
    both = np.concatenate([one, other]), np.concatenate([other, one])
    near = sparse.coo_array((np.ones(len(both[0]), dtype=np.int32), both), shape=shape).tocsr()  # sums duplicates
    near.data[:] = 1
    return near


def blocks(near: sparse.csr_array, owner_M: np.ndarray, *, apart: bool, most: int) -> Blocks:
    """Return blocks of pairs of near images.

    Connected images are put in a row, near ones close to each other (reverse Cuthill-McKee), and the row is cut.

    Args:
        near: the result of `near_images`.
        owner_M: (M,) image row of each caption, ascending.
        apart: deal a block's pairs out to different steps; else a block holds one caption an image, so that what meets
            in a batch is near but not the same image.
        most: pairs of a block at most: steps an epoch where `apart`, else pairs a batch.
    """
    captions_N = np.bincount(owner_M, minlength=near.shape[0])
    first_N = np.cumsum(captions_N) - captions_N
    row_of_images = csgraph.reverse_cuthill_mckee(near.tocsr(), symmetric_mode=True)
    _, component_N = csgraph.connected_components(near, directed=False)
    runs = np.split(row_of_images, np.flatnonzero(np.diff(component_N[row_of_images])) + 1)
    pieces: list[np.ndarray] = []
    for images in runs:
        if apart:
            rows = np.concatenate([np.arange(first_N[i], first_N[i] + captions_N[i]) for i in images])
            pieces += [rows[start : start + most] for start in range(0, len(rows), most)]
        else:
            for start in range(0, len(images), most):
                piece = images[start : start + most]
                for position in range(int(captions_N[piece].max(initial=0))):
                    pieces.append(first_N[piece[captions_N[piece] > position]] + position)
    return Blocks([len(piece) for piece in pieces], window=0, rows=np.concatenate(pieces), apart=apart)


def share_met(order: Order, near: sparse.csr_array, owner_M: np.ndarray) -> float:
    """Measure how often near images meet: the mean share of a batch's pairs of pairs whose images are near.

    Args:
        order: the pairs of every step; at most 32 steps of its first epoch are measured.
        near: the result of `near_images`.
        owner_M: (M,) image row of each caption.

    Returns:
        Between 0 and 1. Times B - 1 it is the expected number of likely false negatives an item.
    """
    shares = []
    for step in np.unique(np.linspace(0, order.steps_per_epoch - 1, _STEPS).astype(int)):
        images = owner_M[order.rows(int(step))]
        met = near[images][:, images].sum()
        shares.append(met / max(len(images) * (len(images) - 1), 1))
    return float(np.mean(shares))


def share_at_random(near: sparse.csr_array, owner_M: np.ndarray) -> float:
    """Return what `share_met` is on average where the pairs are shuffled as a whole."""
    captions_N = np.bincount(owner_M, minlength=near.shape[0])
    return float(captions_N @ (near @ captions_N)) / max(len(owner_M) * (len(owner_M) - 1), 1)
