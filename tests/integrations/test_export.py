"""A work folder for viewers and annotation tools: columns, neighbours and verdicts, checked against its own files."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cusa import cli
from cusa.errors import CusaError
from cusa.integrations import label_studio
from cusa.integrations.export import export
from cusa.integrations.rows import principal_components
from cusa.manifests import neighbours, tables
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.judgements.verdicts import Journal, Verdict
from cusa.manifests.samples import Split
from cusa.pipeline import audit, index
from cusa.pipeline.config import AuditConfig, IndexConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.publish.push import push
from cusa.pipeline.sql.database import connect
from tests.integrations.small import make_taught


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = make_taught(tmp_path, images=8, captions=2)
    split = Split(made, "train")
    for teacher in ("colours", "words"):
        index.run(IndexConfig(neighbours=5), split=split, teacher=teacher)
    audit.run(AuditConfig(gallery=0, neighbours=5), split=split, encoders=Encoders("", ""))
    return made


def _judge(split: Split, word: str) -> tuple[str, str]:
    pair = _best(split)
    with Journal(split.folder / verdicts.FOLDER) as journal:
        moment = datetime(2026, 1, 2, tzinfo=UTC)
        journal.append(Verdict("eight-letters", *pair, word, "anna", moment))
    return pair


def _best(split: Split) -> tuple[str, str]:
    table = pq.read_table(split.folder / "audit/candidates.parquet", columns=["image_key", "caption_key"])
    row = table.slice(0, 1).to_pylist()[0]
    return row["image_key"], row["caption_key"]


def test_atlas_has_columns_map_neighbours_and_verdicts(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    image_key, caption_key = _judge(split, "match")
    outcome = export(work, to="atlas", out=tmp_path / "out")
    assert "embedding-atlas" in outcome.notes[-1]
    images = pq.read_table(tmp_path / "out/train-images.parquet")
    captions = pq.read_table(tmp_path / "out/train-captions.parquet")
    assert images["key"].to_pylist() == split.image_keys
    assert captions["text"].to_pylist() == split.texts
    near = neighbours.read_neighbours(split, "colours", depth=5)
    assert [row["ids"] for row in images["neighbors"].to_pylist()] == near.ids.tolist()
    judged = dict(zip(split.image_keys, images["judged_matches"].to_pylist(), strict=True))
    assert [key for key, number in judged.items() if number] == [image_key]
    assert captions["verdicts"].to_pylist()[split.caption_row[caption_key]] == "match"
    candidates = pq.read_table(split.folder / "audit/candidates.parquet").to_pylist()
    for row, key in enumerate(split.image_keys):
        own = [one for one in candidates if one["image_key"] == key]
        assert images["candidates"][row].as_py() == len(own)
        if own:
            best = max(own, key=lambda one: one["score"] if one["p_positive"] is None else 2 + one["p_positive"])
            assert images["best_score"][row].as_py() == pytest.approx(best["score"])
    with Image.open(io.BytesIO(images["image"][3].as_py()["bytes"])) as picture:
        assert picture.size == (48, 40)
    vectors = np.array(images["vector"].to_pylist())
    np.testing.assert_allclose(vectors, tables.read_teacher(split, "colours").embeddings, rtol=1e-3, atol=1e-3)
    assert export(work, to="atlas", out=tmp_path / "out").fresh is False
    assert export(work, to="atlas", out=tmp_path / "out", image="colours").fresh is True


@pytest.mark.parametrize("shape", [(40, 6), (5, 20), (2, 3), (1, 4)])
def test_principal_components_are_those_of_a_decomposition(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    given = principal_components(rows)
    _, values, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = (rows - rows.mean(0)) @ axes[:2].T
    assert given.shape == (shape[0], 2)
    for column in range(expected.shape[1]):
        if column < len(values) and values[column] > 1e-6:
            sign = np.sign((given[:, column] * expected[:, column]).sum())
            np.testing.assert_allclose(given[:, column], sign * expected[:, column], rtol=1e-3, atol=1e-4)


def test_fiftyone_has_a_picture_and_a_label_an_image(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    image_key, _ = _judge(split, "match")
    export(work, to="fiftyone", out=tmp_path / "out")
    content = json.loads((tmp_path / "out/train/labels.json").read_text())
    files = sorted((tmp_path / "out/train/data").iterdir())
    assert {path.stem for path in files} == set(content["labels"])
    by_key = {one["attributes"]["key"]: (name, one) for name, one in content["labels"].items()}
    assert list(by_key) == split.image_keys
    name, label = by_key[image_key]
    assert label["label"] == "judged match"
    assert (tmp_path / f"out/train/data/{name}.jpg").read_bytes() == split.image_bytes(split.image_row[image_key])
    near = neighbours.read_neighbours(split, "colours", depth=5).ids[split.image_row[image_key]]
    assert label["attributes"]["neighbours"] == [split.image_keys[row] for row in near]
    assert {one["label"] for one in content["labels"].values()} <= set(content["classes"])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    made = make_taught(tmp_path, images=4, captions=2)
    notes = export(made, to="atlas", out=tmp_path / "out").notes
    assert any("cusa audit" in note for note in notes)
    assert any("cusa index" in note for note in notes)
    with pytest.raises(CusaError, match="cusa audit"):
        export(made, to="label-studio", out=tmp_path / "tasks")


def _annotated(tasks: list[dict[str, Any]], words: list[str]) -> list[dict[str, Any]]:
    """Return tasks as Label Studio exports them (`JSON`), each with one annotation."""
    exported = []
    for number, (task, word) in enumerate(zip(tasks, words, strict=False), 1):
        value = {"choices": [word]}
        result = {"id": "x", "type": "choices", "from_name": "verdict", "to_name": "caption", "value": value}
        annotation = {
            "id": 100 + number,
            "unique_id": f"0b1c-{number}",
            "completed_by": {"id": 1, "email": "anna@example.org"},
            "result": [result],
            "was_cancelled": word == "skip",
            "created_at": f"2026-01-02T10:00:0{number}.123456+02:00",
            "updated_at": f"2026-01-02T10:00:0{number}.654321Z",
        }
        exported.append({"id": number, "data": task["data"], "annotations": [annotation], "predictions": []})
    return exported


def test_label_studio_there_and_back(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    judged = _judge(split, "no match")
    export(work, to="label-studio", out=tmp_path / "out", limit=3)
    tasks = json.loads((tmp_path / "out/train/tasks.json").read_text())
    assert len(tasks) == 3
    assert judged not in [(task["data"]["image_key"], task["data"]["caption_key"]) for task in tasks]
    assert tasks[0]["data"]["image"].startswith("data:image/jpeg;base64,")
    assert tasks[0]["data"]["caption"] == split.texts[split.caption_row[tasks[0]["data"]["caption_key"]]]
    source = tmp_path / "export.json"
    source.write_text(json.dumps(_annotated(tasks, ["match", "related", "skip"])))
    result = CliRunner().invoke(cli.app, ["review", str(work), "--import", str(source), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"imported": {"train": 3}}
    rows = verdicts.read(split.folder / verdicts.FOLDER)
    assert [row.verdict for row in rows] == ["no match", "match", "related", "skip"]
    first = rows[1]
    assert first.reviewer == "label-studio anna@example.org"
    assert first.judged_at == datetime(2026, 1, 2, 10, 0, 1, 654000, tzinfo=UTC)
    assert first.score == pytest.approx(tasks[0]["data"]["score"])
    assert first.candidates_sha256 == tasks[0]["data"]["candidates_sha256"]
    assert len(verdicts.read_table(split.folder / verdicts.FOLDER)) == 4
    assert label_studio.read(work, source) == {"train": 0}
    changed = _annotated(tasks, ["no match", "related", "skip"])
    source.write_text(json.dumps(changed))
    assert label_studio.read(work, source) == {"train": 1}
    back = _annotated(tasks, ["match", "related", "skip"])
    back[0]["annotations"][0]["updated_at"] = "2026-01-03T10:00:00Z"
    source.write_text(json.dumps(back))
    assert label_studio.read(work, source) == {"train": 1}
    judgements = {(one.image_key, one.caption_key): one.verdict for one in pair_judgements.read(split).judgements}
    assert judgements[(first.image_key, first.caption_key)] == "match"
    with connect(work) as database:
        rows = database.run("SELECT image_key, caption_key, verdict FROM verdicts WHERE reviewer LIKE 'label%'").rows
    assert sorted(row[2] for row in rows) == ["match", "related"]  # each person's last word, a row a pair


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tasks: {"tasks": tasks}, "no list of tasks"),
        (lambda tasks: [{"data": {}}], "data and annotations"),
        (lambda tasks: [{**tasks[0], "data": {"image": "x"}}], "cusa export --to label-studio"),
        (lambda tasks: [{**tasks[0], "data": {**tasks[0]["data"], "split": "tran"}}], "no split 'tran'"),
        (lambda tasks: [tasks[0], {**tasks[1], "data": {**tasks[1]["data"], "image_key": "mini/none"}}], "mini/none"),
        (lambda tasks: _annotated(tasks, ["maybe"]), "maybe"),
        (lambda tasks: [{**tasks[0], "annotations": [{"id": 1, "result": []}]}], "not one choice"),
        (lambda tasks: [{**tasks[0], "annotations": ["x"]}], "no object"),
        (
            lambda tasks: [{**tasks[0], "annotations": [{**tasks[0]["annotations"][0], "updated_at": "noon"}]}],
            "ISO 8601",
        ),
    ],
)
def test_wrong_annotations_are_refused_whole(work: Path, tmp_path: Path, change: Any, words: str) -> None:
    export(work, to="label-studio", out=tmp_path / "out", limit=2)
    tasks = json.loads((tmp_path / "out/train/tasks.json").read_text())
    source = tmp_path / "export.json"
    source.write_text(json.dumps(change(_annotated(tasks, ["match", "match"]))))
    with pytest.raises(CusaError, match=words):
        label_studio.read(work, source)
    assert not (work / "train/audit" / verdicts.JOURNAL).exists()


def test_formats_and_options_belong_together(work: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(cli.app, ["export", str(work), "--out", str(tmp_path / "o"), *words])
        assert result.exit_code == 2, result.output
        return result.output

    assert "of --to atlas, fiftyone, label-studio, not of hf" in run("--to", "hf", "--split", "train")
    assert "of --to parquet, webdataset, not of atlas" in run("--to", "atlas", "--licence", "CC0")
    assert "of students" in run("--to", "atlas", "--ensemble", "runs/other")
    inside = CliRunner().invoke(cli.app, ["export", str(work), "--to", "atlas", "--out", str(work / "train")])
    assert inside.exit_code != 0
    assert "the work folder that is read" in inside.output
    export(work, to="label-studio", out=tmp_path / "view", limit=1)
    with pytest.raises(CusaError, match="a view without a card"):
        push(tmp_path / "view", "me/pictures", dry_run=True)
    with pytest.raises(CusaError, match="no export of a work folder to 'atlass'"):
        export(work, to="atlass", out=tmp_path / "o")


def test_export__is_due_when_anything_it_reads_changed(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    files = {
        "the candidates": split.folder / "audit/candidates.parquet",
        "the neighbours": neighbours.neighbour_path(split, "words"),
    }

    def fresh(**asked: Any) -> bool:
        return export(work, **{"to": "label-studio", "out": tmp_path / "out", **asked}).fresh

    assert fresh()
    assert not fresh()
    for path in files.values():
        table = pq.read_table(path)
        pq.write_table(table, path, compression="none")  # the same rows, other bytes
        assert fresh(), path
        assert not fresh()
    _judge(split, "match")
    assert fresh(), "a verdict"
    verdicts.publish(split.folder / verdicts.FOLDER)
    assert fresh(), "the table of verdicts"
    assert [fresh(limit=3), fresh(limit=3), fresh(limit=4)] == [True, False, True]
    assert [fresh(image="colours"), fresh(text="words"), fresh(force=True), fresh()] == [True, True, True, False]
    plain = {"to": "atlas", "out": tmp_path / "atlas"}
    assert [fresh(**plain), fresh(**plain, limit=3)] == [True, False], "no limit there"
