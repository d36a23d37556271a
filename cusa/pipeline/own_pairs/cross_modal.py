"""A closed-form map from the image teacher's space to the text teacher's, fitted out of fold.

Nobody grades their own homework: what an image's captions should be is predicted by a ridge regression that has not
seen the image. It needs no student and no training.

Shapes: N images, D E widths of the reduced image and text rows.
"""

import numpy as np

_FOLDS = 5
_STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # added to the Gram matrix of unit rows
_FLATTEN = 0.25  # power by which directions are made more equal: 0 leaves them, 0.5 whitens
_FLOOR = 0.01  # of the largest variance, so that directions of noise are not blown up


def flattened(rows: np.ndarray, width: int) -> np.ndarray:
    """Return unit rows in their main directions, centred, the variances drawn together.

    Args:
        rows: (rows, any) unit rows.
        width: directions kept at most.

    Returns:
        (rows, width or fewer) float32 unit rows; a row at the mean is 0.
    """
    mean = rows.mean(0)
    centred = rows - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / max(len(rows), 1))
    kept = np.argsort(-variances)[: min(width, len(variances), max(len(rows) - 1, 1))]
    top = max(float(variances[kept[0]]), 1e-12)
    scale = (np.maximum(variances[kept], 0) + _FLOOR * top) ** -_FLATTEN
    return unit(centred @ (directions[:, kept] * scale).astype(np.float32))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; a row of zeros stays one."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9), dtype=np.float32)


def predict_out_of_fold(images_ND: np.ndarray, texts_NE: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Predict each image's text row from its image row, by a map fitted on the other folds' images.

    The ridge's strength is the one whose predictions rank the own row best in the first fold.

    Args:
        images_ND: unit rows of the images.
        texts_NE: for each image the mean of its captions' rows; 0 for an image without captions.
        seed: of the folds.

    Returns:
        (N, E) float32 unit rows, centred on their mean.
    """
    number = len(images_ND)
    fold_N = np.random.default_rng(seed).permutation(number) % min(_FOLDS, number)
    parts = [images_ND[fold_N == fold] for fold in range(fold_N.max() + 1)]
    grams = [part.T @ part for part in parts]
    products = [part.T @ texts_NE[fold_N == fold] for fold, part in enumerate(parts)]
    gram, product = np.sum(grams, axis=0), np.sum(products, axis=0)
    strength = _best_strength(gram - grams[0], product - products[0], parts[0], texts_NE[fold_N == 0])
    ridge = strength * np.eye(len(gram), dtype=np.float32)
    predicted = np.empty_like(texts_NE)
    for fold, part in enumerate(parts):
        predicted[fold_N == fold] = part @ np.linalg.solve(gram - grams[fold] + ridge, product - products[fold])
    return unit(predicted - predicted.mean(0))


def _best_strength(gram: np.ndarray, product: np.ndarray, images: np.ndarray, texts: np.ndarray) -> float:
    """Return the strength whose predictions rank the own row best: the mean logarithm of its rank."""
    variances, directions = np.linalg.eigh(gram)
    rotated, seen = directions.T @ product, images @ directions
    own = unit(texts)
    ranks = {}
    for strength in _STRENGTHS:
        scores = unit(seen @ (rotated / (np.maximum(variances, 0) + strength)[:, None])) @ own.T
        ranks[strength] = np.log((scores >= scores.diagonal()[:, None]).mean(1)).mean()
    return min(_STRENGTHS, key=lambda strength: ranks[strength])
