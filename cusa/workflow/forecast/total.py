"""The forecast of a recipe over so many images: every stage, the sums, and what breaks first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa import recipe as recipes
from cusa.workflow.forecast.rates import TYPICAL_IMAGE_BYTES, OwnRates
from cusa.workflow.forecast.stages import Forecast, Inputs, Job, stages
from cusa.workflow.plan import read_rates


@dataclass(frozen=True)
class Total:
    """Every stage of a large data set, and the sums."""

    recipe: str
    job: Job
    stages: list[Forecast]
    notes: tuple[str, ...]
    """Full sentences: whose rates these are, what is assumed."""

    @property
    def hours(self) -> float:
        """Of all stages, one after another; those without a rate are left out."""
        return sum(stage.hours for stage in self.stages if stage.hours is not None)

    @property
    def read(self) -> int:
        """Bytes fetched or read."""
        return sum(stage.read for stage in self.stages)

    @property
    def written(self) -> int:
        """Bytes kept, the downloaded tars beside the shards included."""
        return sum(stage.written for stage in self.stages)

    @property
    def price(self) -> float:
        """Of all machines for all hours; a stage of one machine pays for one."""
        return self.job.price_hour * sum(
            (stage.hours or 0) * (self.job.machines if stage.units > 1 else 1) for stage in self.stages
        )

    @property
    def price_month(self) -> float:
        """Of a month of what is kept."""
        return self.job.price_terabyte * self.written / 1e12

    @property
    def limits(self) -> list[str]:
        """What breaks, the first of it first."""
        breaking = sorted((stage for stage in self.stages if stage.limits), key=lambda stage: stage.breaks_at)
        return [sentence for stage in breaking for sentence in stage.limits]


def forecast(recipe: str, job: Job, *, settings: Sequence[str] = (), ledgers: Sequence[Path] = ()) -> Total:
    """Estimate what a recipe takes over a table of URLs of any size. Writes nothing, reads ledgers alone.

    Args:
        recipe: name or TOML file: teachers, student, epochs.
        job: the data set's size, and the machines.
        settings: overrides of the recipe.
        ledgers: folders whose ledgers say how fast this user's machines are.

    Raises:
        ConfigError: for an unknown recipe or key, or a number that is out of its range.
        DataError: if one of the folders holds no ledger.
    """
    job.check()
    loaded = recipes.load(recipe, settings)
    rates = read_rates()
    inputs = Inputs(job, loaded, OwnRates(ledgers), rates)
    made = list(stages(inputs))
    unknown = [stage for stage in made if stage.hours is None]
    measured = inputs.own.of("shard")
    notes = [
        f"An image is taken to have {inputs.image_bytes:,.0f} bytes as it is kept, "
        + (
            "as --image-bytes says."
            if job.image_bytes
            else f"as in {measured.source}."
            if measured
            else f"the {TYPICAL_IMAGE_BYTES:,} of LAION-400M's at 256 pixels; --image-bytes or --from says better."
        ),
        "Where no ledger of --from gives a rate, it is CPU time of one core measured "
        f"{rates['date']} on {rates['machine']}, times --cores: an extrapolation. An accelerator takes a fraction of "
        "it: extract and train a little there, and name the folders with --from.",
        "A rate of few items counts the start of the program too. Downloads take longer where pictures are larger on "
        "their hosts than as they are kept, and where robots.txt and hosts ask for patience.",
        "Downloaded tars and shards are counted both; the tars can be removed once `cusa shard` has finished.",
    ]
    if unknown:
        names = ", ".join(f"{stage.stage} {stage.what}".strip() for stage in unknown)
        notes.insert(
            0, f"No rate was measured for {names}: the sums leave it out. Run it on a part, and name it with --from."
        )
    return Total(loaded.name, job, made, tuple(notes))
