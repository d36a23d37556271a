"""The units of an audit: the candidates of some images, from tables that every worker maps, as a part of a table."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from cusa.manifests.neighbours import Neighbours
from cusa.manifests.samples import Split
from cusa.pipeline.audit.scoring import Depth, PairScorer
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.normal_scores import NormalScores
from cusa.pipeline.calibrate.shipped import Choice
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.candidates import IMAGES_A_BLOCK, Candidates, Finder, find_all, merge
from cusa.pipeline.pairs.caption_words import CaptionWords
from cusa.pipeline.pairs.features import Encodings, PairFeatures
from cusa.pipeline.pairs.groups import Groups, Reverse
from cusa.pipeline.pairs.row_statistics import ImageStatistics, MapStatistics, TextStatistics
from cusa.pipeline.units.parts import Task, table_of, units_of

_BLOCKS_A_UNIT = 4
_SUMS = "sums"


@dataclass(frozen=True)
class Prepared:
    """What the units of an audit share."""

    scorer: PairScorer
    choice: Choice
    config: AuditConfig


_CLASSES = (
    *(Calibration, CaptionWords, Choice, CrossModal, Depth, Encodings, Finder, Groups, ImageStatistics, MapStatistics),
    *(Modality, Neighbours, NormalScores, PairFeatures, PairScorer, Prepared, Reverse, TextStatistics),
)


def task(split: Split, config: AuditConfig) -> Task:
    """Return what makes the parts of a split's audit."""
    return Task(_part, functools.partial(_outside_of, split.work, split.name, config), _CLASSES)


def outside(split: Split, config: AuditConfig) -> Mapping[str, object]:
    """Return what is not packed: the split, its captions, whose words are counted already, and the settings."""
    return {"split": split, "config": config, "captions": split.texts}


def _outside_of(work: Path, name: str, config: AuditConfig) -> Mapping[str, object]:
    return {"split": Split(work, name), "config": config, "captions": ()}


def image_units(num_images: int) -> list[range]:
    """Return the image rows of each unit."""
    return units_of(num_images, IMAGES_A_BLOCK, _BLOCKS_A_UNIT)


def _part(prepared: Prepared, images: range) -> pa.Table:
    """Find the candidates of some images."""
    scorer, config = prepared.scorer, prepared.config
    blocks = find_all(
        scorer.finder,
        num_images=images.stop,
        first=images.start,
        minimum_score=config.minimum_score,
        per_image=config.per_image,
        find=scorer.find,
    )
    candidates = merge(list(blocks))
    sums = {str(image): values.tolist() for image, values in scorer.take_sums().items()}
    table = table_of({field.name: getattr(candidates, field.name) for field in fields(Candidates)})
    return table.replace_schema_metadata({_SUMS: json.dumps(sums, sort_keys=True)})


def read_part(table: pa.Table) -> tuple[Candidates, dict[int, np.ndarray]]:
    """Return the candidates of a part, and the sums of its blocks for `PairScorer.add_sums`."""
    sums = json.loads(table.schema.metadata[_SUMS.encode()])
    columns = (table[field.name].combine_chunks().to_numpy(zero_copy_only=False) for field in fields(Candidates))
    return Candidates(*columns), {int(image): np.array(values) for image, values in sums.items()}
