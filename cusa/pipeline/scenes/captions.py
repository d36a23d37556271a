"""Captions for a drawn scene: what to claim, in how much detail, and in which words."""

from collections.abc import Callable, Sequence
from random import Random

from cusa.pipeline.scenes.meaning import COLOURS, PLACES, RELATIONS, Claim, Mention, Scene, Thing, related

CAPTIONS = 5
"""Captions an image."""

_NOUNS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross", "cross", "plus sign"),
    "moon": ("moon", "crescent"),
    None: ("shape", "thing", "object"),
}
_PLURALS = {"box": "boxes", "cross": "crosses"}
_COLOUR_WORDS = {colour: (colour, colour) for colour in COLOURS} | {
    "red": ("red", "red", "scarlet"),
    "purple": ("purple", "purple", "violet"),
}
_SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big", "big", "huge")}
_TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "chequered"),
}
_PLACE_WORDS = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "high up"),
    "bottom": ("at the bottom", "low down"),
    "middle": ("in the middle", "in the centre"),
    "top left": ("in the top left corner", "at the upper left"),
    "top right": ("in the top right corner", "at the upper right"),
    "bottom left": ("in the bottom left corner", "at the lower left"),
    "bottom right": ("in the bottom right corner", "at the lower right"),
}
_RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under"),
    "next to": ("next to", "beside"),
}
_INVERSE_WORDS = {"left of": "on its left", "right of": "on its right", "above": "above it", "below": "below it"}
_BACKGROUND_WORDS = {
    "sky": ("in the sky", "against the clouds", "on a cloudy day"),
    "meadow": ("on the grass", "in a meadow", "on a lawn"),
    "beach": ("on the beach", "on sand", "at the seaside"),
    "night": ("at night", "in the dark", "under the night sky"),
    "snow": ("on snow", "in the snow", "in winter"),
    "bricks": ("in front of a brick wall", "against bricks", "by a wall"),
}
_NUMBERS = {1: "one", 2: "two", 3: "three"}
_COUNT_WORDS = {
    1: ("only one", "just one", "a single"),
    2: ("just two", "exactly two", "only two"),
    3: ("exactly three", "just three", "only three"),
}
_OPENINGS = ("", "", "", "there is ", "here is ", "we see ", "you can see ")
_PICTURE_OF = ("a picture of ", "an image of ")


def draw_captions(scene: Scene, rng: Random) -> list[tuple[str, Claim]]:
    """Write five captions of a scene, from all its things to a bare hint, in a random order, no two alike.

    Args:
        scene: what to speak of.
        rng: the scene's own source of chance.

    Returns:
        (text, claim) five times; every claim is true of the scene.
    """
    plan: list[Callable[[Scene, Random], Claim]] = [
        _everything,
        _relation if len(scene.things) > 1 else _one_thing,
        _one_thing,
        _relation if len(scene.things) > 1 and rng.random() < 0.4 else _some_things,
        _hint,
    ]
    rng.shuffle(plan)
    captions: dict[str, Claim] = {}
    for kind in plan:
        size = len(captions)
        while len(captions) == size:
            claim = kind(scene, rng)
            captions[word(claim, rng)] = claim
    return list(captions.items())


def word(claim: Claim, rng: Random) -> str:
    """Put a claim into words; the same claim has many wordings."""
    if claim.count is not None:
        body = _count_words(claim, rng)
    elif claim.relation:
        body = _relation_words(claim, rng)
    else:
        body = _listed_phrases(claim.mentions, rng)
    if claim.background:
        where = rng.choice(_BACKGROUND_WORDS[claim.background])
        if rng.random() < 0.25:
            return _sentence(f"{where} {_opening(claim, rng)}{body}")
        body = f"{body} {where}"
    opening = rng.choice(_PICTURE_OF) if rng.random() < 0.15 else _opening(claim, rng)
    return _sentence(opening + body)


def _everything(scene: Scene, rng: Random) -> Claim:
    """Name every thing with its colour and shape, some with more, often the background."""
    mentions = tuple(
        _mention(thing, rng, shape=1, colour=1, size=0.35, texture=0.35) for thing in _shuffled(scene.things, rng)
    )
    return Claim(mentions, None, scene.background if rng.random() < 0.6 else None)


def _relation(scene: Scene, rng: Random) -> Claim:
    """Name two things and how one stands to the other."""
    first, second = rng.sample(scene.things, 2)
    relations = [relation for relation in RELATIONS if related(first, relation, second)]
    bare = {"shape": 0.85, "colour": 0.7, "size": 0.15, "texture": 0.15}
    mentions = (_mention(first, rng, **bare), _mention(second, rng, **bare))
    return Claim(mentions, rng.choice(relations), scene.background if rng.random() < 0.15 else None)


