"""The stage: one row a pair, the worst first; refused without a text teacher; up to date the second time."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa.cli import app
from cusa.errors import DataError, StaleError
from cusa.manifests import schemas, tables
from cusa.manifests.judgements.own_pairs import FOLDER, pairs_path, read_p_wrong
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import PairsConfig, ShardConfig
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.own_pairs import issues, planted, stage
from cusa.pipeline.own_pairs.better import better_captions
from cusa.pipeline.own_pairs.features import PairEvidence
from cusa.pipeline.own_pairs.planted import find_wrong_pairs
from cusa.pipeline.pairs.neighbourhoods import Encoders
from tests.pipeline.audited import make_taught, teach
from tests.worlds import make_work, write_karpathy


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


def _rows(split: Split, teacher: str) -> Modality:
    return Modality(unit_rows(tables.read_teacher(split, teacher)), read_neighbours(split, teacher, depth=20))


def test_run__every_column_is_what_its_parts_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence, reasons, faults and better captions of each pair, joined by key; the summary counts the rows."""
    source = write_karpathy(tmp_path / "raw", images=30, splits=("train",), captions=3)
    content = store.read_json(source)
    for image, words in ((3, "Dog"), (9, "A blue wall, seen 1 times from side 0."), (17, "see <b>this red dog")):
        content["images"][image]["sentences"][1]["raw"] = words
    for image in (11, 12):
        content["images"][image]["sentences"][2]["raw"] = "The very same words."
    store.write_json(source, content)
    shutil.copy(tmp_path / "raw/train/picture_0001.jpg", tmp_path / "raw/train/picture_0005.jpg")
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    work = teach(tmp_path / "work", image="colours", text="words", neighbours=20)
    split = Split(work, "train")
    config = PairsConfig(gallery=5, better=2, seed=5)
    monkeypatch.setattr(planted, "_PLANTED", 400)
    given: dict[str, Any] = {}

    def finds(evidence: PairEvidence, owner: np.ndarray, **options: Any) -> Any:
        given["wrong"] = options, find_wrong_pairs(evidence, owner, **options)
        return given["wrong"][1]

    def offers(*of: Any, **options: Any) -> Any:
        given["better"] = options, better_captions(*of, **options)
        return given["better"][1]

    monkeypatch.setattr(stage, "find_wrong_pairs", finds)
    monkeypatch.setattr(stage, "better_captions", offers)
    done = _run(work, config=config)
    rows = {row["caption_key"]: row for row in pq.read_table(pairs_path(split)).to_pylist()}
    metadata = pq.read_schema(pairs_path(split)).metadata
    assert {key: metadata[key] for key in (b"split", b"image_teacher", b"text_teacher")} == {
        b"split": split.digest.encode(),
        b"image_teacher": b"colours",
        b"text_teacher": b"words",
    }
    near = read_neighbours(split, "colours", depth=20)
    for name, said in (("wrong", {"num_images": 30, "seed": 5}), ("better", {"number": 2})):
        options = dict(given[name][0])
        np.testing.assert_array_equal(options.pop("near_images").ids, near.ids)
        assert options == said
    wrong, better = given["wrong"][1], given["better"][1]
    evidence = PairEvidence(
        split.caption_owner, num_images=30, images=_rows(split, "colours"), texts=_rows(split, "words")
    )
    every = np.arange(90)
    np.testing.assert_array_equal(wrong.evidence_MF, evidence.of_pairs(split.caption_owner, every, every))
    assert better, "some pairs are doubtful"
    table = pq.read_table(work / "train" / FOLDER / issues.TABLE).to_pylist()
    against = wrong.against()
    for row, (key, words) in enumerate(zip(split.caption_keys, split.texts, strict=True)):
        image_key = split.image_keys[split.caption_owner[row]]
        faults = [one["issue"] for one in table if one["key"] in (key, image_key)]
        named = [name for name, is_so in zip(wrong.names, against[row], strict=True) if is_so]
        expected = {
            "image_key": image_key,
            "caption_key": key,
            "p_wrong": pytest.approx(wrong.p_wrong_M[row], rel=1e-6),
            **{
                name: pytest.approx(value, rel=1e-5)
                for name, value in zip(wrong.names, wrong.evidence_MF[row].tolist(), strict=True)
            },
            "images_with_words": 2 if words == "The very same words." else 1,
            "better_caption_keys": [split.caption_keys[other] for other in better.get(row, ())],
        }
        found = dict(rows[key])
        assert sorted(found.pop("reasons")) == sorted([*named, *faults])
        assert found == expected, key
    faulty = {fault for row in rows.values() for fault in row["reasons"]}
    assert {"too-short", "markup", "duplicate"} <= faulty
    p_wrong = wrong.p_wrong_M
    summary = store.read_json(work / "train" / FOLDER / "summary.json")
    assert (summary["pairs"], summary["images"]) == (90, 30)
    assert summary["teachers"] == {"image": "colours", "text": "words"}
    assert summary["expected_wrong"] == pytest.approx(p_wrong.sum())
    assert summary["probably_wrong"] == (p_wrong > 0.5).sum() == done.counts["probably_wrong"]
    assert done.counts["pairs"] == 90
    assert summary["histogram"] == [int(((p_wrong >= a / 10) & (p_wrong < (a + 1) / 10)).sum()) for a in range(10)]
    for name in stage.WAYS:
        way = getattr(wrong, name)
        assert summary["ways"][name] == (way and {"share": way.share, "separation": way.separation}), name
    assert f"Of 90 pairs about {p_wrong.sum():,.0f} are wrong ({p_wrong.sum() / 90:.2%})" in done.notes[0]
    page = (work / "train" / FOLDER / "gallery.html").read_text(encoding="utf-8")
    worst = np.argsort(-p_wrong, kind="stable")[:5]
    assert all(split.caption_keys[row] in page or split.texts[row] in page for row in worst)
