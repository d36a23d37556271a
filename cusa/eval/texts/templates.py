"""Prompt templates of zero-shot classification: sentences with `{}` where the name of a class goes.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv:2103.00020, section 3.1.4.
"""

from collections.abc import Sequence
from pathlib import Path

from cusa.errors import DataError

PLACE = "{}"
"""Where the name of a class goes."""

DEFAULT = ("a photo of a {}.",)
"""What the paper calls a good default."""

CLIP_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven that CLIP's authors found to do most of what their eighty do on ImageNet (notebook of their release)."""

NAMED = {"": DEFAULT, "clip-7": CLIP_7}
"""Templates that need no file, by the value of `eval.templates`."""


def read(name: str) -> Sequence[str]:
    """Return prompt templates.

    Args:
        name: empty for CLIP's default, `clip-7`, or a text file with one template a line.

    Raises:
        DataError: if the file cannot be read, is empty, or a line has no `{}`, several, or is there twice.
    """
    if name in NAMED:
        return NAMED[name]
    path = Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The prompt templates {path} cannot be read ({error}). Give a text file with one template a line, such as "
            f"{DEFAULT[0]!r}, or clip-7, or nothing for that one alone.",
            path=path,
        ) from error
    templates: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        template = line.strip()
        if not template:
            continue
        if template.count(PLACE) != 1 or template.replace(PLACE, "").count("{"):
            raise DataError(
                f"{path}, line {number}: {template[:80]!r} is no prompt template: write {PLACE} once, where the name "
                f"of the class goes, such as {DEFAULT[0]!r}.",
                path=path,
                line=number,
            )
        if template in templates:
            raise DataError(
                f"{path}, line {number} repeats line {templates[template]}: a template that is there twice would count "
                "twice. Remove one.",
                path=path,
                line=number,
            )
        templates[template] = number
    if not templates:
        raise DataError(f"{path} holds no prompt template. Write one a line, such as {DEFAULT[0]!r}.", path=path)
    return tuple(templates)


def fill(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the prompts of all classes: those of the first one first."""
    return [template.replace(PLACE, name) for name in names for template in templates]
