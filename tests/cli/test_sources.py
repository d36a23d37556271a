"""Sources and languages of captions from the command line, from the first table to an export."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.test_cli import cusa_here
from tests.worlds import write_karpathy


def _rows(query: str, work: Path) -> list[list[object]]:
    done = cusa_here("sql", work, query, "--format", "json")
    assert done.returncode == 0, done.stderr
    return [list(row.values()) for row in json.loads(done.stdout)]


def test_sources__from_a_rule_to_sql_odds_languages_and_an_export(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    source, work = write_karpathy(tmp_path / "raw", images=3), tmp_path / "work"
    arguments = ("--caption-source", "#3-4=synthetic", "--caption-source", "human", "--workers", 1)
    done = cusa_here("shard", "karpathy", source, "--out", work, *arguments)
    assert done.returncode == 0, done.stderr
    counts = "SELECT source, count(*) AS captions FROM captions WHERE split = 'train' GROUP BY 1 ORDER BY 1"
    assert _rows(counts, work) == [["human", 9], ["synthetic", 6]]

    for odds, said in (
        ("{humen=1}", "no caption of"),
        ("{human=0, synthetic=0}", "3 of 3 images"),
        ("{human=-1}", "below 0"),
    ):
        untaught = ("--set", "loss.alpha=0", "--set", "loss.beta=0")
        words = ("train", "scenes-cusa", "--data", work, "--out", tmp_path / "run", *untaught)
        done = cusa_here(*words, "--set", f"train.caption_odds={odds}")
        assert done.returncode == 2
        assert "train.caption_odds" in done.stderr
        assert said in done.stderr
        assert not (tmp_path / "run").exists()

    done = cusa_here("languages", work, "--only", "en,de", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "train: en 15 (100.0%)." in done.stdout
    assert _rows("SELECT DISTINCT language FROM languages", work) == [["en"]]
    done = cusa_here("shard", "subset", work, "--out", tmp_path / "german", "--language", "de")
    assert done.returncode == 1
    assert "language" in done.stderr

    done = cusa_here("export", work, "--to", "parquet", "--out", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "export/data").glob("train-*.parquet")
    assert pq.read_table(file)["caption_sources"][0].as_py() == ["human"] * 3 + ["synthetic"] * 2
    assert "| train | synthetic | 6 |" in (tmp_path / "export/README.md").read_text()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["human", "synthetic"], "names all captions again"),
        (["=human"], "names no place"),
        (["#9-3=human"], "stands before"),
        (["blip=synthetic"], "There are no columns or endings here"),
        (["#9=synthetic"], "#9=synthetic: no image has a caption at this place; the last place is 4"),
    ],
)
def test_shard__a_rule_that_is_none_is_explained(tmp_path: Path, rules: list[str], said: str) -> None:
    source = write_karpathy(tmp_path / "raw", images=1)
    options = [word for rule in rules for word in ("--caption-source", rule)]
    done = cusa_here("shard", "karpathy", source, "--out", tmp_path / "work", *options)
    assert done.returncode == 2
    assert said in done.stderr
