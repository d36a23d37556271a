"""An edit of any value of a sealed object shows."""

import json
from typing import Any

import pytest

from cusa.manifests.storage import seal, store

VALUES: dict[str, Any] = {"a": 1, "b": {"c": [1.5, None, "x"]}, "d": "words"}


def test_sealed__values_stay_and_any_change_shows() -> None:
    whole = seal.sealed(VALUES)
    assert {name: value for name, value in whole.items() if name != seal.DIGEST} == VALUES
    assert seal.is_intact(json.loads(store.json_text(whole)))
    assert seal.sealed(whole) == whole
    changes: list[dict[str, Any]] = [
        {"a": 2},
        {"b": {"c": [1.5, None, "y"]}},
        {"d": "word"},
        {"e": 0},
        {"digest": "0" * 64},
    ]
    for change in changes:
        assert not seal.is_intact({**whole, **change}), change
    for name in VALUES:
        assert not seal.is_intact({key: value for key, value in whole.items() if key != name})


@pytest.mark.parametrize("values", [VALUES, {**VALUES, "digest": ""}])
def test_is_intact__an_older_object_without_a_digest(values: dict[str, Any]) -> None:
    assert seal.is_intact(values)
