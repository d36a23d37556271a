"""Remote places: the stages on a real S3 server on this machine, and its refusals in words."""

import json
import os
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from cusa.errors import BusyError, ConfigError, DataError
from cusa.manifests import ledger, lock
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import (
    expand,
    is_remote,
    named_remote_errors,
    place,
    refuse_undecodable,
    without_folders,
)
from cusa.pipeline import audit, extract, index, readers, shard, verify
from cusa.pipeline.audit import units
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.engine import Workers
from cusa.pipeline.index import units as index_units
from cusa.pipeline.units.sharing import UnitRange, sharing
from tests.cli.test_cli import cusa, cusa_here
from tests.pipeline.audited import make_taught
from tests.worlds import Colours, make_work, write_karpathy


def test_place__paths_stay_paths_and_urls_become_places() -> None:
    assert place("a/b") == Path("a/b")
    assert isinstance(place("a/b"), Path)
    assert place("file:///a/b") == Path("/a/b")
    assert not is_remote(Path("s3"))
    remote = place("memory://a/b.txt")
    assert is_remote(remote)
    assert (remote.name, remote.parent.name, str(remote / ".." / "c")) == ("b.txt", "a", str(remote / ".." / "c"))
    with pytest.raises(ConfigError, match=r"No file system answers to s4://.*Did you mean 's3'"):
        place("s4://bucket/x")
    for address in ("s3://key:secret@bucket/x", "S3://key:secret@bucket", "ftp://anna@host/a@b"):
        with pytest.raises(ConfigError, match="holds credentials") as caught:
            place(address)
        assert not any(word in str(caught.value) for word in ("secret", "anna"))
    kept = place("memory://bucket/a@b.txt")
    assert (kept.name, place(kept) is kept) == ("a@b.txt", True), "behind the host it is a letter as any other"
    assert is_remote(place("MEMORY://a/b"))


def test_place__the_home_folder_also_where_no_shell_expanded_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("~/work") == expand("~/work") == tmp_path / "work"
    assert place("a/~") == Path("a/~")
    with pytest.raises(ConfigError, match=r"~nobody-here/x: there is no such home folder .*\./~nobody-here/x"):
        place("~nobody-here/x")


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("on", True), ("Yes", True), ("TRUE", True), ("0", False)])
def test_place__the_hub_only_where_its_client_may_ask_it(
    monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    if offline:
        with pytest.raises(ConfigError, match=r"hf://datasets/a/b lies on the hub, and HF_HUB_OFFLINE forbids"):
            place("hf://datasets/a/b")
    else:
        pytest.importorskip("huggingface_hub")
        assert is_remote(place("hf://datasets/a/b"))


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs")])
def test_place__a_store_whose_package_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"{scheme}:// needs a package that is not installed .*pip install {package}`"
    ):
        place(f"{scheme}://bucket/x")


def test_refuse_undecodable__names_the_byte_that_is_no_text() -> None:
    refuse_undecodable(Path("größe/犬"))
    with pytest.raises(ConfigError, match=r"udce9.* is not UTF-8") as caught:
        refuse_undecodable(Path(os.fsdecode(b"a/w\xe9/b")))
    str(caught.value).encode()


class NoCredentialsError(Exception):
    """As a store's own library names it."""


class ClientError(Exception):
    """As S3's library has it: the store's own word lies in the answer."""

    def __init__(self, code: str) -> None:
        super().__init__("the answer\nin several lines")
        self.response = {"Error": {"Code": code}}


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("no"), "the store refused (PermissionError: no). Check the credentials"),
        (ClientError("AccessDenied"), "the store refused (ClientError: the answer). Check the credentials"),
        (_caused(OSError("x"), ClientError("InvalidAccessKeyId")), "the store refused (OSError: x)."),
        (ClientError("403"), "their rights on memory://bucket."),
        (NoCredentialsError("none"), "no credentials (NoCredentialsError: none). Put them into the environment"),
        (_caused(FileNotFoundError("x"), ClientError("NoSuchBucket")), "there is no bucket memory://bucket. Make it"),
        (OSError("The specified bucket does not exist."), "there is no bucket memory://bucket."),
        (FileNotFoundError("a.txt"), "it does not exist (FileNotFoundError: a.txt). Check the URL"),
        (ClientError("SlowDown"), "the store cannot be reached or answered wrongly (ClientError: the answer)."),
        (TimeoutError(), "the store cannot be reached or answered wrongly (TimeoutError: )."),
    ],
)
def test_named_remote_errors__what_a_store_answers_in_words(error: Exception, words: str) -> None:
    remote = place("memory://bucket/deep/a.txt")
    with pytest.raises(DataError) as caught, named_remote_errors(remote):
        raise error
    assert str(caught.value).startswith(f"{remote}: ")
    assert words in str(caught.value)
    assert caught.value.values["path"] == remote
    with pytest.raises(type(error)), named_remote_errors(Path("a.txt")):  # here it is the caller's
        raise error
    ours = ConfigError("Ours.")
    with pytest.raises(ConfigError, match="Ours") as passed, named_remote_errors(remote):
        raise ours
    assert passed.value is ours


