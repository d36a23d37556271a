"""What a server says of robots: its robots.txt (RFC 9309) and the X-Robots-Tag header of an answer."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_BYTES = 512_000
"""Of a robots.txt that are read, at least 500 KiB by RFC 9309 section 2.5."""

_AGENT = re.compile(r"[A-Za-z_-]+")
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives of X-Robots-Tag that have a value, so that what stands before their colon is no robot's name."""


@dataclass(frozen=True)
class Rules:
    """The rules of one robots.txt for one robot: paths and whether they are allowed."""

    rules: tuple[tuple[str, bool], ...] = ()

    def allow(self, path: str) -> bool:
        """Tell whether a path may be fetched: the longest rule that fits decides, an allowing one among equals."""
        if path == "/robots.txt":
            return True
        fitting = [(len(pattern), allowed) for pattern, allowed in self.rules if _fits(pattern, path)]
        return max(fitting, default=(0, True))[1]


NOTHING = Rules((("/", False),))
"""The rules of a host whose robots.txt cannot be read for a fault of its own (RFC 9309 section 2.3.1.4)."""
EVERYTHING = Rules()


def parse(text: str, agent: str) -> Rules:
    """Read a robots.txt.

    Args:
        text: the file.
        agent: the robot's name; groups that name it count, else those of `*`.
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    named: list[str] = []
    in_rules = False
    for line in text.splitlines():
        field, colon, value = line.partition("#")[0].partition(":")
        field, value = field.strip().lower(), value.strip()
        if not colon:
            continue
        if field == "user-agent":
            if in_rules:
                named, in_rules = [], False
            name = "*" if value.startswith("*") else _token(value)
            named.append(name)
            groups.setdefault(name, [])
        elif field in ("allow", "disallow"):
            in_rules = True
            if value:
                for name in named:
                    groups[name].append((value, field == "allow"))
    return Rules(tuple(groups.get(_token(agent), groups.get("*", []))))


def _token(agent: str) -> str:
    """Return a robot's name in lower case, without its version and what follows; empty if there is none."""
    match = _AGENT.match(agent)
    return match[0].lower() if match else ""


def _fits(pattern: str, path: str) -> bool:
    """Tell whether a pattern with `*` and a closing `$` fits the beginning of a path; linear in the path's length."""
    ends = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for number, part in enumerate(rest):
        if ends and number == len(rest) - 1:
            return path.endswith(part) and len(path) - len(part) >= at
        at = path.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return not ends or at == len(path)


def refused_tag(values: Iterable[str], *, agent: str, refused: Sequence[str]) -> str:
    """Return the first word of the X-Robots-Tag headers that is refused; empty if none is.

    Args:
        values: the headers. One may begin with the name of the robot it is for: `cusa: noai`.
        agent: the robot's name; what stands behind it, as in `cusa/1.0 (+https://...)`, does not count.
        refused: words, in lower case.
    """
    own = _token(agent)
    for value in values:
        robot = ""
        for part in value.split(","):
            before, colon, after = part.partition(":")
            word = part
            if colon and before.strip().lower() not in _VALUED:
                robot, word = before.strip().lower(), after
            word = word.strip().lower()
            if word in refused and robot in ("", "*", agent.lower(), own):
                return word
    return ""
