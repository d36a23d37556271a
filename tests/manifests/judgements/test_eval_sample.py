"""Where a comparison's pairs lie: another place for each pair of runs and each kind of score."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError
from cusa.manifests.judgements import eval_sample
from cusa.manifests.samples import Split
from tests.worlds import make_work


def test_places(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, splits=("test",)), "test")
    folder = eval_sample.folder(split, "one", "two")
    assert folder == split.folder / "judged/one-vs-two"
    assert [eval_sample.sample_path(folder, scores).name for scores in eval_sample.SCORES] == [
        *("sample_r1.parquet", "sample_at_r.parquet"),
    ]
    assert eval_sample.SCORES == ("r@1", "at-r"), "as --scores takes them"
    assert eval_sample.sample_path(folder, "r@1").parent == folder
    with pytest.raises(ConfigError, match="--scores r@5: .*r@1"):
        eval_sample.sample_path(folder, "r@5")