def test_place__what_another_process_wrote_meanwhile_is_seen(bucket: str) -> None:
    import boto3

    there = place(f"{bucket}/work")
    (there / "a.txt").write_text("a")
    assert [path.name for path in there.iterdir()] == ["a.txt"]
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key="work/b.txt", Body=b"b")
    assert sorted(path.name for path in there.iterdir()) == ["a.txt", "b.txt"]
    assert (there / "b.txt").is_file()


def test_stages__on_s3_give_the_same_bytes_as_here(bucket: str, tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3)
    for file in sorted(source.parent.rglob("*")):
        if file.is_file():
            target = place(f"{bucket}/raw") / file.relative_to(source.parent).as_posix()
            target.write_bytes(file.read_bytes())
    config = ShardConfig(workers=1, max_images=2)
    local = make_work(tmp_path, images=3, config=config)
    raw, work = place(f"{bucket}/raw"), place(f"{bucket}/work")
    reading = readers.read("karpathy", raw / source.name, raw)
    outcome = shard.run(config, reading=reading, out=work)
    assert outcome.counts["images_kept"] == 9
    assert not shard.run(config, reading=reading, out=work).fresh
    assert splits(work) == ["train", "val", "test"]
    here, there = Split(local, "val"), Split(work, "val")
    assert here.digest == there.digest
    assert [here.image_bytes(row) for row in range(3)] == [there.image_bytes(row) for row in range(3)]
    assert (local / "val/00001.tar").read_bytes() == (work / "val/00001.tar").read_bytes()
    names = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    assert names == {path.relative_to(local).as_posix() for path in store.files_below(local)}
    extract.run(
        ExtractConfig(), split=there, teacher="colours", modality="image", load=lambda name, modality: Colours()
    )
    index.run(IndexConfig(neighbours=2), split=there, teacher="colours")
    assert verify.run(work, workers=1).findings == ()
    (work / "val/00001.tar").write_bytes(b"other")
    assert {finding.path for finding in verify.run(work, workers=1).findings} == {"val/00001.tar"}
    told = (work / "shard.ledger.json").read_text()
    assert "testing" not in told, "credentials are in no ledger"
    assert ledger.read(work / "shard.ledger.json") is not None


@pytest.mark.slow  # some hundred requests
def test_audit_and_index_in_units__on_s3_give_the_same_bytes_as_here(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "image_units", lambda number: [range(at, min(at + 5, number)) for at in (0, 5, 10)])
    monkeypatch.setattr(
        index_units, "row_units", lambda rows: [range(at, min(at + 5, rows)) for at in range(0, rows, 5)]
    )
    local, work = make_taught(tmp_path, images=12), place(f"{bucket}/work")
    for file in store.files_below(local):
        (work / file.relative_to(local).as_posix()).write_bytes(file.read_bytes())
    config = AuditConfig(neighbours=4, gallery=3)
    audit.run(config, split=Split(local, "train"))
    split = Split(work, "train")
    for words in ("0:3", "merge"):
        with sharing(Workers(1), UnitRange(words)):
            audit.run(config, split=split)
    indexed = (work / "train/index/neighbours-colours.parquet").read_bytes()
    for words in ("2:3", "0:2", "merge"):
        with sharing(Workers(1), UnitRange(words)):
            done = index.run(IndexConfig(neighbours=4), split=split, teacher="colours", force=True)
        assert words == "merge" or done.counts["units_in_all"] == 3
    assert (work / "train/index/neighbours-colours.parquet").read_bytes() == indexed
    there = {path.relative_to(work).as_posix(): path for path in (work / "train/audit").rglob("*") if path.is_file()}
    here = {path.relative_to(local).as_posix(): path for path in store.files_below(local / "train/audit")}
    assert there.keys() == here.keys()
    for name in here.keys() - {"train/audit/ledger.json"}:
        assert there[name].read_bytes() == here[name].read_bytes(), name


