"""The stage: one row a pair, the worst first; refused without a text teacher; up to date the second time."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa.cli import app
from cusa.errors import DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.judgements.own_pairs import FOLDER, pairs_path, read_p_wrong
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline.config import PairsConfig
from cusa.pipeline.own_pairs import issues, stage
from cusa.pipeline.pairs.neighbourhoods import Encoders
from tests.pipeline.audited import make_taught, teach
from tests.worlds import make_work


def _run(work: Path, encoders: Encoders = Encoders(), config: PairsConfig = PairsConfig(gallery=5)) -> Outcome:
    split = Split(work, "train")
    issues.run(config, split=split)
    return stage.run(config, split=split, encoders=encoders)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    made = make_taught(folder, images=30, neighbours=20)
    _run(made)
    return made


def test_run__one_row_a_pair_the_worst_first(work: Path) -> None:
    split = Split(work, "train")
    table = pq.read_table(pairs_path(split))
    assert table.schema.remove_metadata() == schemas.PAIRS
    assert sorted(table["caption_key"].to_pylist()) == sorted(split.caption_keys)
    assert all(
        key.startswith(image + "#")
        for image, key in zip(table["image_key"].to_pylist(), table["caption_key"].to_pylist(), strict=True)
    )
    values = table["p_wrong"].to_pylist()
    assert values == sorted(values, reverse=True)
    assert 0 <= min(values) <= max(values) < 1
    np.testing.assert_allclose(np.sort(read_p_wrong(split))[::-1], values, rtol=1e-6)


def test_run__is_up_to_date_the_second_time(work: Path) -> None:
    again = _run(work)
    assert not again.fresh
    assert again.notes == stage.sentences(store.read_json(work / "train" / FOLDER / "summary.json"))


def test_run__the_page_loads_nothing_and_escapes(work: Path) -> None:
    class Page(HTMLParser):
        sources: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag != "script"
            self.sources += [str(value) for name, value in attrs if name in ("src", "href")]

    page = Page()
    page.feed((work / "train" / FOLDER / "gallery.html").read_text(encoding="utf-8"))
    assert len(page.sources) >= 5
    assert all(source.startswith("data:image/") for source in page.sources)


def test_read_p_wrong__another_state_of_the_split_is_refused(tmp_path: Path) -> None:
    work = make_taught(tmp_path, images=30, neighbours=20)
    split = Split(work, "train")
    with pytest.raises(DataError, match="cusa audit .* --pairs"):
        read_p_wrong(split)
    _run(work)
    path = pairs_path(split)
    table = pq.read_table(path)
    store.write_table(path, table.replace_schema_metadata({"split": "other"}))
    with pytest.raises(StaleError, match="another state"):
        read_p_wrong(split)
    store.write_table(path, table.slice(1))
    with pytest.raises(DataError, match="one row for each"):
        read_p_wrong(split)


def test_run__a_tiny_split_has_evidence_and_no_probability(tmp_path: Path) -> None:
    work = make_taught(tmp_path, images=1, neighbours=20)
    outcome = _run(work)
    assert "too small" in outcome.notes[0]
    table = pq.read_table(pairs_path(Split(work, "train")))
    assert table["p_wrong"].null_count == table.num_rows
    with pytest.raises(DataError, match="too small"):
        read_p_wrong(Split(work, "train"))


def test_run__needs_a_text_teacher(tmp_path: Path) -> None:
    work = teach(make_work(tmp_path, images=6, splits=("train",)), image="colours")
    with pytest.raises(DataError, match="extract-teachers .* --text"):
        _run(work)


def test_run__without_an_image_teacher_siblings_decide(tmp_path: Path) -> None:
    work = teach(make_work(tmp_path, images=30, splits=("train",)), text="words", neighbours=20)
    outcome = _run(work)
    assert any("No image teacher" in note for note in outcome.notes)
    table = pq.read_table(pairs_path(Split(work, "train")))
    assert table["cross_modal"].null_count == table.num_rows
    assert table["p_wrong"].null_count == 0


def test_cli__finds_pairs_and_issues_of_a_split(work: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["audit", str(work), "--pairs", "--split", "train", "--gallery", "5", "--force"])
    assert done.exit_code == 0, done.output
    assert "gallery.html" in done.stdout
    asked = "SELECT count(*) FROM pairs WHERE p_wrong >= 0"
    counted = runner.invoke(app, ["sql", str(work), asked, "--format", "csv"])
    assert "150" in counted.stdout


def test_run__says_where_the_page_is(work: Path) -> None:
    (note, *_) = _run(work).notes
    page = next(word for word in note.split() if "gallery.html" in word).rstrip(",")
    assert Path(page).is_file()
