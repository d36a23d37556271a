"""Images on their way into a tar: what structure proves, what only decoding can, and what resizing makes."""

import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from cusa.manifests.records import ImageRecord
from cusa.models.preprocess import decode_rgb
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.shard import jpeg
from cusa.pipeline.shard.images import Refused, read_image, stored_digest


def _encoded(kind: str = "JPEG", size: tuple[int, int] = (96, 64), mode: str = "RGB", **options: object) -> bytes:
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * 2 % 256, y * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _read(path: Path, data: bytes, **options: object) -> tuple[bytes, str, int, int]:
    path.write_bytes(data)
    return read_image(ImageRecord("a/b", "train", path, "b", ()), ShardConfig.model_validate(options))


WHOLE = {
    "baseline": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "with a thumbnail": ("JPEG", {"exif": b"Exif\0\0" + b"\xff\xd8\xff\xd9" * 20}),
    "restart markers": ("JPEG", {"restart_marker_rows": 1}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_structure__a_whole_file_is_whole_and_every_cut_is_found(tmp_path: Path, name: str) -> None:
    kind, options = WHOLE[name]
    data = _encoded(kind, **options)
    assert _read(tmp_path / "x", data)[0] == data
    reasons = []
    for length in range(len(data) // 10, len(data) - 1, max(1, len(data) // 60)):
        try:
            cut = _read(tmp_path / "x", data[:length])[0]
        except Refused as error:
            reasons.append(error.reason)
        else:  # only sums and end marks are missing, every pixel is there
            assert len(data) - length < 32
            assert np.array_equal(np.asarray(decode_rgb(cut)), np.asarray(decode_rgb(data)))
    assert len(reasons) >= 50
    assert set(reasons) <= {"truncated", "not-an-image"}


def test_structure__what_the_walk_accepts_decodes(shared: Path) -> None:
    files = sorted((shared / "data/coco-mini/val2014").glob("*.jpg"))[:60]
    files += sorted((shared / "data/standins/sop").rglob("*.JPG"))[:60]
    assert all(jpeg.whole_size(file.read_bytes()) for file in files)
    for file in files:
        with Image.open(file) as image:
            image.load()


def test_structure__bytes_behind_the_end_do_not_hide_a_cut(tmp_path: Path) -> None:
    data = _encoded()
    assert _read(tmp_path / "x", data + b"\0" * 100)[1] == "jpg", "padding behind a whole image is no fault"
    png = bytearray(_encoded("PNG"))
    png[len(png) // 2] ^= 1
    with pytest.raises(Refused, match="truncated"):
        _read(tmp_path / "x", bytes(png))


def test_check__decoding_finds_what_structure_cannot(tmp_path: Path) -> None:
    # Pixels that are no deflated data, under a sum that is right.
    data = bytearray(_encoded("PNG"))
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 : at + 4 + size] = bytes(size)
    data[at + 4 + size : at + 8 + size] = zlib.crc32(data[at : at + 4 + size]).to_bytes(4, "big")
    assert _read(tmp_path / "x", bytes(data), check="structure")[1] == "png"
    with pytest.raises(Refused, match="truncated"):
        _read(tmp_path / "x", bytes(data), check="decode")


@pytest.mark.parametrize(("size", "wanted"), [((96, 64), (48, 32)), ((64, 96), (32, 48)), ((100, 33), (97, 32))])
def test_resize__the_shorter_side_is_what_was_asked(
    tmp_path: Path, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    data, ext, width, height = _read(tmp_path / "x", _encoded(size=size), resize=32)
    assert (ext, (width, height)) == ("jpg", wanted)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.format) == (wanted, "JPEG")


def test_resize__small_images_keep_their_bytes(tmp_path: Path) -> None:
    data = _encoded(size=(40, 30))
    assert _read(tmp_path / "x", data, resize=30) == (data, "jpg", 40, 30)


def test_resize__applies_the_orientation_and_keeps_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    source = _encoded(size=(96, 64), exif=exif, quality=98)
    data, _, width, height = _read(tmp_path / "x", source, resize=32, quality=98)
    assert (width, height) == (32, 48)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get(0x0112) in (None, 1)
        mine = np.asarray(image.convert("RGB"), dtype=float)
    upright = decode_rgb(source).resize((32, 48), Image.Resampling.LANCZOS)
    assert np.abs(mine - np.asarray(upright, dtype=float)).mean() < 3


def test_resize__quality_is_what_it_costs(tmp_path: Path) -> None:
    sizes = [len(_read(tmp_path / "x", _encoded(size=(400, 300)), resize=200, quality=q)[0]) for q in (40, 95)]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(
    ("mode", "space", "kept"), [("RGB", b"RGB ", True), ("CMYK", b"CMYK", False), ("L", b"GRAY", False)]
)
def test_resize__only_a_profile_of_rgb_stays(tmp_path: Path, mode: str, space: bytes, kept: bool) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert profile[16:20] == b"RGB "
    profile[16:20] = space
    source = _encoded(mode=mode, icc_profile=bytes(profile))
    with Image.open(io.BytesIO(source)) as image:
        assert (image.mode, image.info["icc_profile"]) == (mode, bytes(profile))
    data = _read(tmp_path / "x", source, resize=32)[0]
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        assert image.info.get("icc_profile") == (bytes(profile) if kept else None)


@pytest.mark.parametrize("check", ["structure", "decode"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_read_image__the_bounds_themselves_are_kept(tmp_path: Path, kind: str, check: str) -> None:
    data = _encoded(kind, (40, 30))
    ext = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
    for bounds in ({"max_pixels": 1200}, {"min_side": 30}, {"resize": 30}, {}):
        assert _read(tmp_path / "x", data, check=check, **bounds) == (data, ext, 40, 30)
    for bounds, reason, detail in (
        ({"max_pixels": 1199}, "too-large", "40 x 30 pixels, 1199 allowed"),
        ({"min_side": 31}, "too-small", "40 x 30 pixels, a side of 31 needed"),
    ):
        for resize in (0, 16):
            with pytest.raises(Refused) as refused:
                _read(tmp_path / "x", data, check=check, resize=resize, **bounds)
            assert (refused.value.reason, refused.value.detail) == (reason, detail)
    smaller = _read(tmp_path / "x", data, check=check, resize=15)
    assert smaller[1:] == ("jpg", 20, 15)


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "not-an-image", "the file is empty"),
        (b"no picture at all, but some text", "not-an-image", "begins with b'no picture at al'"),
        (_encoded("GIF"), "unsupported-format", "GIF; JPEG, PNG and WebP are kept"),
        (_encoded("BMP"), "unsupported-format", "BMP; JPEG, PNG and WebP are kept"),
    ],
)
def test_read_image__what_is_no_picture_is_named(tmp_path: Path, data: bytes, reason: str, detail: str) -> None:
    with pytest.raises(Refused) as refused:
        _read(tmp_path / "x", data)
    assert (refused.value.reason, refused.value.detail) == (reason, detail)


def test_read_image__a_part_of_a_file_features_and_what_was_recorded(tmp_path: Path) -> None:
    numbers, path = np.arange(12, dtype="<f4").reshape(3, 4), tmp_path / "x"
    path.write_bytes(b"head" + numbers.tobytes() + b"tail")
    config = ShardConfig()

    def read(**about: Any) -> tuple[bytes, str, int, int]:
        return read_image(ImageRecord("a/b", "train", path, "b", (), **({"offset": 4, "length": 48} | about)), config)

    data, ext, width, height = read(array=(3, 4))
    assert (ext, width, height) == ("npy", 4, 3)
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), numbers)
    known = hashlib.sha256(data).hexdigest()
    assert read(array=(3, 4), sha256=known)[0] == data
    record = ImageRecord("a/b", "train", path, "b", (), offset=4, length=48, array=(3, 4))
    assert stored_digest(record) == known
    assert stored_digest(record._replace(array=())) == hashlib.sha256(numbers.tobytes()).hexdigest()
    with pytest.raises(Refused) as refused:
        read(array=(3, 4), sha256="0" * 64)
    assert refused.value.reason == "changed"
    with pytest.raises(Refused) as refused:
        read(array=(3, 5))
    assert (refused.value.reason, refused.value.detail) == ("truncated", "48 bytes of features, 60 needed")
    numbers[1, 2], numbers[2, 0] = np.nan, np.inf
    path.write_bytes(b"head" + numbers.tobytes())
    with pytest.raises(Refused) as refused:
        read(array=(3, 4))
    assert (refused.value.reason, refused.value.detail) == ("not-finite", "2 of 12 numbers")
    picture = _encoded()
    path.write_bytes(b"1234" + picture)
    assert read(length=len(picture), sha256=hashlib.sha256(picture).hexdigest())[0] == read(length=None)[0] == picture
    path.unlink()
    with pytest.raises(Refused) as refused:
        read()
    assert (refused.value.reason, refused.value.detail) == ("missing", "No such file or directory")
