"""What makes a stage due: each of its settings, and each thing that it reads; nothing else does."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import BusyError
from cusa.manifests import lock
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.settings import Settings
from cusa.manifests.stage import NotCurrentError, Outcome, asking
from cusa.manifests.storage import store
from cusa.pipeline import audit, calibrate, extract, index, probe, publish, readers, shard
from cusa.pipeline.calibrate import fit, in_batch
from cusa.pipeline.config import (
    AuditConfig,
    CalibrateConfig,
    ExtractConfig,
    IndexConfig,
    PairsConfig,
    ProbeConfig,
    PublishConfig,
    ShardConfig,
)
from cusa.pipeline.extract import import_features
from cusa.pipeline.own_pairs import issues, planted
from cusa.pipeline.own_pairs import stage as own_pairs
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.pairs.ratings import RatedSplit
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import load
from tests.pipeline.calibrate.conftest import write_truth
from tests.worlds import write_karpathy

CONFIGS: dict[str, Settings] = {
    "shard": ShardConfig(max_images=5, workers=1),
    "extract image": ExtractConfig(),
    "extract text": ExtractConfig(),
    "import": ExtractConfig(),
    "index": IndexConfig(neighbours=20),
    "calibrate": CalibrateConfig(neighbours=4, pairs=300, background=100),
    "calibrate batches": CalibrateConfig(neighbours=4, pairs=300, background=100),
    "audit": AuditConfig(neighbours=4, gallery=2, shipped=False),
    "issues": PairsConfig(gallery=2),
    "pairs": PairsConfig(gallery=2),
    "probe": ProbeConfig(edits=3),
    "publish": PublishConfig(workers=1),
}

WITHOUT_EFFECT = {
    "shard": {"workers"},
    "extract image": {"batch_size", "workers", "weights", "transform"},
    "extract text": {"batch_size", "workers", "weights"},
    "import": {"batch_size", "workers", "weights", "transform", "precision"},
    "issues": {"seed", "better", "gallery"},
    "probe": {"batch_size"},
    "publish": {"workers"},
}
"""Settings that change no byte of what a stage writes; `weights` says where a published file lies."""

ELSEWHERE = {"extract image": {"name"}, "extract text": {"name"}, "import": {"name"}}
"""Settings by which a stage writes to another place."""


SAID = {
    ("extract image", "precision"): "precision_asked was ",
    ("extract text", "precision"): "precision_asked was ",
    ("audit", "leaks"): "split test changed",
    ("publish", "name"): "facts changed",
    ("publish", "licence"): "facts changed",
    ("publish", "url"): "facts changed",
}
"""Settings that are told otherwise than by their names."""


def _run(root: Path, stage: str, config: Settings | None = None, **more: Any) -> Outcome:
    """Run a stage of the world at `root`, which reads the validation split, and the test split to be tested on."""
    work, made = root / "work", config or CONFIGS[stage]
    val = Split(work, "val") if work.is_dir() else None
    runs: dict[str, Callable[..., Outcome]] = {
        "shard": lambda c, **m: shard.run(c, reading=readers.read("karpathy", *_source(root)), out=work, **m),
        "extract image": lambda c, **m: extract.run(c, split=val, teacher="colours", modality="image", load=load, **m),
        "extract text": lambda c, **m: extract.run(c, split=val, teacher="words", modality="text", load=load, **m),
        "import": lambda c, **m: import_features.run(
            c,
            split=val,
            features=import_features.read_features(root / "f.npz"),
            sha256=store.sha256_file(root / "f.npz"),
            teacher="theirs",
            modality="image",
            **m,
        ),
        "index": lambda c, **m: index.run(c, split=val, teacher="words", **m),
        "calibrate": lambda c, **m: calibrate.run(
            c, split=val, out=root / "p.json", **{"test": _test(root), **CHOSEN, **m}
        ),
        "calibrate batches": lambda c, **m: in_batch.run(
            c, split=val, out=root / "b.json", **{"test": _test(root), **CHOSEN, **m}
        ),
        "audit": lambda c, **m: audit.run(c, split=val, **{"calibrated": root / "used.json", **CHOSEN, **m}),
        "issues": lambda c, **m: issues.run(c, split=val, **m),
        "pairs": lambda c, **m: own_pairs.run(c, split=val, **{**CHOSEN, **m}),
        "probe": lambda c, **m: probe.run(c, split=val, teacher="words", load=load, **m),
        "publish": lambda c, **m: publish.run(c, work=work, out=root / "export", **{"to": "parquet", **m}),
    }
    return runs[stage](made, **more)


CHOSEN: dict[str, Any] = {"encoders": Encoders("colours", "words")}


def _source(root: Path) -> tuple[Path, Path]:
    return root / "raw/dataset_mini.json", root / "raw"


def _test(root: Path) -> RatedSplit:
    return RatedSplit(Split(root / "work", "test"))


def _teach(root: Path, name: str, config: ExtractConfig = ExtractConfig()) -> None:
    split = Split(root / "work", name)
    for teacher, modality in (("colours", "image"), ("words", "text")):
        extract.run(config, split=split, teacher=teacher, modality=modality, load=load)
        index.run(IndexConfig(neighbours=20), split=split, teacher=teacher)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in which every stage is up to date."""
    root = tmp_path_factory.mktemp("due")
    write_karpathy(root / "raw", images=24, splits=("val", "test"))
    _run(root, "shard")
    for name in ("val", "test"):
        _teach(root, name)
        write_truth(root / "work", name)
    keys = Split(root / "work", "val").image_keys
    rows = np.random.default_rng(0).normal(size=(len(keys), 6)).astype(np.float32)
    np.savez(root / "f.npz", ids=np.array(keys), features=rows)
    with pytest.MonkeyPatch.context() as patch:  # no setting depends on how much is drawn
        patch.setattr(planted, "_PLANTED", 300)
        patch.setattr(fit, "_RESAMPLES", 2)
        patch.setattr(in_batch, "_RANDOM", 3000)
        _run(root, "calibrate")
        shutil.copy(root / "p.json", root / "used.json")
        for stage in CONFIGS:
            _run(root, stage)
    for stage in CONFIGS:
        assert not _why(root, stage), stage
    return root


