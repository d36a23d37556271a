"""The metrics of a run: rows of `metrics.parquet`, TensorBoard curves, Weights & Biases, and a callback."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cusa.errors import ConfigError, CusaError
from cusa.manifests import schemas
from cusa.manifests.events import OnMetrics
from cusa.manifests.ledger import peak_memory_bytes
from cusa.manifests.storage import store
from cusa.train.data.batch import Batch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.parquet"
TENSORBOARD_FOLDER = "tensorboard"


class Metrics:
    """The metrics of one run, kept until `save` writes them; a context that holds TensorBoard's file open.

    Args:
        out: the run's folder.
        done: steps done by an earlier call; rows of later steps, written by a run that was killed, are dropped.
        on_metrics: called with every row.
        wandb: name of a Weights & Biases project that also receives the metrics; empty = none.

    Raises:
        ConfigError: if `wandb` is named and not installed.
    """

    def __init__(self, out: Path, *, done: int, on_metrics: OnMetrics, wandb: str = "") -> None:
        self.notes: tuple[str, ...] = ()
        self._out = out
        self._done = done
        self._on_metrics = on_metrics
        self._writer: SummaryWriter | None = None
        self._project = wandb
        self._wandb: Any = None
        self._rows = self._earlier_rows() if done else []

    def __enter__(self) -> "Metrics":
        from torch.utils.tensorboard import SummaryWriter

        # Points that a killed run wrote after its last checkpoint are hidden: they come again.
        purge_step = self._done + 1 if self._done else None
        self._writer = SummaryWriter(str(self._out / TENSORBOARD_FOLDER), purge_step=purge_step)
        if self._project:
            self._wandb = _join_wandb(self._project, self._out)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        assert self._writer is not None
        self._rows += [(step, name, float(value)) for name, value in values.items()]
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)
        self._on_metrics(step, values)

    def save(self) -> None:
        """Write the table, whole."""
        columns = list(zip(*self._rows, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schemas.METRICS, strict=True)]
        store.write_table(self._out / METRICS_FILE, pa.Table.from_arrays(arrays, schema=schemas.METRICS))

    def _earlier_rows(self) -> list[tuple[int, str, float]]:
        """Return the rows of metrics up to the checkpoint."""
        try:
            table = store.read_table(self._out / METRICS_FILE, columns=schemas.METRICS.names)
        except CusaError as error:
            self.notes += (f"The metrics before step {self._done} are lost: {error}",)
            return []
        table = table.filter(pc.less_equal(table["step"], self._done))
        return list(zip(*(table[name].to_pylist() for name in schemas.METRICS.names), strict=True))


def _join_wandb(project: str, out: Path) -> Any:
    """Start or continue a folder's run in a Weights & Biases project; its id there is a digest of the folder's path."""
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ConfigError(
            f"train.wandb is {project!r}, but wandb is not installed. Run `pip install 'cusa[wandb]'`, or set "
            "train.wandb=''.",
            key="train.wandb",
        ) from None
    name = store.digest(str(out.resolve()))[:16]
    return wandb.init(project=project, name=out.name, id=name, resume="allow", dir=str(out))


class Pace:
    """Measures how fast steps are, and which share of the time they wait for data."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0
        self._pairs = 0

    def around(self, flow: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of `flow`, measuring how long each takes to arrive."""
        while True:
            start = time.perf_counter()
            batch = next(flow, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            self._pairs += batch.pairs
            yield batch

    def start(self) -> None:
        """Measure from now on."""
        self._since = time.perf_counter()
        self._waited = 0.0
        self._pairs = 0

    def read(self, device: torch.device) -> dict[str, float]:
        """Return what was measured since `start` (all ranks' pairs, this rank's waiting), and the most memory needed.

        Args:
            device: whose memory counts beside that of the process.
        """
        seconds = max(time.perf_counter() - self._since, 1e-9)
        measured = {
            "samples_per_second": self._pairs / seconds,
            "data_wait_share": self._waited / seconds,
            "peak_memory_bytes": float(peak_memory_bytes()),
        }
        if device.type == "cuda":
            measured["peak_device_memory_bytes"] = float(torch.cuda.max_memory_allocated(device))
        return measured
