"""What a drawn scene shows and what a caption claims, as data, so that "is it true?" has an answer.

A scene is one to three things on a three by three grid in front of a background. A caption mentions up to three of them
(each by some of its attributes), and may claim a relation between the first two, the background and the exact number of
things. It is true of a scene if different things can be found for its mentions so that every claim holds; things it
does not mention do not matter. Cells decide places and relations, so none is ever a matter of taste.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
COLOURS = ("red", "blue", "yellow", "green", "purple", "orange", "pink", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "checked")
BACKGROUNDS = ("sky", "meadow", "beach", "night", "snow", "bricks")

PLACES: dict[str, tuple[int | None, int | None]] = {
    "left": (0, None),
    "right": (2, None),
    "top": (None, 0),
    "bottom": (None, 2),
    "middle": (1, 1),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
}
"""Where a caption may say a thing is -> the column and row that make it true (None: any)."""

RELATIONS = ("left of", "right of", "above", "below", "next to")
"""How the first mentioned thing may stand to the second; `next to`: cells that share a side."""

MOST_THINGS = 3


@dataclass(frozen=True)
class Thing:
    """One drawn object."""

    shape: str
    colour: str
    size: str
    texture: str
    column: int
    """0 left, 1 middle, 2 right."""
    row: int
    """0 top, 1 middle, 2 bottom."""


@dataclass(frozen=True)
class Scene:
    """All that an image shows."""

    things: tuple[Thing, ...]
    """One to three, in different cells."""
    background: str


@dataclass(frozen=True)
class Mention:
    """What a caption says of one thing; None: nothing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Claim:
    """All that a caption says."""

    mentions: tuple[Mention, ...] = ()
    """Up to three, each of another thing."""
    relation: str | None = None
    """Of the first mention to the second."""
    background: str | None = None
    count: int | None = None
    """How many things there are, no more and no fewer."""


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Tell whether `first` stands in the relation to `second`, by their cells."""
    columns, rows = first.column - second.column, first.row - second.row
    return {
        "left of": columns < 0,
        "right of": columns > 0,
        "above": rows < 0,
        "below": rows > 0,
        "next to": abs(columns) + abs(rows) == 1,
    }[relation]


def fits(mention: Mention, thing: Thing) -> bool:
    """Tell whether a thing has every attribute of a mention."""
    for claimed, shown in (
        (mention.shape, thing.shape),
        (mention.colour, thing.colour),
        (mention.size, thing.size),
        (mention.texture, thing.texture),
    ):
        if claimed is not None and claimed != shown:
            return False
    column, row = PLACES[mention.place] if mention.place else (None, None)
    return column in (None, thing.column) and row in (None, thing.row)


def is_true(claim: Claim, scene: Scene) -> bool:
    """Tell whether a caption's claim is true of a scene: the definition, one pair at a time."""
    if claim.background not in (None, scene.background) or claim.count not in (None, len(scene.things)):
        return False
    for things in permutations(scene.things, len(claim.mentions)):
        if all(map(fits, claim.mentions, things)) and (
            claim.relation is None or related(things[0], claim.relation, things[1])
        ):
            return True
    return False


