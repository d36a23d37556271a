"""Pushing an export to a repository of the hub: its files, or only its card."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cusa.errors import ConfigError, DataError
from cusa.manifests import ledger
from cusa.models.config import EXPORT_FORMATS
from cusa.pipeline.config import DATA_FORMATS

Kind = Literal["model", "dataset"]
_WAY_OUT = {401: "The token is not valid.", 403: "The token may not write there."}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CARD = ("README.md", "croissant.json")


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be."""

    repository: str
    kind: Kind
    files: dict[str, int]
    """Path in the repository -> bytes."""
    commit: str
    """Address of the commit; empty for a dry run."""

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def push(
    folder: Path,
    repository: str,
    *,
    card_only: bool = False,
    private: bool = False,
    dry_run: bool = False,
    message: str = "",
) -> Pushed:
    """Push what `cusa export` wrote to a repository, which is made if there is none.

    Only files that the export's ledger names are sent, compared with it before. The token is the hub's own: `HF_TOKEN`,
    or what `hf auth login` left. `HF_ENDPOINT` names another hub.

    Args:
        folder: the export.
        repository: `OWNER/NAME`.
        card_only: send the card and the metadata, and no data or weights.
        private: make the repository a private one, if it is made.
        dry_run: send nothing; say what would be.
        message: of the commit.

    Raises:
        ConfigError: if the repository's name cannot be one, there is no token, or the hub's client is told to stay
            offline.
        DataError: if the folder is no finished export, is one for a viewer, was changed since, or the hub refuses.
    """
    done = ledger.read(folder / "ledger.json")
    if done is None or done.stage != "export":
        raise DataError(f"{folder} is no finished export. Make one with `cusa export ... --out {folder}`.", path=folder)
    ledger.refuse_changed(folder / "ledger.json")
    if (to := done.parameters.get("to")) not in (*DATA_FORMATS, *EXPORT_FORMATS):
        raise DataError(
            f"{folder} is an export for {to}, a view without a card. Push one of `cusa export WORK --to parquet`.",
            path=folder,
        )
    kind: Kind = "dataset" if to in DATA_FORMATS else "model"
    files = {name: size for name, size in done.outputs.items() if not card_only or name in _CARD}
    _check_name(repository)
    if dry_run:
        return Pushed(repository, kind, files, "")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(
            "HF_HUB_OFFLINE forbids to ask the hub, so nothing can be pushed. Unset it, or look with --dry-run."
        )
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise ConfigError(
            "There is no token for the hub. Put one that may write into HF_TOKEN, or run `hf auth login`."
        )
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="cusa")
    try:
        api.create_repo(repository, repo_type=kind, private=private or None, exist_ok=True)
        commit: Any = api.create_commit(
            repository,
            [CommitOperationAdd(name, folder / name) for name in sorted(files)],
            commit_message=message or f"{'Card' if card_only else 'Export'} by cusa",
            repo_type=kind,
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        way_out = _WAY_OUT.get(status, "Try again later.")
        raise DataError(f"The hub refused {repository} (HTTP {status}). {way_out}", repository=repository) from error
    except Exception as error:  # those of the HTTP library beneath the hub's client, which changes between its versions
        raise DataError(
            f"{repository} could not be pushed ({type(error).__name__}: {str(error)[:200]}). Check the network and "
            "HF_ENDPOINT, then push again: files that came are not sent twice.",
            repository=repository,
        ) from error
    return Pushed(repository, kind, files, str(commit.commit_url))


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ConfigError(
            f"--to {repository!r} cannot be a repository. One looks like OWNER/NAME: letters, digits, '-', '_', '.'.",
            repository=repository,
        )
