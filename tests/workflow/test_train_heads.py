"""Heads on tables of embeddings, as a user trains, evaluates, exports and searches them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cusa import recipe as recipes
from cusa.errors import ConfigError, CusaError, DataError, StaleError, StoppedError
from cusa.manifests import tables
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.pipeline.index import search
from cusa.pipeline.index import student as student_index
from cusa.workflow import evaluate as scoring
from cusa.workflow import export as exporting
from cusa.workflow import train as training
from tests import worlds

ENCODERS = ("student.heads.image_encoder=tests.worlds:Colours", "student.heads.text_encoder=tests.worlds:Words")
FEW = [
    *("student.kind=heads", "student.heads.width=8", "student.heads.hidden=12"),
    *(
        "train.steps=12",
        "train.checkpoint_every=1",
        "train.batch=8",
        "train.validate_every=4",
        "train.lr=0.01",
        "train.warmup_steps=2",
        "eval.bootstrap=0",
    ),
    *("loss.alpha=0.5", "loss.beta=0.5", "train.max_undecodable=0"),
]


def _recipe(*settings: str) -> recipes.Recipe:
    return recipes.load("tiny", [*FEW, *settings])


def _extract(work: Path, *, names: tuple[str, ...] = ("train", "val", "test")) -> None:
    for name in names:
        for teacher, modality in ((worlds.Colours(), "image"), (worlds.Words(), "text")):
            extract.run(
                ExtractConfig(transform="none"),
                split=Split(work, name),
                teacher=teacher.name,
                modality=modality,
                load=lambda name, modality, teacher=teacher: teacher,
            )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = worlds.make_work(tmp_path_factory.mktemp("world"), images=12, captions=3)
    _extract(work)
    return work


@pytest.fixture(scope="module")
def run(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "heads"
    assert training.train(_recipe(*ENCODERS), work=work, out=out).fresh
    assert not training.train(_recipe(*ENCODERS), work=work, out=out).fresh
    return out


def _without_pictures(work: Path, to: Path) -> Path:
    """Copy a work folder without what the pictures stand in: whoever decodes one fails."""
    shutil.copytree(work, to, ignore=shutil.ignore_patterns("cache", "index"))
    for tar in to.rglob("*.tar"):
        tar.unlink()
    return to


def test_train_and_eval__read_no_picture(work: Path, run: Path, tmp_path: Path) -> None:
    bare = _without_pictures(work, tmp_path / "bare")
    assert training.train(_recipe(*ENCODERS), work=bare, out=tmp_path / "run").fresh
    weights = [store.sha256_file(out / "model" / "weights.safetensors") for out in (run, tmp_path / "run")]
    assert weights[0] == weights[1]
    (result,) = scoring.evaluate(str(tmp_path / "run"), scoring.EvalRequest(data=[bare]))
    assert result["tasks"]["cross-modal"]["metrics"]["rsum"] > 200  # chance is some 150 of 12 images in four colours


def test_eval__equals_the_rows_by_hand(work: Path, run: Path) -> None:
    student = students.load(run)
    split = Split(work, "test")
    rows = {name: torch.from_numpy(tables.read_teacher(split, name).embeddings) for name in ("colours", "words")}
    with torch.inference_mode():
        image = student.encode_image(rows["colours"].float()).numpy()
        text = student.encode_text({"features": rows["words"].float()}).numpy()
    scores = text @ image.T
    owner = split.caption_owner
    own = scores[np.arange(len(owner)), owner]
    better = (scores >= own[:, None]).sum(axis=1) - 1  # ties count against the student
    expected = 100 * float((better < 5).mean())
    (result,) = scoring.evaluate(str(run), scoring.EvalRequest(data=[work], force=True))
    assert result["tasks"]["cross-modal"]["metrics"]["text-to-image/r@5"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("table", ["colours", "words"])
def test_rows_made_anew_under_the_same_name_are_read_anew(work: Path, run: Path, tmp_path: Path, table: str) -> None:
    """The weights stay, and what the card says of the table: its bytes alone tell that it has changed."""
    student, other = students.load(run), tmp_path / "work"
    shutil.copytree(work, other)
    split = Split(other, "test")

    def by_hand() -> tuple[np.ndarray, np.ndarray]:
        rows = (
            torch.from_numpy(tables.read_teacher(split, name).embeddings.astype(np.float32))
            for name in ("colours", "words")
        )
        with torch.inference_mode():
            image, text = student.encode_image(next(rows)), student.encode_text({"features": next(rows)})
        return image.numpy(), text.numpy()

    def evaluated() -> float:
        (result,) = scoring.evaluate(str(run), scoring.EvalRequest(data=[other]))
        return float(result["tasks"]["cross-modal"]["metrics"]["text-to-image/r@5"])

    def expected() -> float:
        image, text = by_hand()
        scores = text @ image.T
        own = scores[np.arange(len(text)), split.caption_owner]
        return 100 * float(((scores >= own[:, None]).sum(axis=1) <= 5).mean())

    def index() -> bool:
        return student_index.run(IndexConfig(neighbours=3), split=split, student=str(run)).fresh

    assert evaluated() == pytest.approx(expected(), abs=1e-4)
    assert [index(), index()] == [True, False]
    before = expected()
    worlds_teacher = {"colours": worlds.Colours, "words": worlds.Words}[table]()
    rng = np.random.default_rng(0)
    encode = worlds_teacher.encode
    worlds_teacher.encode = lambda items: (
        (rows := rng.normal(size=encode(items).shape))
        / np.linalg.norm(  # type: ignore[method-assign]
            rows, axis=1, keepdims=True
        )
    )
    extract.run(
        ExtractConfig(transform="none"),
        split=split,
        teacher=table,
        modality=worlds_teacher.modality,
        load=lambda *_: worlds_teacher,
        force=True,
    )
    assert expected() != before
    assert evaluated() == pytest.approx(expected(), abs=1e-4)
    with pytest.raises(StaleError, match="made from another state of the tables that the student reads"):
        student_index.read_student(split, str(run))
    assert index()
    cross = student_index.read_student(split, str(run)).cross
    for got, rows in zip((cross.images, cross.captions), by_hand(), strict=True):
        np.testing.assert_allclose(got, rows, atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_bits(work: Path, run: Path, tmp_path: Path) -> None:
    from cusa.errors import StoppedError
    from cusa.manifests.events import Callbacks

    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 5

    with pytest.raises(StoppedError):
        training.train(_recipe(*ENCODERS), work=work, out=tmp_path / "run", callbacks=Callbacks(should_stop=stop))
    done = training.train(_recipe(*ENCODERS), work=work, out=tmp_path / "run", resume="must")
    assert done.counts["steps_done_now"] == 7
    for file in ("weights.safetensors", "student.json"):
        assert (tmp_path / "run/model" / file).read_bytes() == (run / "model" / file).read_bytes()


def test_the_gradient_cache_gives_the_same_gradients(work: Path, run: Path, tmp_path: Path) -> None:
    training.train(_recipe(*ENCODERS, "train.chunk=3"), work=work, out=tmp_path / "run")
    one, other = (students.load(out).state_dict() for out in (run, tmp_path / "run"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def test_teachers_may_be_the_tables_and_are_chosen_apart(work: Path, tmp_path: Path) -> None:
    settings = ("teachers.image=colours", "teachers.text=words", "student.heads.image_table=colours")
    training.train(_recipe(*settings), work=work, out=tmp_path / "run")
    ledger = store.read_json(tmp_path / "run/ledger.json")
    assert {"the image teacher", "the image features of train", "the text features of val"} <= set(ledger["inputs"])
    card = store.read_json(tmp_path / "run/model/student.json")
    assert card["features"]["text"] == {
        "table": "words",
        "width": 5,
        "provenance": {
            "revision": "1",
            "weights_sha256": "",
            "preprocessing": "colour words",
            "transform": "none",
        },
        "encoder": "words",
    }


def test_new_pictures_and_texts_go_through_the_encoders(work: Path, run: Path) -> None:
    trust = ["tests.worlds:Colours", "tests.worlds:Words"]
    student = students.load(run, trust=trust)
    split = Split(work, "test")
    with torch.inference_mode():
        by_table = student.encode_text(
            {"features": torch.from_numpy(tables.read_teacher(split, "words").embeddings[:4].astype(np.float32))}
        )
        by_words = student.encode_text(student.tokenize(split.texts[:4]))
        torch.testing.assert_close(by_words, by_table, rtol=0, atol=2e-3)  # the table holds float16
        picture = Image.new("RGB", (20, 20), (200, 40, 40))
        assert student.encode_image(student.pixels(torch.from_numpy(student.image_array(picture))[None])).shape == (
            1,
            8,
        )
    with pytest.raises(DataError, match="--trust tests.worlds:Words"):
        students.load(run).tokenize(["a red wall"])


def test_search__finds_by_words_what_the_tables_hold(work: Path, run: Path) -> None:
    split = Split(work, "test")
    student_index.run(IndexConfig(neighbours=3), split=split, student=str(run))
    trust = ["tests.worlds:Colours", "tests.worlds:Words"]
    hits = search.run(
        [split], words="red", student=str(run), number=3, load_student=lambda name: students.load(name, trust=trust)
    )
    rows = tables.read_teacher(split, "colours").embeddings
    reddest = split.image_keys[int(np.argmax(rows[:, 0].astype(np.float32)))]
    assert len(hits) == 3
    assert reddest.startswith(split.image_keys[0].partition("/")[0])


def test_without_an_encoder_what_needs_one_says_so(work: Path, tmp_path: Path) -> None:
    bare = _without_pictures(work, tmp_path / "bare")
    for split in ("train", "val", "test"):
        for table in ("colours", "words"):
            store.write_json(bare / split / "teachers" / table / "origin.json", {"teacher": "imported"})
    training.train(_recipe(), work=bare, out=tmp_path / "run")
    student = students.load(tmp_path / "run")
    with pytest.raises(DataError, match=r"knows no encoder.*--set student\.heads\.text_encoder=ENCODER"):
        student.tokenize(["a red wall"])
    exporting.export(str(tmp_path / "run"), to="folder", out=tmp_path / "folder")
    again = students.load(tmp_path / "folder")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    with pytest.raises(DataError, match="knows no encoder"):
        exporting.export(str(tmp_path / "run"), to="sentence-transformers", out=tmp_path / "st")
    named = {"image": "tests.worlds:Colours", "text": "tests.worlds:Words"}
    exporting.export(str(tmp_path / "run"), to="folder", out=tmp_path / "folder", encoders=named)
    knows = students.load(tmp_path / "folder", trust=named.values())
    row = tables.read_teacher(Split(bare, "test"), "words").embeddings[:1].astype(np.float32)
    assert np.allclose(knows.tokenize(Split(bare, "test").texts[:1])["features"], row, atol=1e-3)
    exporting.export(str(tmp_path / "run"), to="sentence-transformers", out=tmp_path / "st", encoders=named)


@pytest.mark.parametrize(
    ("encoders", "told"),
    [
        ({"text": "offline-ngrams"}, "gives rows of .* numbers, and the heads read"),
        ({"text": "tests.worlds:Nobody"}, "cannot be imported"),
    ],
)
def test_export__an_encoder_that_did_not_make_the_table_is_refused(
    run: Path, tmp_path: Path, encoders: dict[str, str], told: str
) -> None:
    with pytest.raises(CusaError, match=told):
        exporting.export(str(run), to="folder", out=tmp_path / "folder", encoders=encoders)
    assert not (tmp_path / "folder").exists()


def test_export__sentence_transformers_encodes_through_the_encoders(run: Path, tmp_path: Path) -> None:
    trust = ["tests.worlds:Colours", "tests.worlds:Words"]
    exporting.export(str(run), to="sentence-transformers", out=tmp_path / "st", trust=trust)
    card = (tmp_path / "st/README.md").read_text()
    assert "'trust': ['tests.worlds:Colours', 'tests.worlds:Words']" in card


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("student.heads.text_table=colours",), "holds rows of images"),
        (("student.heads.image_table=nothing",), "no such table"),
    ],
)
def test_wrong_tables_are_refused_before_training(
    work: Path, tmp_path: Path, settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        training.train(_recipe(*settings), work=work, out=tmp_path / "run")


def test_a_validation_split_without_the_table_is_named(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=4, captions=2)
    _extract(work, names=("train",))
    with pytest.raises(CusaError, match="val has no table 'colours'"):
        training.train(_recipe(), work=work, out=tmp_path / "run")


def test_train__what_it_starts_from_is_an_input_and_may_be_gone_when_it_is_done(work: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", _recipe(*ENCODERS, f"student.name={tmp_path / 'first'}")
    training.train(_recipe(*ENCODERS), work=work, out=first)
    out, killed = tmp_path / "second", tmp_path / "killed"
    with pytest.raises(StoppedError):
        training.train(second, work=work, out=killed, callbacks=Callbacks(should_stop=lambda: True))
    assert training.train(second, work=work, out=out).fresh
    store.write_json(first / "seen.json", {"a note of": "an evaluation"})
    assert not training.train(second, work=work, out=out).fresh, "only the model counts"
    moved = first.rename(tmp_path / "moved")
    assert not training.train(second, work=work, out=out).fresh, "it is done with what it started from"
    moved.rename(first)
    training.train(_recipe(*ENCODERS, "train.seed=9"), work=work, out=first, force=True)
    for run in (out, killed):
        with pytest.raises(StaleError, match=r"what student\.name names changed.*--allow-changed student\.name"):
            training.train(second, work=work, out=run)
    assert training.train(second, work=work, out=killed, allow_changed=["student.name"]).fresh
    assert training.train(second, work=work, out=out, force=True).fresh
