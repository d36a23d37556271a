"""No configuration takes a number that is none: every float key of every section is tried."""

import math
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import ValidationError

import cusa.pipeline.config
import cusa.recipe  # noqa: F401 (all sections of a recipe)
from cusa.manifests import datasets  # noqa: F401
from cusa.manifests.settings import Settings


def _classes(base: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for one in base.__subclasses__():
        if one.__module__.startswith("cusa."):
            yield one
            yield from _classes(one)


FLOATS = [
    (one, name)
    for one in _classes()
    for name, field in one.model_fields.items()
    if float in (field.annotation, *get_args(field.annotation))
]


def test_every_section_is_tried() -> None:
    tried = {f"{one.__module__}:{name}" for one, name in FLOATS}
    assert {"cusa.train.config:lr", "cusa.train.config:alpha", "cusa.recipe:expected"} <= tried
    assert {"cusa.models.config:dropout", "cusa.pipeline.config:latency"} <= tried
    assert len(tried) > 30
    assert {one.__module__ for one in _classes()} >= {"cusa.manifests.datasets", "cusa.pipeline.config", "cusa.recipe"}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_are_finite(value: float) -> None:
    for one, name in FLOATS:
        given = {"r@1": value} if "dict" in str(one.model_fields[name].annotation) else value
        with pytest.raises(ValidationError) as caught:
            one.model_validate({name: given})
        kinds = {error["type"] for error in caught.value.errors() if error["loc"][0] == name}
        assert kinds & {"finite_number", "greater_than", "greater_than_equal"}, (one, name)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        cusa.pipeline.config.IndexConfig.model_validate({"neighbors": 3})
