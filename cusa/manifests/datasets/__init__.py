"""What each public data set consists of: files and where they come from, terms, reader, expected counts."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError, model_validator

from cusa.errors import ConfigError, nearest
from cusa.manifests.settings import Settings


class SourceFile(Settings):
    """One file of a data set."""

    path: str = Field(description="where it lies in the data set's folder")
    urls: tuple[str, ...] = Field(default=(), description="the official place first, then mirrors")
    by_hand: str = Field(default="", description="what a person must do for it, where there is no URL")
    bytes: int | None = Field(default=None, ge=0, description="its size, where known")
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$", description="of its bytes, where somebody computed it")
    md5: str = Field(default="", pattern="^([0-9a-f]{32})?$", description="as its makers publish it")
    unpack: str | None = Field(default=None, description="folder that the archive is unpacked into; absent: it is not")

    @model_validator(mode="after")
    def _sensible(self) -> "SourceFile":
        for path in (self.path, self.unpack or "."):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not path:
                raise ValueError(f"the path {path!r} leaves the folder")
        if bool(self.urls) == bool(self.by_hand):
            raise ValueError("a file has either urls or by_hand")
        return self


class Counts(Settings):
    """What a split is known to hold; None = nobody wrote it down."""

    images: int | None = None
    captions: int | None = None
    labels: int | None = None


class Dataset(Settings):
    """One data set."""

    name: str
    title: str
    licence: str = Field(description="terms, in a line")
    homepage: str = ""
    reader: str = Field(default="", description="layout for `cusa shard`; empty = it is not sharded")
    source: str = Field(default="", description="what `cusa shard` reads, in the data set's folder")
    images: str = Field(default="", description="folder of the images, in the data set's folder")
    gigabytes: float | None = Field(default=None, description="what it takes to download, about")
    note: str = ""
    files: tuple[SourceFile, ...]
    counts: Mapping[str, Counts] = Field(default_factory=dict, description="by split")


def names() -> list[str]:
    """Return the names of the packaged manifests."""
    folder = resources.files(__name__)
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def official_images(name: str, split: str) -> int | None:
    """Return how many images the official split of a data set has; None where no manifest says."""
    counts = load(name).counts.get(split) if name in names() else None
    return None if counts is None else counts.images or None


def load(name: str) -> Dataset:
    """Read a manifest.

    Args:
        name: a packaged one's name, or the path of a TOML file.

    Raises:
        ConfigError: if there is none of that name, or it says something impossible.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"There is no manifest {name}.", dataset=name)
        text = path.read_text(encoding="utf-8")
    elif name in names():
        text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"There is no data set {name!r} to bring. {nearest(name, names())}", dataset=name)
    try:
        return Dataset.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is no TOML: {error}.", dataset=name) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise ConfigError(f"{name}: {place}: {first['msg'].removeprefix('Value error, ')}.", dataset=name) from None
