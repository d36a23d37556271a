"""`cusa review`: every option reaches the questions that people are asked."""

import json
from pathlib import Path

import pytest

from cusa.integrations import label_studio
from cusa.pipeline.review import server
from cusa.workflow import judged
from tests.cli import calls


def test_review__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviewed = server.Reviewed(tmp_path / "verdicts.parquet", 1234, 567, ("a note",))
    done = calls.record(monkeypatch, server, "run", reviewed)
    printed = calls.every_option(
        *("review", small, "--split", "val", "--as", "ada", "--sql", "score > 0", "--pairs", "--votes", 3),
        *("--limit", 44, "--port", 5555),
        but={"--for-eval", "--scores", "--import"},
    )
    questions = server.Questions(where="score > 0", votes=3, limit=44, own_pairs=True, sample=None)
    common = {"work": small, "split": "val", "port": 5555, "reviewer": "ada"}
    assert done == [{**common, "questions": questions, "on_ready": done[0]["on_ready"]}]
    assert printed.splitlines() == [
        f"review: {tmp_path}/verdicts.parquet: 1,234 pairs judged, 567 of them matches",
        f"  Leave wrong pairs out with `cusa shard subset {small} --verdicts repair --out NEW`.",
        "  a note",
    ]
    told = json.loads(calls.plain("review", small, "--json"))
    assert (told["pairs"], told["positive"], told["notes"]) == (1234, 567, ["a note"])


def test_review__without_options_it_asks_as_the_server_does(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, server, "run", server.Reviewed(None, 0, 0, ()))
    assert calls.plain("review", small) == "review: nobody judged\n"
    assert done == [
        {
            "work": small,
            "split": "",
            "questions": server.Questions(),
            "port": server.PORT,
            "reviewer": "",
            "on_ready": done[0]["on_ready"],
        }
    ]


def test_review__for_an_evaluation_asks_the_pairs_that_were_drawn(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = tmp_path / "sample.parquet"
    drawn = calls.record(monkeypatch, judged, "prepare", ("the split", sample))
    done = calls.record(monkeypatch, server, "run", server.Reviewed(tmp_path / "v", 1, 0, ()))
    words = ("review", small, "--split", "val", "--for-eval", "one", "two")
    printed = calls.plain(*words, "--scores", "at-r", "--votes", 2)
    common = {"names": ("one", "two"), "work": small, "split": "val", "on_event": "Console.event"}
    assert drawn == [{**common, "scores": "at-r"}]
    assert (done[0]["split"], done[0]["questions"]) == ("the split", server.Questions(votes=2, sample=sample))
    assert printed == f"review: {tmp_path}/v: 1 pair judged, 0 of them matches\n"
    calls.plain(*words)
    assert drawn[1] == {**common, "scores": "r@1"}
    assert "--pairs and --for-eval ask about different pairs" in calls.refused(*words, "--pairs")
    assert "--sql and --for-eval exclude each other" in calls.refused(*words, "--sql", "true")
    assert len(done) == 2


def test_review__import_takes_annotations_and_asks_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = calls.record(monkeypatch, server, "run")
    taken = calls.record(monkeypatch, label_studio, "read", {"val": 1234, "test": 5})
    file = tmp_path / "export.json"
    assert calls.plain("review", small, "--import", file) == "review: new verdicts: 1,234 of val, 5 of test\n"
    assert taken == [{"work": small, "source": file}]
    assert json.loads(calls.plain("review", small, "--import", file, "--json")) == {
        "imported": {"val": 1234, "test": 5}
    }
    assert not asked
