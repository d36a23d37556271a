"""The words that the rules exchange, and those that the rules must not touch."""


def _words(spaced: str) -> frozenset[str]:
    return frozenset(spaced.split())


COLOURS = {
    "red": "green",
    "green": "red",
    "blue": "yellow",
    "yellow": "blue",
    "black": "white",
    "white": "black",
    "brown": "pink",
    "pink": "brown",
    "purple": "grey",
    "grey": "purple",
    "gray": "purple",
}
"""A colour -> another that nobody takes for it. Orange is left out: it is a fruit as often."""

NUMBERS = {
    "two": "four",
    "three": "five",
    "four": "two",
    "five": "three",
    "six": "nine",
    "seven": "four",
    "eight": "five",
    "nine": "six",
    "ten": "six",
}
"""Plural to plural, so that nouns and verbs still agree; `one` is left out: it is a pronoun as often."""

PLACES = {
    "in front of": "behind",
    "behind": "in front of",
    "on top of": "underneath",
    "underneath": "on top of",
    "above": "below",
    "below": "above",
    "inside": "outside",
    "outside": "inside",
    "on the left": "on the right",
    "on the right": "on the left",
    "to the left": "to the right",
    "to the right": "to the left",
    "near": "far from",
    "far from": "near",
    "under": "on top of",
    "indoors": "outdoors",
    "outdoors": "indoors",
}
"""Words and phrases of place -> their opposite, the longest first where one begins another."""

GENDERS = {
    "man": "woman",
    "woman": "man",
    "men": "women",
    "women": "men",
    "boy": "girl",
    "girl": "boy",
    "boys": "girls",
    "girls": "boys",
}
PRONOUNS = {"he": "she", "she": "he", "his": "her", "himself": "herself", "herself": "himself"}
"""What goes with the person. `her` and `him` are left out: each stands for two words of the other kind."""
UNTURNABLE = frozenset({"her", "him", "hers"})

NEGATIONS = frozenset({"no", "not", "without", "never", "nobody", "none", "nothing"})

NO_PARTICIPLES = _words(
    "king ring string wing thing something nothing anything everything swing spring during sling evening morning "
    "building clothing ceiling railing painting wedding crossing parking living dining bedding lighting siding "
    "ping being pudding icing frosting topping stuffing awning setting landing opening outing drawing writing "
    "dressing meeting gathering covering flooring string viking duckling earring herring bling"
)
"""Words in -ing that are mostly nouns."""

BEFORE_NOUNS = _words(
    "a an the of in on for with and or at by to from his her their its this that these those while as into through "
    "over under near very two three four five six seven eight nine ten some many several"
)
"""After these a word in -ing describes or is a noun, and is no predicate."""

SYMMETRIC = frozenset({"meeting", "kissing", "hugging", "facing", "touching", "resembling", "matching"})
"""Relations that hold both ways: an exchange of subject and object would change nothing."""