@pytest.fixture
def world(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "world"))


def _why(root: Path, stage: str, config: Settings | None = None, **more: Any) -> str:
    with asking():
        try:
            _run(root, stage, config, **more)
        except NotCurrentError as due:
            return due.why
    return ""


def _others(config: Settings) -> Iterator[tuple[str, Settings]]:
    """Give each setting's name, with the configuration in which it alone is another."""
    for name, field in type(config).model_fields.items():
        value, kind = getattr(config, name), field.annotation
        if get_origin(kind) is Literal:
            other = next(word for word in get_args(kind) if word != value)
        elif isinstance(value, bool):
            other = not value
        elif isinstance(value, int):
            other = value + 1
        else:
            other = (value * 0.9 or 0.5) if isinstance(value, float) else f"{value}x"
        yield name, config.model_copy(update={name: other})


@pytest.mark.parametrize("stage", CONFIGS)
def test_each_setting_makes_its_stage_due_and_is_named(finished: Path, stage: str) -> None:
    without, elsewhere = WITHOUT_EFFECT.get(stage, set()), ELSEWHERE.get(stage, set())
    seen = set()
    for name, other in _others(CONFIGS[stage]):
        why = _why(finished, stage, other)
        seen.add(name)
        if name in without:
            assert not why, name
        elif name in elsewhere:
            assert why == "never finished", name
        else:
            assert why.startswith(SAID.get((stage, name), f"{name} was ")), (name, why)
    assert without | elsewhere <= seen


@pytest.mark.parametrize(
    ("stage", "asked", "due"),
    [
        ("calibrate", {"test": None}, True),
        ("calibrate", {"encoders": Encoders("none", "words")}, True),
        ("calibrate batches", {"test": None}, True),
        ("calibrate batches", {"encoders": Encoders("colours", "none")}, True),
        ("audit", {"encoders": Encoders("none", "words"), "calibrated": None}, True),
        ("pairs", {"encoders": Encoders("none", "words")}, True),
        ("pairs", {"encoders": Encoders("colours", "words", "a student that is not looked at")}, False),
        ("publish", {"to": "webdataset"}, True),
    ],
)
def test_what_else_is_asked_makes_a_stage_due(finished: Path, stage: str, asked: dict[str, Any], due: bool) -> None:
    assert bool(_why(finished, stage, **asked)) == due


@pytest.mark.parametrize("stage", CONFIGS)
def test_force_makes_every_stage_due(finished: Path, stage: str) -> None:
    assert _why(finished, stage, force=True) == "--force"


def _reshard(root: Path) -> None:
    _run(root, "shard", ShardConfig(max_images=4, workers=1))


def _other_rows(name: str, teacher: str) -> Callable[[Path], None]:
    """Make the rows of a teacher's table others, under a name and metadata that stay."""

    def change(root: Path) -> None:
        split = Split(root / "work", name)
        modality = {"colours": "image", "words": "text"}[teacher]
        made = load(teacher, modality)
        encode = made.encode
        made.encode = lambda items: -encode(items)
        extract.run(ExtractConfig(), split=split, teacher=teacher, modality=modality, load=lambda *_: made, force=True)

    return change


def _reindexed(name: str, teacher: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        index.run(IndexConfig(neighbours=21), split=Split(root / "work", name), teacher=teacher)

    return change


def _less_truth(name: str) -> Callable[[Path], None]:
    """Leave out the first pair that is no own one."""

    def change(root: Path) -> None:
        split = Split(root / "work", name)
        path = split.folder / "truth.parquet"
        rows = pq.read_table(path)
        foreign = next(
            at
            for at, row in enumerate(rows.to_pylist())
            if split.caption_owner[split.caption_row[row["caption_key"]]] != split.image_row[row["image_key"]]
        )
        store.write_table(path, pa.concat_tables([rows.slice(0, foreign), rows.slice(foreign + 1)]))

    return change


def _a_verdict(root: Path) -> None:
    split = Split(root / "work", "val")
    with Journal(split.folder / "audit") as journal:
        row = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[-1]}
        journal.append(make(0, "no match", **row))


