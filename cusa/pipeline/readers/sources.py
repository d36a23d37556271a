"""What made each caption: as a column, a field or an ending of a file says, or by the rules of `--caption-source`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cusa.errors import ConfigError, nearest
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.pipeline.readers.captions import as_source
from cusa.pipeline.readers.reading import Reading, Row, Rows

_PLACES = re.compile(r"#(\d+)(-(\d*))?")


def with_sources(captions: Sequence[CaptionRecord], value: Any) -> list[CaptionRecord]:
    """Return captions with the sources that a cell names; those that have one keep it.

    Args:
        captions: of the row.
        value: a source of all of them, or a list of one each.

    Raises:
        TypeError, ValueError: if it is neither.
    """
    if not isinstance(value, list):
        return filled(captions, as_source(value))
    if len(value) != len(captions):
        raise ValueError(f"{len(value)} sources of {len(captions)} captions: one for each is needed, or one for all")
    names = [as_source(each) for each in value]
    return [one if one.source else one._replace(source=name) for one, name in zip(captions, names, strict=True)]


def filled(captions: Sequence[CaptionRecord], source: str) -> list[CaptionRecord]:
    """Return captions; those without a source get this one."""
    return [one if one.source or not source else one._replace(source=source) for one in captions]


def by_place(rules: Mapping[str, str]) -> dict[str, str]:
    """Return the rules that name a place, or all others, and no column or ending."""
    return {where: source for where, source in rules.items() if not where or where.startswith("#")}


class SourceRules:
    """Which captions have which source where the data do not say it.

    Args:
        rules: where captions stand -> their source: `#3`, `#3-4` or `#3-` by their place among the image's captions,
            counted from 0; the name of a column or an ending of files; empty for all that nothing else names.

    Raises:
        ConfigError: if a source is empty, a place is no range, or two rules name one place.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._named: dict[str, str] = {}
        self._places: list[tuple[int, int | None, str]] = []
        self._rest = ""
        for where, value in rules.items():
            try:
                source = as_source(value)
            except ValueError as error:
                raise ConfigError(f"--caption-source: {error}.", option="--caption-source") from None
            place = _PLACES.fullmatch(where)
            if not source or (where.startswith("#") and place is None):
                raise ConfigError(
                    f"--caption-source {where}={value} is not [WHERE=]SOURCE. One looks like synthetic, #3=synthetic, "
                    "#3-4=synthetic, #3-=synthetic or COLUMN=synthetic.",
                    option="--caption-source",
                )
            if place is not None:
                first = int(place[1])
                last = first if place[2] is None else int(place[3]) if place[3] else None
                if last is not None and last < first:
                    raise ConfigError(
                        f"--caption-source {where}={value}: the place {last} stands before {first}.",
                        option="--caption-source",
                    )
                for start, stop, other in self._places:
                    if (last is None or start <= last) and (stop is None or first <= stop):
                        raise ConfigError(
                            f"--caption-source {where}={value}: place {max(start, first)} is {other!r} already. Give "
                            "each place one source.",
                            option="--caption-source",
                        )
                self._places.append((first, last, source))
            elif where:
                self._named[where] = source
            else:
                self._rest = source

    def refuse_others(self, names: Collection[str], what: str) -> None:
        """Refuse a rule for a column or an ending that the source does not have.

        Args:
            names: those that it has.
            what: what they are, for the message.

        Raises:
            ConfigError: naming the rule.
        """
        for name, source in self._named.items():
            if name not in names:
                why = f"{name!r} is none of the {what}. {nearest(name, names)}."
                if not names:
                    why = f"There are no {what} here: name places, as #3={source}."
                raise ConfigError(f"--caption-source {name}={source}: {why}", option="--caption-source")

    def of(self, name: str) -> str:
        """Return the source of captions from a column or a file of an ending; empty without a rule for it."""
        return self._named.get(name, "")

    def apply(self, captions: Sequence[CaptionRecord]) -> tuple[CaptionRecord, ...]:
        """Return an image's captions, those without a source with the one that their place has."""
        return tuple(
            one if one.source else one._replace(source=self._at(place if one.position is None else one.position))
            for place, one in enumerate(captions)
        )

    def _at(self, place: int) -> str:
        for first, last, source in self._places:
            if first <= place and (last is None or place <= last):
                return source
        return self._rest

    def fill(self, reading: Reading) -> Reading:
        """Return a reading whose captions have the sources that these rules give by place, or to all others."""
        if not self._places and not self._rest:
            return reading
        return replace(reading, rows=Rows(lambda: self._filled(reading)))

    def _filled(self, reading: Reading) -> Iterator[Row]:
        behind_last = 0
        for row in reading.rows:
            if isinstance(row, ImageRecord):
                behind_last = max(behind_last, _behind_last_place(row.captions))
                yield row._replace(captions=self.apply(row.captions))
            else:
                yield row
        self._refuse_places_from(behind_last)

    def _refuse_places_from(self, behind_last: int) -> None:
        """Refuse a rule for places that no image of the data has captions at."""
        for first, last, source in self._places:
            if first >= behind_last:
                where = f"#{first}" + ("" if last == first else "-" if last is None else f"-{last}")
                there = f"the last place is {behind_last - 1}" if behind_last else "there are no captions"
                raise ConfigError(
                    f"--caption-source {where}={source}: no image has a caption at this place; {there}, counted "
                    "from 0. Leave the rule out, or name a place that is there.",
                    option="--caption-source",
                )


def _behind_last_place(captions: Sequence[CaptionRecord]) -> int:
    places = [place if one.position is None else one.position for place, one in enumerate(captions)]
    return max(places, default=-1) + 1
