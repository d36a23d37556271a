from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import features
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from tests import worlds


class OtherColours(worlds.Colours):
    """Another model under the same name: what it does to a picture differs."""

    def provenance(self) -> dict[str, str]:
        return {**super().provenance(), "preprocessing": "median colour"}


class Wide(worlds.Colours):
    width = 4

    def encode(self, items: object) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[: len(items)]  # type: ignore[arg-type]


def _extract(split: Split, teacher: object, modality: str = "image", *, name: str = "") -> None:
    extract.run(
        ExtractConfig(),
        split=split,
        teacher=name or teacher.name,  # type: ignore[attr-defined]
        modality=modality,
        force=True,
        load=lambda name, modality: teacher,  # type: ignore[arg-type, return-value]
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = worlds.make_work(tmp_path, images=4, captions=2, splits=("train", "val"))
    _extract(Split(work, "train"), worlds.Colours())
    _extract(Split(work, "train"), worlds.Words(), "text")
    return work


def test_describe_and_read_rows_equal_the_teacher_table(work: Path) -> None:
    split = Split(work, "train")
    table = features.describe(split, "text")
    assert (table.table, table.width, table.provenance["revision"]) == ("words", 5, "1")
    assert features.FeatureTable.from_json(table.to_json()) == table
    rows = features.read_rows(split, "text", table)
    assert rows is not None
    np.testing.assert_array_equal(rows, tables.read_teacher(split, "words").embeddings)
    assert features.read_rows(Split(work, "val"), "text", table) is None
    assert features.read_rows(split, "text", None) is None


def test_describe__knows_the_encoder_of_a_name_that_loads_but_of_no_code(work: Path) -> None:
    split = Split(work, "train")
    _extract(split, worlds.Colours(), name="offline-gist")
    assert features.describe(split, "image", name="offline-gist").encoder == "offline-gist"
    named = features.describe(split, "image", name="colours", encoder="tests.worlds:Colours")
    assert named.encoder == "tests.worlds:Colours"


def test_describe__refuses_what_is_no_table_of_the_modality(work: Path) -> None:
    split = Split(work, "train")
    with pytest.raises(ConfigError, match="'colours', which holds rows of images.*Name a table of texts: words"):
        features.describe(split, "text", name="colours")
    with pytest.raises(ConfigError, match=r"student\.heads\.image_table is 'colour'.*Did you mean 'colours'"):
        features.describe(split, "image", name="colour")
    with pytest.raises(DataError, match=r"no table of images.*`cusa extract-teachers .* --split val --image NAME`"):
        features.describe(Split(work, "val"), "image")
    _extract(split, worlds.Colours(), name="offline-gist")
    with pytest.raises(ConfigError, match=r"several tables of images: colours, offline-gist. Set student\.heads"):
        features.describe(split, "image")


def test_digest__names_the_split_without_the_table_and_how_to_make_it(work: Path) -> None:
    table = features.describe(Split(work, "train"), "image", encoder="offline-gist")
    with pytest.raises(DataError, match="val has no table 'colours'.*--split val --image offline-gist"):
        features.digest(Split(work, "val"), "image", table)


@pytest.mark.parametrize(
    ("other", "words"), [(OtherColours(), "its preprocessing is 'median colour', not 'mean"), (Wide(), "rows of 4 num")]
)
def test_a_table_of_another_model_is_refused(work: Path, other: object, words: str) -> None:
    table = features.describe(Split(work, "train"), "image")
    _extract(Split(work, "val"), other)
    with pytest.raises(StaleError, match=words):
        features.read_rows(Split(work, "val"), "image", table)


def test_a_table_of_captions_that_were_transformed_otherwise_is_refused(work: Path) -> None:
    table = features.describe(Split(work, "train"), "text")
    config = ExtractConfig(transform="none")
    val = Split(work, "val")
    extract.run(config, split=val, teacher="words", modality="text", load=lambda name, modality: worlds.Words())
    with pytest.raises(StaleError, match="its transform is 'none', not 'clean'"):
        features.read_rows(val, "text", table)


def test_find__a_table_of_another_name_by_what_made_it(work: Path) -> None:
    split = Split(work, "train")
    own = split.folder / "teachers" / "colours"
    for part in own.glob("[0-9]*.parquet"):  # as an extraction with weights of its own writes it
        table = pq.read_table(part)
        known = table.replace_schema_metadata({**table.schema.metadata, b"weights_sha256": b"c0" * 32})
        store.write_table(part, known)
    ledger.withdraw(own / "ledger.json")
    learned = features.describe(split, "image", name="colours")
    rows = features.read_rows(split, "image", learned)
    own.rename(own.with_name("moved"))
    assert features.find(split, "image", learned) == "moved"
    moved = features.read_rows(split, "image", learned)
    assert rows is not None
    assert moved is not None
    np.testing.assert_array_equal(moved, rows)
    assert features.find(split, "image", replace(learned, width=2)) == ""
    nameless = {**learned.provenance, "weights_sha256": ""}
    assert features.find(split, "image", replace(learned, provenance=nameless)) == "", "no digest, no trust"
