"""The data card: each number that was measured, in its line, and nothing that was not."""

import json
from typing import Any

import pytest

from cusa.manifests.records import REASONS
from cusa.pipeline.publish.card import card
from cusa.pipeline.publish.facts import Facts, SplitFacts

AUDIT = {
    "open_pairs": 12_345,
    "likely": {"total": 1234.6, "interval": [900.2, 1600.7]},
    "calibration": {"expected": {"batch": {"size": 128, "false_negatives": 2.345}}},
    "duplicates": {
        "images": {"rows": 2000, "groups": 700, "exact_rows": 6},
        "captions": {"rows": 31, "groups": 32, "exact_rows": 33},
    },
    "leaks": {"exact_images": 1001, "near_images": 3, "captions": 5},
}


def facts(*splits: SplitFacts, **more: Any) -> Facts:
    """Return the facts of a work folder."""
    return Facts(**{"name": "mini", "title": "Mini", "licence": "", "homepage": "", "splits": list(splits), **more})


def split(name: str = "train", **more: Any) -> SplitFacts:
    """Return the facts of a split."""
    return SplitFacts(**{"name": name, "images": 1200, "captions": 6000, "bytes": 3 << 20, **more})


def lines(made: Facts, **more: Any) -> list[str]:
    """Return the lines of a card."""
    return card(made, **{"data_files": {}, "how": "load()", **more}).split("\n")


def test_card__counts_of_each_split_and_of_all() -> None:
    told = lines(facts(split(), split("test", images=7, captions=8, bytes=(5 << 20) + (1 << 19), copies=1234)))
    assert "# Mini" in told
    assert "Images with captions, made with cusa: 1,207 images, 6,008 captions." in told
    table = told[told.index("## Counts") + 2 :][:4]
    assert table == [
        "| split | images | captions | MiB | images with the bytes of another |",
        "| --- | --- | --- | --- | --- |",
        "| train | 1,200 | 6,000 | 3.0 | 0 |",
        "| test | 7 | 8 | 5.5 | 1,234 |",
    ]
    assert "load()" in told
    assert "Licence: not stated; ask whoever made the data." in told
    assert not any(line.startswith(("Source:", "license")) for line in told)


def test_card__licence_and_place_where_they_are_known() -> None:
    licence = 'CC "BY"'
    told = lines(facts(split(), licence=licence, homepage="https://a.example"))
    at = told.index(f"Licence: {licence}")
    assert told[at + 1] == "Source: https://a.example"
    assert told[told.index("license: other") + 1] == f"license_name: {json.dumps(licence)}"


@pytest.mark.parametrize(
    ("images", "size"),
    [
        *((0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10_000, "10K<n<100K")),
        *((99_999, "10K<n<100K"), (100_000, "100K<n<1M"), (10**6 - 1, "100K<n<1M"), (10**6, "1M<n<10M")),
        *((10**7 - 1, "1M<n<10M"), (10**7, "n>10M")),
    ],
)
def test_card__the_hub_s_size_of_all_splits_together(images: int, size: str) -> None:
    half = split(images=images // 2), split("test", images=images - images // 2)
    assert f"size_categories: [{size}]" in lines(facts(*half))


def test_card__the_head_names_the_files_of_each_split() -> None:
    told = lines(facts(split(), title='Größe: "x"'), data_files={"train": "data/train-*", "val": "data/val-*"})
    assert told[:2] == ["---", 'pretty_name: "Größe: \\"x\\""']
    at = told.index("configs:")
    assert told[at : at + 8] == [
        *("configs:", "- config_name: default", "  data_files:"),
        *("  - split: train", "    path: data/train-*", "  - split: val", "    path: data/val-*", "---"),
    ]
    assert "configs:" not in lines(facts(split()))


def test_card__what_made_the_captions_and_what_was_left_out() -> None:
    told = lines(
        facts(
            split(sources={"alt text": 1500, "a|b": 2}, drops={("caption", "language"): 3000, ("image", "own"): 1}),
            split("test", sources={"human": 4}),
        )
    )
    at = told.index("## What made the captions")
    assert told[at + 4 : at + 7] == ["| train | alt text | 1,500 |", "| train | a\\|b | 2 |", "| test | human | 4 |"]
    at = told.index("## Left out")
    assert told[at + 2 : at + 6] == [
        *("| split | kind | reason | rows | meaning |", "| --- | --- | --- | --- | --- |"),
        *(f"| train | caption | language | 3,000 | {REASONS['language']} |", "| train | image | own | 1 |  |"),
    ]
    plain = lines(facts(split()))
    assert "## What made the captions" not in plain
    assert plain[plain.index("## Left out") + 2] == "No row of the source was refused."


def _wrong(*splits: SplitFacts) -> list[str]:
    told = lines(facts(*splits))
    return [line for line in told[told.index("## What is known to be wrong") :] if line.startswith("- ")]


def test_card__two_standards_are_no_interval_of_95_percent() -> None:
    likely = {"total": 1234.6, "at_least": 950.0, "interval": [900.2, 1600.7]}
    assert _wrong(split(audit={**AUDIT, "likely": likely}))[0] == (
        "- train: between 900 and 1,601 matches are missing among 12,345 pairs that the data does not list: the "
        "smaller number is by the standard of a strict reader, the larger by that of people who forgive minor mistakes."
    )


def test_card__what_the_audits_say() -> None:
    pairs = {"expected_wrong": 2345.6, "pairs": 6000}
    assert _wrong(split(audit=AUDIT, own_pairs=pairs)) == [
        "- train: about 1,235 matches are missing (95 % interval 900 to 1,601) among 12,345 pairs that the data does "
        "not list.",
        "- train: a random batch of 128 pairs holds 2.3 false negatives on average.",
        "- train: 2,000 images are near duplicates, in 700 groups; 6 of them are equal.",
        "- train: 31 captions are near duplicates, in 32 groups; 33 of them are equal.",
        "- train: 1,001 images stand in another split too, 3 nearly so, and 5 captions.",
        "- train: the audit estimates about 2,346 wrong pairs of 6,000; nobody judged them.",
    ]
    assert _wrong(split(own_pairs={**pairs, "expected_wrong": 0})) == [
        "- train: the audit estimates about 0 wrong pairs of 6,000; nobody judged them."
    ]
    assert _wrong(split(), split("test", own_pairs={**pairs, "expected_wrong": None})) == [
        "- train: not audited. Pairs that the data does not list may match all the same."
    ]
    assert _wrong(split(audit={"open_pairs": 3, "likely": None, "calibration": None, "leaks": None})) == []
    assert split(audit=AUDIT).expected_false_negatives == 1234.6
    assert split().expected_false_negatives is split(audit={"likely": None}).expected_false_negatives is None