def _another_calibration(root: Path) -> None:
    content = store.read_json(root / "used.json")
    content["intercept"] += 1
    store.write_json(root / "used.json", content)


def _other_features(root: Path) -> None:
    keys = Split(root / "work", "val").image_keys
    np.savez(root / "f.npz", ids=np.array(keys), features=np.eye(len(keys), dtype=np.float32) + 0.1)


def _other_issues(root: Path) -> None:
    path = root / "work/val/audit/pairs" / issues.TABLE
    table = pq.read_table(path)
    row = {"modality": "text", "key": Split(root / "work", "val").caption_keys[3], "issue": "one", "value": 1.0}
    more = pa.Table.from_pylist([row], schema=table.schema)
    store.write_table(path, pa.concat_tables([table, more]))


def _another_audit(root: Path) -> None:
    _run(root, "audit", CONFIGS["audit"].model_copy(update={"minimum_score": 0.9}))


CHANGES: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "the images lie in other tars": (
        _reshard,
        {
            "audit": "pairs of test changed",
            "calibrate": "pairs of test of val changed",
            "calibrate batches": "test changed",
            "extract image": "split changed",
            "extract text": "split changed",
            "import": "split changed",
            "index": "split changed",
            "issues": "split changed",
            "pairs": "pairs of test changed",
            "probe": "split changed",
            "publish": "test changed",
        },
    ),
    "rows of val's image teacher": (
        _other_rows("val", "colours"),
        {
            "audit": "teacher colours changed",
            "calibrate": "pairs of val of test changed",
            "calibrate batches": "teacher colours of val changed",
            "pairs": "teacher colours changed",
        },
    ),
    "rows of val's text teacher": (
        _other_rows("val", "words"),
        {
            "audit": "teacher words changed",
            "calibrate": "pairs of val of test changed",
            "calibrate batches": "teacher words of val changed",
            "index": "teacher changed",
            "pairs": "teacher words changed",
            "probe": "teacher table changed",
        },
    ),
    **{
        f"rows of test's {teacher}": (
            _other_rows("test", teacher),
            {
                "audit": "pairs of test changed",
                "calibrate": "pairs of test of val changed",
                "calibrate batches": f"teacher {teacher} of test changed",
                "pairs": "pairs of test changed",
            },
        )
        for teacher in ("colours", "words")
    },
    "neighbours of val's image teacher": (
        _reindexed("val", "colours"),
        {
            "audit": "neighbours colours changed",
            "calibrate": "neighbours colours of val changed",
            "pairs": "neighbours colours changed",
        },
    ),
    "neighbours of val's text teacher": (
        _reindexed("val", "words"),
        {
            "audit": "neighbours words changed",
            "calibrate": "neighbours words of val changed",
            "index": "neighbours was 21 and is now 20",
            "pairs": "neighbours words changed",
        },
    ),
    **{
        f"neighbours of test's {teacher}": (
            _reindexed("test", teacher),
            {"calibrate": f"neighbours {teacher} of test changed"},
        )
        for teacher in ("colours", "words")
    },
    "val's truth": (
        _less_truth("val"),
        {
            "audit": "truth changed",
            "calibrate": "ratings of val changed",
            "calibrate batches": "ratings of val changed",
        },
    ),
    "test's truth": (
        _less_truth("test"),
        {"calibrate": "ratings of test changed", "calibrate batches": "ratings of test changed"},
    ),
    "a verdict": (
        _a_verdict,
        {
            "audit": "judgements changed",
            "calibrate": "ratings of val changed",
            "calibrate batches": "ratings of val changed",
        },
    ),
    "the calibration that is used": (_another_calibration, {"audit": "calibration changed"}),
    "the file that was imported": (_other_features, {"import": "features changed"}),
    "faults of pictures and captions": (_other_issues, {"issues": "issues.parquet has", "pairs": "issues changed"}),
    "the audit": (_another_audit, {"audit": "minimum_score was", "publish": "facts changed"}),
    "nothing": (lambda root: None, {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_stage_reads_makes_it_due(world: Path, change: str) -> None:
    make_change, due = CHANGES[change]
    make_change(world)
    # The pictures of the copied world lie elsewhere, which is another thing to shard.
    why = {stage: _why(world, stage) for stage in CONFIGS if stage != "shard"}
    assert {stage: said[: len(due.get(stage, said))] for stage, said in why.items() if said} == due


IN_A_SPLIT = ("extract image", "extract text", "import", "index", "audit", "issues", "pairs", "probe")


@pytest.mark.parametrize("stage", IN_A_SPLIT)
def test_no_stage_writes_into_a_split_that_another_process_writes_anew(
    finished: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Split(finished / "work", "val").locks
    holder = lock.Holder("there", 1, "cusa shard", "now")
    monkeypatch.setattr(lock, "holder", lambda path: holder if path in of else None)
    with pytest.raises(BusyError, match="cusa shard"):
        _run(finished, stage, force=True)
    monkeypatch.undo()
    assert not _why(finished, stage), "what was there is still up to date"
