"""The page on JSON shows what commands print: its examples have the keys of the real things."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cusa import errors
from cusa.cli import console
from cusa.manifests.stage import Outcome
from cusa.pipeline.index.search import Hit
from cusa.workflow.plan import Plan, Planned
from tests.conftest import ROOT

PAGE = (ROOT / "docs/json.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, Any] = {
    name: json.loads(text) for name, text in re.findall(r"```json (\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
}


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_examples__have_the_keys_of_what_is_printed() -> None:
    assert EXAMPLES.keys() == {"error", "outcome", "plan", "hit", "blend"}
    assert EXAMPLES["plan"].keys() == _names(Plan)
    assert EXAMPLES["plan"]["stages"][0].keys() == _names(Planned)
    assert EXAMPLES["hit"].keys() == _names(Hit)


def test_outcome__is_printed_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    example = EXAMPLES["outcome"]
    outcome = Outcome(**{**example, "out": Path(example["out"]), "notes": tuple(example["notes"])})
    console.report_outcomes(outcome, as_json=True, then="cusa index work/mine")
    assert json.loads(capsys.readouterr().out) == [example]


def test_error__is_printed_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    example = EXAMPLES["error"]["error"]
    kind = getattr(errors, example["kind"])
    console.print_error(kind(example["message"], path=Path(example["values"]["path"])))
    assert json.loads(capsys.readouterr().out) == EXAMPLES["error"]
    for name in re.findall(r"`(\w+Error)`", PAGE):
        assert issubclass(getattr(errors, name), errors.CusaError)
