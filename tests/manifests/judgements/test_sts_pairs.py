"""Pairs of the STS sets: a score that is no finite number is a pair without one, with the reason."""

from pathlib import Path

import pytest

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
