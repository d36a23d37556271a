"""The two scene teachers: what they were trained for, on scenes they have not seen, through the files they read."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cusa.errors import DataError
from cusa.models.captions import clean_caption
from cusa.models.teachers import scenes as scene_teachers
from cusa.models.teachers.offline import GistTeacher, NgramTeacher
from cusa.models.teachers.scenes import IMAGE_FAMILIES, WEIGHTS, SceneImageTeacher, SceneTextTeacher
from cusa.pipeline.scenes.captions import draw_captions
from cusa.pipeline.scenes.meaning import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, truth_matrix
from cusa.pipeline.scenes.pictures import draw_scene
from cusa.pipeline.scenes.stage import draw_meaning

WIDEST = 1_000_000  # bytes


def _jpeg(image: Image.Image) -> Image.Image:
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=90)
    return Image.open(packed)


class World:
    """150 scenes of a seed no teacher was trained on, with their captions and the truth between them."""

    def __init__(self) -> None:
        rngs = [Random(f"tests/{n}") for n in range(150)]
        self.scenes = [draw_meaning(rng) for rng in rngs]
        captions = [
            caption for scene, rng in zip(self.scenes, rngs, strict=True) for caption in draw_captions(scene, rng)
        ]
        pairs = zip(self.scenes, rngs, strict=True)
        self.images = [_jpeg(draw_scene(scene, size=96, rng=rng)) for scene, rng in pairs]
        self.texts = [clean_caption(text) for text, _ in captions]
        self.truth = truth_matrix(self.scenes, [claim for _, claim in captions])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_the_weights_are_small(path: Path) -> None:
    assert path.stat().st_size < WIDEST


def test_both_files_are_shipped() -> None:
    assert {path.stem for path in WEIGHTS.iterdir()} == {"offline-scenes-image", "offline-scenes-text"}


def test_the_image_encoder_says_what_a_scene_shows(world: World) -> None:
    """Read the concepts of the embedding back by name; the scene knows what must be among them."""
    model = scene_teachers.SceneImageEncoder()
    scene_teachers.load_weights(model, WEIGHTS / "offline-scenes-image.safetensors")
    with torch.inference_mode():
        predicted = model.concepts(scene_teachers.pixels(world.images)) > 0.5
    parts = dict(zip(IMAGE_FAMILIES, predicted.split(list(IMAGE_FAMILIES.values()), dim=1), strict=True))
    right = []
    for n, scene in enumerate(world.scenes):
        named = {
            "shape": {SHAPES.index(thing.shape) for thing in scene.things},
            "colour": {COLOURS.index(thing.colour) for thing in scene.things},
            "shape colour": {8 * SHAPES.index(thing.shape) + COLOURS.index(thing.colour) for thing in scene.things},
            "shape cell": {8 * (3 * thing.row + thing.column) + SHAPES.index(thing.shape) for thing in scene.things},
            "background": {BACKGROUNDS.index(scene.background)},
        }
        right += [set(parts[name][n].nonzero()[:, 0].tolist()) == expected for name, expected in named.items()]
    assert np.mean(right) > 0.97


def test_equal_meanings_are_close_however_drawn_and_others_are_not() -> None:
    teacher = SceneImageTeacher()
    star, ring = Thing("star", "red", "large", "plain", 0, 0), Thing("ring", "blue", "small", "dotted", 2, 1)
    scenes = [
        Scene((star, ring), "snow"),
        Scene((ring, star), "snow"),
        Scene((star,), "snow"),
        Scene((Thing("moon", "green", "small", "plain", 1, 2),), "night"),
    ]
    rows = teacher.encode([draw_scene(scene, size=96, rng=Random(n)) for n, scene in enumerate(scenes)])
    same, part, nothing = rows[1:] @ rows[0]
    assert same > 0.97
    assert 0.9 > part > 0.5
    assert nothing < 0.15


def test_paraphrases_are_close_and_what_only_sounds_alike_is_not() -> None:
    rows = SceneTextTeacher().encode(
        [
            "a scarlet disc to the left of a violet box",
            "a purple square with a red circle on its left",
            "a purple disc to the left of a scarlet box",
            "a picture of three things at night one of them a star",
        ]
    )
    same, swapped, other = rows[1:] @ rows[0]
    assert same > 0.9
    assert swapped < same - 0.15
    assert other < 0.3
    plain = NgramTeacher().encode(
        ["a scarlet disc to the left of a violet box", "a purple square with a red circle on its left"]
    )
    assert plain[0] @ plain[1] < 0.5  # nothing a spelling could tell


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = truth[order].astype(float)
    return float((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / hits.sum())


def test_they_find_false_negatives_far_better_than_pixels_and_spelling(world: World) -> None:
    owner = np.arange(750) // 5
    foreign = owner[None, :] != np.arange(150)[:, None]

    def judge(image: np.ndarray, text: np.ndarray) -> float:
        to_owner = np.clip((image @ image.T)[:, owner], 0, 1)
        to_own_captions = np.clip((text @ text.T).reshape(750, 150, 5).max(2).T, 0, 1)
        return _average_precision(np.sqrt(to_owner * to_own_captions)[foreign], world.truth[foreign])

    semantic = judge(SceneImageTeacher().encode(world.images), SceneTextTeacher().encode(world.texts))
    weight_free = judge(GistTeacher().encode(world.images), NgramTeacher().encode(world.texts))
    chance = world.truth[foreign].mean()
    assert semantic > 0.3
    assert semantic > 2 * weight_free
    assert weight_free > 2 * chance


def test_embeddings_do_not_depend_on_the_batch(world: World) -> None:
    for teacher, items in ((SceneImageTeacher(), world.images[:9]), (SceneTextTeacher(), world.texts[:9])):
        together = teacher.encode(items)
        alone = np.concatenate([teacher.encode([item]) for item in items])
        assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("text", ["", "xylophone qwerty", "word " * 500, "émigré 🦊", ",.,"])
def test_a_text_about_anything_gets_a_unit_row(text: str) -> None:
    row = SceneTextTeacher().encode([text])
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_an_image_of_anything_gets_a_unit_row() -> None:
    images = [Image.new("L", (5, 300)), Image.new("RGB", (640, 480), "red"), Image.effect_noise((64, 64), 90)]
    rows = SceneImageTeacher().encode(images)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_provenance_has_the_files_digest() -> None:
    import hashlib

    for teacher in (SceneImageTeacher(), SceneTextTeacher()):
        path = WEIGHTS / f"{teacher.name}.safetensors"
        assert teacher.provenance()["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_broken_or_foreign_weights_are_named(tmp_path: Path) -> None:
    good = WEIGHTS / "offline-scenes-text.safetensors"
    missing, truncated, foreign = (tmp_path / f"{name}.safetensors" for name in ("missing", "truncated", "foreign"))
    truncated.write_bytes(good.read_bytes()[:1000])
    save_file({name: tensor for name, tensor in load_file(good).items() if name != "answer.bias"}, foreign)
    for path in (missing, truncated, foreign, WEIGHTS / "offline-scenes-image.safetensors"):
        with pytest.raises(DataError, match="missing or broken"):
            SceneTextTeacher(path)


def test_hashed_words_are_the_same_everywhere() -> None:
    """0xCBF43926 is the check value that the catalogue of CRCs gives for CRC-32; zero is padding."""
    numbers = scene_teachers.hash_words(["Red, red.", "123456789"])
    assert numbers[1].tolist() == [1 + 0xCBF43926 % 2047, 0]
    assert numbers[0, 0] == numbers[0, 1] > 0


@torch.inference_mode()
def test_concepts_of_an_image_equal_loops_over_cells() -> None:
    """A thing is in each cell with a probability of its own; a concept holds if any cell has it."""
    torch.manual_seed(0)
    model = scene_teachers.SceneImageEncoder().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pixels = scene_teachers.pixels([Image.effect_noise((96, 96), 90), Image.new("RGB", (20, 50), "red")])
    things, background = model(pixels)
    found = dict(zip(IMAGE_FAMILIES, model.concepts(pixels).split(list(IMAGE_FAMILIES.values()), dim=1), strict=True))
    for n in range(2):
        cells = []
        for place in range(9):
            logits = things[n, :, place // 3, place % 3]
            there = float(logits[0].sigmoid())
            cells.append((there, logits[1:9].softmax(0), logits[9:17].softmax(0), logits[19:23].softmax(0)))
        for k in range(8):
            for name, part in (("shape", 1), ("colour", 2)):
                absent = np.prod([1 - cell[0] * float(cell[part][k]) for cell in cells])
                assert float(found[name][n, k]) == pytest.approx(1 - absent, abs=1e-5)
                for place, cell in enumerate(cells):
                    in_cell = float(found[f"{name} cell"][n, 8 * place + k])
                    assert in_cell == pytest.approx(cell[0] * float(cell[part][k]), abs=1e-6)
            for j in range(8):
                absent = np.prod([1 - cell[0] * float(cell[1][k]) * float(cell[2][j]) for cell in cells])
                assert float(found["shape colour"][n, 8 * k + j]) == pytest.approx(1 - absent, abs=1e-5)
        for k in range(4):
            absent = np.prod([1 - cell[0] * float(cell[3][k]) for cell in cells])
            assert float(found["texture"][n, k]) == pytest.approx(1 - absent, abs=1e-5)
        torch.testing.assert_close(found["background"][n], background[n].softmax(0))


@torch.inference_mode()
def test_rows_are_weighted_concepts_of_unit_length(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_teachers, "BATCH", 4)
    images, texts = world.images[:6], world.texts[:6]
    inputs = {"image": scene_teachers.pixels(images), "text": scene_teachers.hash_words(texts)}
    for modality, model, teacher, items in (
        ("image", scene_teachers.SceneImageEncoder(), SceneImageTeacher(), images),
        ("text", scene_teachers.SceneTextEncoder(), SceneTextTeacher(), texts),
    ):
        path = WEIGHTS / f"offline-scenes-{modality}.safetensors"
        scene_teachers.load_weights(model, path)
        weighted = model.concepts(inputs[modality]).double() * load_file(path)["scale"].double() + 1e-6
        rows = weighted / weighted.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(teacher.encode(items), rows.numpy(), rtol=0, atol=1e-6)


def test_words__are_lower_case_without_marks_and_64_at_most() -> None:
    same = scene_teachers.hash_words(["A red, round disc. On snow", "a red round disc on snow"])
    assert torch.equal(same[0], same[1])
    many = scene_teachers.hash_words([" ".join(f"w{n}" for n in range(70)), "w0"])
    assert many.shape == (2, 64)
    assert many[0, 63] == scene_teachers.hash_words(["w63"])[0, 0]
    assert many[1].tolist() == [int(many[0, 0])] + [0] * 63
    assert 0 < int(many[0].min()) <= int(many[0].max()) < scene_teachers.BUCKETS
