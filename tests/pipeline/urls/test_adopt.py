"""Folders of img2dataset: what it fetched is taken where it lies, and only the rest is asked for."""

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.pipeline import readers, shard, urls
from cusa.pipeline.config import ShardConfig, UrlsConfig
from tests.pipeline.urls.server import picture, serving

CONFIG = UrlsConfig(workers=1, private="listed", retries=0, rows=4, per_host=64)


def _write_shard(folder: Path, number: int, rows: list[tuple[str, str]], *, ended: bool = True) -> None:
    """Write a shard as img2dataset's webdataset writer does: a tar, a table of every row, and at its end the stats."""
    folder.mkdir(exist_ok=True)
    table = []
    with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
        for place, (url, status) in enumerate(rows):
            key = f"{number:05d}{place:04d}"
            table.append({"url": url, "caption": "x", "key": key, "status": status, "error_message": None})
            if status == "success":
                digits = int("".join(filter(str.isdigit, url.rpartition("/")[2])))
                for ext, data in (("jpg", picture(digits)), ("txt", b"x"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{key}.{ext}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.Table.from_pylist(table), folder / f"{number:05d}.parquet")
    if ended:
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": len(rows)}))


def test_run__goes_on_where_img2dataset_stopped(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with serving() as (port, asked):
        root = f"http://127.0.0.1:{port}"
        names = [f"{root}/img/{number}.jpg" for number in range(10)]
        _write_shard(out, 0, [(names[0], "success"), (names[1], "failed_to_download"), (names[2], "success")])
        _write_shard(out, 1, [(names[3], "success"), (f"{root}/img/99.jpg", "success")])  # the table has no 99
        _write_shard(out, 2, [(names[4], "success")], ended=False)
        tars = {file.name: file.read_bytes() for file in out.glob("*.tar")}
        table = tmp_path / "t.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("url", "caption"), *((name, f"caption of {name}") for name in names)])
        outcome = urls.run(CONFIG, table=table, out=out)
        assert (outcome.counts["kept"], outcome.counts["dropped"]) == (10, 0)
        assert sorted(path for path in asked if path != "/robots.txt") == [
            f"/img/{number}.jpg" for number in (1, 4, 5, 6, 7, 8, 9)
        ]
        assert {file.name: file.read_bytes() for file in out.glob("*.tar")} == tars
        reading = readers.read("urls", out)
        assert {one.source for one in reading.images} == set(names)
        done = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")
        assert (done.counts["images_kept"], done.counts["captions_kept"]) == (10, 10)
        before = asked.copy()
        assert not urls.run(CONFIG, table=table, out=out).fresh
        (out / "ledger.json").unlink()
        urls.run(CONFIG, table=table, out=out)
        assert asked == before


def test_run__a_picture_of_img2dataset_that_is_broken_is_fetched(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with serving() as (port, _):
        name = f"http://127.0.0.1:{port}/img/3.jpg"
        _write_shard(out, 0, [(name, "success")])
        data = bytearray((out / "00000.tar").read_bytes())
        at = data.index(picture(3))
        data[at : at + 400] = bytes(400)
        (out / "00000.tar").write_bytes(data)
        (tmp_path / "t.csv").write_text(f"url,caption\n{name},x\n")
        assert urls.run(CONFIG, table=tmp_path / "t.csv", out=out).counts["kept"] == 1
        (one,) = readers.read("urls", out).images
        assert one.path == out / "fetched/00000.tar"


def test_run__of_what_img2dataset_left_each_picture_once_with_all_that_is_known(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with serving() as (port, asked):
        root = f"http://127.0.0.1:{port}"
        names = [f"{root}/img/{number}.jpg" for number in range(4)]
        _write_shard(out, 3, [(names[1], "success"), (names[0], "success"), (names[1], "success")])
        _write_shard(out, 7, [(names[1], "success"), (names[2], "success")])
        (out / "extra_stats.json").write_text("{}")  # no shard's
        (out / "00009_stats.json").write_text("{}")  # a shard without its tar
        (tmp_path / "t.csv").write_text("url,caption\n" + "".join(f"{name},x\n" for name in names))
        outcome = urls.run(CONFIG, table=tmp_path / "t.csv", out=out)
        assert outcome.counts["kept"] == 4
        assert [path for path in asked if path != "/robots.txt"] == ["/img/3.jpg"]
    tables = [pq.read_table(out / f"fetched/{unit:05d}.parquet") for unit in range(3)]
    rows = [row for table in tables for row in table.to_pylist()]
    expected = [(1, "00003.tar"), (0, "00003.tar"), (2, "00007.tar"), (3, "fetched/00002.tar")]
    assert [(row["url"], row["file"]) for row in rows] == [(names[number], file) for number, file in expected]
    for row, (number, file) in zip(rows, expected, strict=True):
        data = picture(number)
        with (out / file).open("rb") as tar:
            tar.seek(row["offset"])
            assert tar.read(row["bytes"]) == data
        assert (row["status"], row["reason"], row["http_status"], row["host"]) == ("kept", "", 200, "127.0.0.1")
        assert (row["received"], row["ext"], row["width"], row["height"]) == (len(data), "jpg", 64, 64)
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
    metadata = [{k.decode(): v.decode() for k, v in table.schema.metadata.items()} for table in tables]
    for told, file, kept in zip(metadata, ("00003.tar", "00007.tar", "fetched/00002.tar"), "211", strict=True):
        assert (told["tar"], told["kept"], told["dropped"]) == (file, kept, "0")
        assert told["sha256"] == hashlib.sha256((out / file).read_bytes()).hexdigest()


def test_run__pictures_of_img2dataset_that_break_a_bound_are_asked_for_like_others(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with serving() as (port, asked):
        names = [f"http://127.0.0.1:{port}/img/{number}.jpg" for number in range(2)]
        _write_shard(out, 0, [(name, "success") for name in names])
        (tmp_path / "t.csv").write_text("url,caption\n" + "".join(f"{name},x\n" for name in names))
        small = CONFIG.model_copy(update={"min_side": 65})
        with pytest.raises(DataError, match="None of the 2 URLs"):
            urls.run(small, table=tmp_path / "t.csv", out=out)
        assert asked["/img/0.jpg"] == asked["/img/1.jpg"] == 1
