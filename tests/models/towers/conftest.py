"""Folders of tiny encoders, written once."""

from pathlib import Path

import pytest

from tests import towers


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    written = {kind: towers.write_image(kind, root / kind) for kind in towers.IMAGE_FOLDERS}
    return {**written, "bert": towers.write_bert(root / "bert"), "sentences": towers.write_sentences(root / "words")}
