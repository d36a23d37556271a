"""The stages of a large data set, each with units, hours, bytes and memory.

Legend: N images, C captions, D numbers of an embedding.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cusa.errors import ConfigError
from cusa.manifests.origin import teacher_name
from cusa.pipeline.config import AuditConfig, IndexConfig, ShardConfig, UrlsConfig
from cusa.recipe import Recipe
from cusa.workflow.forecast.rates import TYPICAL_IMAGE_BYTES, OwnRates, Rate, packaged, student_of

_GIB = 2**30
_CAPTION_BYTES = 250
"""Of a caption, its key and its row of tables, as shards and Parquet hold them; 40,000 of Flickr8k's take 240 each."""
_MEMORY = {"download": 230 << 20, "shard": 145 << 20, "train": 500 << 20}
"""Of a process without its network, where no ledger says: measured by benchmarks/urls.py, shard.py and stream.py."""
_ROWS_A_UNIT = 4096
"""Of a search among all rows, and images of an audit."""
_NEIGHBOUR = 46
"""Bytes of memory a neighbour while its table is written: 12 of the arrays, 34 of the table with its keys."""
_NEIGHBOUR_HELD = 12
"""Of the arrays alone, as an audit holds them."""
_NEIGHBOUR_ON_DISK = 15
"""Of a table of neighbours; measured: 11.8 at 20,000 rows, 12.8 at 100,000, 14.3 at 400,000."""
_CANDIDATE_ON_DISK = 32
"""Of the audit's table, 2.9 million candidates of Flickr8k's 6,000 photographs."""
_SHARE_SCANNED = 0.03
"""Of the rows, that a query of inverted lists looks at for a good recall; see `pipeline.index.approximate`."""


