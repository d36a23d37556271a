"""The comparison of two runs as a stage: what a draw and its scores depend on, and what is asked in which order."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.eval.judged import rankings, stage
from cusa.eval.judged.stage import Rivals, draw, run
from cusa.manifests import schemas
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.eval_sample import SCORES, sample_path
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


def _ranking(split: Split, path: Path, seed: int) -> Path:
    """Write the first three of every query, drawn at random."""
    rng = np.random.default_rng(seed)
    keys = {"image": split.image_keys, "text": split.caption_keys}
    rows = [
        {
            **{"task": "cross-modal", "direction": f"{one}-to-{other}", "query_key": query},
            "top_keys": [keys[other][row] for row in rng.permutation(len(keys[other]))[:3]],
        }
        for one, other in (("image", "text"), ("text", "image"))
        for query in keys[one]
    ]
    store.write_table(path, pa.Table.from_pylist(rows, schema=schemas.PER_QUERY))
    return path


@pytest.fixture
def rivals(tmp_path: Path) -> Rivals:
    split = Split(make_work(tmp_path, images=4, captions=2, splits=("val",)), "val")
    rng = np.random.default_rng(5)
    rows = [
        {"image_key": image, "caption_key": caption, "p_positive": float(rng.random()), "score": 0.5}
        for image in split.image_keys
        for caption in split.caption_keys
        if not caption.startswith(image)
    ]
    store.write_table(split.folder / "audit/candidates.parquet", pa.Table.from_pylist(rows, schema=schemas.CANDIDATES))
    paths = (_ranking(split, tmp_path / "a.parquet", 1), _ranking(split, tmp_path / "b.parquet", 2))
    return Rivals(split, ("one", "two"), paths)


def _say(split: Split, number: int, verdict: str, image: str, caption: str) -> None:
    with Journal(split.folder / "audit") as journal:
        journal.append(make(number, verdict, image_key=image, caption_key=caption))


class _AskedError(Exception):
    """What a stage is asked with, in place of work."""


def test_draw_and_run__depend_on_rankings_split_names_seed_and_verdicts(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(rivals)
    split, folder = rivals.split, rivals.folder
    assert folder == split.folder / "judged/one-vs-two"
    asked: list[dict[str, Any]] = []

    def begin(name: str, ledger: Path, **more: Any) -> None:
        asked.append({"name": name, "ledger": ledger, **more})
        raise _AskedError

    monkeypatch.setattr(stage, "StageRun", begin)
    with pytest.raises(_AskedError):
        draw(rivals, seed=7, force=True)
    tops = [{way: top.tolist() for way, top in rankings.read_ranking(split, path).items()} for path in rivals.paths]
    digests = [store.digest(one) for one in tops]
    assert digests[0] != digests[1]
    assert asked[0] == {
        "name": "judged",
        "ledger": folder / "ledger.json",
        "inputs": {"split": split.digest, "first ranking": digests[0], "second ranking": digests[1]},
        "parameters": {"protocol": stage._PROTOCOL, "runs": ["one", "two"], "seed": 7},
        "force": True,
    }
    monkeypatch.setattr(stage, "draw", lambda rivals: None)
    image, caption = split.image_keys[0], split.caption_keys[5]
    for number, verdict in enumerate(("match", "no match", "skip")):
        _say(split, number, verdict, image, caption if verdict != "skip" else split.caption_keys[6])
        with pytest.raises(_AskedError):
            run(rivals, force=True)
        judgements = pair_judgements.read(split)
        tables = [folder / "pool.parquet", *(sample_path(folder, scores) for scores in SCORES)]
        assert asked[-1] == {
            "name": "judged scores",
            "ledger": folder / "scores.ledger.json",
            "inputs": {
                "verdicts": judgements.digest,
                "passed": store.digest(sorted(judgements.skipped)),
                **{path.name: store.sha256_file(path) for path in tables},
            },
            "parameters": {"protocol": stage._PROTOCOL},
            "force": True,
        }
    assert len({store.digest(one["inputs"]) for one in asked[1:]}) == 3, "every verdict and every skip counts"


def test_draw__asks_what_is_open_in_the_order_of_its_priority(rivals: Rivals) -> None:
    split, folder = rivals.split, rivals.folder
    known = (split.image_keys[0], rankings_key(split, rivals, 0))
    _say(split, 0, "match", *known)
    _say(split, 1, "no match", split.image_keys[1], split.caption_keys[0])
    done = draw(rivals)
    pool = pq.read_table(folder / "pool.parquet").to_pylist()
    told = {(row["image_key"], row["caption_key"]): row["known_match"] for row in pool}
    assert told[known] is True
    assert all(told[key.rpartition("#")[0], key] is True for key in split.caption_keys), "own pairs are known"
    assert told.get((split.image_keys[1], split.caption_keys[0]), False) is False
    opened = {pair for pair, match in told.items() if match is None}
    assert done.counts == {"pairs": len(told), "open": len(opened)}
    sample = pq.read_table(sample_path(folder, "r@1")).to_pylist()
    asked = [(row["image_key"], row["caption_key"]) for row in sample]
    assert opened.issuperset(asked)
    assert len(set(asked)) == len(asked)
    assert [row["ask"] for row in sample] == list(range(1, len(sample) + 1))
    assert [row["priority"] for row in sample] == sorted(row["priority"] for row in sample)
    assert {row["scores"] for row in sample} == {"r@1"}
    at_r = pq.read_table(sample_path(folder, "at-r")).to_pylist()
    assert {row["scores"] for row in at_r} == {"at-r"}
    units = [row["unit"] for row in at_r]
    assert len(set(zip(units, units[1:], strict=False))) <= len(units), "the pairs of a query are asked together"
    changes = sum(one != other for one, other in zip(units, units[1:], strict=False))
    assert changes == len(set(units)) - 1
    place = {(row["image_key"], row["caption_key"]): at for at, row in enumerate(pool)}
    order = [(row["priority"], row["unit"], place[row["image_key"], row["caption_key"]]) for row in at_r]
    assert order == sorted(order), "of one query in the pool's order"
    other = draw(rivals, seed=1)
    assert other.fresh
    assert pq.read_table(sample_path(folder, "r@1")).to_pylist() != sample, "another seed is another order"


def rankings_key(split: Split, rivals: Rivals, image: int) -> str:
    """Return a foreign caption that the first run's ranking of an image names."""
    top = rankings.read_ranking(split, rivals.paths[0])["image-to-text"][image]
    return next(split.caption_keys[row] for row in top if split.caption_owner[row] != image)


