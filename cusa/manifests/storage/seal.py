"""Sealed JSON: an object whose `digest` is the SHA-256 of its other values, so that an edit of any of them shows."""

from collections.abc import Mapping
from typing import Any

from cusa.manifests.storage import store

DIGEST = "digest"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with their digest; an older digest among them is replaced."""
    plain = {name: value for name, value in values.items() if name != DIGEST}
    return {**plain, DIGEST: store.digest(plain)}


def is_intact(values: Mapping[str, Any]) -> bool:
    """Tell whether values are those that were sealed; true for an older object, without a digest."""
    digest = values.get(DIGEST)
    return not digest or digest == sealed(values)[DIGEST]
