"""What an evaluation judges by: its digests follow the content of every file, and of nothing else."""

from pathlib import Path

import pytest

from cusa.eval.evidence import Evidence
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path / "w", images=2, captions=2, splits=("val",)), "val")


def test_digests__name_what_changed(split: Split, tmp_path: Path) -> None:
    files = {"sits_val.csv": b"caption,image,agg_score\n", "sis_val.csv": b"image,image,agg_score\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def changed() -> set[str]:
        now = Evidence.open(split, ratings=tmp_path).digests
        names = {name for name in {*now, *before} if now.get(name) != before.get(name)}
        before.update(now)
        return names

    before: dict[str, str] = {}
    assert changed() == {"split", "truth", "ground truth", "verdicts", *files}
    assert changed() == set()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content[::-1])  # as many bytes as before
        assert changed() == {name}
    (split.folder / "truth.parquet").write_bytes(b"a table")
    assert changed() == {"truth"}
    (split.folder / "audit").mkdir()
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[3]}
    for number, word in enumerate(("match", "no match")):
        with Journal(split.folder / "audit") as journal:
            journal.append(make(number, word, **pair))
        assert changed() == {"verdicts"}
