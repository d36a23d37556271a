import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cusa.errors import DataError
from cusa.models import preprocess
from cusa.models.preprocess import CLIP_MEAN, CLIP_STD, UNDECODABLE, Preprocess, decode_rgb


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


NAMES = ["photo0", "photo1", "photo2", "synth_up", "synth_square", "synth_shift", "synth_tall"]


@pytest.mark.parametrize("name", NAMES)
def test_square_and_numbers_equal_the_reference(golden: Path, name: str) -> None:
    arrays = np.load(golden / "06_clip" / "preprocess.npz")
    image = Image.fromarray(arrays[f"{name}/image"])
    for size in (64, 224):
        if f"{name}/crop_uint8_{size}" not in arrays:
            continue
        preprocess = Preprocess(size)
        square = preprocess.array(image)
        np.testing.assert_array_equal(square.transpose(1, 2, 0), arrays[f"{name}/crop_uint8_{size}"])
        if size == 64:
            np.testing.assert_allclose(preprocess.normalise(square), arrays[f"{name}/pixels_{size}"], rtol=0, atol=1e-6)


def test_normalise_is_the_formula() -> None:
    square = _noise(8, 8).transpose(2, 0, 1)
    expected = np.empty((3, 8, 8))
    for c in range(3):
        for y in range(8):
            for x in range(8):
                expected[c, y, x] = (square[c, y, x] / 255 - CLIP_MEAN[c]) / CLIP_STD[c]
    np.testing.assert_allclose(Preprocess(8).normalise(np.stack([square, square]))[1], expected, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["crop", "squash"]), st.sampled_from([0, 20]))
def test_every_shape_becomes_the_square(width: int, height: int, fit: str, resize: int) -> None:
    square = Preprocess(16, fit=fit, resize=resize).array(Image.new("RGB", (width, height), (1, 2, 3)))
    assert square.shape == (3, 16, 16)
    assert square.dtype == np.uint8
    assert (square == np.array([1, 2, 3])[:, None, None]).all()  # no black border was cut in


