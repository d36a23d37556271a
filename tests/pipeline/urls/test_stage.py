"""A table of URLs against a hostile web: every row kept or dropped with its reason, the same bytes however it went."""

import csv
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa import cli
from cusa.errors import DataError, StaleError
from cusa.manifests.stage import NotCurrentError, Outcome, asking
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard, urls, verify
from cusa.pipeline.config import ReadConfig, ShardConfig, UrlsConfig
from cusa.pipeline.engine import Engine
from cusa.pipeline.urls import hosts
from cusa.pipeline.urls import stage as stage_module
from cusa.pipeline.urls.unit import Batch
from tests.cli.test_cli import cusa
from tests.pipeline.urls.server import picture, serving

CONFIG = UrlsConfig(
    workers=1, private="listed", timeout=0.7, first_wait=0.01, max_bytes=1 << 20, rows=5, per_host=64, min_speed=500
)
EXPECTED = {
    "img/1.jpg": "",
    "moved/2.jpg": "",
    "busy/3.jpg": "",
    "tag/somebody: noai": "",
    "page/1": "web-page",
    "login/1": "web-page",
    "empty/1": "empty-body",
    "loop/1": "redirects",
    "away/1": "redirects",
    "inside/2.jpg": "private-address",
    "403/1": "http-status",
    "500/1": "http-status",
    "nothing": "http-status",
    "tag/noai": "noai",
    "tag/all, NoImageAI": "noimageai",
    "forbidden/4.jpg": "robots",
    "gif/1": "unsupported-format",
    "video/1": "unsupported-format",
    "bomb/1": "too-large",
    "endless/1": "too-many-bytes",
    "huge/1": "too-many-bytes",
    "cut/3": "cut",
    "half/3": "not-an-image",
    "garbage/1": "bad-answer",
    "drip/1": "too-slow",
    "silent/1": "timeout",
}


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, Counter[str]]]:
    with serving() as (port, asked):
        yield f"http://127.0.0.1:{port}", asked


def _write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("url", "caption")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _table(path: Path, root: str, names: list[str]) -> Path:
    return _write(path, [(f"{root}/{name}", f"a caption of {name}") for name in names])


def _run(table: Path, out: Path, config: UrlsConfig = CONFIG, **more: Any) -> Outcome:
    return urls.run(config, table=table, out=out, **more)


def _fetched(out: Path) -> dict[str, dict[str, Any]]:
    files = [file for file in sorted((out / "fetched").glob("*.parquet")) if ".log" not in file.name]
    return {row["url"].split("/", 3)[3]: row for file in files for row in pq.read_table(file).to_pylist()}


