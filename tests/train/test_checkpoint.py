import os
import random
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests.storage import seal, store
from cusa.train import checkpoint

SELF = checkpoint.Identity({"train.lr": 0.001, "loss.alpha": 0.1}, {"the training split": "aa"})


def _state(number: int) -> dict[str, Any]:
    return {
        "student": {"w": torch.full((3,), float(number))},
        "best": {"rsum": 1.5},
        "bad": {"k": ("00000.tar", "why")},
    }


def _save(folder: Path, *steps: int, keep: int = 3, also_keep: int | None = None) -> None:
    for step in steps:
        checkpoint.save(folder, step=step, state=_state(step), identity=SELF, keep=keep, also_keep=also_keep)


def test_the_latest_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none", identity=SELF) == (0, {}, ())
    _save(tmp_path, 2, 10, 4)
    step, state, notes = checkpoint.load(tmp_path, identity=SELF)
    assert (step, notes) == (10, ())
    assert torch.equal(state["student"]["w"], torch.full((3,), 10.0))
    assert (state["best"], state["bad"]) == ({"rsum": 1.5}, {"k": ("00000.tar", "why")})


def test_old_ones_go_but_for_the_best(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, 4, 5, keep=2, also_keep=2)
    assert checkpoint.steps(tmp_path) == [2, 4, 5]


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "no state", "no meta", "meta cut", "meta changed", "foreign", "empty", "renamed"]
)
def test_a_broken_one_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 1, 2)
    place = tmp_path / "step-000000002"
    state, meta = place / "state.pt", place / "meta.json"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-50])
    elif damage == "flipped":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif damage == "no state":
        state.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "meta cut":
        meta.write_text(meta.read_text()[:40])
    elif damage == "meta changed":
        meta.write_text(meta.read_text().replace('"train.lr": 0.001', '"train.lr": 0.002'))
    elif damage == "foreign":
        meta.write_text('{"epoch": 3}')
    elif damage == "empty":
        state.write_bytes(b"")
    else:
        place.rename(tmp_path / "step-000000007")
    step, read, notes = checkpoint.load(tmp_path, identity=SELF)
    assert step == 1
    assert torch.equal(read["student"]["w"], torch.ones(3))
    assert len(notes) == 1
    assert f"step-00000000{7 if damage == 'renamed' else 2} is broken and was passed over" in notes[0]


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, ("echo executed",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _save(tmp_path, 1)
    place = tmp_path / "step-000000001"
    torch.save({"student": _Evil()}, place / "state.pt")
    meta = store.read_json(place / "meta.json")
    store.write_json(place / "meta.json", seal.sealed({**meta, "sha256": store.sha256_file(place / "state.pt")}))
    with pytest.raises(
        DataError, match=r"No checkpoint in .* can be read.*-000000001 is broken.*Weights only load.*--force"
    ):
        checkpoint.load(tmp_path, identity=SELF)
    assert "executed" not in capfd.readouterr().out


def test_another_run_is_refused_with_what_changed(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    other = checkpoint.Identity({"train.lr": 0.002, "loss.beta": 1}, {"the training split": "bb"})
    with pytest.raises(StaleError) as caught:
        checkpoint.load(tmp_path, identity=other)
    for words in (
        "train.lr was 0.001 and is now 0.002",
        "loss.alpha was 0.1 and is now None",
        "the training split changed",
        "--force",
    ):
        assert words in str(caught.value)


def test_random_numbers_go_on(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.rand(()))  # noqa: NPY002

    checkpoint.seed_all(5)
    draw()
    checkpoint.save(tmp_path, step=1, state={"random": checkpoint.random_state()}, identity=SELF, keep=1)
    expected = [draw() for _ in range(3)]
    checkpoint.seed_all(9)
    checkpoint.set_random_state(checkpoint.load(tmp_path, identity=SELF)[1]["random"])
    assert [draw() for _ in range(3)] == expected
    checkpoint.seed_all(5)
    first = draw()
    checkpoint.seed_all(5)
    assert draw() == first


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_explained_and_the_last_one_stays(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode()}")
    try:
        _save(small, 1)
        with pytest.raises(DataError, match="disk is full"):
            checkpoint.save(small, step=2, state={"w": torch.zeros(500_000)}, identity=SELF, keep=3)
        assert [place.name for place in small.iterdir()] == ["step-000000001"]
        assert checkpoint.load(small, identity=SELF)[0] == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_save__what_lies_in_the_folder(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, step=12, state=_state(3), identity=SELF, keep=1)
    assert place == tmp_path / "step-000000012"
    assert [file.name for file in store.files_below(place)] == ["meta.json", "state.pt"]
    meta = store.read_json(place / "meta.json")
    assert meta == seal.sealed(
        {
            **{"format": 3, "step": 12, "sha256": store.sha256_file(place / "state.pt")},
            "settings": {"train.lr": 0.001, "loss.alpha": 0.1},
            "digests": {"the training split": "aa"},
        }
    )
    state = torch.load(place / "state.pt", weights_only=True)
    assert torch.equal(state.pop("student")["w"], torch.full((3,), 3.0))
    assert state == {name: value for name, value in _state(3).items() if name != "student"}


@pytest.mark.parametrize(
    ("keep", "also_keep", "left"),
    [(1, None, [9]), (2, None, [5, 9]), (3, 1, [1, 3, 5, 9]), (1, 5, [5, 9]), (2, 9, [5, 9]), (99, None, [1, 3, 5, 9])],
)
def test_save__the_latest_and_the_best_stay(tmp_path: Path, keep: int, also_keep: int | None, left: list[int]) -> None:
    for other in ("step-best", "step-", "other"):
        (tmp_path / other).mkdir()
    _save(tmp_path, 1, 3, 5, keep=99)
    _save(tmp_path, 9, keep=keep, also_keep=also_keep)
    assert checkpoint.steps(tmp_path) == left
    assert {path.name for path in tmp_path.iterdir()} >= {"step-best", "step-", "other"}


def test_save__one_that_goes_back_stays_although_later_ones_are_there(tmp_path: Path) -> None:
    _save(tmp_path, 8, 9, keep=9)
    _save(tmp_path, 2, keep=1)
    assert checkpoint.steps(tmp_path) == [2, 9]


OTHERS = {
    "train.lr": checkpoint.Identity({**SELF.settings, "train.lr": 0.002}, SELF.digests),
    "loss.new": checkpoint.Identity({**SELF.settings, "loss.new": 1}, SELF.digests),
    "the training split": checkpoint.Identity(SELF.settings, {"the training split": "bb"}),
    "the image teacher": checkpoint.Identity(SELF.settings, {**SELF.digests, "the image teacher": "cc"}),
}
WORDS = {
    "train.lr": "train.lr was 0.001 and is now 0.002",
    "loss.new": "loss.new, which was not there when it was written, is 1",
    "the training split": "the training split changed",
    "the image teacher": "the image teacher changed",
}


@pytest.mark.parametrize("name", OTHERS)
def test_load__one_difference_is_refused_by_name_or_allowed_by_name(tmp_path: Path, name: str) -> None:
    _save(tmp_path, 4)
    key = checkpoint.KEYS_OF_INPUTS.get(name, name)
    with pytest.raises(StaleError) as caught:
        checkpoint.load(tmp_path, identity=OTHERS[name])
    assert f"belongs to another run: {WORDS[name]}. Go on" in str(caught.value)
    assert f"--allow-changed {key}." in str(caught.value)
    for allowed in {key, name}:
        step, state, notes = checkpoint.load(tmp_path, identity=OTHERS[name], allow_changed=[allowed])
        assert (step, notes) == (4, (f"From step 4 on {WORDS[name]}, as was allowed.",))
        assert state["best"] == {"rsum": 1.5}
    other = "loss.alpha" if name != "loss.alpha" else "train.lr"
    with pytest.raises(StaleError, match="belongs to another run"):
        checkpoint.load(tmp_path, identity=OTHERS[name], allow_changed=[other])
    with pytest.raises(ConfigError, match=r"--allow-changed 'train\.tempo' is nothing"):
        checkpoint.load(tmp_path, identity=OTHERS[name], allow_changed=[key, "train.tempo"])


def test_load__an_input_of_several_words_is_named_as_a_shell_takes_it(tmp_path: Path) -> None:
    _save(tmp_path, 4)
    other = checkpoint.Identity(SELF.settings, {**SELF.digests, "the image features": "dd"})
    with pytest.raises(StaleError) as caught:
        checkpoint.load(tmp_path, identity=other)
    option, name = shlex.split(str(caught.value).partition("what changed, with ")[2].removesuffix("."))
    assert (option, name) == ("--allow-changed", "the image features")
    assert checkpoint.load(tmp_path, identity=other, allow_changed=[name])[0] == 4


def test_load__all_that_changed_is_allowed_by_the_options_that_the_message_names(tmp_path: Path) -> None:
    _save(tmp_path, 4)
    settings = {key: value for key, value in SELF.settings.items() if key != "train.lr"}
    digests = {**SELF.digests, "the training split": "bb", "the training split of data set 2": "cc"}
    other = checkpoint.Identity({**settings, "loss.new": 1}, digests)
    with pytest.raises(StaleError) as caught:
        checkpoint.load(tmp_path, identity=other)
    said = str(caught.value).partition("what changed, with ")[2].removesuffix(".")
    assert said == "--allow-changed loss.new --allow-changed train.lr --allow-changed data.train"
    assert checkpoint.load(tmp_path, identity=other, allow_changed=said.split()[1::2])[0] == 4


def test_load__an_earlier_one_of_this_very_run_is_named(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, keep=9)
    other = OTHERS["train.lr"]
    for step in (4, 5):
        checkpoint.save(tmp_path, step=step, state=_state(step), identity=other, keep=9)
    (tmp_path / "step-000000003/meta.json").unlink()
    with pytest.raises(StaleError, match=r"step-000000005 belongs .* Step 2 does belong to this one: move the later"):
        checkpoint.load(tmp_path, identity=SELF)
    with pytest.raises(StaleError) as caught:
        checkpoint.load(tmp_path, identity=OTHERS["loss.new"])
    assert "does belong to this one" not in str(caught.value)


@pytest.mark.parametrize("change", [{"format": 2}, {"step": 3}, {"sha256": "0" * 64}])
def test_load__a_meta_file_of_another_format_step_or_state(tmp_path: Path, change: dict[str, Any]) -> None:
    _save(tmp_path, 2)
    path = tmp_path / "step-000000002/meta.json"
    store.write_json(path, seal.sealed({**store.read_json(path), **change}))
    with pytest.raises(DataError, match=r"No checkpoint in .* can be read\. The checkpoint .*-000000002 is broken"):
        checkpoint.load(tmp_path, identity=SELF)


def test_load__an_empty_folder_is_a_beginning(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, identity=SELF) == (0, {}, ())


@pytest.mark.parametrize("seed", [0, 2**31 + 5, 2**32 + 5])
def test_seed_all__seeds_every_generator(seed: int) -> None:
    checkpoint.seed_all(seed)
    drawn = random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002
    own = np.random.RandomState(seed % 2**32)  # noqa: NPY002
    expected = random.Random(seed).random(), float(own.random_sample())
    assert drawn == (*expected, float(torch.rand((), generator=torch.Generator().manual_seed(seed))))


def test_keys_of_inputs__are_what_people_allow_by_name() -> None:
    assert dict(checkpoint.KEYS_OF_INPUTS) == {
        **{"the training split": "data.train", "the validation split": "data.val"},
        **{"the image teacher": "teachers.image", "the text teacher": "teachers.text"},
        "the neighbour tables": "train.neighbour_similarity",
        "what student.name names": "student.name",
        "what student.towers.image.name names": "student.towers.image.name",
        "what student.towers.text.name names": "student.towers.text.name",
    }


def test_a_later_one_that_is_broken_is_not_offered_to_go_on_from(tmp_path: Path) -> None:
    """The one that belongs to the run has lost its state; the one before it is of another run."""
    other = checkpoint.Identity({**SELF.settings, "train.lr": 0.5}, SELF.digests)
    checkpoint.save(tmp_path, step=1, state=_state(1), identity=other, keep=9)
    _save(tmp_path, 2, keep=9)
    (tmp_path / "step-000000002" / "state.pt").write_bytes(b"cut")
    with pytest.raises(StaleError, match=r"train\.lr was 0\.5 and is now 0\.001") as refused:
        checkpoint.load(tmp_path, identity=SELF)
    assert "does belong to this one" not in str(refused.value)
    _save(tmp_path, 0, keep=9)
    with pytest.raises(StaleError, match=r"Step 0 does belong to this one"):
        checkpoint.load(tmp_path, identity=SELF)