def test_decode_applies_the_orientation() -> None:
    pixels = _noise(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    decoded = decode_rgb(_bytes(Image.fromarray(pixels), "PNG", exif=exif))
    assert decoded.size == (20, 30)
    np.testing.assert_array_equal(np.asarray(decoded), np.rot90(pixels, -1))


def test_decode_makes_three_channels_of_every_mode() -> None:
    rgb = Image.fromarray(_noise(16, 16))
    grey = rgb.convert("L")
    np.testing.assert_array_equal(np.asarray(decode_rgb(_bytes(grey)))[..., 1], np.asarray(grey))
    palette = rgb.quantize(16)
    np.testing.assert_array_equal(np.asarray(decode_rgb(_bytes(palette))), np.asarray(palette.convert("RGB")))
    cmyk = decode_rgb(_bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(cmyk, dtype=int) - (255, 0, 0)).max() <= 3
    deep = Image.fromarray(np.full((4, 4), 0x8123, dtype=np.uint16))
    np.testing.assert_array_equal(np.asarray(decode_rgb(_bytes(deep))), np.full((4, 4, 3), 0x81))
    one_bit = decode_rgb(_bytes(Image.new("1", (4, 4), 1)))
    assert np.asarray(one_bit).min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_parts_lie_over_white(mode: str) -> None:
    options: dict[str, object] = {}
    if mode == "RGB":
        image, options = Image.new("RGB", (4, 4), (9, 9, 9)), {"transparency": (9, 9, 9)}
    elif mode == "P":
        image, options = Image.new("P", (4, 4), 0), {"transparency": 0}
    else:
        image = Image.new(mode, (4, 4), 0)
    assert np.asarray(decode_rgb(_bytes(image, **options))).min() == 255


@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_decode_refuses_what_is_no_whole_image(damage: str) -> None:
    whole = _bytes(Image.fromarray(_noise(64, 64)), "JPEG")
    data = {"text": b"this is no picture", "empty": b"", "cut": whole[: len(whole) // 2]}[damage]
    with pytest.raises(UNDECODABLE):
        decode_rgb(data)


def test_decode_refuses_more_pixels_than_allowed() -> None:
    with pytest.raises(ValueError, match="20 x 10 pixels, 199 allowed"):
        decode_rgb(_bytes(Image.new("RGB", (20, 10))), max_pixels=199)


def test_json_round_trip_and_refusal() -> None:
    made = Preprocess(96, fit="squash", resample="bilinear", mean=(0.5, 0.5, 0.5))
    assert Preprocess.from_json(made.to_json()) == made
    with pytest.raises(DataError, match="not understood"):
        Preprocess.from_json({**made.to_json(), "fit": "stretch"})


def test_hugging_face_files_are_read() -> None:
    clip = {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "size": {"shortest_edge": 224}}
    assert Preprocess.from_hugging_face(clip, image_size=0) == Preprocess(224)
    old = {"crop_size": 336, "size": 336, "do_center_crop": True, "resample": 3}
    assert Preprocess.from_hugging_face(old, image_size=0) == Preprocess(336)
    siglip = {"size": {"height": 256, "width": 256}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    half = (0.5, 0.5, 0.5)
    expected = Preprocess(256, fit="squash", resample="bilinear", mean=half, std=half)
    assert Preprocess.from_hugging_face(siglip, image_size=0) == expected
    assert Preprocess.from_hugging_face({}, image_size=64) == Preprocess(64)
    wide = {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "size": {"shortest_edge": 256}}
    assert Preprocess.from_hugging_face(wide, image_size=0) == Preprocess(224, resize=256)
    # A file that does not say whether it crops: it does if it names the shorter side, and squashes to two sides.
    silent = {"crop_size": {"height": 224, "width": 224}}
    crops = {**silent, "size": {"shortest_edge": 256}}
    assert Preprocess.from_hugging_face(crops, image_size=0) == Preprocess(224, resize=256)
    squashes = {**silent, "size": {"height": 256, "width": 256}}
    assert Preprocess.from_hugging_face(squashes, image_size=0) == Preprocess(256, fit="squash")


@pytest.mark.parametrize(("size", "share", "shorter"), [(224, 0.9, 248), (224, 0.875, 256), (240, 0.95, 252)])
def test_from_timm__the_shorter_side_is_rounded_down(size: int, share: float, shorter: int) -> None:
    """As `timm.data.create_transform` does: `int(math.floor(size / crop_pct))`; 248.9 is 248."""
    fields = {"input_size": (3, size, size), "crop_pct": share, "mean": [0.5] * 3, "std": [0.25] * 3}
    half, quarter = (0.5,) * 3, (0.25,) * 3
    assert Preprocess.from_timm(fields) == Preprocess(size, resize=shorter, mean=half, std=quarter)
    squash = Preprocess(size, fit="squash", mean=half, std=quarter)
    assert Preprocess.from_timm({**fields, "crop_mode": "squash"}) == squash


def test_scaled_decoding_keeps_enough_pixels_and_nearly_the_picture() -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
    file = io.BytesIO()
    coarse.save(file, "JPEG", quality=95)
    exact, scaled = decode_rgb(file.getvalue()), decode_rgb(file.getvalue(), draft=112)
    assert exact.size == (640, 480)
    assert scaled.size == (160, 120)
    assert scaled.mode == "RGB"
    square = Preprocess(size=112).array
    assert np.abs(square(exact).astype(int) - square(scaled).astype(int)).mean() < 3
    assert decode_rgb(file.getvalue(), draft=481).size == (640, 480)
    for other, mode in (("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")):
        file = io.BytesIO()
        coarse.convert(mode).save(file, other)
        assert decode_rgb(file.getvalue(), draft=112).mode == "RGB"


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [(8, 4_000_000), (4_000_000, 8), (8, 65_000), (1, 300_000)])
def test_square__a_thin_picture_takes_neither_time_nor_memory(size: tuple[int, int], fit: str) -> None:
    image = Image.new("RGB", size, (200, 30, 90))
    with _peak() as peak:
        square = Preprocess(fit=fit).array(image)
    assert peak() < 400 << 20, "less than the picture itself, three times"
    assert (square.transpose(1, 2, 0) == (200, 30, 90)).all()


@pytest.mark.parametrize("size", [(120, 31), (31, 120), (64, 200)])
@pytest.mark.parametrize("resize", [0, 80])
def test_square__cropped_before_scaling_is_the_same_picture(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], resize: int
) -> None:
    y, x = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([x * 255 / size[0], y * 255 / size[1], 255 - y * 255 / size[1]], axis=-1)
    image = Image.fromarray(smooth.astype(np.uint8))
    whole = Preprocess(64, resize=resize).array(image).astype(int)
    monkeypatch.setattr(preprocess, "MOST_PIXELS", 0)
    part = Preprocess(64, resize=resize).array(image).astype(int)
    assert np.abs(part - whole).max() <= 2
    assert np.ptp(whole) > 20, "the picture is not all of one colour"


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """Give what the process needed at most within the block, beyond what it had, in bytes."""
    status = Path("/proc/self/status")

    def read(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+)", status.read_text())[1]) << 10  # type: ignore[index]

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    except OSError:
        pytest.skip("needs /proc")
    before = read("VmRSS")
    yield lambda: read("VmHWM") - before


MADE = [
    Preprocess(size, fit=fit, resize=resize, resample=resample, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for size in (96, 384)
    for fit in ("crop", "squash")
    for resize in ((0, 400) if fit == "crop" else (0,))
    for resample in ("bicubic", "bilinear", "lanczos", "nearest")
]


@pytest.mark.parametrize("made", MADE)
def test_to_hugging_face__says_every_field_and_is_read_back(made: Preprocess) -> None:
    fields = made.to_hugging_face()
    numbers = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's own
    side = {"height": made.size, "width": made.size}
    crop = made.fit == "crop"
    assert fields == {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": made.resize or made.size} if crop else side,
        "do_center_crop": crop,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": numbers[made.resample],
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        **({"crop_size": side} if crop else {}),
    }
    assert Preprocess.from_hugging_face(fields, image_size=7) == made
    assert Preprocess.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        # As transformers' ConvNextImageProcessor: below 384 scaled to size / crop_pct and cut, else squashed.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Preprocess(224, resize=256)),
        ({"size": 224, "crop_pct": 0.9}, Preprocess(224, resize=248)),
        ({"size": {"shortest_edge": 383}, "crop_pct": 0.5}, Preprocess(383, resize=766)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, Preprocess(384, fit="squash")),
        ({"crop_pct": 0.875}, Preprocess(64, resize=73)),
        ({"size": 224, "crop_pct": None, "do_center_crop": False, "resample": 0}, Preprocess(224, resample="nearest")),
        ({"size": {"height": 80, "width": 80}, "do_center_crop": False}, Preprocess(80, fit="squash")),
        ({"do_center_crop": True, "crop_size": 48, "size": 48}, Preprocess(48)),
        ({"resample": 5}, Preprocess(64, fit="squash")),
    ],
)
def test_from_hugging_face__crop_pct_and_sizes_of_every_kind(fields: dict[str, object], made: Preprocess) -> None:
    assert Preprocess.from_hugging_face(fields, image_size=64) == made


def test_from_timm__what_a_file_leaves_out() -> None:
    fields = {"input_size": (3, 96, 96), "mean": CLIP_MEAN, "std": CLIP_STD}
    assert Preprocess.from_timm(fields) == Preprocess(96, resize=96)
    assert Preprocess.from_timm({**fields, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}) == (
        Preprocess(96, resize=96, resample="bilinear")
    )


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3), np.float32), np.arange(4, dtype=np.int64), np.arange(4, dtype=np.uint8), np.zeros((0, 3), "<f8")],
)
def test_decode__arrays_of_finite_numbers_are_members_too(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    found = preprocess.decode(file.getvalue())
    assert isinstance(found, np.ndarray)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "array", [np.array([np.nan]), np.array([1, np.inf]), np.array([True]), np.array([1j]), np.array(["a"])]
)
def test_decode__other_arrays_are_refused(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(ValueError, match=f"the array holds {array.dtype}|not finite"):
        preprocess.decode(file.getvalue())


def test_square__an_array_is_no_picture() -> None:
    features: object = np.zeros((3, 4), np.float32)
    with pytest.raises(DataError, match=r"arrays of shape \(3, 4\).*student.kind=sgraf"):
        Preprocess().array(features)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "resize"), [((50, 31), 0), ((31, 50), 0), ((50, 50), 20), ((33, 57), 21), ((57, 33), 23)]
)
def test_square__scales_the_shorter_side_and_cuts_the_middle(size: tuple[int, int], resize: int) -> None:
    """By Pillow's own calls, the longer side rounded down, the offset half to even."""
    image, short = Image.fromarray(_noise(size[1], size[0])), resize or 16
    width, height = (short, size[1] * short // size[0]) if size[0] <= size[1] else (size[0] * short // size[1], short)
    left, top = round((width - 16) / 2), round((height - 16) / 2)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))[top : top + 16, left : left + 16]
    np.testing.assert_array_equal(Preprocess(16, resize=resize).array(image).transpose(1, 2, 0), expected)
    squashed = np.asarray(image.resize((16, 16), Image.Resampling.NEAREST))
    got = Preprocess(16, fit="squash", resample="nearest").array(image)
    np.testing.assert_array_equal(got.transpose(1, 2, 0), squashed)


def test_decode_rgb__transparency_is_laid_over_white_by_its_share() -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[..., 3] = [[0, 255], [128, 64]]
    got = np.asarray(decode_rgb(_bytes(Image.fromarray(pixels))))
    np.testing.assert_allclose(got[..., 0], [[255, 0], [127, 191]], atol=1)
    assert (got == got[..., :1]).all()
