"""Why a pair is doubtful, by name and in words."""

from collections.abc import Mapping

import numpy as np

from cusa.pipeline.own_pairs.planted import WrongPairs

IN_WORDS: Mapping[str, str] = {
    "sibling_mean": "disagrees with the image's other captions",
    "sibling_best": "no other caption of the image reads like it",
    "caption_neighbours": "captions that read like it belong to other pictures",
    "image_neighbours": "pictures like this one are described otherwise",
    "cross_modal": "what the picture predicts is something else",
    "repeated": "the same words on many images",
    "boilerplate": "boilerplate",
    "too-short": "too short",
    "markup": "markup",
    "language": "not the language of the rest",
    "duplicate": "a copy of another image",
    "broken": "the picture is broken",
    "blank": "the picture is blank",
    "dark": "the picture is dark",
    "bright": "the picture is washed out",
    "blurred": "the picture is blurred",
    "tiny": "the picture is tiny",
    "odd-aspect": "the picture is a strip",
}
"""What speaks against a pair, as a page says it: the evidence, then the faults of its caption and its picture."""


def reasons(wrong: WrongPairs, faults: Mapping[int, list[str]]) -> list[list[str]]:
    """Return the names of what speaks against each pair.

    Args:
        wrong: the evidence.
        faults: caption row -> the faults of the caption and its picture.
    """
    against_MF = wrong.against()
    named: list[list[str]] = [[] for _ in against_MF]
    for row, column in zip(*np.nonzero(against_MF), strict=True):
        named[row].append(wrong.names[column])
    for caption, names in faults.items():
        named[caption] += [name for name in names if name not in named[caption]]
    return named
