"""`cusa download`: every option reaches what fetches: a manifest's files, drawn scenes, or a table of URLs."""

from pathlib import Path

import pytest

from cusa.pipeline import urls
from cusa.pipeline.config import ReadConfig, UrlsConfig
from cusa.pipeline.engine import LOCAL, Engine
from cusa.workflow import download
from tests.cli import calls

OF_URLS = {"--column", "--dataset", "--split"}
COLUMNS = {
    **{"image": "image_column", "caption": "caption_column", "split": "split_column", "label": "label_column"},
    **{
        "id": "id_column",
        "source": "source_column",
        "url": "url_column",
        "sha256": "sha256_column",
        "md5": "md5_column",
    },
}


def test_download__of_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, download, "download", calls.outcome("download"))
    out = tmp_path / "raw"
    out.mkdir()
    (out / "index.html").touch()
    printed = calls.every_option(
        *("download", "scenes", "--out", out, "--lock", tmp_path / "lock.json", "--retry", "failed", "--force"),
        *("--set", "train=7"),
        but={*OF_URLS, "--engine", "--address"},
    )
    told = {"lock": tmp_path / "lock.json", "only_failed": True, "settings": ["train=7"], "force": True}
    assert done == [{"name": "scenes", "out": out, **told, "on_event": "Console.event"}]
    assert printed.splitlines()[-2:] == [
        f"open: {out}/index.html",
        f"next: cusa shard karpathy {out}/dataset_scenes.json --out work/scenes",
    ]
    calls.plain("download", "scenes", "--out", out)
    told = {"lock": None, "only_failed": False, "settings": (), "force": False}
    assert done[1] == {"name": "scenes", "out": out, **told, "on_event": "Console.event"}
    for option, value in (("--column", "url=u"), ("--dataset", "d"), ("--split", "val"), ("--engine", "ray")):
        said = calls.refused("download", "scenes", "--out", out, option, value)
        assert f"A data set that has a manifest does not read {option}. Leave out" in said


def test_download__of_a_table_of_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, urls, "run", calls.outcome("download"))
    table, out = tmp_path / "t.csv", tmp_path / "raw"
    columns = [word for what in COLUMNS for word in ("--column", f"{what}=my {what}=x")]
    printed = calls.every_option(
        *("download", table, "--out", out, "--retry", "failed", "--force", "--dataset", "mine", "--split", "val"),
        *(*columns, "--set", "rows=7", "--engine", "ray", "--address", "head:1"),
        but={"--lock"},
    )
    names = {field: f"my {what}=x" for what, field in COLUMNS.items()}
    assert done == [
        {
            "config": UrlsConfig(rows=7),
            "table": table,
            "out": out,
            "reading": ReadConfig.model_validate({"dataset": "mine", "split": "val", **names}),
            "retry": True,
            "force": True,
            "engine": Engine("ray", "head:1"),
            "on_event": "Console.event",
        }
    ]
    assert printed.splitlines()[-1] == f"next: cusa shard urls {out} --out WORK"
    calls.plain("download", table, "--out", out)
    plain = {"config": UrlsConfig(), "reading": ReadConfig(), "retry": False, "force": False, "engine": LOCAL}
    assert done[1] == {**plain, "table": table, "out": out, "on_event": "Console.event"}
    assert "--lock is of manifests" in calls.refused("download", table, "--out", out, "--lock", "lock.json")
