"""Languages of captions: as a reader would say, unsure where the words are few, and of the split that is there."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.pipeline import languages, readers, shard
from cusa.pipeline.config import LanguagesConfig, ShardConfig
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
