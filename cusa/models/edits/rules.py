"""Minimal edits of a caption by rule: one thing changes, and what the caption says is no longer true of its picture.

Every rule works on whole words, keeps the case of a word's first letter, and mends `a` and `an`. A rule that cannot be
sure of a grammatical sentence leaves the caption alone.
"""

import re
from collections.abc import Callable, Mapping

from cusa.models.edits import words

_WORD = r"(?<![\w'-])(?:{})(?![\w'-])"


def _pattern(phrases: Mapping[str, str]) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(_WORD.format("|".join(map(re.escape, longest_first))), re.IGNORECASE)


_COLOUR, _NUMBER, _PLACE, _PERSON, _PRONOUN = map(
    _pattern, (words.COLOURS, words.NUMBERS, words.PLACES, words.GENDERS, words.PRONOUNS)
)
_ARTICLE = re.compile(r"(?<![\w'-])(an?)(?= +(\w+))", re.IGNORECASE)
_AN = re.compile(r"[aeiou]", re.IGNORECASE)
_AUXILIARY = re.compile(r"(?<![\w'-])(is|are|was|were)(?= +\w)", re.IGNORECASE)
_WITH = re.compile(r"(?<![\w'-])with(?= +\w)", re.IGNORECASE)
_PARTICIPLE = re.compile(r"(?<![\w'-])([a-z]+) +([a-z]+ing)(?= +\w)")
_NOUN_PHRASE = r"(?:an?|the)(?: (?!(?:on|in|at|of|with|and|or|is|are|to|by|for|from|near)\b)(?!\w+ing\b)\w+){1,2}"
_RELATION = r"(?:(?:is|was) )?\w+ing(?: (?:at|on|over|under|behind|through|into|towards|past|down|up))?"
_SENTENCE = re.compile(
    rf"(?P<subject>{_NOUN_PHRASE}) (?P<relation>{_RELATION}|(?:(?:is|was) )?(?:on top of|behind|above|under|inside)) "
    rf"(?P<object>{_NOUN_PHRASE})(?P<rest>(?: (?:in|on|at|near|with|through|by) [^,.]*)? ?[.]?)",
    re.IGNORECASE,
)


def colour(caption: str) -> str | None:
    """Return the caption with its first colour word replaced by another colour that it does not name."""
    named = {match[0].lower() for match in _COLOUR.finditer(caption)}
    for match in _COLOUR.finditer(caption):
        if words.COLOURS[match[0].lower()] not in named:
            return _replace(caption, match, words.COLOURS)
    return None


def number(caption: str) -> str | None:
    """Return the caption with its first number word (two to ten) replaced by another."""
    match = _NUMBER.search(caption)
    return None if match is None else _replace(caption, match, words.NUMBERS)


def place(caption: str) -> str | None:
    """Return the caption with its first word of place replaced by its opposite."""
    match = _PLACE.search(caption)
    return None if match is None else _replace(caption, match, words.PLACES)


def negation(caption: str) -> str | None:
    """Return the caption with its predicate denied: `is not`, `not riding`, or `without` for `with`."""
    if words.NEGATIONS & set(re.findall(r"\w+", caption.lower())) or "n't" in caption.lower():
        return None
    auxiliary = _AUXILIARY.search(caption)
    if auxiliary is not None:
        return f"{caption[: auxiliary.end()]} not{caption[auxiliary.end() :]}"
    for match in _PARTICIPLE.finditer(caption):
        if match[1] not in words.BEFORE_NOUNS and match[2] not in words.NO_PARTICIPLES:
            return f"{caption[: match.start(2)]}not {caption[match.start(2) :]}"
    with_ = _WITH.search(caption)
    return None if with_ is None else _replace(caption, with_, {"with": "without"})


def gender(caption: str) -> str | None:
    """Return the caption with its only person (man, woman, boy, girl, or their plurals) of the other sex."""
    people = list(_PERSON.finditer(caption))
    if len(people) != 1 or words.UNTURNABLE & set(re.findall(r"\w+", caption.lower())):
        return None
    table = {**words.GENDERS, **words.PRONOUNS}
    both = re.compile(f"{_PERSON.pattern}|{_PRONOUN.pattern}", re.IGNORECASE)
    return _mend_articles(both.sub(lambda match: _like(match[0], table[match[0].lower()]), caption))


def swap(caption: str) -> str | None:
    """Return the caption with subject and object exchanged, where it is `a ... does ... a ...`."""
    match = _SENTENCE.fullmatch(caption)
    if match is None:
        return None
    subject, relation, other, rest = match.group("subject", "relation", "object", "rest")
    verb = next((word for word in relation.lower().split() if word.endswith("ing")), "")
    same = subject.lower().split()[1:] == other.lower().split()[1:]
    plural = any(phrase.lower().endswith("s") and not phrase.lower().endswith("ss") for phrase in (subject, other))
    if same or plural or verb in words.SYMMETRIC | words.NO_PARTICIPLES:
        return None
    return f"{_like(subject, other)} {relation} {subject[0].lower()}{subject[1:]}{rest}"


RULES: dict[str, Callable[[str], str | None]] = {
    "colour": colour,
    "number": number,
    "place": place,
    "negation": negation,
    "gender": gender,
    "swap": swap,
}
"""Kind of edit -> its rule: from a caption to the edited one, or None where the rule does not fit."""

TITLES = {
    "colour": "another colour",
    "number": "another number",
    "place": "the opposite place",
    "negation": "a negation",
    "gender": "man for woman",
    "swap": "subject and object exchanged",
}
"""Kind of edit -> for people."""


def _replace(caption: str, match: re.Match[str], table: Mapping[str, str]) -> str:
    new = _like(match[0], table[match[0].lower()])
    return _mend_articles(caption[: match.start()] + new + caption[match.end() :])


def _like(old: str, new: str) -> str:
    """Return the new words with the case of the old ones' first letter, or all capitals where the old ones are."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return (new[0].upper() if old[0].isupper() else new[0].lower()) + new[1:]


def _mend_articles(caption: str) -> str:
    """Write `a` or `an` as the next word asks, for colours and numbers alone: others are as the author wrote them."""

    def mended(match: re.Match[str]) -> str:
        article, following = match[1], match[2].lower()
        if following not in _EXCHANGED:
            return article
        return _like(article, "an" if _AN.match(following) else "a")

    return _ARTICLE.sub(mended, caption)


_EXCHANGED = frozenset({*words.COLOURS, *words.NUMBERS, *words.GENDERS})
