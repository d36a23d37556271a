"""`languages.parquet` of a split: the language of every caption, and how sure that is."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.languages import TABLE, UNDETERMINED, read_languages
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import LanguagesConfig
from cusa.pipeline.engine import Workers, run_units
from cusa.pipeline.languages.detect import detect, detector, need_library

_SHOWN = 5  # languages that a sentence names


@dataclass(frozen=True)
class _Unit:
    """The captions of one tar."""

    path: Path
    rows: range
    only: tuple[str, ...]


def run(config: LanguagesConfig, *, split: Split, force: bool = False, on_event: OnEvent = ignore) -> Outcome:
    """Detect the language of every caption of a split.

    Args:
        config: which languages there may be, and from which probability one counts as known.
        split: the split.
        force: detect again even if nothing changed.
        on_event: called with every finished tar.

    Returns:
        The outcome; counts has the captions and those of undetermined language, notes are sentences.

    Raises:
        ConfigError: if the library is missing, or does not know a language.
    """
    need_library()
    stage = StageRun(
        "languages",
        split.folder / "languages.ledger.json",
        inputs={"split": split.digest},
        parameters=config.model_dump(exclude={"workers"}),
        force=force,
    )
    path = split.folder / TABLE
    if stage.up_to_date:
        return stage.reuse(notes=_sentences(split, store.read_table(path)))
    detector(config.only)  # says what is wrong before anything is begun
    with stage.begin(unless_held=split.locks):
        captions = split.folder / "captions.parquet"
        units = [_Unit(captions, rows, config.only) for _, _, _, rows in split.shard_rows()]
        detected = run_units(
            _detect,
            units,
            what=f"languages of {split.name}",
            workers=Workers(config.workers),
            weigh=lambda unit: len(unit.rows),
            on_event=on_event,
        )
        guesses = [each for of_unit in detected for each in of_unit]
        table = pa.table(
            {
                "caption_key": split.captions["caption_key"].combine_chunks(),
                "language": [code if p >= config.minimum else UNDETERMINED for code, p in guesses],
                "guess": [code for code, _ in guesses],
                "probability": [p for _, p in guesses],
            },
            schema=schemas.LANGUAGES.with_metadata({"split": split.digest}),
        )
        store.write_table(path, table)
        counts = {"captions": len(guesses), "undetermined": sum(p < config.minimum for _, p in guesses)}
        return stage.finish(outputs=[path], counts=counts, notes=_sentences(split, table))


def _detect(unit: _Unit) -> list[tuple[str, float]]:
    texts = store.read_rows(unit.path, unit.rows, columns=["text"])["text"].to_pylist()
    return [detect(text, unit.only) for text in texts]


def _sentences(split: Split, table: pa.Table) -> tuple[str, ...]:
    """Say which languages there are, and what is not known of short captions."""
    languages = table["language"].to_pylist()
    counts = Counter(languages)
    unknown = counts.pop(UNDETERMINED, 0)
    total = max(len(languages), 1)
    parts = [f"{code} {count:,} ({count / total:.1%})" for code, count in counts.most_common(_SHOWN)]
    if others := sum(counts.values()) - sum(count for _, count in counts.most_common(_SHOWN)):
        parts.append(f"{len(counts) - _SHOWN} others {others:,}")
    out = [f"{split.name}: {', '.join(parts) or 'no language'}."]
    if unknown:
        words = [len(text.split()) for text in split.texts]
        short = sorted(count for count, code in zip(words, languages, strict=True) if code == UNDETERMINED)
        everyone = sorted(words)
        out.append(
            f"Of {unknown:,} captions ({unknown / total:.1%}) the language is not known (und): they are short, "
            f"{short[len(short) // 2]} words in the median where all captions have {everyone[len(everyone) // 2]}, or "
            "mixed, or names. --only en,de says which languages there may be, and then fewer stay unknown."
        )
    return tuple(out)


def captions_in(split: Split, languages: Collection[str]) -> set[str]:
    """Return the keys of captions in one of some languages; raises as `read_languages` does."""
    return {key for key, code in zip(split.caption_keys, read_languages(split), strict=True) if code in languages}
