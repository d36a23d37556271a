"""Whatever is changed after it was written is reported by name."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import DataError
from cusa.manifests import schemas, tables
from cusa.manifests.ledger import Clock
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import checksums, store
from cusa.pipeline import extract, index, verify
from cusa.pipeline.config import ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.download.stage import CONTENTS
from cusa.train import checkpoint
from tests.worlds import Colours, Words, make_work


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("verify"), images=6, config=ShardConfig(workers=1, max_images=4))
    for name in splits(work):
        for teacher in (Colours(), Words()):
            extract.run(
                ExtractConfig(),
                split=Split(work, name),
                teacher=teacher.name,
                modality=teacher.modality,
                load=lambda name, modality, teacher=teacher: teacher,
            )
    index.run(IndexConfig(neighbours=3), split=Split(work, "test"), teacher="words")
    return work


@pytest.fixture
def work(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "work")
    return tmp_path / "work"


def _findings(work: Path) -> list[tuple[str, str, str]]:
    return [(f.path, f.what, f.detail) for f in verify.run(work, workers=1).findings]


def test_run__what_was_written_is_as_it_was_written(whole: Path) -> None:
    done = verify.run(whole, workers=2)
    assert done.findings == ()
    assert done.samples == 18
    assert done.bytes > sum(tar.stat().st_size for tar in whole.glob("*/*.tar"))


def test_run__every_flipped_byte_of_a_tar_is_named(work: Path) -> None:
    tar = work / "train/00000.tar"
    data = tar.read_bytes()
    with tarfile.open(tar) as archive:
        places = {
            member.offset_data + offset: member.name
            for member in archive
            for offset in (0, member.size // 2, member.size - 1)
        }
    for place, name in list(places.items())[::3]:
        tar.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        findings = _findings(work)
        assert {path for path, _, _ in findings} == {"train/00000.tar"}
        assert name in {what for _, what, _ in findings}, (place, findings)
    for place in range(0, len(data), 1531):
        tar.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        assert {path for path, _, _ in _findings(work)} == {"train/00000.tar"}, place


@pytest.mark.parametrize("file", ["samples", "captions", "shards", "drops"])
def test_run__every_flipped_byte_and_every_cut_of_a_table_is_named(work: Path, file: str) -> None:
    path = work / f"test/{file}.parquet"
    data = path.read_bytes()
    step = max(1, len(data) // 12)
    for place in range(0, len(data), step):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert any(finding[0].startswith(("test/" + file, "test")) for finding in _findings(work)), place
        path.write_bytes(data[:place])
        assert any(finding[0].startswith(("test/" + file, "test")) for finding in _findings(work)), place


def test_run__every_cut_and_flip_of_a_teacher_table_is_named(work: Path) -> None:
    path = work / "val/teachers/words/00001.parquet"
    data = path.read_bytes()
    for place in range(0, len(data), len(data) // 9):
        for broken in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]):
            path.write_bytes(broken)
            assert {finding[0] for finding in _findings(work)} == {"val/teachers/words/00001.parquet"}, place


def test_run__what_is_missing_too_much_or_left_over_is_named(work: Path) -> None:
    (work / "train/00001.tar").unlink()
    (work / "val/00007.tar").write_bytes(b"no table names me")
    (work / f"val/{store.TEMPORARY}abc.tar").write_bytes(b"half")
    (work / "test/index/neighbours-words.parquet").unlink()
    findings = {(path, detail) for path, _, detail in _findings(work)}
    assert findings >= {
        ("train/00001.tar", "missing"),
        ("val/00007.tar", "no table names this tar"),
        (f"val/{store.TEMPORARY}abc.tar", "left by a stage that was killed"),
        ("test/index/neighbours-words.parquet", "missing"),
    }


def test_run__tables_that_say_something_else_are_named(work: Path) -> None:
    # A table that is whole in itself, its ledger gone: only comparing rows with members can tell.
    (work / "shard.ledger.json").unlink()
    path = work / "test/captions.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[7]["text"] = "another caption"
    store.write_table(path, pq.read_table(path).from_pylist(rows, schema=pq.read_schema(path)))
    ((place, what, detail),) = [finding for finding in _findings(work) if finding[1]]
    assert (place, what) == ("test/00000.tar", f"{rows[7]['key']}.json")
    assert "something else" in detail


def test_run__a_stale_or_wrong_teacher_row_is_named(work: Path) -> None:
    shutil.rmtree(work / "train/index", ignore_errors=True)
    path = work / "train/teachers/colours/00000.parquet"
    (path.parent / "ledger.json").unlink()
    table = pq.read_table(path)
    store.write_table(path, table.take([1, 0, 2, 3]))
    assert _findings(work) == [
        ("train/teachers/colours/00000.parquet", "row 0", "keys in another order than the shard's")
    ]
    store.write_table(path, table.replace_schema_metadata({"modality": "image", "shard_sha256": "0" * 64}))
    assert "stale" in _findings(work)[0][2]
    store.write_table(path, table.slice(0, 3))
    assert "3 rows, the shard has 4" in _findings(work)[0][2]


def test_run__a_folder_with_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        verify.run(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds nothing to verify"):
        verify.run(tmp_path)


def test_run__raw_files_are_held_to_their_lock(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.bin").write_bytes(b"abc")
    lock = {"a.bin": {"bytes": 3, "sha256": store.sha256_file(raw / "a.bin"), "url": ""}}
    (raw / "lock.json").write_text(json.dumps(lock))
    assert _findings(raw) == []
    (raw / "a.bin").write_bytes(b"abd")
    assert _findings(raw)[0][0] == "a.bin"
    (raw / "lock.json").write_text("[1")
    assert _findings(raw)[0][0] == "lock.json"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what training, evaluation and caching leave behind."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    store.write_json(folder / "recipe.json", {"name": "mini", "train": {"steps": 5}})
    store.write_json(folder / "run.json", {"data": "work"})
    (folder / "model").mkdir()
    (folder / "model/weights.bin").write_bytes(bytes(range(256)))
    Clock().finish(
        folder / "ledger.json",
        stage="train",
        inputs={},
        parameters={},
        outputs=[folder / "recipe.json", folder / "run.json", folder / "model/weights.bin"],
        counts={"steps": 5},
    )
    store.write_json(folder / "eval/metrics.json", {"rsum": 312.5})
    Clock().finish(
        folder / "eval/ledger.json",
        stage="eval",
        inputs={},
        parameters={"ks": [1]},
        outputs=[folder / "eval/metrics.json"],
        counts={},
    )
    identity = checkpoint.Identity({"train.seed": 0}, {"the training split": "0" * 64})
    for step in (2, 4):
        state = {"weights": torch.arange(8.0), "step": step}
        checkpoint.save(folder / "checkpoints", step=step, state=state, identity=identity, keep=2)
    with checksums.checked_file(folder / "cache/rows.npy", made_from="1" * 64) as temporary:
        temporary.write_bytes(bytes(500))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "recipe.json",
        "run.json",
        "model/weights.bin",
        "ledger.json",
        "eval/metrics.json",
        "eval/ledger.json",
        "checkpoints/step-000000002/state.pt",
        "checkpoints/step-000000004/state.pt",
        "checkpoints/step-000000004/meta.json",
        "cache/rows.npy",
    ],
)
def test_run__every_flipped_byte_of_a_run_is_named(whole_run: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    assert _findings(run) == []
    path = run / name
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 25)):
        for mask in (1, 0x80):
            path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            assert name in {finding[0] for finding in _findings(run)}, place
    path.write_bytes(data[:-1])
    assert name in {finding[0] for finding in _findings(run)}
    path.unlink()
    if not name.endswith("ledger.json"):
        assert name in {finding[0] for finding in _findings(run)}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("recipe.json", "mini", "maxi"),
        ("eval/metrics.json", "312.5", "512.5"),
        ("ledger.json", '"steps": 5', '"steps": 9'),
        ("eval/ledger.json", '"seconds": ', '"seconds": 1'),
        ("checkpoints/step-000000004/meta.json", '"train.seed": 0', '"train.seed": 7'),
        ("ledger.json", "\n ", "\n\t"),
    ],
)
def test_run__an_edit_of_a_run_is_named(whole_run: Path, tmp_path: Path, name: str, before: str, after: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    text = (run / name).read_text()
    assert before in text
    (run / name).write_text(text.replace(before, after, 1))
    assert [finding[0] for finding in _findings(run)] == [name]


def test_run__a_ledger_edited_to_fit_its_edited_file_is_named(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    fields = store.read_json(run / "eval/ledger.json")
    store.write_json(run / "eval/metrics.json", {"rsum": 598.5})
    fields["digests"]["metrics.json"] = store.sha256_file(run / "eval/metrics.json")
    store.write_json(run / "eval/ledger.json", fields)
    assert [finding[0] for finding in _findings(run)] == ["eval/ledger.json"]


def test_run__every_file_of_a_ledger_counts_once(whole: Path) -> None:
    """Tars are read as tars, what is in a ledger or a cache by its digest."""
    done = verify.run(whole, workers=1)
    named = {
        (path.parent / name).resolve()
        for path in whole.rglob("*ledger.json")
        for name in store.read_json(path)["outputs"]
    }
    assert len([path for path in named if path.suffix == ".tar"]) == 6
    assert done.files == len(named)
    assert done.bytes == sum(path.stat().st_size for path in named)


SAMPLES = {
    "image_offset": 512,
    "image_bytes": -1,
    "sha256": "0" * 64,
    "width": 1,
    "height": 1,
    "label": "another",
    "key": "mini/another",
}


@pytest.mark.parametrize("column", [*SAMPLES, "caption_key", "text", "source"])
def test_run__a_row_that_says_something_else_than_its_tar_is_named(work: Path, column: str) -> None:
    """The tables are whole in themselves and their ledger is gone."""
    (work / "shard.ledger.json").unlink()
    for teachers in work.glob("*/teachers"):
        shutil.rmtree(teachers)
    shutil.rmtree(work / "test/index")
    of_samples = column in SAMPLES
    path = work / "val" / ("samples.parquet" if of_samples else "captions.parquet")
    table = pq.read_table(path)
    rows, schema = table.to_pylist(), table.schema
    if column == "source":
        schema = schema.append(schemas.CAPTION_SOURCE)
        rows = [{**row, "source": "synthetic" if number == 27 else ""} for number, row in enumerate(rows)]
    else:
        row = rows[5 if of_samples else 27]
        change = SAMPLES.get(column, "mini/another#0" if column == "caption_key" else "other words")
        row[column] = row[column] + change if isinstance(change, int) else change
    store.write_table(path, pa.Table.from_pylist(rows, schema=schema))
    findings = _findings(work)
    assert {place for place, _, _ in findings} == {"val/00001.tar"}
    key = Split(work, "train").image_keys[5].replace("0005", "0011")
    assert all(what.startswith(key) for _, what, _ in findings)


@pytest.mark.parametrize(("column", "value"), [("bytes", 1), ("sha256", "0" * 64), ("images", 1), ("captions", 1)])
def test_run__a_table_of_tars_that_says_something_else_is_named(work: Path, column: str, value: int | str) -> None:
    (work / "shard.ledger.json").unlink()
    path = work / "test/shards.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1][column] = rows[1][column] + value if isinstance(value, int) else value
    store.write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
    found = {place for place, _, _ in _findings(work)}
    expected = {"images": "test/samples.parquet", "captions": "test/captions.parquet"}.get(column, "test/00001.tar")
    assert expected in found


def test_run__unpacked_files_are_held_to_their_table(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "a.zip").write_bytes(b"zip")
    rows = []
    for name in ("one", "two"):
        (raw / f"images/{name}.jpg").write_bytes(name.encode())
        row = {"path": f"images/{name}.jpg", "bytes": 3, "sha256": store.sha256_file(raw / f"images/{name}.jpg")}
        rows.append({field: row.get(field, "") for field in schemas.CONTENTS.names} | row)
    store.write_table(raw / CONTENTS / "a.parquet", pa.Table.from_pylist(rows, schema=schemas.CONTENTS))
    lock = {"a.zip": {"bytes": 3, "sha256": store.sha256_file(raw / "a.zip"), "url": ""}}
    (raw / "lock.json").write_text(json.dumps(lock))
    done = verify.run(raw, workers=1)
    assert (done.findings, done.files, done.bytes) == ((), 3, 9)
    (raw / "images/two.jpg").write_bytes(b"owt")
    (raw / "images/one.jpg").unlink()
    assert [(path, detail.split()[0]) for path, _, detail in _findings(raw)] == [
        ("images/one.jpg", "missing"),
        ("images/two.jpg", "sha256"),
    ]


def test_run__a_part_of_no_tar_or_with_a_row_of_another_length_is_named(work: Path) -> None:
    folder = work / "train/teachers/colours"
    (folder / "ledger.json").unlink()
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    (folder / "00009.parquet").write_bytes(path.read_bytes())
    rows = tables.embedding_matrix(table).astype(np.float32)
    for length, wrong in ((1.004, False), (1.02, True), (0.98, True), (float("nan"), True)):
        changed = rows.copy()
        changed[2] *= length
        flat = pa.array(changed.astype(np.float16).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        at = table.column_names.index("embedding")
        store.write_table(path, table.set_column(at, table.schema.field(at), column))
        findings = _findings(work)
        assert ("train/teachers/colours/00009.parquet", "", "there is no 00009.tar") in findings
        named = [what for place, what, _ in findings if place.endswith("00000.parquet")]
        assert named == ([Split(work, "train").image_keys[2]] if wrong else [])


def test_run__a_checkpoint_in_the_folder_of_another_step_is_named(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.copytree(run / "checkpoints/step-000000002", run / "checkpoints/step-000000003")
    assert [finding[0] for finding in _findings(run)] == ["checkpoints/step-000000003/meta.json"]
