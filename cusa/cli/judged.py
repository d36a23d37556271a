"""`cusa eval RUN_A RUN_B --judged`, and how its numbers are printed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cusa.cli.console import Console, print_json, print_table, print_text


def compare(runs: tuple[str, str], work: Path, *, split: str, force: bool, as_json: bool) -> None:
    """Compare two runs under every true match and print the result.

    Args:
        runs: as the user named them.
        work: the work folder.
        split: the runs' test split if empty.
        force: compute again even if nothing changed.
        as_json: whether to print JSON.
    """
    from cusa.workflow import judged

    with Console() as console:
        outcome, result, folder = judged.compare(runs, work, split=split, force=force, on_event=console.event)
    if as_json:
        print_json({**result, "out": str(folder), "fresh": outcome.fresh})
        return
    first, second = result["runs"]
    state = "" if outcome.fresh else " (up to date)"
    print_text(f"eval: {folder}{state}: A = {first}, B = {second} on {result['split']}, every true match")
    print_text(f"{result['interval']}.")
    for note in _notes(result, f"cusa review {work} --split {result['split']} --for-eval {runs[0]} {runs[1]}"):
        print_text(f"note: {note}")
    print_table(
        ("score", "A", "B", "A - B", "judge alone", "asked", "lambda", "to tell A from B"),
        [_row(one) for one in result["scores"]],
    )


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    from cusa.eval.tasks.metrics import title

    return (
        title(f"{one['direction']}/{one['score']}"),
        *(_estimate(one[name]) for name in ("first", "second", "difference")),
        f"{one['judge_alone'][2]:+.1f}",
        f"{one['answered']:,} of {one['units']:,}",
        f"{one['weight']:.2f}",
        _further(one),
    )


def _estimate(one: Mapping[str, Any]) -> str:
    if one["low"] is None:
        return f"{one['value']:.1f} (no interval)"
    return f"{one['value']:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _further(one: Mapping[str, Any]) -> str:
    low, high = one["difference"]["low"], one["difference"]["high"]
    if one["further"] is None:
        return "unknown yet" if low is None else "all is known"
    if one["further"] == 0:
        return "A is better" if low > 0 else "B is better" if high < 0 else "told"
    return f"some {one['further']:,} more verdicts"


def _notes(result: Mapping[str, Any], review: str) -> Sequence[str]:
    notes = [
        f"Scores of the pool: the first {result['depth']} answers of both runs and all pairs known to match; at depth "
        f"{result['depth']} (`--set eval.top`). By the judge {result['expected_outside']:,.1f} matches lie outside.",
    ]
    if not result["calibrated"]:
        notes.append(
            "The judge is the audit's similarity, which is no probability: intervals hold, and are wider than with a "
            "calibration (`cusa calibrate`)."
        )
    for sample in result["samples"]:
        option = "" if sample["scores"] == "r@1" else f" --scores {sample['scores']}"
        if sample["answered_pairs"] < sample["pairs"]:
            what = "R@1" if sample["scores"] == "r@1" else "R-Precision and mAP@R"
            answered = f"{sample['answered_pairs']:,} of {sample['pairs']:,} pairs are answered"
            notes.append(f"For {what} {answered}: `{review}{option}`.")
        if sample["passed_units"]:
            notes.append(
                f"{sample['passed_units']:,} were skipped or are disputed: the judge's word stands for them, outside "
                "of the interval."
            )
    return notes
