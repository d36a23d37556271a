"""What a test split shares with the training split, counted by plain loops."""

import json

import pytest

from cusa.eval import leakage
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from tests.worlds import write_karpathy


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    """Return a training split, and a test split of which seven images and some captions are those of training."""
    folder = tmp_path_factory.mktemp("leaks")
    source = write_karpathy(folder, images=9, captions=2, splits=("train", "test"))
    told = json.loads(source.read_text())
    train, test = ([row for row in told["images"] if row["split"] == name] for name in ("train", "test"))
    for number in range(7):
        other = folder / "test" / test[number]["filename"]
        other.write_bytes((folder / "train" / train[(number + 2) % 9]["filename"]).read_bytes())
    words = train[0]["sentences"][0]["raw"]
    test[3]["sentences"][1]["raw"] = f" {words.upper().replace(' ', '   ')}\t"
    for row in test[4:]:
        row["sentences"][0]["raw"] = words
    told["images"].remove(train[1])
    source.write_text(json.dumps(told))
    reading = readers.read("karpathy", source, folder)
    shard.run(ShardConfig(workers=1), reading=reading, out=folder / "work")
    return Split(folder / "work", "train"), Split(folder / "work", "test")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def test_of_split__equal_bytes_and_equal_words(splits: tuple[Split, Split]) -> None:
    train, test = splits
    seen = {train.image_bytes(row) for row in range(train.num_images)}
    said = {_plain(text) for text in train.texts}
    images = [test.image_keys[row] for row in range(test.num_images) if test.image_bytes(row) in seen]
    captions = [key for key, text in zip(test.caption_keys, test.texts, strict=True) if _plain(text) in said]
    assert (len(images), len(captions), train.num_images) == (7, 6, 8)
    found = leakage.of_split([train], test)
    assert found == {
        "train": str(train.folder),
        **{"images": 7, "of_images": 9, "captions": 6, "of_captions": 18},
        **{"image_keys": images[:5], "caption_keys": captions[:5]},
    }
    assert leakage.sentence(found) == (
        "Leakage: 7 of 9 images and 6 of 18 texts of this test set stand in the training split work/train as well."
    )


def test_of_texts__sentences_of_a_test_set_without_images(splits: tuple[Split, Split]) -> None:
    train, _ = splits
    texts = [train.texts[3].upper(), f"  {train.texts[0]}", "a sentence of its own"] + ["x"] * 1997
    found = leakage.of_texts([train], texts)
    assert found == {"train": str(train.folder), "captions": 2, "of_captions": 2000}
    assert leakage.sentence(found) == (
        "Leakage: 2 of 2,000 texts of this test set stand in the training split work/train as well."
    )


def test_of_split__rows_without_an_image_are_no_copies_of_each_other(
    splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = splits
    table = test.samples
    none = table.column("image_bytes").to_pylist()
    none[1] = 0
    column = table.set_column(table.column_names.index("image_bytes"), "image_bytes", [none])
    monkeypatch.setattr(test, "samples", column)
    found = leakage.of_split([train], test)
    assert found["images"] == 6
    assert test.image_keys[1] not in found["image_keys"]
