"""Teachers that come from a folder: plan, run, sweep, train and search take the folder and its tables' name alike."""

import shutil
from pathlib import Path

import pytest

from cusa import recipe as recipes
from cusa.errors import ConfigError, DataError
from cusa.manifests import origin, tables
from cusa.manifests.origin import read_origin, write_origin
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.teachers.registry import load_teacher, resolve
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.pipeline.index import search
from cusa.workflow import plan as plans
from cusa.workflow import run as runs
from cusa.workflow import sweep
from cusa.workflow import train as training
from tests.worlds import make_work, write_sentence_model

FEW = [
    *("train.steps=2", "train.batch=8", "train.validate_every=2", "train.warmup_steps=0", "eval.bootstrap=0"),
    *("student.image_size=32", "student.image_width=32", "student.text_width=32", "student.width=32"),
    *("student.image_layers=1", "student.text_layers=1", "teachers.image=offline-gist"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `work` and two text teachers in `models`: the tables of `mine` are called `sentences`."""
    folder = tmp_path_factory.mktemp("folders")
    work = make_work(folder, images=6)
    for seed, name in enumerate(("mine", "other")):
        write_sentence_model(folder / "models" / name, seed=seed)
    for name in ("train", "test"):
        split = Split(work, name)
        config = ExtractConfig(name="sentences")
        extract.run(config, split=split, teacher=str(folder / "models/mine"), modality="text")
        extract.run(ExtractConfig(), split=split, teacher="offline-gist", modality="image")
    return folder


def _due(place: Path, teacher: object, work: Path | None = None) -> list[tuple[str, str, str]]:
    settings = [*FEW, f"teachers.text={teacher}"]
    planned = plans.plan("tiny", out=place / "project", work=work or place / "work", settings=settings)
    return [(stage.stage, stage.state, stage.why) for stage in planned.due if stage.stage == "extract-teachers"]


def test_plan__by_the_tables_name_and_by_the_folder_nothing_is_due(place: Path) -> None:
    assert _due(place, "sentences") == []
    assert _due(place, place / "models/mine") == []
    assert [state for _, state, _ in _due(place, place / "models/other")] == ["due"]


def test_run__and_sweep_and_train_and_search_take_both(place: Path, tmp_path: Path) -> None:
    work = place / "work"
    for number, teacher in enumerate(("sentences", place / "models/mine")):
        settings = [*FEW, f"teachers.text={teacher}"]
        done = runs.run("tiny", out=tmp_path, work=work, name=str(number), settings=settings)
        assert not any(one.fresh for one in done.outcomes if one.stage == "extract-teachers")
        recipe = recipes.load("tiny", settings)
        trained = training.train(recipe, work=work, out=tmp_path / "runs" / str(number))
        assert not trained.fresh, "run trained it already"
        assert store.read_json(tmp_path / f"runs/{number}/run.json")["teachers"]["text"] == "sentences"
    swept = sweep.run("tiny", {"seed": [0]}, data=[work], out=tmp_path / "sweep", settings=settings)
    assert swept.failed == []
    index.run(IndexConfig(neighbours=3), split=Split(work, "train"), teacher="sentences")
    hits = [
        search.run([Split(work, "train")], words="a red wall", teacher=teacher)
        for teacher in ("", "sentences", str(place / "models/mine"))
    ]
    assert hits[0] == hits[1] == hits[2]


def test_plan__a_folder_that_moved_is_found_by_its_weights(place: Path, tmp_path: Path) -> None:
    work = shutil.copytree(place / "work", tmp_path / "work")
    moved = shutil.copytree(place / "models/mine", tmp_path / "elsewhere/renamed")
    assert _due(place, moved, work) == []
    before = store.sha256_folder(work)
    assert _due(place, moved, work) == []
    assert store.sha256_folder(work) == before, "a plan writes nothing"
    done = extract.run(ExtractConfig(), split=Split(work, "train"), teacher=str(moved), modality="text")
    assert (done.fresh, done.out.name) == (False, "sentences")
    assert read_origin(done.out) == str(moved)
    assert store.read_json(done.out / "ledger.json")["outputs"].keys() == {"00000.parquet"}, "the origin is no output"


def test_plan__tables_whose_folder_is_gone_serve_as_they_stand_but_cannot_be_made_again(
    place: Path, tmp_path: Path
) -> None:
    work = shutil.copytree(place / "work", tmp_path / "work")
    for name in ("train", "test"):
        write_origin(work / name / "teachers/sentences", str(tmp_path / "gone"))
    assert _due(place, "sentences", work) == []
    split = Split(work, "train")
    with pytest.raises(DataError, match=r"made again \(--force\).*gone.*--text FOLDER --as sentences"):
        extract.run(ExtractConfig(), split=split, teacher="sentences", modality="text", force=True)
    index.run(IndexConfig(neighbours=3), split=split, teacher="sentences")
    with pytest.raises(ConfigError, match="a folder that is not there.*--teacher FOLDER"):
        search.run([split], words="a wall", teacher="sentences")
    (work / "train/teachers/sentences" / origin.ORIGIN).unlink()  # tables of an earlier version say not even where
    assert _due(place, "sentences", work) == []
    (work / "test/teachers/sentences/ledger.json").unlink()
    assert [state for _, state, _ in _due(place, "sentences", work)] == ["blocked"]


def test_resolve__names_and_folders(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, mine = Split(place / "work", "train"), str(place / "models/mine")
    digest = store.sha256_folder(place / "models/mine")
    assert resolve(split, "sentences", "text") == ("sentences", mine, digest)
    assert resolve(split, mine, "text") == ("sentences", mine, digest)
    assert resolve(split, mine, "text", name="again") == ("again", mine, digest)
    assert resolve(split, "org/sentences", "text") == ("sentences", mine, digest), (
        "offline, a hub name finds the tables"
    )
    other = str(place / "models/other")
    assert resolve(split, other, "text") == ("other", other, store.sha256_folder(place / "models/other"))
    monkeypatch.chdir(place / "models")
    assert resolve(split, "mine", "text")[0] == "sentences"
    assert load_teacher("mine", "text").provenance()["weights_sha256"] == digest


def test_find_teacher__two_tables_of_one_folder_have_to_be_named(place: Path, tmp_path: Path) -> None:
    work = shutil.copytree(place / "work", tmp_path / "work")
    shutil.copytree(work / "train/teachers/sentences", work / "train/teachers/twice")
    split = Split(work, "train")
    with pytest.raises(DataError, match="several text tables of .*mine: sentences, twice"):
        tables.find_teacher(split, "text", str(place / "models/mine"))
    assert tables.find_teacher(split, "text", "twice") == "twice"


def test_extract__another_folder_under_a_name_that_is_taken_is_refused(place: Path, tmp_path: Path) -> None:
    work = shutil.copytree(place / "work", tmp_path / "work")
    config, split = ExtractConfig(name="sentences"), Split(work, "train")
    with pytest.raises(ConfigError, match=r"another teacher of that name \(.*mine\).*--as NAME"):
        extract.run(config, split=split, teacher=str(place / "models/other"), modality="text")
    assert extract.run(config, split=split, teacher=str(place / "models/other"), modality="text", force=True).fresh


def test_resolve__a_class_of_ones_own_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path, images=4, splits=("train",))
    split = Split(work, "train")
    name = "tests.worlds:Words"
    done = extract.run(ExtractConfig(), split=split, teacher=name, modality="text")
    assert done.out.name == "tests.worlds_Words"
    assert tables.choose_teacher(split, "text", name) == "tests.worlds_Words"
    assert resolve(split, "tests.worlds_Words", "text").loads == name
    index.run(IndexConfig(neighbours=3), split=split, teacher="tests.worlds_Words")
    assert search.run([split], words="a red wall")


def test_plan__the_time_of_an_index_is_that_of_every_product_of_images_and_of_captions(tmp_path: Path) -> None:
    planned = plans.plan("clip-vit-b-32/coco/cusa", out=tmp_path).stages
    (index_stage,) = (stage for stage in planned if stage.stage == "index")
    widths = {"image": 37_632, "text": 768}
    products = 5_000**2 * widths["image"] + 25_000**2 * widths["text"]
    rate = plans.read_rates()["index"]["multiplications"]
    assert index_stage.seconds == pytest.approx(products / rate, rel=0.01)
    assert index_stage.disk == pytest.approx(4 * (5_000 * widths["image"] + 25_000 * widths["text"]), rel=0.01)
