"""Folders of img2dataset: what it fetched is taken where it lies, and only the rest is asked for."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
