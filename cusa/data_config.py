"""Which data a recipe is for: the splits of one work folder, or several data sets in one training."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from cusa.manifests.settings import Settings


class TablesConfig(Settings):
    """Names of tables of one data set, where they differ from those of the recipe."""

    image: str = Field(default="", description="table of images; empty = as in the recipe")
    text: str = Field(default="", description="table of captions, likewise")

    @model_serializer(mode="wrap")
    def _what_is_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value}


class MixedSet(Settings):
    """One of several data sets that are trained on at once."""

    data: str = Field(default="", description="work folder; empty = the one of --data, or that `cusa run` makes")
    split: str = Field(default="train", min_length=1, description="split to train on")
    weight: float | None = Field(
        default=None, description="its share of the draws is its weight over the sum; none anywhere = by pairs"
    )
    name: str = Field(default="", description="what messages, keys and metrics call it; empty = the folder's name")
    val: str | None = Field(
        default=None, description="split it is validated on, '' = none; not given = `data.val`, where it has that"
    )
    teachers: TablesConfig = Field(default=TablesConfig(), description="its teachers' tables")
    tables: TablesConfig = Field(default=TablesConfig(), description="its tables that heads read")

    @field_validator("weight")
    @classmethod
    def _weight_draws(cls, weight: float | None) -> float | None:
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"a weight is {weight}; it is a finite number above 0, and a set without draws is left out"
            )
        return weight

    @field_validator("name")
    @classmethod
    def _name_stands_in_keys(cls, name: str) -> str:
        if any(sign in name for sign in "/:#\n"):
            raise ValueError(f"a name is {name!r}; it stands before keys and metrics, so without / : #")
        return name

    @model_serializer(mode="wrap")
    def _what_is_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what differs from the defaults, and the split: a recipe's list of sets stays readable."""
        written: dict[str, Any] = write(self)
        empty: tuple[Any, ...] = (None, "", {})
        kept = {"split", *(["val"] if self.val is not None else [])}
        return {key: value for key, value in written.items() if key in kept or value not in empty}

    @property
    def called(self) -> str:
        """Its name, or its folder's; empty where it has neither."""
        return self.name or (Path(self.data).expanduser().resolve().name if self.data else "")


def _form(value: Any) -> str:
    return "split" if isinstance(value, str) else "sets"


FORMS = ("split", "sets")
"""Tags of `data.train`'s two forms, which pydantic puts into the places of its findings."""


class DataConfig(Settings):
    """Which splits of the work folder serve what, and where they come from."""

    dataset: str = Field(
        default="",
        description="what `cusa run` brings and shards (`cusa list datasets`, or a manifest's TOML file); empty = the "
        "work folder is there",
    )
    settings: tuple[str, ...] = Field(default=(), description="`key=value` for `cusa download --set`")
    caption_sources: dict[str, str] = Field(
        default_factory=dict,
        description="what made the captions of the data set that `cusa run` shards, as `cusa shard --caption-source`: "
        "a place among the image's captions (`#3`, `#3-4`) -> source; the empty name = all others (docs/sources.md)",
    )
    also: tuple[str, ...] = Field(
        default=(), description="further data sets that `cusa run` scores on, where they have been brought"
    )

    train: Annotated[
        Annotated[str, Tag("split")] | Annotated[tuple[MixedSet, ...], Tag("sets")], Discriminator(_form)
    ] = Field(
        default="train",
        description="split to train on, or several data sets: a list of `{ data = FOLDER, split = NAME, weight = "
        "NUMBER }` (docs/mixtures.md)",
    )
    mix: Literal["pairs", "batches"] = Field(
        default="pairs",
        description="several data sets: every batch has pairs of all by their weights, or is of one set, whose turn "
        "comes by the weights; teachers may differ by set only then",
    )
    val: str = Field(default="val", description="split that selects the best checkpoint")
    test: str = Field(default="test", description="split that `cusa eval` reports")

    @model_validator(mode="after")
    def _sets_fit(self) -> "DataConfig":
        if isinstance(self.train, str):
            if self.mix != "pairs":
                raise ValueError(
                    f"mix is {self.mix!r} and train {self.train!r}, one split; 'batches' needs several sets"
                )
            return self
        if not self.train:
            raise ValueError("train is an empty list; give a split's name, or at least one data set")
        weights = [one.weight for one in self.train if one.weight is not None]
        if weights and len(weights) < len(self.train):
            raise ValueError(
                f"train gives {len(weights)} of {len(self.train)} data sets a weight; give all of them one, or none: "
                "then each is drawn as often as it has pairs"
            )
        places = [(one.data and str(Path(one.data).expanduser().resolve()), one.split) for one in self.train]
        for place in places:
            if places.count(place) > 1:
                where = f"{place[0] or 'the folder of --data'}, split {place[1]!r}"
                raise ValueError(f"train lists one data set twice: {where}; give it once, with the sum of the weights")
        names = [one.called for one in self.train]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"train has {names.count(name)} data sets that are called {name or 'nothing'!r}; give each a name"
                )
        return self

    @property
    def sets(self) -> tuple[MixedSet, ...]:
        """The data sets of a mixture; empty for one split."""
        return () if isinstance(self.train, str) else self.train

    @property
    def train_split(self) -> str:
        """The split that is trained on; of several data sets the first one's."""
        return self.train if isinstance(self.train, str) else self.train[0].split

    @property
    def uses_own_folder(self) -> bool:
        """Whether the folder of `--data`, or the one that `cusa run` makes, is trained on."""
        return not self.sets or any(not one.data for one in self.sets)
