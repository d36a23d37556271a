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
from cusa.pipeline import extract, probe
from cusa.pipeline.config import ExtractConfig, ProbeConfig
from cusa.pipeline.extract import import_features
from cusa.pipeline.probe.stage import edited, wilson
from tests.cli.test_cli import cusa_here as cusa
from tests.worlds import COLOURS, Words, make_work


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
