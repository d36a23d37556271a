"""Languages of captions: as a reader would say, unsure where the words are few, and of the split that is there."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.manifests.stage import NotCurrentError, asking
from cusa.pipeline import languages, readers, shard
from cusa.pipeline.config import LanguagesConfig, ShardConfig
from cusa.pipeline.languages import stage as stage_module
from cusa.pipeline.languages.stage import captions_in
from cusa.pipeline.readers import Reading
from cusa.pipeline.sql.database import connect

ONE = LanguagesConfig(workers=1)
SAID = {
    "a": [
        ("en", "A brown dog runs across the wet grass with a stick."),
        ("de", "Ein brauner Hund läuft über die Wiese."),
    ],
    "b": [("fr", "Une femme promène son chien dans le parc."), ("und", "ok")],
    "c": [
        ("ja", "公園で犬が走っています。"),
        ("ru", "Коричневая собака бежит по траве в городском парке, а дети играют."),
    ],
    "d": [("es", "Un perro marrón corre por la hierba mojada.")],
}


def _work(out: Path) -> Path:
    rows = [
        ImageRecord(f"mini/{name}", "train", None, name, tuple(CaptionRecord("", text) for _, text in captions))
        for name, captions in SAID.items()
    ]
    shard.run(ShardConfig(workers=1, max_images=2), reading=Reading("mini", rows, {}), out=out)
    return out


@pytest.fixture
def work(tmp_path: Path) -> Path:
    pytest.importorskip("py3langid")
    return _work(tmp_path / "work")


def test_run__languages_are_those_that_the_captions_were_written_in(work: Path) -> None:
    split = Split(work, "train")
    outcome = languages.run(ONE, split=split)
    table = pq.read_table(split.folder / "languages.parquet")
    assert table["language"].to_pylist() == [code for captions in SAID.values() for code, _ in captions]
    assert table["caption_key"].to_pylist() == split.caption_keys
    sure = [p >= 0.5 for p in table["probability"].to_pylist()]
    assert sure == [code != "und" for code in table["language"].to_pylist()]
    assert outcome.counts == {"captions": 7, "undetermined": 1}
    assert "Of 1 captions (14.3%) the language is not known (und)" in outcome.notes[1]
    again = languages.run(ONE, split=split)
    assert not again.fresh
    assert again.notes == outcome.notes


def test_run__few_languages_that_there_may_be_leave_less_unknown(work: Path) -> None:
    split = Split(work, "train")
    languages.run(LanguagesConfig(workers=1, only=("en", "de"), minimum=0), split=split)
    found = pq.read_table(split.folder / "languages.parquet")["language"].to_pylist()
    assert set(found) == {"en", "de"}
    assert found[:2] == ["en", "de"]
    with pytest.raises(ConfigError, match="--only eng: no language of this code is known. Did you mean 'en'"):
        languages.run(LanguagesConfig(only=("eng",)), split=split)


def test_run__without_the_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ConfigError, match=r"pip install 'cusa\[languages\]'"):
        languages.run(ONE, split=Split(_work(tmp_path / "work"), "train"))


def test_subset__keeps_captions_of_a_language_and_the_others_are_drops(work: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no languages were detected. Run `cusa languages"):
        readers.read_subset(work, languages=["en"])
    languages.run(ONE, split=Split(work, "train"))
    with pytest.raises(
        DataError, match="--language english: no caption of .* is in it. Captions are in: .*de, en, .*und"
    ):
        readers.read_subset(work, languages=["english"])
    shard.run(ShardConfig(workers=1), reading=readers.read_subset(work, languages=["en", "und"]), out=tmp_path / "en")
    split = Split(tmp_path / "en", "train")
    assert split.texts == [SAID["a"][0][1], SAID["b"][1][1]]
    assert split.caption_keys == ["mini/a#0", "mini/b#1"]
    drops = pq.read_table(split.folder / "drops.parquet").to_pylist()
    assert sorted((row["key"], row["reason"]) for row in drops if row["kind"] == "caption") == [
        ("mini/a#1", "language"),
        ("mini/b#0", "language"),
        ("mini/c#0", "language"),
        ("mini/c#1", "language"),
        ("mini/d#0", "language"),
    ]
    assert [row["key"] for row in drops if row["kind"] == "image"] == ["mini/c", "mini/d"]
    with connect(work) as database:
        found = database.run(
            "SELECT language FROM languages JOIN captions USING (caption_key) ORDER BY caption_key"
        ).rows
    assert found[0] == ("en",)


def test_captions_in__of_another_state_of_the_split_are_refused(work: Path, tmp_path: Path) -> None:
    languages.run(ONE, split=Split(work, "train"))
    row = ImageRecord("mini/e", "train", None, "e", (CaptionRecord("", "A cat sleeps."),))
    config = ShardConfig(workers=1, max_images=2)
    shard.run(config, reading=Reading("mini", [row], {}), out=work, append=True)
    with pytest.raises(StaleError, match="is of another state"):
        captions_in(Split(work, "train"), ["en"])


GUESSES = {
    **{f"eins {number}": ("de", 0.5) for number in range(5)},
    **{f"one two three {number}": ("en", 0.75) for number in range(4)},
    **dict.fromkeys(("un", "deux", "trois"), ("fr", 1.0)),
    **dict.fromkeys(("uno", "dos"), ("es", 0.625)),
    **dict.fromkeys(("een", "twee"), ("nl", 0.875)),
    **{"ett": ("sv", 1.0), "yksi": ("fi", 1.0)},
    **{"ok": ("pl", 0.25), "a b": ("cs", 0.46875), "Max at Rio de Janeiro": ("pt", 0.0)},
}
"""Caption -> the guess, and how sure it is."""


@pytest.fixture
def guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """Return a split of two tars whose captions a table knows the language of."""
    texts = [CaptionRecord("", text) for text in GUESSES]
    parts = {"a": texts[:7], "b": texts[7:14], "c": texts[14:]}
    rows = [ImageRecord(f"mini/{name}", "train", None, name, tuple(part)) for name, part in parts.items()]
    shard.run(ShardConfig(workers=1, max_images=2), reading=Reading("mini", rows, {}), out=tmp_path / "work")
    asked: set[tuple[str, ...]] = set()

    def detect(text: str, only: tuple[str, ...]) -> tuple[str, float]:
        asked.add(only)
        return GUESSES[text]

    monkeypatch.setattr(stage_module, "need_library", lambda: None)
    monkeypatch.setattr(stage_module, "detector", asked.add)
    monkeypatch.setattr(stage_module, "detect", detect)
    return Split(tmp_path / "work", "train")


def test_run__each_guess_with_its_probability_and_known_from_the_bound_on(guessed: Split) -> None:
    events: list[tuple[str, int, int]] = []
    done = languages.run(ONE, split=guessed, on_event=lambda *event: events.append(event))
    table = pq.read_table(guessed.folder / "languages.parquet")
    assert table["guess"].to_pylist() == [code for code, _ in GUESSES.values()]
    assert table["probability"].to_pylist() == [p for _, p in GUESSES.values()]
    assert table["language"].to_pylist() == [code if p >= 0.5 else "und" for code, p in GUESSES.values()]
    assert table.schema.metadata == {b"split": guessed.digest.encode()}
    assert done.counts == {"captions": 21, "undetermined": 3}
    assert (done.stage, done.fresh, done.out) == ("languages", True, guessed.folder)
    assert events == [("languages of train", at, 21) for at in (0, 14, 21)]
    assert done.notes == (
        "train: de 5 (23.8%), en 4 (19.0%), fr 3 (14.3%), es 2 (9.5%), nl 2 (9.5%), 2 others 2.",
        "Of 3 captions (14.3%) the language is not known (und): they are short, 2 words in the median where all "
        "captions have 2, or mixed, or names. --only en,de says which languages there may be, and then fewer stay "
        "unknown.",
    )
    assert captions_in(guessed, ["en", "und"]) == {
        key for key, (code, p) in zip(guessed.caption_keys, GUESSES.values(), strict=True) if code == "en" or p < 0.5
    }


def test_run__what_is_another_detection_and_what_is_not(guessed: Split) -> None:
    def why(force: bool = False, **settings: object) -> str:
        with asking():
            try:
                languages.run(LanguagesConfig(**{"workers": 1, **settings}), split=guessed, force=force)  # type: ignore[arg-type]
            except NotCurrentError as due:
                return due.why
        return ""

    assert why() == "never finished"
    first = languages.run(ONE, split=guessed)
    assert why() == why(workers=2) == ""
    assert why(minimum=0.25) == "minimum was 0.5 and is now 0.25"
    assert why(only=("en",)) == "only was [] and is now ['en']"
    assert why(force=True) == "--force"
    again = languages.run(ONE, split=guessed)
    assert (again.fresh, again.counts, again.notes) == (False, first.counts, first.notes)
    sure = languages.run(LanguagesConfig(workers=1, minimum=0), split=guessed)
    assert sure.counts == {"captions": 21, "undetermined": 0}
    assert sure.notes == ("train: de 5 (23.8%), en 4 (19.0%), fr 3 (14.3%), es 2 (9.5%), nl 2 (9.5%), 5 others 5.",)
    assert pq.read_table(guessed.folder / "languages.parquet")["language"].to_pylist()[-1] == "pt"
