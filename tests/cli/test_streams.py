"""The command line on terminals and in processes that lack what it would like to have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.worlds import make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("world"), images=2)


def _cusa(*words: object, shell: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command, by a shell where a stream is to be closed."""
    command = [sys.executable, "-m", "cusa", *map(str, words)]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env})


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_terminal_without_unicode_gets_escapes(work: Path, form: str) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = _cusa("sql", work, "select 'dé — ü' as words", "--format", form, **ascii_only)
    assert done.returncode == 0, done.stderr
    assert ("d\\u00e9 \\u2014 \\u00fc" if form == "json" else "d\\xe9 \\u2014 \\xfc") in done.stdout
    done = _cusa("list", "dé", **ascii_only)
    assert done.returncode == 2
    assert "error: Invalid value for 'WHAT': 'd\\udcc3\\udca9' is not one of 'datasets'" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_lose_their_text_and_nothing_else(work: Path, tmp_path: Path) -> None:
    done = _cusa("list", "nothing", shell="2>&-")
    assert (done.returncode, done.stdout) == (2, ""), "an error is no data"
    done = _cusa("list", "layouts", shell=">&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = _cusa("sql", work, "select 1 as one", "--out", tmp_path / "one.csv", "--format", "csv", shell="<&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "one.csv").read_text() == "one\n1\n"


def test_a_home_folder_the_shell_left_alone_is_the_home_folder(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "empty.jsonl").write_text("")
    for words in (
        ("calibrate", "~/none", "--out=~/c.json"),
        ("sweep", "tiny", "--grid", "seed=1", "--data=~/none", "--out=~/s"),
        ("plan", "tiny", "--data=~/none", "--out=~/p"),
        ("export", "~/none", "--to", "hf", "--out=~/e"),
    ):
        done = _cusa(*words, HOME=str(tmp_path / "home"))
        assert str(tmp_path / "home/none") in done.stderr + done.stdout, words
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "nothing", "--to", "nix", "--out", "x"), "'nix' is not one of 'folder', 'hf'"),
        (("eval", "nothing", "--data", "{work}", "--tasks", "cross"), "There is no task 'cross'"),
        (("eval", "nothing", "--data", "{work}", "--tasks", "all,cross"), "There is no task 'cross'"),
        (("calibrate", "{work}", "--split", "val", "--test", "val", "--out", "c.json"), "--test val is the split"),
        (("eval", "nothing", "--data", "{file}"), "is a file, not a folder"),
    ],
)
def test_what_needs_no_model_is_checked_before_one_is_loaded(
    work: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").touch()
    done = _cusa(*(word.format(work=work, file=tmp_path / "file") for word in words))
    assert done.returncode in (1, 2)
    assert message in done.stderr
