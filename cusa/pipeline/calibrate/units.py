"""The units of a calibration: the features of some judged pairs, by tables that every worker maps.

Shapes: P pairs, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cusa.manifests.neighbours import Neighbours
from cusa.manifests.samples import Split
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.caption_words import CaptionWords
from cusa.pipeline.pairs.features import Encodings, PairFeatures
from cusa.pipeline.pairs.groups import Groups
from cusa.pipeline.pairs.products import PAIRS_A_BLOCK
from cusa.pipeline.pairs.row_statistics import ImageStatistics, MapStatistics, TextStatistics
from cusa.pipeline.units.parts import Task, table_of, units_of


@dataclass(frozen=True)
class Compared:
    """What the units of a calibration share.

    Attributes:
        features: computes them.
        images: (P,) image rows; pairs of an image lie together.
        captions: (P,) caption rows.
    """

    features: PairFeatures
    images: np.ndarray
    captions: np.ndarray


_CLASSES = (
    *(CaptionWords, Compared, CrossModal, Encodings, Groups, ImageStatistics, MapStatistics, Modality, Neighbours),
    *(PairFeatures, TextStatistics),
)


def task() -> Task:
    """Return what makes the parts of the features."""
    return Task(_part, _outside_of, _CLASSES)


def outside(split: Split) -> Mapping[str, object]:
    """Return what is not packed: the captions, whose words are counted already."""
    return {"captions": split.texts}


def _outside_of() -> Mapping[str, object]:
    return {"captions": ()}


def pair_units(number: int) -> list[range]:
    """Return the pairs of each unit."""
    return units_of(number, PAIRS_A_BLOCK, 1)


def prepared(features: PairFeatures, images: np.ndarray, captions: np.ndarray) -> Compared:
    """Return what the units share, with all that depends on one row alone computed."""
    if len(images):
        features.matrix(images[:1], captions[:1])
    return Compared(features, images, captions)


def _part(compared: Compared, pairs: range) -> pa.Table:
    """Compute the features of some pairs, on one thread: products' last digits depend on how threads share them."""
    from threadpoolctl import threadpool_limits

    some = slice(pairs.start, pairs.stop)
    with threadpool_limits(1, user_api="blas"):
        values = compared.features.matrix(compared.images[some], compared.captions[some])
    return table_of({name: values[:, place] for place, name in enumerate(compared.features.names)})


def read_part(table: pa.Table) -> np.ndarray:
    """Return the features of a part, (P, F) float32."""
    return np.stack([column.to_numpy() for column in table.columns], axis=1)
