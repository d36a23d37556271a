"""A drawn sample as a queue: the pairs of the table, in the order of the draw, and nothing of what machines think."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.review.queue import Candidate
from cusa.pipeline.review.sample import SampledPairs
from tests.worlds import make_work


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Split(make_work(tmp_path_factory.mktemp("sample"), images=5, captions=2, splits=("train",)), "train")


def write_sample(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write a sample whose rows do not lie in the order in which people are asked."""
    rows = [
        {"ask": ask, "scores": "r@1", "unit": ask, "image_key": image, "caption_key": caption, "size": 1.0}
        for ask, (image, caption) in enumerate(pairs, 1)
    ]
    store.write_table(path, pa.Table.from_pylist(rows[::-1], schema=schemas.JUDGED_SAMPLE))
    return path


def test_queue__in_the_order_of_the_draw_each_pair_once(split: Split, tmp_path: Path) -> None:
    images, captions = split.image_keys, split.caption_keys
    pairs = [(images[3], captions[0]), (images[0], captions[9]), (images[3], captions[0]), (images[0], captions[5])]
    path = write_sample(tmp_path / "sample.parquet", pairs)
    sample = SampledPairs(split, path)
    queue = sample.queue("  ")
    asked = [pairs[0], pairs[1], pairs[3]]
    assert queue.candidates == tuple(Candidate(*pair, None, None, None, None, None, None) for pair in asked)
    assert (queue.total, queue.places) == (3, {pair: place for place, pair in enumerate(asked)})
    assert [sample.find(pair) for pair in asked] == list(queue.candidates)
    assert sample.find((images[1], captions[0])) is None
    assert sample.sha256 == store.sha256_file(path)
    with pytest.raises(ConfigError, match="cannot be filtered"):
        sample.queue("score > 1")
    sample.close()
    assert sample.queue("") == queue


@pytest.mark.parametrize(("image", "caption"), [(0, "mini/gone#0"), ("mini/gone", 0)])
def test_sample__of_another_state_of_the_split_is_refused(
    split: Split, tmp_path: Path, image: int | str, caption: int | str
) -> None:
    pair = (
        split.image_keys[image] if isinstance(image, int) else image,
        split.caption_keys[caption] if isinstance(caption, int) else caption,
    )
    path = write_sample(tmp_path / "sample.parquet", [(split.image_keys[1], split.caption_keys[0]), pair])
    with pytest.raises(DataError, match=r"is of another state of the split 'train'\. Draw again"):
        SampledPairs(split, path)


def test_sample__without_a_pair_is_refused(split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no pair: every score is decided"):
        SampledPairs(split, write_sample(tmp_path / "sample.parquet", []))
