"""In which language each caption of a split is: the table that `cusa languages` writes."""

import numpy as np

from cusa.errors import DataError, StaleError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

TABLE = "languages.parquet"
UNDETERMINED = "und"
"""What ISO 639 calls a language that nobody can tell."""


def read_languages(split: Split) -> list[str]:
    """Return the language of each caption row, `und` where it is not known.

    Raises:
        DataError: if no languages were detected.
        StaleError: if they are of another state of the split.
    """
    path = split.folder / TABLE
    again = f"Run `cusa languages {split.work} --split {split.name}`."
    if not path.is_file():
        raise DataError(f"{path} does not exist: no languages were detected. {again}", path=path)
    table = store.read_table(path, columns=["caption_key", "language"])
    made_of = (table.schema.metadata or {}).get(b"split", b"").decode()
    if made_of != split.digest:
        raise StaleError(f"{path} is of another state of {split.folder}. {again}", path=path)
    languages: list[str] = table["language"].to_pylist()
    return languages


def language_rows(split: Split) -> dict[str, np.ndarray]:
    """Return the caption rows of each known language, that of most captions first; nothing where none were detected.

    Raises:
        StaleError: if they are of another state of the split.
    """
    if not (split.folder / TABLE).is_file():
        return {}
    languages = np.array(read_languages(split))
    rows = {str(code): np.flatnonzero(languages == code) for code in np.unique(languages) if code != UNDETERMINED}
    return dict(sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])))
