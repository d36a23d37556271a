"""The language of a text, by py3langid: offline, its model comes with it."""

from functools import lru_cache
from typing import Any

from cusa.errors import ConfigError, nearest


def need_library() -> None:
    """Refuse to go on without the library.

    Raises:
        ConfigError: with the command that installs it.
    """
    try:
        import py3langid  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise ConfigError(
            "Detecting languages needs py3langid, which is not installed. Run `pip install 'cusa[languages]'`."
        ) from error


@lru_cache(maxsize=4)
def detector(only: tuple[str, ...] = ()) -> Any:
    """Return an identifier of languages, loaded once a process.

    Args:
        only: ISO 639-1 codes of the languages that there may be; all 139 that it knows if empty.

    Raises:
        ConfigError: if it does not know one of them.
    """
    need_library()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = sorted(set(identifier.labels))
    for code in only:
        if code not in known:
            raise ConfigError(
                f"--only {code}: no language of this code is known. {nearest(code, known)}.", language=code
            )
    if only:
        identifier.set_languages(only)
    return identifier


def detect(text: str, only: tuple[str, ...] = ()) -> tuple[str, float]:
    """Return the likeliest language of a text, and its probability among those that there may be.

    Args:
        text: a caption; line ends and cases do not count.
        only: as for `detector`.
    """
    language, probability = detector(only).classify(text)
    return str(language), float(probability)
