"""Points between two students: the weights by hand, both ends to the bit, and what is refused by name."""

from pathlib import Path

import pytest
import torch

from cusa.errors import DataError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.features import FeatureTable
from cusa.models.students.base import Student
from cusa.workflow.blend.interpolation import Blend, between, refuse_others

SIZES = {"image_size": 16, "patch_size": 8, "image_width": 32, "text_width": 32, "image_layers": 1, "text_layers": 1}
WORDS = ("a red wall", "a green wall")


def _clip(*, seed: int = 0, words: tuple[str, ...] = WORDS, uni: bool = False, **config: object) -> Student:
    made = StudentConfig.model_validate({"kind": "dual-encoder", "width": 16, **SIZES, **config})
    return students.create(made, captions=words, uni=uni, seed=seed).eval()


def _heads(*, seed: int = 0, width: int = 8, weights: str = "a") -> Student:
    config = StudentConfig.model_validate({"kind": "heads", "heads": {"width": width}})
    tables = {
        modality: FeatureTable(f"{modality}s", size, {"revision": "1", "weights_sha256": weights})
        for modality, size in (("image", 5), ("text", 3))
    }
    return students.create(config, captions=(), uni=True, seed=seed, features=tables).eval()


@pytest.mark.parametrize("make", [_clip, _heads])
def test_at__is_the_weighted_mean_of_every_weight_and_exact_at_both_ends(make: object) -> None:
    base, run = make(seed=1), make(seed=2)  # type: ignore[operator]
    one, two = ({name: value.clone() for name, value in student.state_dict().items()} for student in (base, run))
    blend = Blend(base, run)
    for alpha in (0.3, 0.0, 1.0, 0.75, 0.3):  # in any order: no point follows from the one before
        state = blend.at(alpha).state_dict()
        for name, value in state.items():
            if not value.is_floating_point():
                assert torch.equal(value, two[name])
            elif alpha in (0.0, 1.0):
                assert torch.equal(value, (one, two)[int(alpha)][name]), name
            else:
                by_hand = (1 - alpha) * one[name].double() + alpha * two[name].double()
                assert value.double() == pytest.approx(by_hand.numpy(), abs=1e-6), name
    assert all(torch.equal(value, one[name]) for name, value in base.state_dict().items()), "the base is as it was"


def test_between__keeps_what_is_equal_to_the_bit_and_the_run_s_type() -> None:
    value = torch.randn(1000) / 3
    assert torch.equal(between(value, value, 0.37), value)
    half = between(torch.full((4,), 1.0), torch.full((4,), 2.0, dtype=torch.float16), 0.25)
    assert half.dtype == torch.float16
    assert half.tolist() == [1.25] * 4
    assert between(torch.tensor(3), torch.tensor(7), 0.5).item() == 7, "a counter of training batches"


def test_between__the_mean_of_logarithms_is_the_geometric_mean_of_clip_s_temperatures() -> None:
    scales = torch.tensor([20.0, 80.0]).log()
    assert between(scales[0], scales[1], 0.5).exp().item() == pytest.approx(40)


@pytest.mark.parametrize(
    ("base", "run", "difference"),
    [
        (_clip, _heads, "kind"),
        (_clip, lambda: _clip(width=32), "width of the card"),
        (_clip, lambda: _clip(uni=True), "heads of the card"),
        (_clip, lambda: _clip(image_size=32), "preprocess"),
        (_clip, lambda: _clip(text_layers=2), "weight 'backbone.text_model.*missing in the base"),
        (_clip, lambda: _clip(words=("a blue wall", "a red wall")), "id of the token 'blue|id of the token"),
        (_heads, lambda: _heads(width=12), "heads.width of the card"),
        (_heads, lambda: _heads(weights="b"), "encoder of the image rows"),
    ],
)
def test_refuse_others__names_the_first_difference(base: object, run: object, difference: str) -> None:
    with pytest.raises(DataError, match=f"(?s)nothing between.*differ in the .*{difference}.*`start`"):
        refuse_others(base(), run())  # type: ignore[operator]


def test_refuse_others__other_integers_are_no_mean() -> None:
    base, run = _heads(), _heads(seed=1)
    for student, place in ((base, 1), (run, 2)):
        student.register_buffer("places", torch.tensor([0, place]))
        student.register_buffer("num_batches_tracked", torch.tensor(place))
    with pytest.raises(DataError, match="integers of 'places'"):
        refuse_others(base, run)
    base.places[1] = 2
    refuse_others(base, run)


def test_blend__adapters_of_the_base_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = _clip(lora={"rank": 2})
    with torch.no_grad():
        for name, value in base.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    base.save(tmp_path / "base")
    merged = students.load(tmp_path / "base")
    point = Blend(base, _clip(seed=3)).at(0.0)
    expected = merged.state_dict()
    assert all(torch.allclose(value, expected[name], atol=1e-7) for name, value in point.state_dict().items())
