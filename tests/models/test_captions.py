"""The caption clean-up equals the reference's on every stored caption."""

import json
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.models.captions import clean_caption


@pytest.mark.parametrize("max_words", [64, 30, 5])
def test_clean_caption__equals_reference(golden: Path, max_words: int) -> None:
    rows = json.loads((golden / "02_captions/captions.json").read_text())
    assert len(rows) > 100
    for row in rows:
        expected = row[f"max_words_{max_words}"]
        if expected is None:
            with pytest.raises(DataError, match="Nothing is left"):
                clean_caption(row["raw"], max_words)
        else:
            assert clean_caption(row["raw"], max_words) == expected
