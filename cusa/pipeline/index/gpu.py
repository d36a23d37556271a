"""Searching on GPUs, where faiss-gpu is installed and sees some: the same index type, checked against the CPU's.

Shapes: N rows, D their width, Q rows searched at once, K places.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from cusa.errors import DataError

if TYPE_CHECKING:
    import faiss

MOST_PLACES = 2048
"""That FAISS's kernels return for a query, and lists that they probe."""
_CHECKED = 32  # queries, at even distances
_ROUNDING = 1e-4  # of float32 products whose sums run in another order
_AGREE = 0.99  # of the places: where lists are probed, rounding may choose another one


def gpus() -> int:
    """Return how many GPUs FAISS sees; 0 where faiss-gpu is not installed."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "index_cpu_to_all_gpus") else 0


def moves(index: "faiss.Index", places: int) -> bool:
    """Return whether FAISS searches an index of this type on GPUs: flat ones, and lists of flat rows or 8-bit numbers.

    Not graphs (HNSW), which it has for CPUs alone; not product codes, of which it has some sizes only; and not where
    more places are asked for, or more lists probed, than its kernels have.
    """
    import faiss

    lists = faiss.try_extract_index_ivf(index)
    if places > MOST_PLACES or (lists is not None and lists.nprobe > MOST_PLACES):
        return False
    kinds = (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer)
    return isinstance(faiss.downcast_index(index), kinds)


def on_gpu(index: "faiss.Index", queries_QD: np.ndarray, places: int) -> "faiss.Index":
    """Return the index on all GPUs where it can be searched there, else as it is.

    A few queries are searched on both, and what is found must agree.

    Args:
        index: on the CPU, filled and tuned.
        queries_QD: (Q, D) float32 rows like those that will be searched for.
        places: K.

    Raises:
        DataError: if the GPUs find other neighbours than the CPU, or FAISS cannot copy the index to them.
    """
    import faiss

    if not gpus() or not moves(index, places) or not len(queries_QD):
        return index
    way_out = "Set CUDA_VISIBLE_DEVICES= (empty) to search on the CPU."
    faiss_gpu: Any = faiss
    try:
        moved: faiss.Index = faiss_gpu.index_cpu_to_all_gpus(index)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise DataError(
            f"FAISS cannot copy the index to the GPU: {lines[-1] if lines else error}. {way_out}"
        ) from error
    step = max(1, len(queries_QD) // _CHECKED)
    some = np.ascontiguousarray(queries_QD[::step][:_CHECKED])
    expected, _ = index.search(some, places)
    there, _ = moved.search(some, places)
    agree = float((np.abs(there - expected) <= _ROUNDING).mean())
    if agree < _AGREE:
        raise DataError(
            f"FAISS finds other neighbours on the GPU than on the CPU: {agree:.1%} of the similarities of "
            f"{len(some)} queries agree to {_ROUNDING:g}. {way_out}"
        )
    return moved