def _bytes(out: Path) -> dict[str, str]:
    """Return the digest of every file that says what came, and not how long it took."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and ".log" not in file.name]
    apart = ("ledger.json", "index.html", store.LOCK)
    return {file.relative_to(out).as_posix(): store.sha256_file(file) for file in files if file.name not in apart}


def test_run__every_url_ends_kept_or_dropped_with_its_reason(web: Any, tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv", web[0], list(EXPECTED))
    outcome = _run(table, tmp_path / "raw")
    rows = _fetched(tmp_path / "raw")
    assert {name: row["reason"] for name, row in rows.items()} == EXPECTED
    assert outcome.counts["kept"] == 4
    assert outcome.counts["kept"] + outcome.counts["dropped"] == len(EXPECTED)
    for row in rows.values():
        assert (row["status"] == "kept") == (row["reason"] == "")
        if row["file"]:
            with (tmp_path / "raw" / row["file"]).open("rb") as file:
                file.seek(row["offset"])
                data = file.read(row["bytes"])
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
    assert rows["busy/3.jpg"]["sha256"] == hashlib.sha256(picture(3)).hexdigest()
    assert rows["403/1"]["http_status"] == 403
    page = (tmp_path / "raw/index.html").read_text()
    assert "HTTP 403" in page
    assert "noimageai" in page
    assert verify.run(tmp_path / "raw", workers=1).findings == ()
    summary = pq.read_table(tmp_path / "raw/summary.parquet")
    assert sum(summary["rows"].to_pylist()) == len(EXPECTED)


def test_run__dead_hosts_and_what_is_no_address(web: Any, tmp_path: Path) -> None:
    dead = [
        "http://no-such-host.invalid/1.jpg",
        "http://127.0.0.1:9/1.jpg",
        "http://[::1",
        "ftp://x/y.jpg",
        "http://10.1",
    ]
    table = _write(tmp_path / "t.csv", [(f"{web[0]}/img/1.jpg", "a"), *((url, "b") for url in dead)])
    _run(table, tmp_path / "raw", CONFIG.model_copy(update={"retries": 0, "private": "listed"}))
    files = sorted((tmp_path / "raw/fetched").glob("0000?.parquet"))
    reasons = {row["url"]: row["reason"] for file in files for row in pq.read_table(file).to_pylist()}
    assert [reasons[url] for url in dead[:4]] == ["host-not-found", "connect-failed", "bad-url", "bad-url"]
    refusing = CONFIG.model_copy(update={"private": "refuse"})
    table = _write(tmp_path / "u.csv", [(f"{web[0]}/img/1.jpg", "a"), ("http://localhost/1.jpg", "b"), (dead[4], "c")])
    with pytest.raises(DataError, match="None of the 3 URLs"):
        _run(table, tmp_path / "other", refusing)
    files = sorted((tmp_path / "other/fetched").glob("0000?.parquet"))
    assert {row["reason"] for file in files for row in pq.read_table(file).to_pylist()} == {"private-address"}


def test_run__a_url_is_fetched_once_and_bad_rows_are_drops(web: Any, tmp_path: Path) -> None:
    root, asked = web
    sha256 = hashlib.sha256(picture(77)).hexdigest()
    rows = [
        (f"{root}/img/77.jpg#top", "one", "", "train"),
        (f" {root}/img/77.jpg", "two", "", "train"),
        (f"{root}/img/77.jpg", "three", "", "test"),
        ("", "four", "", "train"),
        (f"{root}/img/78.jpg", "five", sha256, "val"),
        (f"{root}/img/333.jpg", "six", hashlib.sha256(picture(77)).hexdigest(), "val"),
    ]
    table = _write(tmp_path / "t.csv", rows, ("url", "caption", "sha256", "split"))
    before = asked["/img/77.jpg"]
    _run(table, tmp_path / "raw")
    assert asked["/img/77.jpg"] == before + 1
    reading = readers.read("urls", tmp_path / "raw")
    (kept, other) = reading.images
    assert [caption.text for caption in kept.captions] == ["one", "two"]
    assert (kept.split, other.split, other.source) == ("train", "val", f"{root}/img/333.jpg")
    reasons = Counter((drop.kind, drop.reason, drop.split) for drop in reading.drops)
    assert reasons == {
        ("caption", "bad-row", "test"): 1,
        ("image", "bad-row", "train"): 1,
        ("image", "changed", "val"): 1,
        ("caption", "changed", "val"): 1,
    }
    outcome = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")
    assert (outcome.counts["images_kept"], outcome.counts["captions_kept"]) == (2, 3)
    data = store.read_table(tmp_path / "work/train/samples.parquet")
    assert data["sha256"].to_pylist() == [sha256]


def test_run__the_same_bytes_in_processes_after_a_cut_and_from_every_kind_of_table(web: Any, tmp_path: Path) -> None:
    names = [f"img/{number}.jpg" for number in range(23)] + ["403/1", "page/2", "cut/1"]
    table = _table(tmp_path / "t.csv", web[0], names)
    _run(table, tmp_path / "one")
    expected = _bytes(tmp_path / "one")
    _run(table, tmp_path / "two", CONFIG.model_copy(update={"workers": 2}))
    assert _bytes(tmp_path / "two") == expected
    # Killed: one unit without its table, one with half a tar, one not begun, leftovers of ours.
    out = tmp_path / "two"
    (out / "ledger.json").unlink()
    (out / "fetched/00000.parquet").unlink()
    (out / "fetched/00001.tar").write_bytes(b"half")
    for name in ("00002.tar", "00002.parquet", "00002.log.parquet"):
        (out / "fetched" / name).unlink()
    times = {file: file.stat().st_mtime_ns for file in (out / "fetched").glob("0000[345].*")}
    _run(table, out)
    assert _bytes(out) == expected
    assert times == {file: file.stat().st_mtime_ns for file in (out / "fetched").glob("0000[345].*")}
    assert not _run(table, out).fresh
    columns = {"url": [f"{web[0]}/{name}" for name in names], "caption": [f"a caption of {name}" for name in names]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    for kind in ("parquet", "jsonl"):
        _run(tmp_path / f"t.{kind}", tmp_path / kind)
        assert _bytes(tmp_path / kind) == expected


def test_retry__repairs_units_and_leaves_sound_tars_alone(web: Any, tmp_path: Path) -> None:
    root, _ = web
    names = [f"img/{number}.jpg" for number in range(10)]
    table = _table(tmp_path / "t.csv", root, names)
    _run(table, tmp_path / "sound")
    out = tmp_path / "raw"
    # The first time a redirect is not allowed; the second time it is.
    moved = _table(tmp_path / "m.csv", root, [*names, "inside/11.jpg", "403/1"])
    _run(moved, out)
    before = {file.name: (store.sha256_file(file), file.stat().st_mtime_ns) for file in (out / "fetched").glob("*.tar")}
    assert sorted(before) == ["00000.tar", "00001.tar"]
    outcome = _run(moved, out, CONFIG.model_copy(update={"private": "allow"}), retry=True)
    assert outcome.why == "--retry failed"
    assert (outcome.counts["kept"], outcome.counts["dropped"]) == (11, 1)
    after = {file.name: (store.sha256_file(file), file.stat().st_mtime_ns) for file in (out / "fetched").glob("*.tar")}
    assert {name: after[name] for name in before} == before
    assert sorted(after) == ["00000.tar", "00001.tar", "00002.tar"]
    again = _run(moved, out, CONFIG.model_copy(update={"private": "allow"}), retry=True)
    assert again.counts["kept"] == 11
    assert {file.name for file in (out / "fetched").glob("*.tar")} == set(after)
    assert readers.read("urls", out).images[-1].source.endswith("inside/11.jpg")


def test_retry__gives_the_pictures_of_a_run_that_never_failed(web: Any, tmp_path: Path) -> None:
    names = ["img/1.jpg", "inside/2.jpg", "img/3.jpg", "inside/4.jpg"]
    table = _table(tmp_path / "t.csv", web[0], names)
    allowed = CONFIG.model_copy(update={"private": "allow"})
    _run(table, tmp_path / "never", allowed)
    _run(table, tmp_path / "raw")
    _run(table, tmp_path / "raw", allowed, retry=True)
    tars = [next((tmp_path / name / "fetched").glob("*.tar")) for name in ("never", "raw")]
    assert [tar.name for tar in tars] == ["00000.tar", "00000.1.tar"]
    assert tars[0].read_bytes() == tars[1].read_bytes()
    keys = [row["key"] for row in pq.read_table(tmp_path / "raw/urls.parquet").to_pylist()]
    with tarfile.open(tars[1]) as tar:
        assert tar.getnames() == [f"{key}.jpg" for key in keys]


def test_delta__fetches_only_what_is_new_and_keeps_what_went(web: Any, tmp_path: Path) -> None:
    root, asked = web
    names = [f"img/{number}.jpg" for number in range(100, 112)]
    out = tmp_path / "raw"
    _run(_table(tmp_path / "t.csv", root, names), out)
    before = asked.copy()
    times = {file.name: file.stat().st_mtime_ns for file in (out / "fetched").glob("*.tar")}
    changed = [*names[4:], "img/113.jpg"]
    outcome = _run(_table(tmp_path / "t.csv", root, changed), out)
    asked_now = {path: number - before[path] for path, number in asked.items() if number > before[path]}
    assert asked_now == {"/img/113.jpg": 1, "/robots.txt": 1}
    assert (outcome.counts["urls"], outcome.counts["gone"]) == (9, 4)
    assert {name: time for name, time in times.items()} == {
        file.name: file.stat().st_mtime_ns for file in (out / "fetched").glob("*.tar") if file.name in times
    }
    gone = pq.read_table(out / "gone.parquet").to_pylist()
    assert [row["url"].split("/", 3)[3] for row in gone] == names[:4]
    assert [one.source.split("/", 3)[3] for one in readers.read("urls", out).images] == changed
    _run(_table(tmp_path / "t.csv", root, [*names, "img/113.jpg"]), out)  # they come back
    assert asked["/img/100.jpg"] == before["/img/100.jpg"]
    assert len(readers.read("urls", out).images) == 13


def test_run__other_bounds_are_refused_before_anything_is_lost(web: Any, tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv", web[0], ["img/1.jpg"])
    _run(table, tmp_path / "raw")
    smaller = CONFIG.model_copy(update={"resize": 32})
    with pytest.raises(StaleError, match="fetched with resize=0, and 32 is asked for"):
        _run(table, tmp_path / "raw", smaller)
    _run(table, tmp_path / "raw", smaller, force=True)
    assert [row["height"] for row in _fetched(tmp_path / "raw").values()] == [32]


def test_run__columns_by_their_usual_names_or_by_option(web: Any, tmp_path: Path) -> None:
    table = _write(tmp_path / "t.tsv", [(f"{web[0]}/img/1.jpg", "x")], ("Image_URL", "ALT"))
    assert _run(table, tmp_path / "raw").counts["kept"] == 1
    table = _write(tmp_path / "u.csv", [(f"{web[0]}/img/1.jpg", "x")], ("where", "words"))
    with pytest.raises(DataError, match="has no column 'url'; name the one it has with --column url=NAME"):
        _run(table, tmp_path / "other")
    named = ReadConfig(url_column="where", caption_column="words")
    assert _run(table, tmp_path / "other", reading=named).counts["kept"] == 1


@pytest.mark.slow
def test_run__on_ray_gives_the_same_bytes(web: Any, tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv", web[0], [f"img/{number}.jpg" for number in range(12)])
    _run(table, tmp_path / "here")
    _run(table, tmp_path / "ray", CONFIG.model_copy(update={"workers": 2}), engine=Engine("ray"))
    assert _bytes(tmp_path / "ray") == _bytes(tmp_path / "here")


def test_commands__from_a_table_to_shards(web: Any, tmp_path: Path) -> None:
    table = _table(tmp_path / "mine.csv", web[0], [*(f"img/{number}.jpg" for number in range(6)), "403/1"])
    raw = tmp_path / "raw"
    done = cusa("download", table, "--out", raw, "--set", "private=listed", "--set", "workers=1")
    assert done.returncode == 0, done.stderr
    assert f"next: cusa shard urls {raw} --out WORK" in done.stdout
    done = cusa("shard", "urls", raw, "--out", tmp_path / "work", "--workers", 1)
    assert done.returncode == 0, done.stderr
    drops = pq.read_table(tmp_path / "work/train/drops.parquet").to_pylist()
    assert {(row["kind"], row["reason"], row["detail"]) for row in drops if row["kind"] == "image"} == {
        ("image", "http-status", "HTTP 403")
    }
    done = cusa("download", "scenes", "--out", raw, "--column", "url=x")
    assert done.returncode == 2
    refused = cusa("shard", "urls", table, "--out", tmp_path / "straight", "--workers", 1)
    assert refused.returncode == 1
    assert "None of the 7 URLs" in refused.stderr


def test_command__straight_from_a_table_to_shards(web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "is_public", lambda address: True)  # this machine stands for the web
    table = _table(tmp_path / "mine.csv", web[0], [*(f"img/{number}.jpg" for number in range(6)), "403/1"])
    command = ["shard", "urls", str(table), "--out", str(tmp_path / "work"), "--workers", "1", "--resize", "48"]
    done = CliRunner().invoke(cli.app, [*command, "--split", "test", "--json"])
    assert done.exit_code == 0, done.output
    fetched, sharded = json.loads(done.stdout)
    assert (fetched["stage"], fetched["counts"]["kept"], fetched["out"]) == ("download", 6, str(tmp_path / "work-raw"))
    assert (sharded["stage"], sharded["counts"]["images_kept"], sharded["counts"]["images_dropped"]) == ("shard", 6, 1)
    samples = store.read_table(tmp_path / "work/test/samples.parquet")
    assert set(samples["height"].to_pylist()) == {48}
    again = CliRunner().invoke(cli.app, [*command, "--split", "test", "--json"])
    assert [one["fresh"] for one in json.loads(again.stdout)] == [False, False]


OF_CONTENT = {
    "max_bytes": 1 << 21,
    "max_pixels": 50_000_000,
    "min_side": 9,
    "resize": 64,
    "quality": 80,
    "robots": False,
    "refused_tags": ("noai",),
}
"""Settings that decide which pictures are kept and what their bytes are."""


def test_run__each_setting_of_the_content_is_another_folder_and_no_other_is(web: Any, tmp_path: Path) -> None:
    table, out = _table(tmp_path / "t.csv", web[0], ["img/1.jpg"]), tmp_path / "raw"
    _run(table, out)
    before = _bytes(out)

    def why(config: UrlsConfig = CONFIG, **more: Any) -> str:
        with asking():
            try:
                _run(table, out, config, **more)
            except NotCurrentError as due:
                return due.why
        return ""

    assert why() == ""
    for name, value in OF_CONTENT.items():
        changed = CONFIG.model_copy(update={name: value})
        assert why(changed).startswith(f"{name} was "), name
        with pytest.raises(StaleError, match=name):
            _run(table, out, changed)
    for name in set(UrlsConfig.model_fields) - set(OF_CONTENT):
        value = getattr(CONFIG, name)
        other = "allow" if name == "private" else f"{value}x" if isinstance(value, str) else value + 1
        assert why(CONFIG.model_copy(update={name: other})) == "", name
    for name in ("dataset", "caption_column", "split_column", "label_column", "id_column", "url_column", "split"):
        assert why(reading=ReadConfig(**{name: "another"})).startswith(f"{name} was "), name
    for name in ("train_classes", "image_column"):
        assert why(reading=ReadConfig(**{name: "5-6"})) == "", "of other readers"
    assert why(force=True) == "--force"
    assert why(retry=True) == "", "nothing failed"
    assert _bytes(out) == before
    table.write_text(table.read_text() + "\n")
    assert why() == "table changed"


def test_retry__each_repair_writes_a_tar_of_its_own_and_keeps_what_came_before(web: Any, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    table = _table(
        tmp_path / "t.csv", web[0], ["img/1.jpg", "inside/2.jpg", "busy/256.jpg"]
    )  # which comes the third time
    once = CONFIG.model_copy(update={"retries": 0})
    allowed = once.model_copy(update={"private": "allow"})
    first = _run(table, out, once)
    assert first.notes == (
        f"Every URL's reason stands in {out}/fetched/*.parquet; `--retry failed` tries those again.",
    )
    log = pq.read_table(out / "fetched/00000.log.parquet").to_pylist()
    for generation, kept in ((1, 2), (2, 3)):
        done = _run(table, out, allowed, retry=True)
        assert done.counts["kept"] == kept
        assert [file.name for file in (out / "fetched").glob("*.tar")] == [f"00000.{generation}.tar"]
    assert done.notes == ()
    pictures = {"img/1.jpg": picture(1), "inside/2.jpg": picture(2), "busy/256.jpg": picture(0)}
    for name, row in _fetched(out).items():
        with (out / row["file"]).open("rb") as tar:
            tar.seek(row["offset"])
            assert tar.read(row["bytes"]) == pictures[name]
    after = pq.read_table(out / "fetched/00000.log.parquet").to_pylist()
    assert after[0] == log[0], "what was kept is not asked for again"
    assert [row["tries"] for row in after] == [1, 1, 1]
    assert [row["key"] for row in after] == [row["key"] for row in pq.read_table(out / "urls.parquet").to_pylist()]
    assert [row["received"] for row in after] == [len(data) for data in pictures.values()]


def test_run__what_no_unit_names_is_removed(web: Any, tmp_path: Path) -> None:
    table, out = _table(tmp_path / "t.csv", web[0], ["img/1.jpg"]), tmp_path / "raw"
    _run(table, out)
    before = _bytes(out)
    for name in ("00000.5.tar", "00007.tar", "00007.parquet", "00007.log.parquet"):
        (out / "fetched" / name).write_bytes(b"x")
    (out / "ledger.json").unlink()
    _run(table, out)
    assert _bytes(out) == before


@pytest.mark.parametrize(
    ("urls_", "workers", "per_host", "sizes", "each"),
    [
        *((1, 1, 16, [1], 16), (40, 1, 16, [10] * 4, 16), (40, 2, 16, [5] * 8, 8), (3, 8, 16, [1] * 3, 5)),
        *((200, 1, 3, [16] * 12 + [8], 3), (40, 8, 3, [2] * 20, 1)),
    ],
)
def test_run__units_and_requests_to_a_host_shared_among_processes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    urls_: int,
    workers: int,
    per_host: int,
    sizes: list[int],
    each: int,
) -> None:
    given: list[Batch] = []

    def note(function: Any, batches: list[Batch], **more: Any) -> list[Any]:
        given.extend(batches)
        assert [more["weigh"](batch) for batch in batches] == sizes, "a unit is one URL here"
        return []

    monkeypatch.setattr(stage_module, "run_units", note)
    monkeypatch.setattr(stage_module.WarmPool, "start", lambda pool: None)
    table = _table(tmp_path / "t.csv", "http://a.org", [f"{number}.jpg" for number in range(urls_)])
    config = CONFIG.model_copy(update={"rows": 1, "workers": workers, "per_host": per_host})
    with pytest.raises(DataError, match="None of the 0 URLs"):
        _run(table, tmp_path / "raw", config)
    assert [len(batch.units) for batch in given] == sizes
    assert [unit.number for batch in given for unit in batch.units] == list(range(urls_))
    assert {batch.per_host for batch in given} == {each}


def test_run__the_data_set_is_called_by_its_table_or_as_one_says(web: Any, tmp_path: Path) -> None:
    table = _table(tmp_path / "my table!.csv", web[0], ["img/1.jpg"])
    for out, reading, name in (("a", None, "my_table_"), ("b", ReadConfig(dataset="mine"), "mine")):
        done = _run(table, tmp_path / out, reading=reading)
        assert json.loads((tmp_path / out / "settings.json").read_text())["dataset"] == name
        read = readers.read("urls", tmp_path / out)
        assert (read.dataset, [image.key.partition("/")[0] for image in read.images]) == (name, [name])
        assert f"<h1>Fetched: {name}</h1>" in (tmp_path / out / "index.html").read_text()
        assert {name: done.counts[name] for name in ("rows", "urls", "kept", "dropped", "tars", "gone")} == {
            **{"rows": 1, "urls": 1, "kept": 1, "dropped": 0, "tars": 1, "gone": 0},
        }
        assert done.counts["bytes"] == len(picture(1))
    with pytest.raises(DataError, match=r"none\.csv does not exist or is no file"):
        _run(tmp_path / "none.csv", tmp_path / "c")
