"""What the features of pairs need of each row alone: means, spreads and lengths, computed once for a split.

Shapes: N images, M captions, D width of a text embedding.
"""

from dataclasses import dataclass

import numpy as np

_ROWS_A_BLOCK = 4096


@dataclass(frozen=True)
class TextStatistics:
    """What the text features need of each row: t is a caption's embedding, m the mean of all, u = (t - m) / |t - m|.

    Attributes:
        mean: (D,) m.
        norms: (M,) |t - m|.
        moments: mean and second moments of u.
        family: (N, D) the mean u of an image's captions.
        family_shift: (N,) its product with m.
        family_mean: (N,) the mean of its products with u of other images' captions.
        family_spread: (N,) their standard deviation.
        centres: (N, D) the mean t of an image's captions less m, of unit length; zero without captions.
    """

    mean: np.ndarray
    norms: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]
    family: np.ndarray
    family_shift: np.ndarray
    family_mean: np.ndarray
    family_spread: np.ndarray
    centres: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, owner: np.ndarray, number: int) -> "TextStatistics":
        """Compute them of (M, D) unit rows, the (M,) image row that owns each, and N."""
        mean = rows.mean(0)
        norms = _lengths(np.sqrt(np.maximum(1 - 2 * (rows @ mean) + mean @ mean, 0)))
        moments = mean_and_moments(rows, mean, norms)
        counts = np.maximum(np.bincount(owner, minlength=number), 1).astype(np.float32)[:, None]
        family = group_sums(rows, owner, number, 1 / norms)
        family -= group_sums(np.ones((len(rows), 1), np.float32), owner, number, 1 / norms) * mean
        family /= counts
        shift = family @ mean
        own = (np.einsum("md,md->m", rows, family[owner]) - shift[owner]) / norms
        family_mean, spread = over_others(family, moments, own=own, owner=owner)
        centres = group_sums(rows, owner, number) / counts
        centres -= mean * (np.bincount(owner, minlength=number) > 0)[:, None].astype(np.float32)
        centres /= _lengths(np.linalg.norm(centres, axis=1))[:, None]
        return cls(mean, norms, moments, family, shift, family_mean, spread, centres)


@dataclass(frozen=True)
class MapStatistics:
    """Image rows in the space of captions, compared with u as in `TextStatistics`."""

    shift: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, mapped: np.ndarray, rows: np.ndarray, text: TextStatistics, owner: np.ndarray) -> "MapStatistics":
        """Compute them of (N, D) predicted rows, (M, D) captions and the (M,) image row that owns each."""
        shift = mapped @ text.mean
        own = (np.einsum("md,md->m", rows, mapped[owner]) - shift[owner]) / text.norms
        return cls(shift, *over_others(mapped, text.moments, own=own, owner=owner))


@dataclass(frozen=True)
class ImageStatistics:
    """What the image features need: a is an image's embedding, m their mean; (a - m)(b - m) = ab + shift_a + shift_b.

    Attributes:
        shift: (N,) mm / 2 - am.
        norms: (N,) |a - m|.
        mean: (N,) the mean of its centred cosines to other images.
        spread: (N,) their standard deviation.
    """

    shift: np.ndarray
    norms: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "ImageStatistics":
        """Compute them of (N, any) unit rows."""
        centre = rows.mean(0)
        shift = centre @ centre / 2 - rows @ centre
        norms = _lengths(np.sqrt(np.maximum(1 + 2 * shift, 0)))
        weights = 1 / norms
        # The mean centred unit row and its products with each row, without a centred copy of all rows.
        centred_mean = (weights @ rows - weights.sum() * centre) / len(rows)
        first = (rows @ centred_mean - centre @ centred_mean) / norms
        squares = _mean_squares(rows, centre, norms)
        number = max(len(rows) - 1, 1)
        mean = (len(rows) * first - 1) / number
        spread = np.sqrt(np.maximum((len(rows) * squares - 1) / number - mean**2, 0))
        return cls(shift, norms, mean, _lengths(spread))


def _mean_squares(rows: np.ndarray, centre: np.ndarray, norms: np.ndarray, sample: int = 2048) -> np.ndarray:
    """Return the mean of each centred unit row's squared products with all of them; with a sample of wide rows."""
    step = max(1, len(rows) // sample) if rows.shape[1] > sample else 1
    some = (rows[::step] - centre) / norms[::step, None]
    if rows.shape[1] <= sample:
        second = some.T @ some / len(some)
        out = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = slice(start, start + _ROWS_A_BLOCK)
            unit = (rows[block] - centre) / norms[block, None]
            out[block] = np.einsum("nd,nd->n", unit @ second, unit)
        return out
    out = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = slice(start, start + _ROWS_A_BLOCK)
        unit = (rows[block] - centre) / norms[block, None]
        out[block] = np.square(unit @ some.T).mean(1)
    return out


def mean_and_moments(
    rows: np.ndarray, centre: np.ndarray | None = None, norms: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the mean outer product of rows, centred and scaled if asked for, a block at a time."""
    total, second = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK]
        if centre is not None and norms is not None:
            block = (block - centre) / norms[start : start + _ROWS_A_BLOCK, None]
        total += block.sum(0)
        second += block.T @ block
    number = max(len(rows), 1)
    return (total / number).astype(np.float32), (second / number).astype(np.float32)


def over_others(
    queries: np.ndarray, moments: tuple[np.ndarray, np.ndarray], *, own: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each query's products with the captions of other images, in closed form.

    Args:
        queries: (N, D), one an image.
        moments: (D,) mean and (D, D) mean outer product of all captions.
        own: (M,) the product of each caption with its own image's query.
        owner: (M,) its image row.
    """
    (mean, second), images, number = moments, len(queries), len(own)
    rest = np.maximum(number - np.bincount(owner, minlength=images), 1)
    first = (number * (queries @ mean) - np.bincount(owner, own, minlength=images)) / rest
    squares = number * np.einsum("nd,nd->n", queries @ second, queries) - np.bincount(owner, own**2, minlength=images)
    return first.astype(np.float32), _lengths(np.sqrt(np.maximum(squares / rest - first**2, 0)).astype(np.float32))


def _lengths(values: np.ndarray) -> np.ndarray:
    """Return values that may be divided by: where all rows are the same, nothing stands out."""
    return np.asarray(np.where(values > 1e-4, values, 1), dtype=np.float32)


def group_sums(rows_MD: np.ndarray, group_M: np.ndarray, number: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the (weighted) sum of the rows of each group: (number, D) float32."""
    from scipy.sparse import csr_array

    values = np.ones(len(group_M), dtype=np.float32) if weights is None else weights.astype(np.float32)
    groups = csr_array((values, (group_M, np.arange(len(group_M)))), shape=(number, len(group_M)))
    return np.asarray(groups @ rows_MD)
