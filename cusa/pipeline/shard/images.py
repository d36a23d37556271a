"""One image on its way into a tar: its bytes, the proof that they are whole, its smaller copy if resizing is on."""

import hashlib
import io
import warnings
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from cusa.manifests.records import ImageRecord
from cusa.manifests.storage.paths import is_remote
from cusa.models.preprocess import UNDECODABLE, decode_rgb
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.readers.table_cells import read_cell
from cusa.pipeline.shard import jpeg

_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class Refused(Exception):
    """An image that cannot be kept.

    Args:
        reason: one of `cusa.manifests.records.REASONS`.
        detail: the particulars, in words.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def read_image(record: ImageRecord, config: ShardConfig) -> tuple[bytes, str, int, int]:
    """Read an image and prove that its bytes are whole, within bounds known before decoding.

    Args:
        record: where it lies.
        config: bounds, how to check, and whether to make it smaller.

    Returns:
        The bytes to store, their extension by content, width and height as stored. Features come as a `.npy` file of
        float32, width and height being its columns and rows.

    Raises:
        Refused: if it cannot be kept.
    """
    assert record.path is not None
    data = _read(record)
    if record.array:
        features = _as_npy(data, record.array)
        _check_digest(features[0], record.sha256)
        return features
    _check_digest(data, record.sha256)
    return prove(data, config)


def prove(data: bytes, config: ShardConfig) -> tuple[bytes, str, int, int]:
    """Prove that an encoded image is whole and within bounds, and make it smaller if that is asked for.

    Returns:
        As `read_image`.

    Raises:
        Refused: if it cannot be kept.
    """
    if config.check == "structure" and (size := jpeg.whole_size(data)) is not None:
        _within_bounds(*size, config)
        if not config.resize or min(size) <= config.resize:
            return data, "jpg", *size
    with warnings.catch_warnings():
        # Pillow warns of large pictures and odd metadata; the bound below is ours, and the rest is no defect.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=tuple(_FORMATS))
        except Image.DecompressionBombError as error:
            raise Refused("too-large", str(error)) from error
        except (UnidentifiedImageError, *UNDECODABLE) as error:
            raise Refused(*_what_else(data)) from error
        width, height = image.size
        _within_bounds(width, height, config)
        # A JPEG with further pictures behind it (MPO) opens as its first one.
        ext = _FORMATS.get(str(image.format), "jpg")
        try:
            if config.resize and min(width, height) > config.resize:
                return _smaller(data, config)
            if config.check == "decode" or ext != "png" or not _png_is_whole(data):
                image.load()
        except UNDECODABLE as error:
            detail = str(error).splitlines()[0] if str(error) else "the data ends early"
            raise Refused("truncated", detail) from error
    return data, ext, width, height


def _check_digest(data: bytes, sha256: str) -> None:
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise Refused("changed", f"the SHA-256 recorded is {sha256}; the file was changed or damaged since")


def stored_digest(record: ImageRecord) -> str:
    """Return the SHA-256 of what a tar holds of an image that is stored as it is.

    Raises:
        Refused: if it cannot be read.
    """
    assert record.path is not None
    data = _read(record)
    return hashlib.sha256(_as_npy(data, record.array)[0] if record.array else data).hexdigest()


def _within_bounds(width: int, height: int, config: ShardConfig) -> None:
    if width * height > config.max_pixels:
        raise Refused("too-large", f"{width} x {height} pixels, {config.max_pixels} allowed")
    if min(width, height) < config.min_side:
        raise Refused("too-small", f"{width} x {height} pixels, a side of {config.min_side} needed")


def _read(record: ImageRecord) -> bytes:
    path, offset, length = record.path, record.offset, record.length
    assert path is not None
    try:
        if record.column:
            return read_cell(path, record.column, offset)
        if is_remote(path):
            end = None if length is None else offset + length
            data: bytes = path.fs.cat_file(path.path, start=offset, end=end)  # type: ignore[attr-defined]
            return data
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (half the time of Path.open)
            if offset:
                file.seek(offset)
            return file.read(-1 if length is None else length)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise Refused("missing", getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def _as_npy(data: bytes, shape: tuple[int, ...]) -> tuple[bytes, str, int, int]:
    rows, columns = shape
    if len(data) != rows * columns * 4:
        raise Refused("truncated", f"{len(data)} bytes of features, {rows * columns * 4} needed")
    array = np.frombuffer(data, dtype="<f4").reshape(rows, columns)
    if not np.isfinite(array).all():
        raise Refused("not-finite", f"{np.count_nonzero(~np.isfinite(array))} of {array.size} numbers")
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue(), "npy", columns, rows


def _smaller(data: bytes, config: ShardConfig) -> tuple[bytes, str, int, int]:
    """Encode an image again as a smaller JPEG, upright and as every part of this package sees it."""
    image = decode_rgb(data, max_pixels=config.max_pixels)
    scale = config.resize / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    out = io.BytesIO()
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] != b"RGB ":  # the colour space that the profile is of (ICC.1, 7.2.8); the pixels are RGB now
        profile = b""
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=config.quality, icc_profile=profile)
    return out.getvalue(), "jpg", *size


def _png_is_whole(data: bytes) -> bool:
    """Check every chunk's sum to the last (PNG, third edition, section 5)."""
    at, pixels = 8, False
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + size
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            return pixels
        at = end + 4
    return False


def _what_else(data: bytes) -> tuple[str, str]:
    """Say what bytes are that are no JPEG, PNG or WebP, without decoding them."""
    if not data:
        return "not-an-image", "the file is empty"
    try:
        return "unsupported-format", f"{Image.open(io.BytesIO(data)).format}; JPEG, PNG and WebP are kept"
    except (UnidentifiedImageError, Image.DecompressionBombError, *UNDECODABLE):
        return "not-an-image", f"begins with {data[:16]!r}"
