"""The command line as a program: what it prints where, exit codes, and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cusa.manifests import store
from tests.worlds import make_work, write_karpathy

CUSA = [sys.executable, "-c", "from cusa.cli import main; main()"]


def cusa(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CUSA, *map(str, arguments)], capture_output=True, text=True, **more)


def test_help_answers_at_once() -> None:
    fastest = min(_seconds("--help") for _ in range(3))
    # A generous bound: torch alone takes longer than this to import.
    assert fastest < 1.0


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    done = cusa(*arguments)
    assert done.returncode == 0
    return time.perf_counter() - start


def test_shard__prints_data_to_stdout_and_progress_to_stderr(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    arguments = ("shard", "karpathy", source, "--images", source.parent, "--out", tmp_path / "work", "--workers", 1)
    done = cusa(*arguments)
    assert done.returncode == 0, done.stderr
    assert "6 images read" in done.stdout
    assert "shard: 3/3" in done.stderr
    again = cusa(*arguments)
    assert again.stdout.strip() == f"shard: {tmp_path / 'work'} is up to date"
    as_json = json.loads(cusa(*arguments, "--json").stdout)
    assert as_json[0]["counts"]["images_kept"] == 6
    assert as_json[0]["fresh"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shrad",), 2, "No such command"),
        (("shard", "karpathy"), 2, "Missing argument"),
        (("shard", "karpathi", "x", "--images", ".", "--out", "w"), 2, "Did you mean 'karpathy'?"),
        (("shard", "karpathy", "nowhere.json", "--images", ".", "--out", "w"), 1, "nowhere.json does not exist"),
        (("shard", "karpathy", "x", "--images", ".", "--out", "w", "--max-images", "0"), 2, "--max-images 0"),
        (("extract-teachers", "nowhere", "--image", "offline-gist"), 1, "nowhere does not exist"),
        (("extract-teachers", "nowhere"), 2, "at least one teacher"),
    ],
)
def test_errors__one_message_an_honest_code_and_no_traceback(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = cusa(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_debug__shows_the_traceback(tmp_path: Path) -> None:
    done = cusa("--debug", "extract-teachers", tmp_path / "nowhere", "--image", "offline-gist")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/mounts").exists(), reason="needs a read-only folder")
def test_read_only_output_is_explained(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=1)
    locked = tmp_path / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # root writes anywhere but on a read-only mount
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)], capture_output=True)
        if mounted.returncode:
            pytest.skip("cannot mount here")
    else:
        locked.chmod(0o500)
    try:
        done = cusa("shard", "karpathy", source, "--images", source.parent, "--out", locked / "work")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(locked)], check=True)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Choose another --out" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_shard__a_signal_leaves_whole_files_and_the_next_run_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    source = write_karpathy(tmp_path / "raw", images=400, splits=("train",))
    options = ("--images", source.parent, "--workers", 1, "--max-images", 5)
    work = tmp_path / "work"
    process = subprocess.Popen(
        [*CUSA, *map(str, ("shard", "karpathy", source, "--out", work, *options))], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(work.glob("train/*.tar"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "run the same command again to go on" in stderr
    assert not list(work.rglob(f"{store.TEMPORARY}*"))
    assert not (work / "shard.ledger.json").exists()
    marks = [path.stem for path in work.glob("train/.units/*.json")]
    kept = {path: path.stat().st_mtime_ns for path in work.glob("train/*.tar") if path.stem in marks}
    assert 2 <= len(kept) < 80
    assert cusa("shard", "karpathy", source, "--out", work, *options).returncode == 0
    assert len(list(work.glob("train/*.tar"))) == 80
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_extract__a_hub_name_without_network_is_explained(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = cusa("extract-teachers", work, "--text", "no-such-model-anywhere", env=environment)
    assert done.returncode == 1
    assert "cannot be loaded" in done.stderr
    done = cusa("extract-teachers", work, "--text", tmp_path / "empty-folder")
    assert done.returncode == 1
    assert "is no folder" in done.stderr