def truth_matrix(scenes: Sequence[Scene], claims: Sequence[Claim]) -> np.ndarray:
    """Tell for every scene and claim whether the claim is true; equal to `is_true`, and thousands of times faster.

    A thing becomes the bits of its attributes, a mention the bits it requires, and a mention fits where no required
    bit is missing. Call it with blocks of scenes where the matrix would not fit: it needs about ten times its size.

    Args:
        scenes: I scenes.
        claims: C claims.

    Returns:
        (I, C) bool.
    """
    # Letters: I scenes, C claims, T = 3 things or mentions.
    thing_bits_IT = np.zeros((len(scenes), MOST_THINGS), dtype=np.uint32)
    relation_bits_ITT = np.zeros((len(scenes), MOST_THINGS, MOST_THINGS), dtype=np.uint8)
    scene_bits_I = np.array([_scene_bits(s.background, len(s.things)) for s in scenes], dtype=np.uint16)
    for row, scene in enumerate(scenes):
        for place, thing in enumerate(scene.things):
            thing_bits_IT[row, place] = _thing_bits(thing)
            for other, second in enumerate(scene.things):
                if other != place:
                    bits = [1 << n for n, relation in enumerate(RELATIONS) if related(thing, relation, second)]
                    relation_bits_ITT[row, place, other] = sum(bits)
    mention_bits_CT = np.zeros((len(claims), MOST_THINGS), dtype=np.uint32)
    for row, claim in enumerate(claims):
        for place, mention in enumerate(claim.mentions):
            mention_bits_CT[row, place] = _mention_bits(mention)
    relation_bits_C = np.array([1 << RELATIONS.index(c.relation) if c.relation else 0 for c in claims], dtype=np.uint8)
    scene_bits_C = np.array([_scene_bits(c.background, c.count) for c in claims], dtype=np.uint16)

    fits_TTIC = [
        [_holds(thing_bits_IT[:, thing], mention_bits_CT[:, mention]) for mention in range(MOST_THINGS)]
        for thing in range(MOST_THINGS)
    ]
    true_IC = np.zeros((len(scenes), len(claims)), dtype=bool)
    for one, two, three in permutations(range(MOST_THINGS)):
        match_IC = fits_TTIC[one][0] & fits_TTIC[two][1]
        match_IC &= fits_TTIC[three][2]
        match_IC &= _holds(relation_bits_ITT[:, one, two], relation_bits_C)
        true_IC |= match_IC
    true_IC &= _holds(scene_bits_I, scene_bits_C)
    return true_IC


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """Return a scene as plain JSON values."""
    return asdict(scene)


def scene_from_json(value: dict[str, Any]) -> Scene:
    """Return the scene that `scene_to_json` wrote."""
    return Scene(tuple(Thing(**thing) for thing in value["things"]), value["background"])


def claim_to_json(claim: Claim) -> dict[str, Any]:
    """Return a claim as plain JSON values, without what it does not claim."""
    value = {name: part for name, part in asdict(claim).items() if part is not None}
    value["mentions"] = [
        {name: part for name, part in mention.items() if part is not None} for mention in value["mentions"]
    ]
    return value


def claim_from_json(value: dict[str, Any]) -> Claim:
    """Return the claim that `claim_to_json` wrote."""
    return Claim(**{**value, "mentions": tuple(Mention(**mention) for mention in value["mentions"])})


_THING_BITS = {
    attribute: 1 << position
    for position, attribute in enumerate(
        (
            "thing",
            *SHAPES,
            *COLOURS,
            *SIZES,
            *TEXTURES,
            *(("column", n) for n in range(3)),
            *(("row", n) for n in range(3)),
        )
    )
}
_SCENE_BITS: dict[Any, int] = {
    attribute: 1 << position for position, attribute in enumerate((*BACKGROUNDS, *range(1, MOST_THINGS + 1)))
}


def _thing_bits(thing: Thing) -> int:
    shown = (
        "thing",
        thing.shape,
        thing.colour,
        thing.size,
        thing.texture,
        ("column", thing.column),
        ("row", thing.row),
    )
    return sum(_THING_BITS[attribute] for attribute in shown)


def _mention_bits(mention: Mention) -> int:
    # `thing` is always required, so that a mention without attributes does not fit an empty place.
    required: list[Any] = ["thing", mention.shape, mention.colour, mention.size, mention.texture]
    if mention.place:
        column, row = PLACES[mention.place]
        required += [("column", column)] if column is not None else []
        required += [("row", row)] if row is not None else []
    return sum(_THING_BITS[attribute] for attribute in required if attribute is not None)


def _scene_bits(background: str | None, count: int | None) -> int:
    return (_SCENE_BITS[background] if background else 0) | (_SCENE_BITS[count] if count else 0)


def _holds(present_I: np.ndarray, required_C: np.ndarray) -> np.ndarray:
    """Tell where no required bit is missing: (I, C) bool."""
    holds_IC: np.ndarray = (~present_I[:, None] & required_C[None, :]) == 0
    return holds_IC
