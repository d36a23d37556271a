"""The stage that looks for faults of single pictures and captions."""

import numpy as np
import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements.own_pairs import FOLDER
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.captions import clean_caption
from cusa.pipeline.config import PairsConfig
from cusa.pipeline.own_pairs.caption_faults import caption_faults
from cusa.pipeline.own_pairs.picture_faults import picture_faults
from cusa.pipeline.pairs.neighbourhoods import group_ids

TABLE = "issues.parquet"


def run(config: PairsConfig, *, split: Split, force: bool = False, on_event: OnEvent = ignore) -> Outcome:
    """Write `audit/pairs/issues.parquet` of one split.

    Args:
        config: whether to look at the pixels.
        split: the split.
        force: look again even if nothing changed.
        on_event: called with every hundredth picture.

    Returns:
        The outcome; counts has the issues of each kind, notes say the same.
    """
    folder = split.folder / FOLDER
    stage = StageRun(
        "issues",
        folder / "issues.ledger.json",
        inputs={"split": split.digest},
        parameters={"pictures": config.pictures},
        force=force,
    )
    if stage.up_to_date:
        return stage.reuse(notes=_sentences(stage.before.counts if stage.before else {}))
    store.make_folder(folder)
    with stage.begin(unless_held=split.locks):
        faults = picture_faults(split, on_event=on_event) if config.pictures else []
        faults += caption_faults(split.texts, split.caption_owner, cleaned_words(split))
        keys = {"image": split.image_keys, "text": split.caption_keys}
        rows = [(one.kind, keys[one.kind][one.row], one.fault, one.value, one.detail) for one in faults]
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in schemas.ISSUES]
        metadata = {"split": split.digest}
        table = pa.table(columns, schema=schemas.ISSUES).replace_schema_metadata(metadata)
        store.write_table(folder / TABLE, table)
        names, times = np.unique([f"{one.kind} {one.fault}" for one in faults], return_counts=True)
        counts = {
            "issues": len(faults),
            **{str(name): int(number) for name, number in zip(names, times, strict=True)},
        }
        return stage.finish(outputs=[folder / TABLE], counts=counts, notes=_sentences(counts))


def cleaned_words(split: Split) -> np.ndarray:
    """Return equal numbers for captions with the same words."""
    return group_ids([clean_caption(words) for words in split.texts])


def _sentences(counts: object) -> tuple[str, ...]:
    kinds = dict(counts)  # type: ignore[call-overload]
    issues = kinds.pop("issues", 0)
    if not issues:
        return ("No picture or caption has a fault that was looked for.",)
    described = ", ".join(f"{number:,} {name}" for name, number in kinds.items())
    return (f"{issues:,} faults of single pictures and captions: {described}.",)
