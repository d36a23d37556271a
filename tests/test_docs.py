"""The reference pages are what the code says, and the README speaks of commands that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cusa import cli, recipe
from tests.conftest import ROOT

COMMANDS = set(get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_the_generated_reference_is_current() -> None:
    script = [sys.executable, str(ROOT / "tools/write_reference.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_and_option_says_what_it_is_for() -> None:
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for option in command.params:
            assert option.help or option.name in ("layout", "source"), (name, option.name)


def test_every_recipe_key_has_a_meaning() -> None:
    unexplained = [key for key, meaning in recipe.keys().items() if not meaning and key != "name"]
    assert not unexplained


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_pages_name_only_commands_and_files_that_exist(page: str) -> None:
    path = ROOT / page if (ROOT / page).is_file() else ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    # Only code: a command stands after a backtick, a prompt or at the start of a line of a block.
    for command in re.findall(r"(?:^|`|\$ )cusa ([a-z][a-z-]+)", text, flags=re.MULTILINE):
        assert command in COMMANDS, f"{page} speaks of `cusa {command}`"
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/glossary.md"])
def test_the_places_in_the_house_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rooms = ("manifests", "models", "pipeline", "train", "eval", "workflow", "cli")
    places = {place for place in re.findall(r"`([a-z_]+/[a-z_/.]*)`", text) if place.split("/")[0] in rooms}
    assert len(places) > 20
    assert sorted(place for place in places if not (ROOT / "cusa" / place).exists()) == []


def test_every_recipe_key_says_its_default_and_what_it_may_be() -> None:
    page = (ROOT / "docs/recipe.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.*) \|$", page, flags=re.MULTILINE))
    assert recipe.keys().keys() - {"parts"} <= rows.keys()
    assert [key for key, row in rows.items() if row.startswith("the file's name")] == ["name"]
    assert all(row.split(" | ")[1] for row in rows.values())


def test_packaged_recipes_all_load() -> None:
    assert {"tiny"} <= set(recipe.packaged())
    for name in recipe.packaged():
        loaded = recipe.load(name)
        assert loaded.name == name
        assert loaded.description, f"{name} must say what it is for"


def test_the_version_is_the_same_everywhere() -> None:
    import tomllib

    import cusa

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cusa.__version__ == declared
    assert f"version: {declared}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()
    assert Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
