"""What made each caption: by columns, fields, endings and rules, and the same wherever the rows go from there."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cusa.errors import ConfigError
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import NO_SOURCE, SPLIT_FILES, Split
from cusa.pipeline import publish, readers, shard, verify
from cusa.pipeline.config import PublishConfig, ReadConfig, ShardConfig
from cusa.pipeline.readers.captions import as_source
from cusa.pipeline.readers.sources import SourceRules
from cusa.pipeline.sql.database import connect
from tests.worlds import make_work, write_karpathy

ONE = ShardConfig(workers=1, max_images=4)
RULES = {"#3-": "synthetic", "": "human"}


def _jpeg(colour: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (colour, 90, 40)).save(out, "JPEG")
    return out.getvalue()


def _sources(records: list[ImageRecord]) -> list[list[str]]:
    return [[caption.source for caption in record.captions] for record in records]


def test_rules__the_data_come_first_then_the_place_then_the_rest() -> None:
    rules = SourceRules({"#0": "human", "#2-3": "synthetic", "#5-": "alt text", "": "translated"})
    captions = [CaptionRecord("", str(place)) for place in range(7)]
    captions[2] = captions[2]._replace(source="brought along")
    human, rest, two, three, four, five, six = rules.apply(captions)
    assert (human.source, rest.source, two.source, three.source) == (
        "human",
        "translated",
        "brought along",
        "synthetic",
    )
    assert (four.source, five.source, six.source) == ("translated", "alt text", "alt text")
    # A caption that stood at another place before keeps the source of that place.
    (moved,) = rules.apply([CaptionRecord("", "words", position=3)])
    assert moved.source == "synthetic"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"#x": "human"}, "--caption-source #x=human is not"),
        ({"#3": " "}, "--caption-source #3="),
        ({"#4-2": "human"}, "the place 2 stands before 4"),
        ({"": "words " * 30}, "at most 80"),
    ],
)
def test_rules__what_is_none_is_explained(rules: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SourceRules(rules)


def test_read__a_rule_for_a_column_that_is_none_is_refused(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=1)
    with pytest.raises(ConfigError, match="There are no columns or endings here"):
        readers.read("karpathy", source, config=ReadConfig(caption_sources={"alt": "alt text"}))
    (tmp_path / "t.csv").write_text("image,caption\n0.jpg,words\n")
    with pytest.raises(ConfigError, match="'capton' is none of the columns of captions"):
        readers.read("table", tmp_path / "t.csv", config=ReadConfig(caption_sources={"capton": "human"}))


def test_as_source__spaces_numbers_and_nothing() -> None:
    assert [as_source(value) for value in (" alt \n text ", None, float("nan"), "")] == ["alt text", "", "", ""]
    with pytest.raises(TypeError, match="is no source"):
        as_source(["human"])


def test_table__a_column_of_sources_and_one_that_is_named(tmp_path: Path) -> None:
    rows = "image,caption,{},made_by\n0.jpg,a dog,human,people\n0.jpg,a hound,,a model\n1.jpg,a cat,synthetic,\n"
    (tmp_path / "t.csv").write_text(rows.format("Caption_Source"))
    assert _sources(readers.read("table", tmp_path / "t.csv").images) == [["human", ""], ["synthetic"]]
    named = ReadConfig(source_column="made_by", caption_sources={"": "unsigned"})
    assert _sources(readers.read("table", tmp_path / "t.csv", config=named).images) == [
        ["people", "a model"],
        ["unsigned"],
    ]


def test_table__lists_of_captions_and_cells_that_do_not_fit(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": "0.jpg", "caption": ["a", "b"], "caption_source": ["human", "synthetic"]},
        {"image": "1.jpg", "caption": ["c", "d"], "caption_source": "human"},
        {"image": "2.jpg", "caption": ["e", "f"], "caption_source": ["human"]},
        {"image": "3.jpg", "caption": [{"text": "g", "source": "alt text"}, "h"], "caption_source": "human"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = readers.read("table", tmp_path / "t.jsonl")
    assert _sources(reading.images) == [["human", "synthetic"], ["human", "human"], ["alt text", "human"]]
    (drop,) = reading.drops
    assert "1 sources of 2 captions" in drop.detail


def test_hub__several_columns_of_captions_by_rule_and_a_column_of_sources(tmp_path: Path) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": _jpeg(row), "path": f"p{row}.jpg"} for row in range(2)], picture)
    columns = {"image": pictures, "caption": ["a", "b"], "blip": [["c", "d"], ["e"]]}
    pq.write_table(pa.table(columns), tmp_path / "train-00000-of-00001.parquet")
    config = ReadConfig(caption_column="caption,blip", caption_sources={"blip": "synthetic", "": "human"})
    reading = readers.read("hub", tmp_path / "train-00000-of-00001.parquet", config=config)
    assert _sources(reading.images) == [["human", "synthetic", "synthetic"], ["human", "synthetic"]]
    columns["caption_source"] = [["x", "", "y"], ["z", None]]
    pq.write_table(pa.table(columns), tmp_path / "train-00000-of-00001.parquet")
    reading = readers.read("hub", tmp_path / "train-00000-of-00001.parquet", config=config)
    assert _sources(reading.images) == [["x", "synthetic", "y"], ["z", "synthetic"]]


def test_webdataset_and_folder__fields_and_endings(tmp_path: Path) -> None:
    described = {
        "a": {"captions": [{"text": "one", "source": "human"}, "two"]},
        "b": {"caption": "three", "caption_source": "alt text"},
        "c": {"captions": [{"text": "four", "source": {"url": "of something else"}}]},
    }
    folder = tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for key, value in described.items():
            for ext, data in (
                ("jpg", _jpeg()),
                ("json", json.dumps(value).encode()),
                ("txt", b"five"),
            ):
                (folder / f"{key}.{ext}").write_bytes(data)
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    config = ReadConfig(caption_sources={"txt": "translated", "#1": "second"})
    of_tar = readers.read("webdataset", tmp_path / "train.tar", config=config).images
    assert _sources(of_tar) == [["human", "second", "translated"], ["alt text", "translated"], ["", "translated"]]
    of_folder = readers.read("folder", folder, config=config).images
    assert [[(caption.text, caption.source) for caption in one.captions] for one in of_folder] == [
        [("five", "translated"), ("one", "human"), ("two", "")],
        [("five", "translated"), ("three", "alt text")],
        [("five", "translated"), ("four", "second")],
    ]


def test_shard__without_sources_the_tables_are_as_they_were(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("train",)), "train")
    assert pq.read_schema(split.folder / "captions.parquet").names == [
        "caption_key",
        "key",
        "position",
        "caption_id",
        "text",
    ]
    assert split.source_rows == {}
    assert set(split.caption_sources) == {""}
    with connect(split.work) as database:
        assert database.run("SELECT DISTINCT source FROM captions").rows == [("",)]


def _with_rules(source: Path, out: Path, **options: Any) -> Split:
    config = ReadConfig(caption_sources=RULES)
    shard.run(ONE, reading=readers.read("karpathy", source, config=config), out=out, **options)
    return Split(out, "train")


def test_sources__go_along_to_tables_sql_subsets_exports_and_back(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=6, splits=("train", "val"))
    split = _with_rules(source, tmp_path / "work")
    assert split.caption_sources == ["human", "human", "human", "synthetic", "synthetic"] * 6
    assert {name: len(rows) for name, rows in split.source_rows.items()} == {"human": 18, "synthetic": 12}
    assert not verify.run(split.work, workers=1).findings
    with connect(split.work) as database:
        counted = database.run("SELECT source, count(*) FROM captions WHERE split = 'train' GROUP BY 1 ORDER BY 1").rows
    assert counted == [("human", 18), ("synthetic", 12)]
    keys = split.image_keys[:2]
    shard.run(ONE, reading=readers.read_subset(split.work, keys), out=tmp_path / "part")
    assert Split(tmp_path / "part", "train").caption_sources == split.caption_sources[:10]
    for to, layout in (("parquet", "hub"), ("webdataset", "webdataset")):
        exported = tmp_path / to
        publish.run(PublishConfig(workers=1), work=split.work, to=to, out=exported)
        # The first caption stands in a text file of its own as well; a rule changes nothing that the data say.
        again = ReadConfig(caption_sources={"": "unknown"})
        shard.run(ONE, reading=readers.read(layout, exported, config=again), out=tmp_path / f"{to}-again")
        for name in ("train", "val"):
            for file in SPLIT_FILES[1:] if to == "parquet" else SPLIT_FILES[2:]:
                first, second = (
                    pq.read_table(folder / name / file) for folder in (split.work, tmp_path / f"{to}-again")
                )
                columns = [
                    column for column in first.column_names if column in ("caption_key", "text", "source", "key")
                ]
                assert first.select(columns) == second.select(columns), (to, name, file)


def test_append__sources_beside_rows_that_have_none_and_others_are_other_content(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=4, splits=("train",))
    whole = json.loads(source.read_text())
    (tmp_path / "raw/dataset_small.json").write_text(json.dumps({**whole, "images": whole["images"][:2]}))
    work = tmp_path / "work"
    plain = readers.read("karpathy", tmp_path / "raw/dataset_small.json")
    shard.run(ONE, reading=plain, out=work)
    before = {file.name: file.read_bytes() for file in (work / "train").glob("*.tar")}
    outcome = _with_rules(source, work, append=True).source_rows
    assert {name: len(rows) for name, rows in outcome.items()} == {NO_SOURCE: 10, "human": 6, "synthetic": 4}
    assert {name: (work / "train" / name).read_bytes() for name in before} == before
    drops = pq.read_table(work / "train/drops.parquet").to_pylist()
    assert {row["key"] for row in drops if row["kind"] == "image"} == {"mini/picture_0000", "mini/picture_0001"}
    assert not verify.run(work, workers=1).findings


def test_subset__rules_give_old_folders_sources(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    reading = readers.with_source_rules(readers.read_subset(work), {"#3-4": "synthetic", "": "human"})
    shard.run(ONE, reading=reading, out=tmp_path / "named")
    assert Split(tmp_path / "named", "train").caption_sources == (["human"] * 3 + ["synthetic"] * 2) * 2
    with pytest.raises(ConfigError, match="There are no columns or endings here"):
        readers.with_source_rules(reading, {"txt": "human"})


@pytest.mark.parametrize("places", [("#1-2", "#2"), ("#2", "#1-"), ("#3-", "#0-"), ("#1-4", "#2-3")])
def test_rules__a_place_that_two_rules_name_is_refused(places: tuple[str, str]) -> None:
    one, two = places
    with pytest.raises(ConfigError, match=rf"--caption-source {two}=b: place \d is 'a' already. Give each place one"):
        SourceRules({one: "a", two: "b"})
    SourceRules({"#0-1": "a", "#2": "b", "#3-": "c"})


@pytest.mark.parametrize(
    ("where", "fits"), [("#4", True), ("#4-9", True), ("#5", False), ("#5-", False), ("#6-7", False)]
)
def test_fill__places_that_no_caption_has_are_refused_when_all_is_read(tmp_path: Path, where: str, fits: bool) -> None:
    work = make_work(tmp_path / "work", images=2)
    reading = readers.with_source_rules(readers.read_subset(work), {where: "synthetic"})
    captions = max(len(image.captions) for image in readers.read_subset(work).images)
    assert captions == 5, "the places are 0 to 4"
    if fits:
        assert [one.source for image in reading.images for one in image.captions].count("synthetic") > 0
    else:
        with pytest.raises(ConfigError, match=f"{where}=synthetic: no image has .* the last place is 4"):
            list(reading.rows)
