"""The weight-free teachers: unit rows, the same on every machine, close for what looks or reads alike."""

import itertools
import math
import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cusa.errors import ConfigError
from cusa.models.teachers.offline import OFFLINE_TEACHERS, GistTeacher, NgramTeacher, load_offline
from cusa.models.teachers.registry import load_teacher


def _noise(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def _disc(x: int, colour: str, ground: str = "white") -> Image.Image:
    image = Image.new("RGB", (96, 96), ground)
    ImageDraw.Draw(image).circle((x, 48), 15, fill=colour)
    return image


@pytest.mark.parametrize("name", OFFLINE_TEACHERS)
def test_every_name_loads_and_keeps_the_interface(name: str) -> None:
    teacher = load_offline(name)
    assert teacher.name == name
    items = [_noise(0), _noise(1)] if teacher.modality == "image" else ["a red star", "at night"]
    rows = teacher.encode(items)
    assert rows.shape == (2, teacher.width)
    assert rows.dtype == np.float32
    assert np.allclose((rows**2).sum(1), 1, atol=1e-5)
    assert teacher.encode([]).shape == (0, teacher.width)
    assert set(teacher.provenance()) == {"teacher", "revision", "weights_sha256", "preprocessing"}
    assert teacher.provenance()["teacher"] == name
    assert load_teacher(name, teacher.modality).name == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'offline-gist'.*offline-scenes-text"):
        load_offline("offline-gists")


def test_naming_the_weight_free_ones_needs_no_torch() -> None:
    code = "import sys; from cusa.models.teachers.offline import load_offline as load; load('offline-gist')"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (200, 3), "white"),
        Image.new("L", (10, 10), 128),
        Image.new("RGB", (48, 48), (127, 127, 127)),
        Image.new("RGB", (48, 48), (128, 128, 128)),
        Image.new("P", (20, 20)),
        Image.new("CMYK", (20, 20)),
    ],
    ids=["one pixel", "strip", "grey", "mid-grey", "mid-grey 2", "palette", "cmyk"],
)
def test_gist_has_a_direction_for_every_image(image: Image.Image) -> None:
    row = GistTeacher().encode([image])
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_gist_does_not_depend_on_the_batch() -> None:
    images = [_noise(n) for n in range(5)]
    together = GistTeacher().encode(images)
    alone = np.concatenate([GistTeacher().encode([image]) for image in images])
    assert np.abs(together - alone).max() < 1e-6


def test_gist_sees_colour_and_place_and_edges() -> None:
    rows = GistTeacher().encode(
        [_disc(30, "red"), _disc(32, "red"), _disc(30, "blue"), _disc(70, "red"), _disc(30, "red", "black")]
    )
    similar, colour, place, ground = rows[1:] @ rows[0]
    assert similar > max(colour, place, ground)


