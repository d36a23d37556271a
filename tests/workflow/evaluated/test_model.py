"""What is evaluated: a run is told from a model by its recipe, and its own data by place or content."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError, DataError
from cusa.eval.config import EvalConfig
from cusa.eval.encode import cache_key
from cusa.manifests import ledger
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.naflex import NaFlex
from cusa.workflow.evaluate import place_of_results
from cusa.workflow.evaluated.model import EvaluatedModel, open_model
from tests import towers
from tests.worlds import make_work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("evaluated"), images=2, captions=1, splits=("train", "val", "test"))


def _run(folder: Path, work: Path, **recipe: Any) -> Path:
    """Write what a finished run leaves that opening it reads."""
    store.write_json(folder / "recipe.json", {"eval": {"top": 7, "bootstrap": 3}, "data": {"test": "val"}, **recipe})
    store.write_json(folder / "run.json", {"data": str(work)})
    store.write_text(folder / "model/weights.bin", "weights")
    inputs = {"the training split": Split(work, "train").digest}
    outputs = [folder / "recipe.json", folder / "model/weights.bin"]
    ledger.Clock().finish(
        folder / "ledger.json", stage="train", inputs=inputs, parameters={}, outputs=outputs, counts={}
    )
    return folder


def test_open_model__a_run_has_its_recipe_s_settings_and_the_digest_of_its_weights(made: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", made)
    model = open_model(str(run), ["bootstrap=5"], trust=["mine:Class"])
    assert (model.name, model.run, model.trust) == (str(run), run, ("mine:Class",))
    assert model.config == EvalConfig(top=7, bootstrap=5)
    assert model.recipe["data"] == {"test": "val"}
    assert model.digest == store.sha256_folder(run / "model")
    assert model.results_folder == run / "eval"
    (split,) = model.training_splits()
    assert (split.work, split.name) == (made, "train")


def test_open_model__what_is_no_run_has_the_settings_that_are_given(tmp_path: Path) -> None:
    store.write_text(tmp_path / "model/weights.bin", "weights")
    model = open_model(str(tmp_path / "model"), ["top=3"])
    assert (model.run, model.recipe, model.config, model.trust) == (None, {}, EvalConfig(top=3), ())
    assert model.digest
    assert model.results_folder is None
    assert model.training_splits() == ()
    with pytest.raises(ConfigError, match="tops"):
        open_model(str(tmp_path / "model"), ["tops=3"])
    with pytest.raises(DataError):
        open_model(str(tmp_path / "nowhere"), [])


def test_open_model__a_run_without_a_model_or_with_another_one_is_refused(made: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", made)
    (run / "model/weights.bin").write_text("others!")
    with pytest.raises(DataError, match=r"weights\.bin was changed after `cusa train` wrote it"):
        open_model(str(run), [])
    shutil.rmtree(run / "model")
    with pytest.raises(DataError, match="has no model yet: its training has not reached its first validation"):
        open_model(str(run), [])


def test_was_trained_on__by_place_or_by_content(made: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", made)
    model = open_model(str(run), [])
    moved = Path(shutil.copytree(made, tmp_path / "moved"))
    other = make_work(tmp_path / "other", images=3, captions=1, splits=("train", "test"))
    without = make_work(tmp_path / "without", images=2, captions=1, splits=("test",))
    told = {made: True, moved: True, other: False, without: False}
    assert {work: model.was_trained_on(work) for work in told} == told
    (run / "ledger.json").unlink()
    assert [model.was_trained_on(work) for work in (made, moved)] == [True, False], "its content is not known"
    (run / "run.json").unlink()
    assert model.was_trained_on(other), "nobody knows where its data were: none is another's"
    assert model.training_splits() == ()
    assert not EvaluatedModel("m", None, {}, EvalConfig(), "").was_trained_on(made)


def test_training_splits__by_their_name_in_the_recipe_while_it_is_there(made: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", made, data={"train": "val"})
    (split,) = open_model(str(run), []).training_splits()
    assert split.name == "val"
    for gone in (_run(tmp_path / "a", made, data={"train": "none"}), _run(tmp_path / "b", made)):
        if gone.name == "b":
            store.write_json(gone / "run.json", {"data": str(tmp_path / "nowhere")})
        assert open_model(str(gone), []).training_splits() == ()


def test_place_of_results__in_the_run_for_its_own_data_else_beside_it(made: Path, tmp_path: Path) -> None:
    model = open_model(str(_run(tmp_path / "run", made)), [])
    other = make_work(tmp_path / "other", images=3, captions=1, splits=("train", "test"))
    own = tmp_path / "run/eval"
    assert place_of_results(model, made, "") == ("val", own)
    assert place_of_results(model, made, "train") == ("train", own)
    assert place_of_results(model, other, "") == ("test", own / "work"), "it has no split of the run's name"
    assert place_of_results(model, other, "train") == ("train", own / "work")
    plain = EvaluatedModel("org/all-mpnet", None, {}, EvalConfig(), "")
    assert place_of_results(plain, made, "") == ("test", made / "eval/all-mpnet")
    assert place_of_results(plain, made, "val") == ("val", made / "eval/all-mpnet")


def test_load__as_many_patches_as_the_settings_say(tmp_path: Path) -> None:
    """And embeddings that were kept of another number are never taken."""
    folder = towers.write_image("siglip2", tmp_path / "naflex")
    plain, finer = (open_model(str(folder), settings) for settings in ([], ["max_patches=40"]))
    as_it_is, more = plain.load(), finer.load()
    assert (as_it_is.preprocess, more.preprocess) == (NaFlex(16, 8), NaFlex(40, 8))  # type: ignore[union-attr]
    assert cache_key(as_it_is, plain.config) != cache_key(more, plain.config)
    assert cache_key(as_it_is, plain.config) == cache_key(plain.load(), plain.config)
    with pytest.raises(ConfigError, match=r"eval\.max_patches is 257.*positions for 16 patches"):
        open_model(str(folder), ["max_patches=257"]).load()
