"""`cusa eval`, and how its numbers are printed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cusa.cli.console import Console, point_on, print_json, print_table, print_text, say
from cusa.cli.options import (
    AsJson,
    EngineAddress,
    EngineKind,
    Force,
    Settings,
    Trust,
    UnitRanges,
    UnitWorkers,
    Wait,
    local,
    parse_here,
    parse_path,
    units_shared,
)
from cusa.errors import ConfigError
from cusa.manifests.words import counted


def eval_(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run, a model folder, or a hub name.")],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            parser=parse_here,
            help="Work folder, data set in its official layout, STS folder, ECCV Caption ground truth, CxC ratings, "
            "Flickr8k's judgements, SugarCrepe's or RoCOCO's files; repeatable.",
        ),
    ],
    other: Annotated[str | None, typer.Argument(help="With --judged: the run that RUN is compared with.")] = None,
    judged: Annotated[
        bool,
        typer.Option(
            "--judged",
            help="Compare two runs under every true match, from what people judged and the audit's probabilities.",
        ),
    ] = False,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="Names with commas, or all. Default: what the data allow.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split; default: the run's test split.")] = "",
    out: Annotated[
        Path | None, typer.Option(parser=local("--out"), help="Folder of the results; default: `eval` in the run.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(parser=parse_path, help="The image keys the split must consist of, one a line.")
    ] = None,
    settings: Settings = None,
    trust: Trust = None,
    workers: UnitWorkers = None,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    unit_range: UnitRanges = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Score a student: retrieval by own pairs and every known match, COCO, CxC, ECCV Caption, Flickr8k, class, STS.

    Example: cusa eval RUN --data WORK --split test

    Example, embeddings and rankings shared by eight processes: cusa eval RUN --data WORK --workers 8
    """
    from cusa.workflow import evaluate as scoring

    local("RUN")(name)
    if judged or other is not None:
        unused: dict[str, Any] = {"--tasks": tasks, "--out": out, "--ids": ids, "--set": settings, "--trust": trust}
        unused |= {"--workers": workers, "--address": address, "--unit-range": unit_range}
        unused["--engine"] = engine if engine != "local" else ""
        _compare((name, other), judged, data, split=split, unused=unused, force=force, as_json=as_json)
        return

    with Console() as console, units_shared(workers, engine, address, unit_range):
        results = scoring.evaluate(
            name,
            scoring.EvalRequest(
                data=data,
                tasks=[task.strip() for names in tasks or () for task in names.split(",") if task.strip()],
                split=split,
                output_folder=out,
                ids=ids,
                settings=settings or (),
                trust=trust or (),
                force=force,
            ),
            on_event=console.event,
        )
    if os.environ.get("RANK", "0") != "0":
        return  # started by torchrun: rank 0 speaks for all
    failed = [result for result in results if "failed" in result]
    if as_json:
        print_json(results[0] if len(results) == 1 else results)
    else:
        for result in results:
            if "missing" in result:
                for dataset, how in result["missing"].items():
                    print_text(f"not given: {dataset}: {how}.")
            elif "units_made" in result:
                print_text(f"eval: {result['out']}: {result['units_made']}")
            elif "failed" not in result:
                _print_evaluation(result)
        if len(results) > 1:
            _print_paper([result for result in results if "tasks" in result])
        if (Path(name) / "run.json").is_file() and unit_range in ("", "merge"):
            print_text("")
            point_on(then=f"cusa report {name}")
    for result in failed:
        say(f"error: {result['data']}: {result['failed']}")
    if failed:
        raise typer.Exit(1)