def test_run__verdicts_after_the_draw_decide_the_scores_to_the_end(rivals: Rivals) -> None:
    split, folder = rivals.split, rivals.folder
    _, before = run(rivals)
    assert [one["answered_pairs"] for one in before["samples"]] == [0, 0]
    assert (before["runs"], before["split"], before["depth"], before["calibrated"]) == (["one", "two"], "val", 3, True)
    pool = pq.read_table(folder / "pool.parquet").to_pylist()
    opened = [row for row in pool if row["known_match"] is None]
    assert before["pool"] == {"pairs": len(pool), "open_at_the_draw": len(opened)}
    true = {(row["image_key"], row["caption_key"]): number % 3 == 0 for number, row in enumerate(opened)}
    with Journal(split.folder / "audit") as journal:
        for number, (pair, match) in enumerate(true.items()):
            keys = dict(zip(("image_key", "caption_key"), pair, strict=True))
            journal.append(make(number, "match" if match else "no match", **keys))
    outcome, after = run(rivals)
    true |= {(key.rpartition("#")[0], key): True for key in split.caption_keys}
    tops = [rankings.read_ranking(split, path) for path in rivals.paths]
    for one in after["scores"]:
        if one["score"] != "r@1":
            continue
        for name, top in (("first", tops[0]), ("second", tops[1])):
            rows = top[one["direction"]][:, 0].tolist()
            if one["direction"] == "image-to-text":
                hits = [true.get((split.image_keys[query], split.caption_keys[row])) for query, row in enumerate(rows)]
            else:
                hits = [true.get((split.image_keys[row], split.caption_keys[query])) for query, row in enumerate(rows)]
            assert one[name]["value"] == pytest.approx(100 * sum(map(bool, hits)) / len(hits)), (one["direction"], name)
    by_name = {one["scores"]: one for one in after["samples"]}
    assert by_name["r@1"]["answered_pairs"] == by_name["r@1"]["pairs"] == len(set(map(tuple, _asked(folder, "r@1"))))
    assert by_name["at-r"]["answered_units"] == by_name["at-r"]["units"]
    assert outcome.counts == {name: one["answered_pairs"] for name, one in by_name.items()}
    again, same = run(rivals)
    assert (again.fresh, same) == (False, store.read_json(folder / "scores.json"))


def _asked(folder: Path, scores: str) -> list[list[str]]:
    table = pq.read_table(sample_path(folder, scores), columns=["image_key", "caption_key"])
    return [list(row.values()) for row in table.to_pylist()]


def test_run__a_sample_of_another_pool_is_refused(rivals: Rivals, monkeypatch: pytest.MonkeyPatch) -> None:
    run(rivals)
    monkeypatch.setattr(stage, "draw", lambda rivals: None)  # which would draw it anew
    path = sample_path(rivals.folder, "r@1")
    store.write_table(path, pq.read_table(path).slice(1))
    with pytest.raises(DataError, match=r"does not belong to .*pool\.parquet\. Remove .* and draw again"):
        run(rivals)


def test_run__a_sample_that_was_changed_after_it_was_drawn_is_drawn_again(rivals: Rivals) -> None:
    _, before = run(rivals)
    path = sample_path(rivals.folder, "r@1")
    drawn = pq.read_table(path)
    store.write_table(path, drawn.slice(1))
    assert run(rivals)[1] == before
    assert pq.read_table(path) == drawn