def test_gist_tells_the_directions_of_edges_in_shades_of_grey() -> None:
    def stripes(turned: bool, shift: int) -> Image.Image:
        image = np.tile(((np.arange(96) + shift) // 8 % 2 * 200 + 28).astype(np.uint8), (96, 1))
        return Image.fromarray(image.T.copy() if turned else image)

    upright, moved, lying = GistTeacher().encode([stripes(False, 0), stripes(False, 3), stripes(True, 0)])
    assert upright @ moved > upright @ lying + 0.2


def test_gist_is_not_changed_by_size() -> None:
    image = _disc(40, "green", "yellow")
    rows = GistTeacher().encode([image, image.resize((384, 384), Image.Resampling.NEAREST)])
    assert rows[0] @ rows[1] > 0.999


def test_ngrams_are_the_signs_of_the_digest() -> None:
    """One word of one letter has one word n-gram and one run of letters; the digest's bits by hand."""
    signs = []
    for gram in (b"wx", b"l<x>"):
        number = int.from_bytes(blake2b(gram, digest_size=32).digest(), "big")
        signs.append([1 if number >> (255 - bit) & 1 else -1 for bit in range(256)])
    expected = np.sum(signs, axis=0) / np.linalg.norm(np.sum(signs, axis=0))
    assert np.allclose(NgramTeacher().encode(["X"])[0], expected, atol=1e-6)


def test_ngrams_of_texts_that_share_words_are_close() -> None:
    rows = NgramTeacher().encode(
        ["a red star on snow", "on snow a red star", "a red stars", "two blue rings at night", "A  RED star\non snow"]
    )
    same_words, same_parts, other, same_text = rows[1:] @ rows[0]
    assert same_text == pytest.approx(1)
    assert 0.99 > same_words > same_parts > other + 0.2
    assert abs(other) < 0.3


@settings(max_examples=60)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_ngrams_have_a_direction_for_every_text(texts: list[str]) -> None:
    rows = NgramTeacher().encode(texts)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    alone = np.concatenate([NgramTeacher().encode([text]) for text in texts])
    assert np.array_equal(rows, alone)


def test_ngrams_are_the_same_in_another_process() -> None:
    code = (
        "from cusa.models.teachers.offline import NgramTeacher as T; print(T().encode(['a red star'])[0, :8].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(NgramTeacher().encode(["a red star"])[0, :8].tolist())


def _gist_by_loops(image: Image.Image) -> list[float]:
    """Return the gist of one image, pixel by pixel: colours and edges of six by six cells, each half of length 1."""
    small = np.asarray(image.convert("RGB").resize((48, 48), Image.Resampling.BOX), dtype=np.float64) / 255 - 0.5
    grey = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in line] for line in small.tolist()]
    colour, edges = np.zeros((6, 6, 3)), np.zeros((6, 6, 8))

    def slope(values: list[float], at: int) -> float:
        low, high = max(at - 1, 0), min(at + 1, 47)
        return (values[high] - values[low]) / (high - low)

    for y in range(48):
        for x in range(48):
            red, green, blue = small[y, x]
            colour[y // 8, x // 8] += np.array([grey[y][x], red - green, blue - (red + green) / 2]) / 64
            across, down = slope(grey[y], x), slope([line[x] for line in grey], y)
            turn = math.atan2(down, across) % math.pi / math.pi * 8
            share = turn - int(turn)
            edges[y // 8, x // 8, int(turn) % 8] += (1 - share) * math.hypot(down, across) / 64
            edges[y // 8, x // 8, (int(turn) + 1) % 8] += share * math.hypot(down, across) / 64
    halves = [colour.reshape(-1) + 1e-6, np.sqrt(edges).reshape(-1) + 1e-6]
    joined = np.concatenate([half / np.linalg.norm(half) for half in halves])
    return (joined / np.linalg.norm(joined)).tolist()


def test_gist_equals_loops_over_pixels() -> None:
    """A table of an earlier version stays true: revision 1 is these numbers."""
    pictures = [_noise(3), _disc(30, "red", "teal")]
    for row, picture in zip(GistTeacher().encode(pictures), pictures, strict=True):
        np.testing.assert_allclose(row, _gist_by_loops(picture), rtol=0, atol=2e-5)


def test_a_text_without_words_has_a_direction_of_its_own() -> None:
    number = int.from_bytes(blake2b(b"empty", digest_size=32).digest(), "big")
    signs = np.array([1 if number >> (255 - bit) & 1 else -1 for bit in range(256)])
    for text in ("", " \n"):
        np.testing.assert_allclose(NgramTeacher().encode([text])[0], signs / 16, rtol=0, atol=1e-6)


def test_ngrams_equal_loops_over_words_and_letters() -> None:
    text = "Red red star go go go"
    words = text.lower().split()
    grams = [f"w{word}" for word in words] + [f"p{one} {other}" for one, other in itertools.pairwise(words)]
    for word in words:
        marked = f"<{word}>"
        grams += [f"l{marked[k : k + n]}" for n in (3, 4, 5) for k in range(len(marked) - n + 1)]
    total = np.zeros(256)
    for gram in set(grams):
        number = int.from_bytes(blake2b(gram.encode(), digest_size=32).digest(), "big")
        signs = np.array([1 if number >> (255 - bit) & 1 else -1 for bit in range(256)])
        total += signs * (1 + math.log(grams.count(gram)))
    np.testing.assert_allclose(NgramTeacher().encode([text])[0], total / np.linalg.norm(total), rtol=0, atol=1e-5)
