"""Two runs under every true match, from the draw to the score, as a user goes about it."""

import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.eval.config import EvalConfig
from cusa.manifests import ledger, schemas
from cusa.manifests.judgements import verdicts
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.pipeline.review.room import Room
from cusa.pipeline.review.sample import SampledPairs
from cusa.workflow import judged
from cusa.workflow.evaluate import EvalRequest
from cusa.workflow.evaluated.model import EvaluatedModel
from tests.cli import calls
from tests.cli.test_cli import cusa_here as cusa
from tests.pipeline.review.served import make_audited
from tests.worlds import make_work

SMALL = StudentConfig(
    image_size=32, image_width=32, text_width=32, width=16, image_layers=1, text_layers=1, patch_size=16
)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, tuple[str, str]]:
    """An audited split of 12 images, and two students that were never trained."""
    work = make_audited(tmp_path)
    names = []
    for seed, name in enumerate(("one", "two")):
        folder = tmp_path / "models" / name
        students.create(SMALL, captions=["a red wall", "a blue wall seen"], uni=True, seed=seed).save(folder)
        names.append(str(folder))
    return work, (names[0], names[1])


def _match(split: Split, image: str, caption: str) -> bool:
    """Return what the simulated reviewer says: a caption is true of every image whose number has its colour."""
    owner = split.image_keys[int(split.caption_owner[split.caption_row[caption]])]
    return (split.image_row[image] - split.image_row[owner]) % 4 == 0


def _answer(split: Split, sample: Path, number: int) -> None:
    """Answer the first pairs of a sample through the room that the review's page speaks to."""
    room = Room(split, sample=SampledPairs(split, sample))
    for _ in range(number):
        candidate = room.next(reviewer="ada", tab="tab-1")["candidate"]
        pair = {name: candidate[name] for name in ("image_key", "caption_key")}
        said = "match" if _match(split, **{"image": pair["image_key"], "caption": pair["caption_key"]}) else "no match"
        room.judge(id=str(uuid.uuid4()), verdict=said, reviewer="ada", tab="tab-1", **pair)
    room.close()


def _score(result: dict[str, Any], score: str, direction: str) -> dict[str, Any]:
    return next(one for one in result["scores"] if (one["score"], one["direction"]) == (score, direction))


def test_compare__from_nothing_to_everything_answered(world: tuple[Path, tuple[str, str]]) -> None:
    work, names = world
    name, sample = judged.prepare(names, work, split="train")
    split = Split(work, name)
    asked = pq.read_table(sample)
    assert asked.schema.names == schemas.JUDGED_SAMPLE.names
    assert asked["ask"].to_pylist() == list(range(1, asked.num_rows + 1))
    _, before, folder = judged.compare(names, work, split="train")
    assert folder == split.folder / "judged" / "one-vs-two"
    assert _score(before, "r@1", "image-to-text")["difference"]["low"] is None
    assert before["calibrated"] is False

    _answer(split, sample, 15)
    outcome, some, _ = judged.compare(names, work, split="train")
    assert outcome.fresh
    assert some["samples"][0]["answered_pairs"] == 15

    _answer(split, sample, asked.num_rows - 15)
    _, result, _ = judged.compare(names, work, split="train")
    for direction in ("image-to-text", "text-to-image"):
        one = _score(result, "r@1", direction)
        for which, run in zip(("first", "second"), ("one", "two"), strict=True):
            rows = pq.read_table(work / "eval" / run / "per_query.parquet").to_pylist()
            rows = [row for row in rows if (row["task"], row["direction"]) == ("cross-modal", direction)]
            pairs = [(row["query_key"], row["top_keys"][0]) for row in rows]
            pairs = [pair if direction == "image-to-text" else pair[::-1] for pair in pairs]
            share = 100 * sum(_match(split, *pair) for pair in pairs) / len(pairs)
            assert one[which]["value"] == pytest.approx(share)
            assert one[which]["low"] == pytest.approx(share)
    outcome, _, _ = judged.compare(names, work, split="train")
    assert not outcome.fresh


def test_draw__what_is_known_is_not_asked_and_a_new_ranking_is_drawn_anew(world: tuple[Path, tuple[str, str]]) -> None:
    work, names = world
    _, sample = judged.prepare(names, work, split="train", scores="at-r")
    split = Split(work, "train")
    first = pq.read_table(sample).to_pylist()
    _answer(split, sample, 5)
    judged.prepare(names, work, split="train", scores="at-r")
    assert pq.read_table(sample).to_pylist() == first, "verdicts do not move the order"
    ranking = work / "eval/two/per_query.parquet"
    table = pq.read_table(ranking)
    rows = table.to_pylist()
    rows[0]["top_keys"] = rows[0]["top_keys"][::-1]
    store.write_table(ranking, pa.Table.from_pylist(rows, schema=table.schema))
    judged.prepare(names, work, split="train", scores="at-r")
    again = pq.read_table(sample).to_pylist()
    answered = {(row.image_key, row.caption_key) for row in verdicts.read(split.folder / "audit")}
    assert answered
    assert not answered & {(row["image_key"], row["caption_key"]) for row in again}
    pool = pq.read_table(sample.parent / "pool.parquet").to_pylist()
    known = {(row["image_key"], row["caption_key"]) for row in pool if row["known_match"] is not None}
    assert answered & {(row["image_key"], row["caption_key"]) for row in pool} <= known


