"""The data card: a README with what is in the data, what was left out and why, and what is known to be wrong."""

import json
from collections.abc import Sequence

from cusa.manifests.records import REASONS
from cusa.pipeline.publish.facts import Facts, SplitFacts

_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


def card(facts: Facts, *, data_files: dict[str, str], how: str) -> str:
    """Write the card.

    Args:
        facts: of the work folder.
        data_files: split -> pattern of its files, as the hub's `configs` name them.
        how: a line or more of Python that loads the data.
    """
    return "\n".join(
        [
            *_head(facts, data_files),
            f"# {facts.title}",
            "",
            f"Images with captions, made with cusa: {facts.images:,} images, "
            f"{sum(split.captions for split in facts.splits):,} captions.",
            "",
            f"Licence: {facts.licence or 'not stated; ask whoever made the data.'}",
            *([f"Source: {facts.homepage}"] if facts.homepage else []),
            "",
            "```python",
            how,
            "```",
            "",
            "## Counts",
            "",
            *_table(
                ("split", "images", "captions", "MiB", "images with the bytes of another"),
                [
                    (one.name, f"{one.images:,}", f"{one.captions:,}", f"{one.bytes / 2**20:,.1f}", f"{one.copies:,}")
                    for one in facts.splits
                ],
            ),
            "",
            *_sources(facts.splits),
            "## Left out",
            "",
            *_left_out(facts.splits),
            "",
            "## What is known to be wrong",
            "",
            *(line for split in facts.splits for line in _faults(split)),
            "",
        ]
    )


def _head(facts: Facts, data_files: dict[str, str]) -> list[str]:
    """Return the head that the hub reads. A JSON text is a YAML one."""
    size = next((name for name, below in _SIZES if facts.images < below), "n>10M")
    lines = ["---", f"pretty_name: {json.dumps(facts.title, ensure_ascii=False)}"]
    if facts.licence:
        # The hub's own field takes names of its list only.
        lines += ["license: other", f"license_name: {json.dumps(facts.licence, ensure_ascii=False)}"]
    lines += [
        "task_categories: [image-to-text, text-to-image]",
        "tags: [image-text-retrieval, cusa]",
        f"size_categories: [{size}]",
    ]
    if data_files:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split, pattern in data_files.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return [*lines, "---", ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _sources(splits: Sequence[SplitFacts]) -> list[str]:
    rows = [(split.name, source, f"{count:,}") for split in splits for source, count in split.sources.items()]
    return ["## What made the captions", "", *_table(("split", "source", "captions"), rows), ""] if rows else []


def _left_out(splits: Sequence[SplitFacts]) -> list[str]:
    rows = [
        (split.name, kind, reason, f"{count:,}", REASONS.get(reason, ""))
        for split in splits
        for (kind, reason), count in split.drops.items()
    ]
    if not rows:
        return ["No row of the source was refused."]
    return _table(("split", "kind", "reason", "rows", "meaning"), rows)


def _faults(split: SplitFacts) -> list[str]:
    """Return what the audits say of a split, a line each."""
    if split.audit is None and split.own_pairs is None:
        return [f"- {split.name}: not audited. Pairs that the data does not list may match all the same."]
    lines = []
    audit = split.audit or {}
    likely = audit.get("likely")
    if likely:
        low, high = likely["interval"]
        among = f"among {audit['open_pairs']:,} pairs that the data does not list"
        if likely.get("at_least", likely["total"]) < likely["total"]:
            lines.append(
                f"- {split.name}: between {low:,.0f} and {high:,.0f} matches are missing {among}: the smaller number "
                "is by the standard of a strict reader, the larger by that of people who forgive minor mistakes."
            )
        else:
            lines.append(
                f"- {split.name}: about {likely['total']:,.0f} matches are missing (95 % interval {low:,.0f} to "
                f"{high:,.0f}) {among}."
            )
    expected = ((audit.get("calibration") or {}).get("expected") or {}).get("batch")
    if expected:
        lines.append(
            f"- {split.name}: a random batch of {expected['size']} pairs holds {expected['false_negatives']:.1f} false "
            "negatives on average."
        )
    for modality, counts in (audit.get("duplicates") or {}).items():
        lines.append(
            f"- {split.name}: {counts['rows']:,} {modality} are near duplicates, in {counts['groups']:,} groups; "
            f"{counts['exact_rows']:,} of them are equal."
        )
    if leaks := audit.get("leaks"):
        lines.append(
            f"- {split.name}: {leaks['exact_images']:,} images stand in another split too, {leaks['near_images']:,} "
            f"nearly so, and {leaks['captions']:,} captions."
        )
    if split.own_pairs and split.own_pairs.get("expected_wrong") is not None:
        pairs = split.own_pairs
        lines.append(
            f"- {split.name}: the audit estimates about {pairs['expected_wrong']:,.0f} wrong pairs of "
            f"{pairs['pairs']:,}; nobody judged them."
        )
    return lines
