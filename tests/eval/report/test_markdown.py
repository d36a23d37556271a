"""The Markdown: the numbers of the page, and cells that no text can break out of."""

import re
from pathlib import Path

from cusa.eval.report import stage as report
from tests.eval.report.test_stage import Tags, _evaluated, _work


def test_lines__every_number_stands_in_the_page_too(tmp_path: Path) -> None:
    work = _work(tmp_path)
    runs = [_evaluated(tmp_path / "a|b", work), _evaluated(tmp_path / "run3", work, seed=3)]
    path = report.run(runs, out=tmp_path / "r.html", work=work).out
    markdown = path.with_suffix(".md").read_text()
    words = Tags(path.read_text()).text
    numbers = re.findall(r"[-+]?\d+\.\d\d\b", markdown)
    assert len(numbers) > 40
    assert not [number for number in numbers if number not in words]


def test_lines__a_run_s_name_breaks_no_table(tmp_path: Path) -> None:
    work = _work(tmp_path)
    runs = [_evaluated(tmp_path / "a|b", work), _evaluated(tmp_path / "run3", work, seed=3)]
    markdown = report.run(runs, out=tmp_path / "r.html", work=work).out.with_suffix(".md").read_text()
    table = [line for line in markdown.partition("| metric |")[2].splitlines() if line.startswith("|")]
    header = "| metric |" + markdown.partition("| metric |")[2].splitlines()[0]
    columns = {
        len(re.split(r"(?<!\\)\|", line))
        for line in [header, *table[: table.index(table[-1])]]
        if "metric" in line or "R@" in line
    }
    assert columns == {6}
    assert r"a\|b" in header
