"""The Markdown: the numbers of the page, and cells that no text can break out of."""

import re

import pytest

from cusa.eval.report import stage as report
from tests.eval.report.test_stage import Tags, _evaluated, _work

HOSTILE = "a|b \\| <script>alert(1)<b> [click](javascript:alert(1))\n# no heading\x1b[31m"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the page and the Markdown of two runs, one with a hostile name."""
    folder = tmp_path_factory.mktemp("markdown")
    work = _work(folder)
    runs = [_evaluated(folder / HOSTILE, work), _evaluated(folder / "run3", work, seed=3)]
    path = report.run(runs, out=folder / "r.html", work=work).out
    return path.read_text(), path.with_suffix(".md").read_text()


def test_lines__every_number_stands_in_the_page_too(files: tuple[str, str]) -> None:
    page, markdown = files
    words = Tags(page).text
    numbers = re.findall(r"(?<![\w.])[-+]?\d+\.\d\d(?![\w.])", markdown)
    assert len(numbers) > 40
    assert not [number for number in numbers if number not in words]


def test_lines__a_name_is_one_cell_of_words(files: tuple[str, str]) -> None:
    _, markdown = files
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        # As a reader of Markdown does: a backslash makes the next sign an ordinary one.
        columns = [len(re.findall(r"(?:\\.|[^|\\])*\|", row)) for row in table.splitlines()]
        assert set(columns) == {columns[0]}, table
    assert not re.search(r"(?<!\\)<", markdown)
    assert not re.search(r"(?<!\\)\[", markdown)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", markdown)
    assert "\n# no heading" not in markdown
    assert "a\\|b \\\\\\| \\<script>alert(1)\\<b> \\[click](javascript:alert(1)) # no heading \\[31m" in markdown