def test_lock__on_s3_is_an_object_that_is_created_once(bucket: str) -> None:
    path = place(f"{bucket}/run/{store.LOCK}")
    refused: list[BaseException] = []

    def other() -> None:
        try:
            lock._put_if_absent(path)
            with lock.holding(path):
                pass
        except BusyError as error:
            refused.append(error)

    with lock.holding(path):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
        assert lock._put_if_absent(path) is False
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert lock.holder(path) is None


def test_append_and_subset__on_s3(bucket: str, tmp_path: Path) -> None:
    config = ShardConfig(workers=1)
    work = place(f"{bucket}/work")
    for images, append in ((2, False), (3, True)):
        source = write_karpathy(tmp_path / f"raw{images}", images=images, splits=("train",))
        shard.run(config, reading=readers.read("karpathy", source), out=work, append=append)
    assert Split(work, "train").num_images == 3
    part = tmp_path / "part"
    shard.run(config, reading=readers.read_subset(work, [Split(work, "train").image_keys[2]]), out=part)
    assert Split(part, "train").image_bytes(0) == Split(work, "train").image_bytes(2)


def test_command_line__shards_to_s3_and_explains_what_goes_wrong(endpoint: str, bucket: str, tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=1)
    done = cusa("shard", "karpathy", source, "--out", f"{bucket}/work", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert cusa_here("verify", f"{bucket}/work").returncode == 0
    done = cusa_here("shard", "karpathy", source, "--out", "s3://no-such-bucket-here/work", "--workers", 1)
    assert done.returncode == 1
    assert "there is no bucket s3://no-such-bucket-here" in done.stderr
    assert "Traceback" not in done.stderr
    done = cusa_here("verify", "s3://no-such-bucket-here/work")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    bare = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env = {**bare, "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    done = cusa("verify", f"{bucket}/work", env=env)
    assert done.returncode == 1
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_credentials_are_told_as_such(endpoint: str, bucket: str) -> None:
    store.write_text(place(f"{bucket}/a.txt"), "a")
    _auth(endpoint, b"0")
    try:
        done = cusa_here("verify", f"{bucket}/work")
        assert done.returncode == 1
        assert "Check the credentials in the environment" in done.stderr
        assert "Traceback" not in done.stderr
        with pytest.raises(DataError, match="Check the credentials"):
            store.write_text(place(f"{bucket}/b.txt"), "b")
    finally:
        _auth(endpoint, b"inf")


def _auth(endpoint: str, after: bytes) -> None:
    """Make the server check signatures after so many requests."""
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=after, headers=plain)
    urllib.request.urlopen(request).close()


def test_unreachable_store_is_told_as_such(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote = place(f"{bucket}/a.txt")
    remote.fs.clear_instance_cache()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="cannot be reached"):
        store.write_text(place(f"{bucket}/a.txt"), "a")
    remote.fs.clear_instance_cache()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("the split /tmp/old demo/x/train as well", "the split old demo/x/train as well"),
        ("in /home/anna/work/train.", "in train."),
        ("(/models/all-MiniLM-L6-v2)", "(all-MiniLM-L6-v2)"),
        ("`cusa eval ~/runs/first --force`", "`cusa eval first --force`"),
        (r"C:\Users\anna\runs\first", "first"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("scenes/test, a/b, 1/2 and/or 3", "scenes/test, a/b, 1/2 and/or 3"),
        ("https://example.org/a/b.zip", "https://example.org/a/b.zip"),
        ("/ and /tmp", "/ and /tmp"),
    ],
)
def test_without_folders__cuts_absolute_paths_to_their_last_part(words: str, shown: str) -> None:
    assert without_folders(words) == shown