def test_prepare__refuses_what_cannot_be_compared(world: tuple[Path, tuple[str, str]]) -> None:
    work, names = world
    with pytest.raises(ConfigError, match="compared with itself"):
        judged.prepare((names[0], names[0]), work, split="train")
    with pytest.raises(ConfigError, match="--scores r1"):
        judged.prepare(names, work, split="train", scores="r1")
    (work / "train/audit/candidates.parquet").unlink()
    with pytest.raises(DataError, match="cusa audit"):
        judged.prepare(names, work, split="train")


def test_sampled_pairs__show_no_numbers_and_take_no_filter(world: tuple[Path, tuple[str, str]]) -> None:
    work, names = world
    _, sample = judged.prepare(names, work, split="train")
    split = Split(work, "train")
    room = Room(split, sample=SampledPairs(split, sample))
    shown = room.next(reviewer="ada", tab="tab-1")["candidate"]
    first = pq.read_table(sample).to_pylist()[0]
    assert (shown["image_key"], shown["caption_key"]) == (first["image_key"], first["caption_key"])
    assert set(shown["numbers"].values()) == {None}
    with pytest.raises(ConfigError, match="sample"):
        room.next(reviewer="ada", tab="tab-1", where="score > 0.5")
    room.close()
    store.write_table(sample, pq.read_table(sample).slice(0, 0))
    with pytest.raises(DataError, match="has no pair"):
        SampledPairs(split, sample)


def test_command_line__compares_and_says_what_to_ask(world: tuple[Path, tuple[str, str]]) -> None:
    work, names = world
    arguments = ("eval", *names, "--judged", "--data", work, "--split", "train")
    done = cusa(*arguments)
    assert done.returncode == 0, done.stderr
    assert "image to text: R-Precision" in done.stdout
    assert f"--for-eval {names[0]} {names[1]} --scores at-r" in done.stdout
    result = json.loads(cusa(*arguments, "--json").stdout)
    assert [one["score"] for one in result["scores"]] == ["r@1"] * 2 + ["r_precision", "map_at_r"] * 2
    for wrong, words in (
        (("eval", names[0], "--judged", "--data", work), "compares two runs"),
        (("eval", *names, "--data", work), "are compared with --judged"),
        ((*arguments, "--tasks", "cross-modal"), "--tasks has no meaning"),
        (("review", work, "--split", "train", "--for-eval", *names, "--sql", "score > 0"), "exclude each other"),
        (("review", work, "--split", "train", "--for-eval", *names, "--scores", "all"), "--scores all"),
    ):
        done = cusa(*wrong)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


def test_compare__a_run_is_evaluated_only_where_its_ranking_is_not_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, images=2, captions=1, splits=("val",))
    digest = Split(work, "val").digest
    scored = calls.record(monkeypatch, judged.scoring, "evaluate")
    model = EvaluatedModel("pupil", tmp_path / "run", {}, EvalConfig(), "weights")
    monkeypatch.setattr(judged, "open_model", lambda name, settings: model)
    monkeypatch.setattr(judged.scoring, "place_of_results", lambda *words: ("val", tmp_path / "eval"))
    store.write_text(tmp_path / "eval/per_query.parquet", "rows")

    def evaluated(inputs: dict[str, str] | None, tasks: list[str], *, table: bool = True) -> bool:
        scored.clear()
        (tmp_path / "eval/ledger.json").unlink(missing_ok=True)
        if inputs is not None:
            ledger.Clock().finish(
                *(tmp_path / "eval/ledger.json",),
                **{"stage": "eval", "inputs": inputs, "parameters": {"tasks": tasks}, "outputs": [], "counts": {}},
            )
        path = tmp_path / "eval/per_query.parquet"
        path.rename(path.with_suffix(".gone")) if not table else None
        events = lambda *event: None  # noqa: E731
        assert judged._evaluated("pupil", work, "", events) == ("val", path)
        path.with_suffix(".gone").rename(path) if not table else None
        if scored:
            request = EvalRequest(data=[work], split="val")
            assert scored == [{"name": "pupil", "request": request, "on_event": events}]
        return bool(scored)

    now = {"student": "weights", "split": digest, "truth": "none"}
    task = ["cross-modal", "sts"]
    assert not evaluated(now, task)
    assert evaluated(None, task)
    assert evaluated({**now, "student": "others"}, task)
    assert evaluated({**now, "split": "others"}, task)
    assert evaluated({"student": "weights"}, task)
    assert evaluated(now, ["cross-modal-truth"])
    assert evaluated(now, task, table=False)
