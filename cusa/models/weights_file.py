"""A weights file that its authors publish: the user's own copy, or downloaded once, never used unverified."""

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.storage import store

FOLDER_VARIABLE = "CUSA_WEIGHTS"
"""Environment variable: the folder where published weights are kept."""

_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class WeightsFile:
    """A published file."""

    name: str
    url: str
    sha256: str


_UNICOM = "https://github.com/deepglint/unicom/releases/download"

UNICOM_FILES = {
    "unicom-vit-b-32": WeightsFile(
        "FP16-ViT-B-32.pt",
        f"{_UNICOM}/b32/FP16-ViT-B-32.pt",
        "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
    ),
    "unicom-vit-b-16": WeightsFile(
        "FP16-ViT-B-16.pt",
        f"{_UNICOM}/b16/FP16-ViT-B-16.pt",
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
    ),
    "unicom-vit-l-14": WeightsFile(
        "FP16-ViT-L-14.pt",
        f"{_UNICOM}/l14/FP16-ViT-L-14.pt",
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
    ),
    "unicom-vit-l-14-336": WeightsFile(
        "FP16-ViT-L-14-336px.pt",
        f"{_UNICOM}/l14_336px/FP16-ViT-L-14-336px.pt",
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
    ),
}
"""The checkpoints of Unicom's authors, by the teacher's name."""


def weights_folder() -> Path:
    """Return the folder where published weights are looked for and kept: $CUSA_WEIGHTS, or ~/.cache/cusa/weights."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/cusa/weights").expanduser()


def find(file: WeightsFile, given: str = "") -> Path:
    """Return a verified copy of a published file, downloading it if there is none.

    Args:
        file: what is wanted.
        given: a file, or a folder that holds one of the published name; `weights_folder()` when empty.

    Raises:
        DataError: if `given` is not there, the bytes are not the published ones, or the download fails.
    """
    place = Path(given).expanduser() if given else weights_folder()
    path = place / file.name if place.is_dir() or not given else place
    if not path.is_file():
        if given:
            raise DataError(
                f"{path} does not exist. Give --weights the file {file.name} or the folder that holds it; "
                f"it is published at {file.url}.",
                path=path,
            )
        _download(file, path)
    digest = store.sha256_file(path)
    if digest != file.sha256:
        raise DataError(
            f"{path} is not the published {file.name}: its SHA-256 is {digest}, published is {file.sha256}. "
            "Remove it and download it again.",
            path=path,
        )
    return path


def _download(file: WeightsFile, path: Path) -> None:
    """Stream the file to `path`, whole and verified or not at all."""
    way_out = f"Download it by hand, and give --weights FILE or put it into {path.parent}."
    total = hashlib.sha256()
    try:
        with (
            store.whole_file(path) as temporary,
            urllib.request.urlopen(file.url, timeout=_TIMEOUT) as answer,
            temporary.open("wb") as out,
        ):
            while block := answer.read(1 << 20):
                total.update(block)
                out.write(block)
            if total.hexdigest() != file.sha256:
                raise DataError(
                    f"{file.url} gave a file with SHA-256 {total.hexdigest()}, published is {file.sha256}. {way_out}",
                    url=file.url,
                )
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, and holds the connection
        raise DataError(f"{file.url} cannot be downloaded ({error}). {way_out}", url=file.url) from error
