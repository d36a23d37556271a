"""What people and the audit say of a split's own pairs, for a subset: captions left out, better ones put in."""

from collections.abc import Collection, Iterator

from cusa.manifests.judgements import own_pairs, pair_judgements
from cusa.manifests.judgements.pair_judgements import PairJudgement
from cusa.manifests.keys import caption_key
from cusa.manifests.records import CaptionRecord, Drop
from cusa.manifests.samples import Split
from cusa.manifests.storage import store


class OwnPairs:
    """Changes of a split's own pairs.

    Args:
        split: the split.
        judged: leave out captions that people judged wrong.
        repair: also give images the captions that people chose for them.
        max_p_wrong: leave out captions that the audit calls wrong with a larger probability; None = by people alone.
        spoken: keys of the captions that may be given to an image; None = all.

    Attributes:
        digest: of the judgements and of the audit that are used.
        any: whether there is any judgement of own pairs.

    Raises:
        DataError: if verdicts are broken, or probabilities are asked for and the pairs were not audited.
        StaleError: if the audit of the pairs is of another state of the split.
    """

    def __init__(
        self,
        split: Split,
        *,
        judged: bool,
        repair: bool,
        max_p_wrong: float | None,
        spoken: Collection[str] | None = None,
    ) -> None:
        self._split, self._limit = split, max_p_wrong
        self._wrong: dict[str, PairJudgement] = {}
        self._chosen: dict[str, list[PairJudgement]] = {}
        judgements = pair_judgements.read(split, folder=split.folder / own_pairs.FOLDER) if judged else None
        for one in judgements.judgements if judgements is not None else ():
            is_own = split.image_keys[split.caption_owner[split.caption_row[one.caption_key]]] == one.image_key
            if is_own and one.verdict == "no match":
                self._wrong[one.caption_key] = one
            elif not is_own and one.positive and repair and (spoken is None or one.caption_key in spoken):
                self._chosen.setdefault(one.image_key, []).append(one)
        self.any = judgements is not None and bool(judgements.judgements)
        self._p_wrong = None if max_p_wrong is None else own_pairs.read_p_wrong(split)
        audit = "" if max_p_wrong is None else own_pairs.pairs_digest(split)
        self.digest = store.digest(["" if judgements is None else judgements.digest, audit, repr(max_p_wrong)])

    def apply(self, key: str, source: str, captions: list[CaptionRecord]) -> Iterator[CaptionRecord | Drop]:
        """Yield an image's captions as they should be, and a row for each that is left out, with who said so.

        Args:
            key: of the image.
            source: where it came from.
            captions: its own.
        """
        last = max((caption.position or 0 for caption in captions), default=-1)
        chosen = [(last + place, one) for place, one in enumerate(self._chosen.get(key, ()), 1)]
        in_place = "".join(f"; {caption_key(key, place)} came from {one.caption_key}" for place, one in chosen)
        for caption in captions:
            mine = caption_key(key, caption.position or 0)
            quoted = f"{caption.text[:200]!r}"
            if (one := self._wrong.get(mine)) is not None:
                detail = f"judged wrong by {', '.join(sorted(one.votes))}: {quoted}{in_place}"
                yield Drop(self._split.name, mine, source, "caption", "judged", detail)
            elif self._p_wrong is not None and self._p_wrong[self._split.caption_row[mine]] > self._limit:
                detail = (
                    f"the audit calls it wrong with p = {self._p_wrong[self._split.caption_row[mine]]:.3f}: {quoted}"
                )
                yield Drop(self._split.name, mine, source, "caption", "doubted", detail)
            else:
                yield caption
        for place, one in chosen:
            row = self._split.caption_row[one.caption_key]
            caption_id = str(self._split.captions["caption_id"][row])
            yield CaptionRecord(caption_id, self._split.texts[row], place, self._split.caption_sources[row])
