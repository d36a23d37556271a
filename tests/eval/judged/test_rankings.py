"""What a comparison reads: rankings as rows, known pairs as codes, the audit's word; of another split, nothing."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.eval.judged import rankings
from cusa.manifests import schemas
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work

IMAGE_TOPS = [[5, 0, 3], [2, 1], [4]]
TEXT_TOPS = [[1, 0, 2], [0, 2, 1], [2], [1], [0, 1], []]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("judged"), images=3, captions=2, splits=("train",))


@pytest.fixture
def split(made: Path, tmp_path: Path) -> Split:
    shutil.copytree(made, tmp_path / "work")
    return Split(tmp_path / "work", "train")


def _rows(split: Split, *, task: str = "cross-modal") -> list[dict[str, Any]]:
    keys = {"image": split.image_keys, "text": split.caption_keys}
    tops = {"image-to-text": IMAGE_TOPS, "text-to-image": TEXT_TOPS}
    return [
        {
            **{"task": task, "direction": way, "query_key": keys[way.split("-to-")[0]][query]},
            "top_keys": [keys[way.split("-to-")[1]][item] for item in top],
        }
        for way, lists in tops.items()
        for query, top in enumerate(lists)
    ]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    store.write_table(path, pa.Table.from_pylist(list(rows), schema=schemas.PER_QUERY))
    return path


def test_read_ranking__rows_of_the_gallery_best_first(split: Split, tmp_path: Path) -> None:
    others = _rows(split, task="cross-modal-truth")[::-1]
    tops = rankings.read_ranking(split, _write(tmp_path / "q.parquet", [*others, *_rows(split), *others]))
    assert {way: top.tolist() for way, top in tops.items()} == {
        "image-to-text": [[5, 0, 3], [2, 1, -1], [4, -1, -1]],
        "text-to-image": [[1, 0, 2], [0, 2, 1], [2, -1, -1], [1, -1, -1], [0, 1, -1], [-1, -1, -1]],
    }


@pytest.mark.parametrize("place", [0, 2, 3, 8])
def test_read_ranking__of_a_part_or_in_another_order_is_refused(split: Split, tmp_path: Path, place: int) -> None:
    rows = _rows(split)
    with pytest.raises(DataError, match="has no ranking of the whole split 'train'"):
        rankings.read_ranking(split, _write(tmp_path / "q.parquet", [*rows[:place], *rows[place + 1 :]]))
    turned = [*rows[1:3], rows[0], *rows[3:]] if place < 3 else [*rows[:3], *rows[3:][::-1]]
    with pytest.raises(DataError, match="has no ranking of the whole split 'train'"):
        rankings.read_ranking(split, _write(tmp_path / "q.parquet", turned))
    rows[place]["top_keys"] = [*rows[place]["top_keys"], "mini/gone"]
    with pytest.raises(DataError, match="names items that the split 'train' has not"):
        rankings.read_ranking(split, _write(tmp_path / "q.parquet", rows))


def test_known_and_passed_pairs__by_what_people_said(split: Split) -> None:
    said = [
        *(("ada", 0, 3, "match"), ("ada", 1, 0, "no match"), ("ada", 2, 1, "related"), ("ada", 0, 5, "match")),
        *(("bob", 0, 5, "no match"), ("ada", 1, 4, "skip"), ("ada", 2, 2, "skip"), ("bob", 2, 2, "match")),
        *(("ada", 0, 1, "no match"), ("bob", 1, 5, "duplicate")),
    ]
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for number, (who, image, caption, word) in enumerate(said):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, who, **keys))
        journal.append(make(90, "skip", image_key="mini/gone", caption_key=split.caption_keys[0]))
        journal.append(make(91, "skip", image_key=split.image_keys[0], caption_key="mini/gone#0"))
    judgements = pair_judgements.read(split)
    known = rankings.known_pairs(split, judgements)
    # Own captions; 3 of image 0; 2 of image 2; image 1 and image 2 are one, so each has what the other has.
    expected = {(0, 0), (0, 1), (0, 3), *((image, caption) for image in (1, 2) for caption in (2, 3, 4, 5))}
    assert known.matches.tolist() == sorted(6 * image + caption for image, caption in expected)
    # What is true in another way is no other pair: caption 1 is image 0's own, whatever ada said.
    assert known.others.tolist() == [6 * 1 + 0, 6 * 2 + 1]
    assert sorted(rankings.passed_pairs(split, judgements).tolist()) == [6 * 0 + 5, 6 * 1 + 4]


def _candidates(split: Split, rows: Sequence[tuple[int, int, float | None, float]]) -> None:
    content = [
        {
            "image_key": split.image_keys[image],
            "caption_key": split.caption_keys[caption],
            "p_positive": p,
            "score": score,
        }
        for image, caption, p, score in rows
    ]
    table = pa.Table.from_pylist(content, schema=schemas.CANDIDATES)
    store.write_table(split.folder / "audit/candidates.parquet", table)


@pytest.mark.parametrize("calibrated", [True, False])
def test_read_judge__probabilities_or_scores_by_code(split: Split, calibrated: bool) -> None:
    with pytest.raises(DataError, match=r"there is no machine judge\. Run `cusa audit .* --split train`"):
        rankings.read_judge(split)
    rows = [(2, 0, 0.25, 0.5), (0, 3, 0.75, -0.1), (1, 5, 1.0 if calibrated else None, 1.5)]
    _candidates(split, rows)
    judge = rankings.read_judge(split)
    assert judge.codes.tolist() == [3, 11, 12]
    assert judge.probabilities.tolist() == ([0.75, 1.0, 0.25] if calibrated else [0.0, 1.0, 0.5])
    assert judge.calibrated is calibrated
    _candidates(split, [])
    assert rankings.read_judge(split).calibrated is False


@pytest.mark.parametrize("column", ["image_key", "caption_key"])
def test_read_judge__of_another_state_is_refused(split: Split, column: str) -> None:
    _candidates(split, [(0, 3, 0.5, 0.5), (1, 0, 0.5, 0.5)])
    path = split.folder / "audit/candidates.parquet"
    table = store.read_table(path)
    keys = pa.array(["mini/gone", table[column][1].as_py()])
    store.write_table(path, table.set_column(table.column_names.index(column), column, keys))
    with pytest.raises(DataError, match="is of another state of the split 'train'"):
        rankings.read_judge(split)
