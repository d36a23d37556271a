"""The room in which people judge: whose turn a candidate is, what they said, how far they are."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.judgements.pair_judgements import PairJudgement
from cusa.manifests.judgements.verdicts import UNDO, Journal, Verdict
from cusa.manifests.samples import Split
from cusa.models.edits.rules import TITLES
from cusa.models.preprocess import UNDECODABLE, decode_rgb
from cusa.pipeline.review.queue import (
    CANDIDATES,
    OWN_PAIRS,
    Candidate,
    Candidates,
    Doubt,
    Pair,
    Queue,
    read_doubts,
)
from cusa.pipeline.review.sample import SampledPairs

_CHOSEN = "-chosen"
"""What the id of a chosen caption's verdict has behind that of its pair's."""
_HELD = 300.0  # seconds for which a candidate that is open in one tab is shown in no other
_BROWSERS_READ = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp"}


@dataclass(frozen=True)
class _Said:
    """What was said so far, worked out once for every state of the journal."""

    rows: int
    votes: dict[Pair, PairJudgement]
    words: dict[tuple[str, Pair], Verdict]
    """(reviewer, pair) -> their last word, skips included."""
    agreement: pair_judgements.Agreement


@dataclass
class _Holders:
    """Tabs that show a pair: tab -> (reviewer, until when)."""

    tabs: dict[str, tuple[str, float]] = field(default_factory=dict)


class Room:
    """The state behind the page, without HTTP. Several threads may call it.

    Args:
        split: audited.
        votes: how many people are asked about each candidate.
        limit: candidates a queue holds at most.
        sample: pairs that are asked about instead of the audit's candidates, in their order.
        own_pairs: ask about the data set's own pairs; their verdicts are kept apart.

    Raises:
        DataError: if there are no candidates, or verdicts cannot be written.
        StaleError: if the candidates are of another state of the split.
    """

    def __init__(
        self,
        split: Split,
        *,
        votes: int = 1,
        limit: int = 20_000,
        sample: SampledPairs | None = None,
        own_pairs: bool = False,
    ) -> None:
        self.split = split
        self.votes = votes
        source = OWN_PAIRS if own_pairs else CANDIDATES
        self.folder = split.folder / source.file.parent
        self.candidates: Candidates | SampledPairs = sample or Candidates(split, limit=limit, source=source)
        self.doubts: dict[Pair, Doubt] | None = read_doubts(split) if own_pairs else None
        try:
            self.journal = Journal(self.folder)
        except DataError:
            self.candidates.close()
            raise
        self._lock = threading.Lock()
        self._held: dict[Pair, _Holders] = {}
        self._image_row = {key: row for row, key in enumerate(split.image_keys)}
        self._caption_row = {key: row for row, key in enumerate(split.caption_keys)}
        self._said = self._work_out([])

    def close(self) -> Path | None:
        """Write the table of verdicts and close all files; return the table, or None where nobody judged."""
        self.candidates.close()
        self.journal.close()
        return verdicts.publish(self.folder)

    def next(self, *, reviewer: str, tab: str, where: str = "") -> dict[str, Any]:
        """Return the next candidate of a reviewer, and how far all are.

        Args:
            reviewer: a name.
            tab: of the browser; no two tabs are shown the same candidate at the same time.
            where: filter in SQL.

        Returns:
            `candidate` (None if there is none), `progress`, `history`: the reviewer's last verdicts that stand.
        """
        queue = self.candidates.queue(where)
        with self._lock:
            said = self._now()
            chosen, waiting = self._choose(queue, said, reviewer, tab)
            return self._state(queue, said, chosen, reviewer, waiting)

    def judge(
        self,
        *,
        id: str,
        image_key: str,
        caption_key: str,
        verdict: str,
        reviewer: str,
        tab: str,
        where: str = "",
        undoes: str | None = None,
    ) -> dict[str, Any]:
        """Take a verdict: when this returns, it is on the disk.

        Args:
            id: made by the page, a verdict each; asked again with the same id, nothing is written.
            image_key: of the pair.
            caption_key: of the pair.
            verdict: one of `verdicts.WORDS`, or `undo`.
            reviewer: whose.
            tab: of the browser.
            where: the filter of the queue that goes on.
            undoes: id of the verdict that an undo takes back.

        Returns:
            What `next` does; after an undo the candidate is the one whose verdict was taken back.

        Raises:
            ConfigError: if it is no verdict, or on no candidate.
            DataError: if it could not be written.
        """
        candidate = self.candidates.find((image_key, caption_key))
        if candidate is None and verdict != UNDO:
            raise ConfigError(f"{image_key} with {caption_key} is no candidate of this review.", key="caption_key")
        numbers = candidate.numbers() if candidate and verdict != UNDO else {}
        row = Verdict(
            id=id,
            image_key=image_key,
            caption_key=caption_key,
            verdict=verdict,
            reviewer=reviewer,
            judged_at=verdicts.now(),
            undoes=undoes,
            candidates_sha256=self.candidates.sha256 if numbers else None,
            **numbers,  # type: ignore[arg-type]
        )
        if undoes is not None and (taken_back := self._undo_choice(row, undoes)) is not None:
            self.journal.append(taken_back)  # first: killed in between, the page asks again with the same ids
        self.journal.append(row)
        queue = self.candidates.queue(where)
        with self._lock:
            said = self._now()
            self._let_go(tab)
            if verdict == UNDO and candidate is not None and (reviewer, candidate.pair) not in said.words:
                self._hold(candidate.pair, reviewer, tab)
                return self._state(queue, said, candidate, reviewer, 0)
            chosen, waiting = self._choose(queue, said, reviewer, tab)
            return self._state(queue, said, chosen, reviewer, waiting)

    def choose(
        self, *, id: str, image_key: str, caption_key: str, chooses: str, reviewer: str, tab: str, where: str = ""
    ) -> dict[str, Any]:
        """Take the verdict that an own pair is wrong and another caption fits: `no match`, and a `match` of the other.

        Args:
            id: made by the page, as in `judge`.
            image_key: of the pair.
            caption_key: of the pair.
            chooses: key of the caption that fits, one of those that were offered.
            reviewer: whose.
            tab: of the browser.
            where: the filter of the queue that goes on.

        Returns:
            What `next` does.

        Raises:
            ConfigError: if the caption was not offered, or as in `judge`.
            DataError: if it could not be written.
        """
        doubt = (self.doubts or {}).get((image_key, caption_key))
        if doubt is None or chooses not in doubt.better:
            raise ConfigError(f"{chooses[:200]} was not offered for {image_key[:200]}.", key="chooses")
        # First: killed in between, the page asks again with the same ids.
        self.journal.append(Verdict(id + _CHOSEN, image_key, chooses, "match", reviewer, verdicts.now()))
        pair = {"image_key": image_key, "caption_key": caption_key}
        return self.judge(id=id, **pair, verdict="no match", reviewer=reviewer, tab=tab, where=where)

    def _undo_choice(self, row: Verdict, undoes: str) -> Verdict | None:
        """Return the undo of the caption that was chosen with a verdict, None where none was."""
        chosen = next((one for one in self.journal.rows() if one.id == undoes + _CHOSEN), None)
        if chosen is None:
            return None
        return replace(row, id=row.id + _CHOSEN, caption_key=chosen.caption_key, undoes=chosen.id)

    def image(self, key: str) -> tuple[bytes, str]:
        """Return an image of the split and its media type; one that browsers do not read, as JPEG.

        Raises:
            DataError: if there is no such image, or it cannot be read.
        """
        row = self._image_row.get(key)
        if row is None:
            raise DataError(f"The split {self.split.name!r} has no image {key[:200]!r}.", key=key)
        data = self.split.image_bytes(row)
        kind = _BROWSERS_READ.get(str(self.split.samples["ext"][row]))
        if kind is not None:
            return data, f"image/{kind}"
        import io

        try:
            buffer = io.BytesIO()
            decode_rgb(data).save(buffer, "JPEG", quality=92)
        except UNDECODABLE as error:
            raise DataError(f"{key} does not decode ({error}).", key=key) from error
        return buffer.getvalue(), "image/jpeg"

    def _now(self) -> _Said:
        rows = self.journal.rows()
        if len(rows) != self._said.rows:
            self._said = self._work_out(rows)
        return self._said

    def _work_out(self, rows: list[Verdict]) -> _Said:
        every = pair_judgements.majority_verdicts(rows)
        words = {(row.reviewer, (row.image_key, row.caption_key)): row for row in pair_judgements.standing(rows)}
        return _Said(
            rows=len(rows),
            votes={(one.image_key, one.caption_key): one for one in every},
            words=words,
            agreement=pair_judgements.agreement(every),
        )

    def _choose(self, queue: Queue, said: _Said, reviewer: str, tab: str) -> tuple[Candidate | None, int]:
        """Return the first candidate that this reviewer has not judged, that lacks votes and nobody else looks at."""
        self._let_go(tab)
        waiting = 0
        for candidate in queue.candidates:
            pair = candidate.pair
            given = len(said.votes[pair].votes) if pair in said.votes else 0
            if given >= self.votes or (reviewer, pair) in said.words or not self._there(candidate):
                continue
            looking = [who for who, _ in self._held[pair].tabs.values()] if pair in self._held else []
            if reviewer in looking or given + len(looking) >= self.votes:
                waiting += 1
                continue
            self._hold(pair, reviewer, tab)
            return candidate, 0
        return None, waiting

    def _there(self, candidate: Candidate) -> bool:
        return candidate.image_key in self._image_row and candidate.caption_key in self._caption_row

    def _hold(self, pair: Pair, reviewer: str, tab: str) -> None:
        self._held.setdefault(pair, _Holders()).tabs[tab] = (reviewer, time.monotonic() + _HELD)

    def _let_go(self, tab: str) -> None:
        """Forget what a tab looked at, and who has looked for too long."""
        at = time.monotonic()
        for pair, holders in list(self._held.items()):
            holders.tabs = {one: who for one, who in holders.tabs.items() if one != tab and who[1] > at}
            if not holders.tabs:
                del self._held[pair]

    def _state(
        self, queue: Queue, said: _Said, candidate: Candidate | None, reviewer: str, waiting: int
    ) -> dict[str, Any]:
        asked = queue.places
        done = sum(len(one.votes) >= self.votes for pair, one in said.votes.items() if pair in asked)
        mine = [row for (who, _), row in said.words.items() if who == reviewer and not row.id.endswith(_CHOSEN)]
        mine.sort(key=lambda row: row.judged_at)
        agreement = said.agreement
        return {
            "candidate": None if candidate is None else self._shown(candidate, said),
            "waiting": waiting,
            "progress": {
                "candidates": queue.total,
                "asked": len(asked),
                "done": done,
                "mine": len(mine),
                "reviewers": len({who for who, _ in said.words}),
                "verdicts": dict(Counter(one.verdict for one in said.votes.values())),
                "shared": agreement.pairs,
                "unanimous": agreement.unanimous,
                "alpha": agreement.alpha,
            },
            "history": [{"id": row.id, "verdict": row.verdict, **_pair(row)} for row in mine[-50:]],
        }

    def _shown(self, candidate: Candidate, said: _Said) -> dict[str, Any]:
        split = self.split
        image, caption = self._image_row[candidate.image_key], self._caption_row[candidate.caption_key]
        owner = int(split.caption_owner[caption])
        one = said.votes.get(candidate.pair)
        return {
            "image_key": candidate.image_key,
            "caption_key": candidate.caption_key,
            "owner_image_key": split.image_keys[owner],
            "caption": split.texts[caption],
            "source": split.caption_sources[caption],
            "own_captions": [split.texts[row] for row in self._captions_of(image)],
            "siblings": [split.texts[row] for row in self._captions_of(owner) if row != caption],
            "numbers": candidate.numbers(),
            "text_blind": TITLES[candidate.text_blind] if candidate.text_blind else None,
            "votes": len(one.votes) if one else 0,
            **self._doubted(candidate),
        }

    def _doubted(self, candidate: Candidate) -> dict[str, Any]:
        if self.doubts is None:
            return {}
        doubt = self.doubts.get(candidate.pair, Doubt((), ()))
        better = [(key, self._caption_row[key]) for key in doubt.better if key in self._caption_row]
        owners = self.split.caption_owner
        return {
            "reasons": list(doubt.reasons),
            "better": [
                {
                    "caption_key": key,
                    "caption": self.split.texts[row],
                    "image_key": self.split.image_keys[owners[row]],
                }
                for key, row in better
            ],
        }

    def _captions_of(self, image: int) -> list[int]:
        # Captions stand in the order of their images.
        owners = self.split.caption_owner
        first, last = owners.searchsorted([image, image + 1])
        return list(range(int(first), int(last)))


def _pair(row: Verdict) -> dict[str, str]:
    return {"image_key": row.image_key, "caption_key": row.caption_key}
