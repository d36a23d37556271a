"""The table of languages: read in the split's order, of this state of the split, or not at all."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import languages, schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests import worlds


def write(split: Split, codes: list[str], *, digest: str = "") -> None:
    """Write a split's table of languages."""
    columns = {"caption_key": split.caption_keys, "language": codes, "guess": codes, "probability": [1.0] * len(codes)}
    schema = schemas.LANGUAGES.with_metadata({"split": digest or split.digest})
    store.write_table(split.folder / languages.TABLE, pa.table(columns, schema=schema))


def test_language_rows__are_those_of_each_known_language(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=2, captions=3), "test")
    assert languages.language_rows(split) == {}
    with pytest.raises(DataError, match="no languages were detected"):
        languages.read_languages(split)
    write(split, ["en", "fr", "und", "fr", "fr", "de"])
    rows = {code: found.tolist() for code, found in languages.language_rows(split).items()}
    assert rows == {"fr": [1, 3, 4], "de": [5], "en": [0]}
    assert list(rows) == ["fr", "de", "en"], "that of most captions first, of equal ones by their codes"
    assert languages.read_languages(split) == ["en", "fr", "und", "fr", "fr", "de"]
    write(split, ["en"] * 6, digest="of another state")
    with pytest.raises(StaleError, match="cusa languages"):
        languages.language_rows(split)
