"""Bringing a data set: the command that comes next is one that `cusa shard` or `cusa eval` takes."""

from importlib import resources
from pathlib import Path

import pytest

from cusa.errors import ConfigError
from cusa.manifests import datasets
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import place
from cusa.pipeline import download as fetching
from cusa.pipeline import readers, urls
from cusa.pipeline.config import DownloadConfig, ReadConfig, ShardConfig, UrlsConfig
from cusa.pipeline.engine import Engine
from cusa.workflow import download
from tests.cli import calls


@pytest.mark.parametrize("name", ["scenes", *datasets.names()])
def test_next_command__names_a_layout_that_shard_knows_or_what_eval_takes(name: str) -> None:
    program, command, *words = download.next_command(name, Path("raw") / name).split()
    assert program == "cusa"
    if command == "shard":
        assert words[0] in readers.READERS
        assert words[1].startswith(f"raw/{name}")
        assert words[2:] == ["--out", f"work/{name}"]
    else:
        assert name in ("sts", "cxc", "eccv-caption")
        assert words[-2:] == ["--data", f"raw/{name}"]


def test_download__a_manifest_s_files_with_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = calls.record(monkeypatch, fetching, "run", calls.outcome("download"))
    events = lambda *event: None  # noqa: E731
    told = {"lock": tmp_path / "lock.json", "only_failed": True, "force": True, "on_event": events}
    download.download("coco", out=tmp_path, settings=["workers=3"], **told)  # type: ignore[arg-type]
    own = tmp_path / "own.toml"
    own.write_text((resources.files("cusa.manifests.datasets") / "coco.toml").read_text(encoding="utf-8"))
    download.download(str(own), out=tmp_path)
    coco = datasets.load("coco")
    assert fetched[0] == {"config": DownloadConfig(workers=3), "dataset": coco, "out": tmp_path, **told}
    plain = {"config": DownloadConfig(), "lock": None, "only_failed": False, "force": False}
    assert {name: fetched[1][name] for name in plain} == plain
    assert fetched[1]["dataset"].files == coco.files
    with pytest.raises(ConfigError, match=r"There is no data set 'cocoo' to bring\. Did you mean 'coco'"):
        download.download("cocoo", out=tmp_path)
    assert len(fetched) == 2


def test_download__drawn_scenes_are_due_when_a_setting_changed(tmp_path: Path) -> None:
    small = ["train=3", "val=2", "test=1", "size=32"]

    def bring(*settings: str, force: bool = False) -> Outcome:
        return download.download("scenes", out=tmp_path / "raw", settings=[*small, *settings], force=force)

    done = bring()
    assert (done.fresh, done.counts) == (True, {"images": 6})
    rows = {split: store.read_table(tmp_path / f"raw/truth-{split}.parquet") for split in ("train", "val", "test")}
    for split, table in rows.items():
        assert {key.partition("#")[0] for key in table["caption_key"].to_pylist()} == set(
            table["image_key"].to_pylist()
        ), split
    assert [bring().fresh, bring(force=True).fresh, bring("seed=1").fresh] == [False, True, True]
    (tmp_path / "raw/truth-val.parquet").unlink()
    assert bring("seed=1").fresh, "an output is missing"


def test_fetch_for_shards__with_the_bounds_that_its_shards_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = calls.record(monkeypatch, urls, "run", calls.outcome("download"))
    sharding = ShardConfig(max_pixels=7, min_side=5, resize=99, quality=55, workers=3)
    reading, engine = ReadConfig(url_column="u"), Engine("ray", "head:1")
    told = {"reading": reading, "engine": engine, "on_event": lambda *event: None}
    download.fetch_for_shards(tmp_path / "t.csv", raw=tmp_path / "raw", sharding=sharding, **told)  # type: ignore[arg-type]
    config = UrlsConfig(max_pixels=7, min_side=5, resize=99, quality=55, workers=3)
    assert fetched == [{"config": config, "table": tmp_path / "t.csv", "out": tmp_path / "raw", **told}]
    with pytest.raises(ConfigError, match="Pictures are fetched into a folder of this machine"):
        download.fetch_for_shards(tmp_path / "t.csv", raw=place("memory://raw"), sharding=sharding, **told)  # type: ignore[arg-type]


def test_is_table_and_folder_for__by_their_names() -> None:
    tables = ["a.csv", "a.TSV", "b/a.parquet", "a.jsonl"]
    assert [download.is_table(Path(name)) for name in (*tables, "a.json", "a.toml", "csv", "coco")] == [
        *[True] * 4,
        *[False] * 4,
    ]
    assert download.folder_for(Path("w/coco")) == Path("w/coco-raw")
