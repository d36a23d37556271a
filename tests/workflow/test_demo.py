"""The demo: its numbers side by side, with the difference of the last run to the first."""

from cusa.eval.tasks.registry import HEADLINES, label
from cusa.workflow import demo


def test_compare__each_headline_of_each_run_and_the_difference() -> None:
    results = {}
    for name, start in (("one", 10.0), ("two", 12.5)):
        tasks: dict[str, dict[str, dict[str, float]]] = {}
        for place, headline in enumerate(HEADLINES):
            task, _, metric = headline.partition("/")
            tasks.setdefault(task, {"metrics": {}})["metrics"][metric] = start + 2 * place * start
        results[name] = {"tasks": tasks}
    header, *lines = demo._compare(results).splitlines()
    assert header.split() == ["one", "two", "difference"]
    assert [line[:52].strip() for line in lines] == [label(headline) for headline in HEADLINES]
    assert [line[52:].split() for line in lines] == [
        [f"{10.0 * factor:.2f}", f"{12.5 * factor:.2f}", f"+{2.5 * factor:.2f}"] for factor in (1, 3, 5, 7, 9)
    ]
