"""Pairs of the STS sets: a score that is no finite number is a pair without one, with the reason."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import sts_pairs


@pytest.mark.parametrize("score", ["nan", "inf", "1e999", "-inf", "five"])
def test_pairs__a_score_that_is_no_number_is_told(tmp_path: Path, score: str) -> None:
    (tmp_path / "STS/STSBenchmark").mkdir(parents=True)
    lines = [f"main\tx\ty\t1\t{value}\ta man\ta boy" for value in ("4.5", score)]
    (tmp_path / "STS/STSBenchmark/sts-test.csv").write_text("\n".join(lines))
    (part,) = sts_pairs.parts(tmp_path)
    good, bad = sts_pairs.pairs(part)
    assert good == sts_pairs.Pair(1, "a man", "a boy", 4.5)
    assert (bad.number, bad.score) == (2, None)
    assert score in bad.error


def _layout(folder: Path) -> None:
    files = {
        "STS/STS12-en-test/STS.input.MSRpar.txt": 'a "b"\tc\nd\te\n',
        "STS/STS12-en-test/STS.gs.MSRpar.txt": "4.5\n0\n",
        "STS/STS16-en-test/STS.input.plagiarism.txt": "f\tg\tmore\nh\n i\tj \n",
        "STS/STS16-en-test/STS.gs.plagiarism.txt": "\n3\n 2.5 \n",
        "STS/STS16-en-test/STS.input.answer.txt": "k\tl\r\n",
        "STS/STS16-en-test/STS.gs.answer.txt": "1\r\n",
        "STS/STSBenchmark/sts-dev.csv": "main\tx\ty\t1\t2.0\tone\tother\textra\n",
        "SICK/SICK_test_annotated.txt": "pair_ID\tsentence_A\tsentence_B\tscore\n1\tp\tq\t4.7\n2\tr\ts\t1\n",
        "SICK/SICK_train.txt": "header\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_parts__in_the_order_of_the_sets(tmp_path: Path) -> None:
    _layout(tmp_path)
    named = [(part.split, part.subset) for part in sts_pairs.parts(tmp_path)]
    yearly = [("sts12", "MSRpar"), ("sts16", "answer"), ("sts16", "plagiarism"), ("stsb-dev", "sts-dev")]
    assert named == [*yearly, ("sick-train", "SICK_train"), ("sick-test", "SICK_test_annotated")]
    assert [(part.split, part.subset) for part in sts_pairs.parts(tmp_path / "STS")] == yearly
    assert sts_pairs.parts(tmp_path / "none") == []


def test_pairs__of_every_kind_of_file(tmp_path: Path) -> None:
    _layout(tmp_path)
    found = {part.split + part.subset: list(sts_pairs.pairs(part)) for part in sts_pairs.parts(tmp_path)}
    pair = sts_pairs.Pair
    assert found.pop("sts12MSRpar") == [pair(1, 'a "b"', "c", 4.5), pair(2, "d", "e", 0.0)]
    first, second, third = found.pop("sts16plagiarism")
    assert (first, third) == (pair(1, "f", "g", None), pair(3, " i", "j ", 2.5))
    assert (second.number, second.first, second.second, second.score) == (2, "", "", None)
    assert second.error.endswith(": 'h'")
    assert found == {
        "sts16answer": [pair(1, "k", "l", 1.0)],
        "stsb-devsts-dev": [pair(1, "one", "other", 2.0)],
        "sick-trainSICK_train": [],
        "sick-testSICK_test_annotated": [pair(2, "p", "q", 4.7), pair(3, "r", "s", 1.0)],
    }


def test_pairs__behind_the_last_score_there_is_none(tmp_path: Path) -> None:
    _layout(tmp_path)
    (tmp_path / "STS/STS12-en-test/STS.gs.MSRpar.txt").write_text("4.5\n")
    first, second = sts_pairs.pairs(sts_pairs.parts(tmp_path)[0])
    assert (first.score, second) == (4.5, sts_pairs.Pair(2, "d", "e", None))


def test_pairs__a_missing_file_of_scores_is_named(tmp_path: Path) -> None:
    _layout(tmp_path)
    (tmp_path / "STS/STS12-en-test/STS.gs.MSRpar.txt").unlink()
    with pytest.raises(DataError, match=r"STS\.gs\.MSRpar\.txt does not exist"):
        list(sts_pairs.pairs(sts_pairs.parts(tmp_path)[0]))
