"""The probe: counts of a teacher whose blindness is known, and intervals that an independent library gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa.cli import app
from cusa.errors import DataError
from cusa.manifests import schemas, tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.edits.rules import RULES
from cusa.pipeline import extract, probe, readers, shard
from cusa.pipeline.config import ExtractConfig, ProbeConfig, ShardConfig
from cusa.pipeline.extract import import_features
from cusa.pipeline.probe.stage import edited, sentences, wilson
from tests.cli.test_cli import cusa_here as cusa
from tests.worlds import COLOURS, Words, make_work, write_karpathy


class Blind(Words):
    """Sees which side a caption speaks of and no colour: an edited colour changes nothing, a sibling always does."""

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        rows = np.array([[*(float(f"side {side}" in text) for side in range(4)), 0.3] for text in items], np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _split(folder: Path, teacher: type[Words]) -> Split:
    work = make_work(folder, images=12, splits=("train",))
    split = Split(work, "train")
    extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=lambda name, modality: teacher())
    return split


@pytest.mark.parametrize(("teacher", "nearer"), [(Blind, 12), (Words, 0)])
def test_run__counts_what_a_teacher_is_blind_to(tmp_path: Path, teacher: type[Words], nearer: int) -> None:
    """`Words` sees nothing but colours, so a sibling is always nearer than a caption of another colour."""
    split = _split(tmp_path, teacher)
    outcome = probe.run(ProbeConfig(), split=split, teacher="words", load=lambda name, modality: teacher())
    assert outcome.counts["colour"] == 12, "one of each picture"
    table = pq.read_table(split.folder / "probe/words.parquet")
    assert table.schema.equals(schemas.PROBE)
    rows = [row for row in table.to_pylist() if row["kind"] == "colour"]
    assert sum(row["nearer"] for row in rows) == nearer
    for row in rows:
        old = next(colour for colour in COLOURS if colour in row["caption"])
        new = next(colour for colour in COLOURS if colour in row["edited"])
        assert row["caption"].replace(old, new) == row["edited"]
        assert row["sibling"] in split.texts
        similarities = teacher().encode([row["caption"], row["edited"], row["sibling"]])
        np.testing.assert_allclose(row["edit_similarity"], similarities[0] @ similarities[1], atol=2e-3)
        np.testing.assert_allclose(row["sibling_similarity"], similarities[0] @ similarities[2], atol=2e-3)
    again = probe.run(ProbeConfig(), split=split, teacher="words", load=lambda name, modality: teacher())
    assert not again.fresh
    assert again.notes == outcome.notes


def test_run__a_teacher_of_other_weights_is_refused(tmp_path: Path) -> None:
    split = _split(tmp_path, Words)

    class Other(Words):
        def provenance(self) -> dict[str, str]:
            return {**super().provenance(), "weights_sha256": "another"}

    with pytest.raises(DataError, match="other weights"):
        probe.run(ProbeConfig(), split=split, teacher="words", load=lambda name, modality: Other())


def test_run__an_imported_table_says_which_encoder_is_needed(tmp_path: Path) -> None:
    """Nothing knows what made it, so nothing is loaded: its name is no model of the hub."""
    split = _split(tmp_path, Words)
    made = tables.read_teacher(split, "words")
    np.savez(tmp_path / "f.npz", caption_key=np.array(split.caption_keys), embedding=made.embeddings)
    features = import_features.read_features(tmp_path / "f.npz")
    import_features.run(ExtractConfig(), split=split, features=features, sha256="s", teacher="mine", modality="text")

    def load(name: str, modality: str) -> Words:
        raise AssertionError(f"{name} was loaded")

    with pytest.raises(DataError, match=r"teachers/mine was imported, .* extract-teachers .* --text ENCODER"):
        probe.run(ProbeConfig(), split=split, teacher="mine", load=load)
    done = CliRunner().invoke(app, ["teachers", "probe", str(split.work), "--text", "mine"])
    assert done.exit_code == 1
    assert "was imported" in " ".join(done.output.split())


def test_edited__keeps_to_the_number_and_needs_siblings(tmp_path: Path) -> None:
    split = _split(tmp_path / "many", Words)
    few = edited(split, 5)
    assert [kind for _, kind, _ in few].count("colour") == 5
    assert len({split.caption_owner[row] for row, kind, _ in few if kind == "colour"}) == 5
    alone = Split(make_work(tmp_path / "one", images=3, splits=("train",), captions=1), "train")
    assert edited(alone, 5) == []


@pytest.mark.parametrize(("hits", "number"), [(0, 10), (10, 10), (3, 17), (94, 100)])
def test_wilson__is_scipys(hits: int, number: int) -> None:
    from scipy.stats import binomtest

    span = binomtest(hits, number).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(hits, number), (span.low, span.high), atol=1e-6)


def test_command_line__probes_every_text_teacher(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=6, splits=("train",))
    assert cusa("teachers", "probe", work).returncode == 1, "there is no text teacher yet"
    assert cusa("extract-teachers", work, "--text", "offline-ngrams").returncode == 0
    done = cusa("teachers", "probe", work, "--edits", 4)
    assert done.returncode == 0, done.stderr
    assert "colour" in done.stdout
    assert (work / "train/probe/offline-ngrams.json").is_file()
    assert "up to date" in cusa("teachers", "probe", work, "--edits", 4).stdout
    assert cusa("teachers", "probe", work, "--edits", 0).returncode == 2


class Letters(Words):
    """Sees how often each letter stands in a text, at no length in particular, and says how many it was given."""

    width = 26

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        self.batches.append(list(items))
        return 3 * _letters(items)


def _letters(items: Sequence[str]) -> np.ndarray:
    rows = np.array([[text.count(chr(97 + n)) + 0.01 * n for n in range(26)] for text in items])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Unit(Letters):
    """The same as its table holds it."""

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        return super().encode(items) / 3


def test_run__every_figure_by_plain_loops_in_any_batches(tmp_path: Path) -> None:
    """Captions of several kinds: each edit against its caption and the best of its siblings, as the teacher reads."""
    source = write_karpathy(tmp_path / "raw", images=8, splits=("train",), captions=3)
    content = store.read_json(source)
    said = ["Two dogs, on the LEFT.", "a man and his red car", "There is no cat."]
    for number, row in enumerate(content["images"]):
        for place, sentence in enumerate(row["sentences"]):
            sentence["raw"] = said[(number + place) % 3] + " x" * number
    store.write_json(source, content)
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")
    config = ExtractConfig(dtype="float32")
    extract.run(config, split=split, teacher="words", modality="text", load=lambda *_: Unit())
    teacher, events = Letters(), []
    outcome = probe.run(
        ProbeConfig(edits=5, batch_size=4),
        split=split,
        teacher="words",
        load=lambda *_: teacher,
        on_event=lambda *event: events.append(event),
    )
    wanted = edited(split, 5)
    number = len(wanted)
    read = [" ".join("".join(" " if c in ",." else c for c in words.lower()).split()) for _, _, words in wanted]
    assert [text for batch in teacher.batches for text in batch] == read, "edits are cleaned as the captions were"
    assert [len(batch) for batch in teacher.batches] == [4] * (number // 4) + [number % 4] * (number % 4 > 0)
    assert events == [("probe words on train", done, number) for done in (*range(0, number, 4), number)]
    cleaned = [" ".join("".join(" " if c in ",." else c for c in text.lower()).split()) for text in split.texts]
    captions, edits = _letters(cleaned), _letters(read)
    expected, kinds = [], {kind: [] for kind in RULES}
    for place, (row, kind, words) in enumerate(wanted):
        siblings = [one for one in range(24) if one // 3 == row // 3 and one != row]
        best = max(siblings, key=lambda one: captions[one] @ captions[row])
        edit, sibling = float(edits[place] @ captions[row]), float(captions[best] @ captions[row])
        expected.append(
            {
                "kind": kind,
                "caption_key": split.caption_keys[row],
                "caption": split.texts[row],
                "edited": words,
                "edit_similarity": pytest.approx(edit, abs=1e-5),
                "sibling_similarity": pytest.approx(sibling, abs=1e-5),
                "sibling": split.texts[best],
                "nearer": edit > sibling,
            }
        )
        kinds[kind].append((edit > sibling, edit, sibling))
    assert pq.read_table(split.folder / "probe/words.parquet").to_pylist() == expected
    result = store.read_json(split.folder / "probe/words.json")
    assert (result["teacher"], result["split"]) == ("words", "train")
    assert len({kind for kind, rows in kinds.items() if rows}) >= 4
    for kind, rows in kinds.items():
        one = result["kinds"][kind]
        hits = sum(near for near, _, _ in rows)
        assert (one["edits"], one["nearer"]) == (len(rows), hits)
        assert outcome.counts[kind] == len(rows)
        if rows:
            assert one["share"] == round(100 * hits / len(rows), 2)
            assert one["interval"] == [round(100 * end, 2) for end in wilson(hits, len(rows))]
            for name, place in (("edit_similarity", 1), ("sibling_similarity", 2)):
                assert one[name] == pytest.approx(np.mean([row[place] for row in rows]), abs=2e-4)


def test_edited__of_each_picture_the_first_caption_that_fits_spread_over_the_split(tmp_path: Path) -> None:
    split = _split(tmp_path, Words)
    every = [row for row, kind, _ in edited(split, 100) if kind == "colour"]
    assert every == [image * 5 for image in range(12)]
    assert [row for row, kind, _ in edited(split, 4) if kind == "colour"] == [0, 15, 35, 55]
    assert [row for row, kind, _ in edited(split, 1) if kind == "colour"] == [0]
    assert [row for row, kind, _ in edited(split, 12) if kind == "colour"] == every


def test_sentences__speak_of_kinds_with_twenty_edits() -> None:
    kinds = {
        "colour": {"title": "colours", "edits": 20, "share": 12.4, "interval": [3.6, 30.2], "nearer": 2},
        "number": {"title": "numbers", "edits": 19, "share": 50.0, "interval": [30.0, 70.0], "nearer": 9},
        "place": {"title": "places", "edits": 1200, "share": 0.4, "interval": [0.1, 0.6], "nearer": 5},
        "gender": {"title": "genders", "edits": 0, "nearer": 0},
    }
    (said,) = sentences({"teacher": "words", "split": "val", "kinds": kinds})
    assert said.startswith("val: ")
    assert said.endswith("by words: colours 12 % (4 to 30, 20); places 0 % (0 to 1, 1,200).")
    few = {"teacher": "words", "split": "val", "kinds": {"number": kinds["number"]}}
    assert sentences(few) == ("val: fewer than 20 captions fit any rule.",)