def _one_thing(scene: Scene, rng: Random) -> Claim:
    """Name one thing closely."""
    thing = rng.choice(scene.things)
    mention = _mention(thing, rng, shape=0.9, colour=0.9, size=0.4, texture=0.45, place=0.4)
    return Claim((mention,), None, scene.background if rng.random() < 0.3 else None)


def _some_things(scene: Scene, rng: Random) -> Claim:
    """Name one or two things briefly, or count them."""
    background = scene.background if rng.random() < 0.4 else None
    if rng.random() < 0.3:
        mention = _mention(rng.choice(scene.things), rng, shape=0.5, colour=0.6)
        return Claim((mention,), None, background, len(scene.things))
    things = _shuffled(scene.things, rng)[:2]
    return Claim(tuple(_mention(thing, rng, shape=0.8, colour=0.75) for thing in things), None, background)


def _hint(scene: Scene, rng: Random) -> Claim:
    """Say little, so that it is true of many images."""
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        return Claim((_mention(thing, rng, shape=1, colour=1),))
    if rng.random() < 0.5:
        return Claim((_mention(thing, rng, shape=0.5, colour=0.5),), None, scene.background)
    return Claim((_mention(thing, rng, shape=0.7, colour=0.6, texture=0.2, size=0.2, place=1),))


def _mention(
    thing: Thing,
    rng: Random,
    *,
    shape: float = 0.0,
    colour: float = 0.0,
    size: float = 0.0,
    texture: float = 0.0,
    place: float = 0.0,
) -> Mention:
    """Mention each attribute with its probability, at least one of shape and colour."""
    says_shape, says_colour = rng.random() < shape, rng.random() < colour
    if not says_shape and not says_colour:
        says_shape = rng.random() < 0.5
        says_colour = not says_shape
    places = [
        name for name, (c, r) in PLACES.items() if c in (None, thing.column) and r in (None, thing.row)
    ]  # a thing at the middle of an edge has one, one in a corner has three
    return Mention(
        thing.shape if says_shape else None,
        thing.colour if says_colour else None,
        thing.size if rng.random() < size else None,
        # Plain is what nobody remarks on.
        thing.texture if rng.random() < (texture * 0.3 if thing.texture == "plain" else texture) else None,
        rng.choice(places) if rng.random() < place else None,
    )


def _shuffled(things: Sequence[Thing], rng: Random) -> list[Thing]:
    return rng.sample(list(things), len(things))


def _noun_phrase(mention: Mention, rng: Random, number: int = 1) -> str:
    words = []
    if mention.size:
        words.append(rng.choice(_SIZE_WORDS[mention.size]))
    if mention.texture:
        words.append(rng.choice(_TEXTURE_WORDS[mention.texture]))
    if mention.colour:
        words.append(rng.choice(_COLOUR_WORDS[mention.colour]))
    noun = rng.choice(_NOUNS[mention.shape])
    words.append(noun if number == 1 else _PLURALS.get(noun, noun + "s"))
    phrase = " ".join(words)
    if number > 1:
        phrase = f"{_NUMBERS[number]} {phrase}"
    elif mention.shape is None and len(words) == 2 and rng.random() < 0.3:
        phrase = f"something {words[0]}"
    else:
        phrase = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    return f"{phrase} {rng.choice(_PLACE_WORDS[mention.place])}" if mention.place else phrase


def _listed_phrases(mentions: Sequence[Mention], rng: Random) -> str:
    """List things, equal mentions as a number of one: "two red stars and a circle"."""
    distinct = dict.fromkeys(mentions)
    phrases = [_noun_phrase(mention, rng, number=mentions.count(mention)) for mention in distinct]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _count_words(claim: Claim, rng: Random) -> str:
    assert claim.count is not None
    assert len(claim.mentions) == 1, claim
    noun = rng.choice(_NOUNS[None])
    count = rng.choice(_COUNT_WORDS[claim.count])
    phrase = _noun_phrase(claim.mentions[0], rng)
    if claim.count == 1:
        return f"{count} {noun}, {phrase}"
    return f"{count} {noun}s, one of them {phrase}"


def _relation_words(claim: Claim, rng: Random) -> str:
    assert claim.relation is not None
    first, second = (_noun_phrase(mention, rng) for mention in claim.mentions)
    if claim.relation in _INVERSE_WORDS and rng.random() < 0.3:
        return f"{second} with {first} {_INVERSE_WORDS[claim.relation]}"
    return f"{first} {rng.choice(_RELATION_WORDS[claim.relation])} {second}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _opening(claim: Claim, rng: Random) -> str:
    opening = rng.choice(_OPENINGS)
    first_is_plural = not claim.relation and claim.mentions.count(claim.mentions[0]) > 1
    return opening.replace(" is ", " are ") if first_is_plural or (claim.count or 1) > 1 else opening