def _compare(
    runs: tuple[str, str | None],
    judged: bool,
    data: Sequence[Path],
    *,
    split: str,
    unused: Mapping[str, Any],
    force: bool,
    as_json: bool,
) -> None:
    """Compare two runs under every true match."""
    from cusa.cli import judged as judged_scores

    first, second = runs
    if second is None:
        raise ConfigError(
            "--judged compares two runs: `cusa eval RUN_A RUN_B --judged --data WORK`.", option="--judged"
        )
    if not judged:
        raise ConfigError(
            f"Two runs, {first} and {second}, are compared with --judged; evaluate them one by one without it.",
            option="--judged",
        )
    if len(data) != 1:
        raise ConfigError("--judged needs one work folder: give --data once.", option="--data")
    for option, value in unused.items():
        if value:
            raise ConfigError(f"{option} has no meaning with --judged.", option=option)
    local("RUN")(second)
    judged_scores.compare((first, second), data[0], split=split, force=force, as_json=as_json)


def _print_paper(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the numbers that the paper's tables have, in their form."""
    from cusa.eval import paper

    rows = paper.rows(results)
    if rows:
        print_text("\nIn the form of the paper's tables:")
        cells = [(row.table, row.column, f"{row.value:.1f}", row.size) for row in rows]
        print_table(("table", "metric", "value", "measured on"), cells)


def _rows(result: Mapping[str, Any], task: str) -> list[tuple[str, ...]]:
    """Return a task's numbers: what each is called, its value, its interval, and what a random ranking gets."""
    from cusa.eval.tasks.metrics import chance_in, named, title

    summary = result["tasks"][task]
    intervals = summary.get("intervals", {})
    rows: list[tuple[str, ...]] = []
    values = summary["metrics"]
    for name in sorted(values, key=lambda name: named(name).place):
        value = values[name]
        if value is None:
            continue
        chance = chance_in(summary, name)
        interval = "{:.1f} to {:.1f}".format(*intervals[name]) if intervals.get(name) else ""
        rows.append((title(name), f"{value:.1f}", interval, "" if chance is None else f"{chance:.1f}"))
    return rows


_GROUPS = {"by_source": "source", "by_language": "language"}
"""By what a task's captions are told apart, by the name in JSON."""


def _by_group(word: str, groups: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of a table with a row a group of captions."""
    from cusa.eval.tasks.metrics import named, title

    names = sorted(next(iter(groups.values()))["metrics"], key=lambda name: named(name).place)
    rows = []
    for group, summary in groups.items():
        values = (summary["metrics"][name] for name in names)
        rows.append((group, f"{summary['captions']:,}", *("" if v is None else f"{v:.1f}" for v in values)))
    return (word, "captions", *map(title, names)), rows


def _print_evaluation(result: Mapping[str, Any]) -> None:
    """Print one data folder's numbers, each task with its protocol."""
    state = "" if result["fresh"] else " (up to date)"
    where = result["out"] or "not kept, for want of --out"
    if "pairs" in result:
        size = f"{counted(result['pairs'], 'pair')}"
    else:
        size = (
            f"{result['split']}, {counted(result['images'], 'image')}, "
            f"{counted(result['captions'], 'caption')}; ties: {result['ties']}"
        )
    print_text(f"eval: {where}{state}: {result['student']} on {result['dataset']} {size}")
    for remark in result.get("remarks", ()):
        print_text(f"note: {remark}")
    lacking: dict[str, list[str]] = {}
    for task, summary in result["tasks"].items():
        if "unavailable" in summary:
            lacking.setdefault(summary["unavailable"], []).append(task)
            continue
        queries = counted(summary["queries"], "query", "queries")
        print_text(f"\n{task} ({summary['space']} space, {queries}): {summary['protocol']}")
        print_table(("metric", "value", "95 % interval", "chance"), _rows(result, task))
        for name, word in _GROUPS.items():
            if groups := summary.get(name):
                print_text(f"{task} by the {word} of the caption: {next(iter(groups.values()))['protocol']}")
                print_table(*_by_group(word, groups))
    if lacking:
        print_text("\nNot available here:")
    for why, tasks in lacking.items():
        print_text(f"  {', '.join(tasks)}: {why}")