@dataclass(frozen=True)
class Job:
    """How large the data set is, and the machines."""

    rows: int
    """N, an image with its captions."""
    captions: int = 1
    """Of an image."""
    machines: int = 1
    cores: int = 16
    """Of a machine; packaged rates are one core's. An own ledger's rate is that of its machine, whatever it has."""
    memory: float = 64.0
    """GiB of a machine."""
    gbit: float = 1.0
    """A second, that a machine can fetch."""
    image_bytes: int = 0
    """Of an image as it is kept; 0 = by the own ledgers, else `TYPICAL_IMAGE_BYTES`."""
    price_hour: float = 0.0
    """Of a machine."""
    price_terabyte: float = 0.0
    """Of 10^12 bytes kept for a month."""

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one is out of its range.
        """
        for name in ("rows", "captions", "machines", "cores", "memory", "gbit"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"--{name} is {getattr(self, name)}; it must be a finite number above 0.", option=f"--{name}"
                )
        for name in ("image_bytes", "price_hour", "price_terabyte"):
            if not 0 <= getattr(self, name) < math.inf:
                option = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{option} is {getattr(self, name)}; it must be a finite number, at least 0.", option=option
                )


@dataclass(frozen=True)
class Forecast:
    """One stage."""

    stage: str
    what: str
    units: int
    """Parts that one process each works on; 1 = the stage runs on one machine."""
    hours: float | None
    """With all machines where it has units; None where no rate was measured."""
    read: int
    """Bytes fetched or read."""
    written: int
    """Bytes kept."""
    memory: int | None
    """Bytes of a worker; of an index or audit of the machine that prepares and merges, the largest."""
    source: str
    """Of the rate; empty where none was measured."""
    limits: tuple[str, ...] = ()
    """Full sentences: what breaks at this size."""
    breaks_at: float = field(default=float("inf"), repr=False)
    """Images from which the first of `limits` holds."""


@dataclass(frozen=True)
class Inputs:
    """What all estimates read."""

    job: Job
    recipe: Recipe
    own: OwnRates
    rates: Mapping[str, Any]

    @property
    def captions(self) -> int:
        """C."""
        return self.job.rows * self.job.captions

    @property
    def image_bytes(self) -> float:
        """Of an image as it is kept."""
        shard = self.own.of("shard")
        measured = shard.item_bytes if shard else None
        return self.job.image_bytes or measured or TYPICAL_IMAGE_BYTES

    @property
    def pictures(self) -> int:
        """Bytes of all images."""
        return int(self.job.rows * self.image_bytes)

    def rate(self, stage: str, *names: str, what: str = "") -> Rate | None:
        """Return the own rate of a stage, else the packaged one of a name."""
        return self.own.of(stage, what) or packaged(self.rates, self.job.cores, *names)

    def width(self, teacher: str) -> int | None:
        """Return D of a teacher, where somebody measured it."""
        return self.own.widths.get(teacher) or self.rates["teachers"].get(teacher, {}).get("width")


def stages(inputs: Inputs) -> Iterator[Forecast]:
    """Yield the stages of a recipe over a table of URLs, in their order."""
    job, recipe = inputs.job, inputs.recipe
    yield _download(inputs)
    yield _shard(inputs)
    if recipe.loss.needs_teachers:
        teachers = {"image": recipe.teachers.image, "text": recipe.teachers.text}
        for modality, teacher in teachers.items():
            rows = job.rows if modality == "image" else inputs.captions
            yield _extract(inputs, modality, teacher_name(teacher), rows)
        for modality, teacher in teachers.items():
            rows = job.rows if modality == "image" else inputs.captions
            yield _index(inputs, teacher_name(teacher), rows)
        yield _audit(inputs)
    yield _train(inputs)


def _hours(items: float, rate: Rate | None, machines: int) -> float | None:
    return None if rate is None else items / rate.items / machines / 3600


def _download(inputs: Inputs) -> Forecast:
    job, rate = inputs.job, inputs.rate("download", "urls", "images")
    units = -(-job.rows // UrlsConfig().rows)
    hours = _hours(job.rows, rate, min(job.machines, units))
    by_network = inputs.pictures * 8 / (job.gbit * 1e9 * min(job.machines, units)) / 3600
    hours = None if hours is None else max(hours, by_network)
    source = f"{job.gbit:g} Gbit/s" if hours == by_network else rate.source if rate else ""
    memory = (rate.memory if rate else None) or _MEMORY["download"]
    return Forecast("download", "a table of URLs", units, hours, inputs.pictures, inputs.pictures, memory, source)


def _shard(inputs: Inputs) -> Forecast:
    job, rate = inputs.job, inputs.rate("shard", "shard", "images")
    written = inputs.pictures + _CAPTION_BYTES * inputs.captions
    memory = (rate.memory if rate else None) or _MEMORY["shard"]
    units = -(-job.rows // ShardConfig().max_images)
    hours = _hours(job.rows, rate, min(job.machines, units))
    return Forecast("shard", "", units, hours, inputs.pictures, written, memory, rate.source if rate else "")


def _extract(inputs: Inputs, modality: str, teacher: str, rows: int) -> Forecast:
    job, rate = inputs.job, inputs.rate("extract-teachers", "teachers", teacher, "rows", what=teacher)
    width = inputs.width(teacher)
    read = inputs.pictures if modality == "image" else _CAPTION_BYTES * rows
    units = -(-job.rows // ShardConfig().max_images)
    hours = _hours(rows, rate, min(job.machines, units))
    written = 2 * rows * (width or 0)
    memory = rate.memory if rate else None
    return Forecast("extract-teachers", teacher, units, hours, read, written, memory, rate.source if rate else "")


def _index(inputs: Inputs, teacher: str, rows: int) -> Forecast:
    """Estimate a search of all rows among all: exact where it stays so, else by inverted lists."""
    job, config, width = inputs.job, IndexConfig(), inputs.width(teacher)
    if width is None:
        return Forecast("index", teacher, 1, None, 0, 0, None, "")
    exact = rows <= config.exact_up_to
    lists = 4 * rows**0.5
    looked_at = rows if exact else lists + _SHARE_SCANNED * rows
    rate = packaged(inputs.rates, job.cores, "index", "multiplications")
    units = -(-rows // _ROWS_A_UNIT)
    hours = _hours(rows * looked_at * width, rate, min(job.machines, units))
    whole = 4 * rows * width
    neighbours = _NEIGHBOUR_ON_DISK * rows * config.neighbours
    memory = _index_memory(rows, width, config)
    limits: tuple[str, ...] = ()
    breaks_at = _most_rows(job.memory * _GIB, rows, width, config) / (rows / job.rows)
    if memory > job.memory * _GIB:
        limits = (
            f"index {teacher}: the machine that prepares the units and merges them holds all {rows:,} rows of {width} "
            f"numbers in float32 and their neighbours, {memory / 1e9:,.0f} GB, and has {job.memory:g} GiB; it breaks "
            f"at {breaks_at:,.0f} images. Index a part of the data: `cusa shard subset`, or splits of that size.",
        )
    stored = int((whole if exact else min(whole, config.memory * _GIB)) + neighbours)
    source = rate.source if rate else ""
    return Forecast("index", teacher, units, hours, 2 * rows * width, stored, memory, source, limits, breaks_at)


def _index_memory(rows: int, width: int, config: IndexConfig) -> int:
    """Return the bytes that an index takes: the rows, their copy or an approximate index, and the neighbours."""
    beside = 4 * rows * width if rows <= config.exact_up_to else int(config.memory * _GIB)
    return 4 * rows * width + beside + _NEIGHBOUR * rows * config.neighbours


def _most_rows(memory: float, rows: int, width: int, config: IndexConfig) -> int:
    """Return the most rows whose index fits into some bytes: one as it is of so many rows, else an exact one."""
    if rows > config.exact_up_to:
        most = int((memory - config.memory * _GIB) // (4 * width + _NEIGHBOUR * config.neighbours))
        if most > config.exact_up_to:
            return most
    most = int(memory // (8 * width + _NEIGHBOUR * config.neighbours))
    return most if rows <= config.exact_up_to else min(most, config.exact_up_to)


def _audit(inputs: Inputs) -> Forecast:
    job, rate = inputs.job, inputs.rate("audit", "audit", "images")
    neighbours = IndexConfig().neighbours * (1 + job.captions)
    per_image = _NEIGHBOUR_HELD * neighbours
    memory, read = job.rows * per_image, _NEIGHBOUR_ON_DISK * job.rows * neighbours
    written = _CANDIDATE_ON_DISK * min(AuditConfig().per_image * job.rows, AuditConfig().rows)
    limits: tuple[str, ...] = ()
    breaks_at = job.memory * _GIB / per_image
    if memory > job.memory * _GIB:
        limits = (
            f"audit: the machine that merges the units holds the neighbours of all rows, {memory / 1e9:,.0f} GB, and "
            f"has {job.memory:g} GiB; it breaks at {breaks_at:,.0f} images.",
        )
    units = -(-job.rows // _ROWS_A_UNIT)
    hours = _hours(job.rows, rate, min(job.machines, units))
    return Forecast("audit", "", units, hours, read, written, memory, rate.source if rate else "", limits, breaks_at)


def _train(inputs: Inputs) -> Forecast:
    job, recipe = inputs.job, inputs.recipe
    config, key = recipe.train, recipe.name.partition("/")[0]
    pairs = config.steps * config.batch if config.steps else config.epochs * inputs.captions
    own = inputs.own.of("train", student_of(recipe.student.model_dump(mode="json")))
    rate = own or packaged(inputs.rates, job.cores, "train", key, "pairs")
    parameters = inputs.rates["train"].get(key, {}).get("parameters", 0)
    written = 4 * parameters * (1 + 3 * (config.keep_checkpoints + 1))
    memory = own.memory if own else _MEMORY["train"] + 16 * parameters
    hours = _hours(pairs, rate, job.machines)
    limits: tuple[str, ...] = ()
    year = 365 * 24
    if hours is not None and hours > year:
        limits = (
            f"train: {pairs:,} pairs take {hours / year:,.1f} years at {rate.items if rate else 0:,.0f} pairs a second "
            "and machine: measure a step on the accelerator you mean to take and name its run with --from, or set "
            "train.steps.",
        )
    breaks_at = job.rows * year / hours if hours else float("inf")
    read = int(pairs * inputs.image_bytes) if recipe.student.kind != "heads" else 0  # every pair reads its picture
    what = f"{pairs:,} pairs"
    source = rate.source if rate else ""
    return Forecast("train", what, job.machines, hours, read, written, memory, source, limits, breaks_at)
