import io
import json
import tarfile
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.train.data.batch import Batch
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream, Pictures, Share, Tables, batches


class Corner:
    """Reads an image's upper left corner, counting how often, and a caption's length."""

    def __init__(self) -> None:
        self.images = 0

    def image_array(self, image: Image.Image) -> np.ndarray:
        self.images += 1
        assert image.mode == "RGB"
        return np.asarray(image)[:4, :4].transpose(2, 0, 1).copy()

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"length": torch.tensor([[len(text)] for text in texts])}


def _stream(split: Split, *, batch: int = 8, seed: int = 0, **options: object) -> PairStream:
    order = Order(split.num_captions, batch, seed, drop_last=False)
    how = {name: options.pop(name) for name in {field.name for field in fields(Pictures)} & {*options}}
    options["pictures"] = Pictures(**how)  # type: ignore[arg-type]
    return PairStream(Pairs(split), order, options.pop("reader", None) or Corner(), **options)  # type: ignore[arg-type]


def _same(one: Batch, other: Batch) -> bool:
    return (
        (one.step, one.keys, one.substitutes) == (other.step, other.keys, other.substitutes)
        and torch.equal(one.images, other.images)
        and torch.equal(one.image_ids, other.image_ids)
        and all(torch.equal(one.tokens[name], other.tokens[name]) for name in one.tokens)
    )


def test_batches_hold_what_the_tars_hold(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    pictures, captions = {}, {}
    for tar in sorted((world / "train").glob("*.tar")):
        with tarfile.open(tar) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in [name for name in members if name.endswith(".json")]:
            fields = json.loads(members[name])
            pictures[fields["key"]] = Image.open(io.BytesIO(members[name.replace(".json", ".jpg")])).convert("RGB")
            for position, caption in enumerate(fields["captions"]):
                captions[f"{fields['key']}#{position}"] = caption["text"]
    image_rows = TeacherRows(split, "colours", fallback=tmp_path)
    text_rows = TeacherRows(split, "words", fallback=tmp_path)
    stream = _stream(split, tables=Tables(teachers={"image": image_rows, "text": text_rows}), cache_bytes=1 << 20)
    seen = []
    for step in range(5):
        batch = stream[step]
        for row, key in enumerate(batch.keys):
            image_key = key.partition("#")[0]
            np.testing.assert_array_equal(
                batch.images[row].numpy().transpose(1, 2, 0), np.asarray(pictures[image_key])[:4, :4]
            )
            assert batch.tokens["length"][row, 0] == len(captions[key])
            assert split.image_keys[batch.image_ids[row]] == image_key
            assert batch.teacher_image is not None
            assert batch.teacher_text is not None
            np.testing.assert_array_equal(batch.teacher_image[row], image_rows[np.array([batch.image_ids[row]])][0])
            caption_row = split.caption_keys.index(key)
            np.testing.assert_array_equal(batch.teacher_text[row], text_rows[np.array([caption_row])][0])
        seen += batch.keys
    assert sorted(seen) == sorted(captions)


class Blind:
    """Reads nothing."""

    def image_array(self, image: Image.Image) -> np.ndarray:
        raise AssertionError("no image is to be read")

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        raise AssertionError("no caption is to be read")


def test_features_stand_in_place_of_images_and_captions(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    tables = {
        modality: TeacherRows(split, name, fallback=tmp_path)
        for modality, name in (("image", "colours"), ("text", "words"))
    }
    both = _stream(split, reader=Blind(), tables=Tables(features=tables))
    plain = _stream(split)
    for step in range(6):
        batch, other = both[step], plain[step]
        assert (batch.keys, batch.pairs, batch.substitutes) == (other.keys, other.pairs, ())
        np.testing.assert_array_equal(batch.images, tables["image"][other.image_ids.numpy()])
        np.testing.assert_array_equal(batch.tokens["features"], tables["text"][other.rows.numpy()])
    text = _stream(split, tables=Tables(features={"text": tables["text"]}))[1]
    assert torch.equal(text.images, plain[1].images)
    np.testing.assert_array_equal(text.tokens["features"], tables["text"][plain[1].rows.numpy()])
    image = _stream(split, tables=Tables(features={"image": tables["image"]}))[1]
    assert torch.equal(image.tokens["length"], plain[1].tokens["length"])
    np.testing.assert_array_equal(image.images, tables["image"][plain[1].image_ids.numpy()])


def test_ranks_together_are_one(world: Path) -> None:
    split = Split(world, "train")
    whole = _stream(split)[2]
    parts = [_stream(split, share=Share(rank, 3))[2] for rank in range(3)]
    assert whole.keys == tuple(key for part in parts for key in part.keys)
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 48 * 5, 1 << 20])
def test_threads_cache_and_start_change_nothing(world: Path, threads: int, cache_bytes: int) -> None:
    split = Split(world, "train")
    expected = [_stream(split)[step] for step in range(12)]
    stream = _stream(Split(world, "train"), cache_bytes=cache_bytes)
    assert all(map(_same, batches(stream, 0, 12, threads=threads), expected))
    assert [batch.step for batch in batches(stream, 7, 12, threads=threads)] == [7, 8, 9, 10, 11]
    assert all(map(_same, batches(_stream(split), 7, 12, threads=threads), expected[7:]))


def test_kept_images_are_decoded_once_and_within_the_budget(world: Path) -> None:
    split = Split(world, "train")
    counts = {}
    for rows in (0, 5, 12):
        reader = Corner()
        stream = _stream(split, reader=reader, cache_bytes=48 * rows + 7)
        for step in range(10):  # two epochs of 36 pairs: each of 12 images six times
            stream[step]
        counts[rows] = reader.images
    assert counts == {0: 72, 5: 5 + 7 * 6, 12: 12}


def _damage(work: Path, image_row: int) -> str:
    """Overwrite the bytes of one image in its tar; return its key."""
    split = Split(work, "train")
    row = split.samples.slice(image_row, 1).to_pylist()[0]
    with (work / "train" / row["shard"]).open("r+b") as file:
        file.seek(row["image_offset"])
        file.write(b"no picture")
    return row["key"]


def test_an_undecodable_image_is_replaced_and_told(own_world: Path) -> None:
    healthy = [_stream(Split(own_world, "train"))[step] for step in range(5)]
    key = _damage(own_world, 9)
    runs = []
    for threads in (0, 2):
        stream = _stream(Split(own_world, "train"), cache_bytes=1 << 20)
        runs.append(list(batches(stream, 0, 5, threads=threads)))
    assert all(map(_same, *runs))
    told = [substitute for batch in runs[0] for substitute in batch.substitutes]
    assert {(s.key, s.shard) for s in told} == {(key, "00001.tar")}
    assert told[0].reason == "the bytes are no image that Pillow knows"
    split, order = Split(own_world, "train"), Order(36, 8, 0, drop_last=False)
    used = set()
    for before, after in zip(healthy, runs[0], strict=True):
        for old, new in zip(before.keys, after.keys, strict=True):
            row, attempt = split.caption_keys.index(old), 0
            while split.caption_keys[row].startswith(f"{key}#"):
                attempt += 1
                row = order.substitute(row, attempt)
                used.add(new)
            assert new == split.caption_keys[row]
    assert {s.used for s in told} == used


def _flip(work: Path, image_row: int) -> str:
    """Flip one bit in the pixels of one image in its tar, which still decodes; return its key."""
    row = Split(work, "train").samples.slice(image_row, 1).to_pylist()[0]
    place = row["image_offset"] + row["image_bytes"] - 20
    with (work / "train" / row["shard"]).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    return str(row["key"])


@pytest.mark.parametrize("cache_bytes", [0, 48 * 5, 1 << 20])
def test_a_changed_image_is_refused(own_world: Path, cache_bytes: int) -> None:
    key = _flip(own_world, 9)

    def read(check_one_in: int, epochs: int) -> list[Batch]:
        stream = _stream(Split(own_world, "train"), cache_bytes=cache_bytes, check_one_in=check_one_in)
        return [stream[step] for step in range(5 * epochs)]

    assert len(read(0, 1)) == 5, "it decodes, so nothing else says that it was changed"
    with pytest.raises(DataError, match=rf"00001\.tar: the bytes of {key} are not those that were sharded.*--force"):
        read(1, 1)
    # Row 9 is compared in epochs 1, 6... where it is not cached, and on entering the cache where it is.
    if cache_bytes == 1 << 20:
        with pytest.raises(DataError, match="not those that were sharded"):
            read(5, 1)
    else:
        assert len(read(5, 1)) == 5
        with pytest.raises(DataError, match="not those that were sharded"):
            read(5, 2)


def test_sound_images_pass_the_comparison(world: Path) -> None:
    expected = [_stream(Split(world, "train"))[step] for step in range(10)]
    stream = _stream(Split(world, "train"), check_one_in=1)
    assert all(map(_same, (stream[step] for step in range(10)), expected))


def test_nothing_but_undecodable_images_is_an_error(own_world: Path) -> None:
    for row in range(12):
        _damage(own_world, row)
    with pytest.raises(DataError, match=r"20 images in a row cannot be decoded, the first mini/"):
        _stream(Split(own_world, "train"))[0]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_tar_that_vanished_or_is_short_is_an_error(own_world: Path, threads: int) -> None:
    tar = own_world / "train" / "00001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:2000])
    with pytest.raises(DataError, match=r"00001\.tar ends within"):
        list(batches(_stream(Split(own_world, "train")), 0, 5, threads=threads))
    tar.unlink()
    with pytest.raises(DataError, match=r"00001\.tar cannot be opened"):
        list(batches(_stream(Split(own_world, "train")), 0, 5, threads=threads))


def test_leaving_early_ends_the_threads(world: Path) -> None:
    before = threading.active_count()
    flow = batches(_stream(Split(world, "train")), 0, 1_000_000, threads=3)
    assert next(flow).step == 0
    flow.close()
    assert threading.active_count() == before


def test_parts_together_are_the_step(world: Path) -> None:
    split = Split(world, "train")
    whole = _stream(split)[2]
    stream = _stream(split, share=Share(parts=3))
    parts = [stream[index] for index in (6, 7, 8)]
    assert [(part.step, part.part, part.pairs) for part in parts] == [(2, 0, 2), (2, 1, 3), (2, 2, 3)]
    assert whole.keys == tuple(key for part in parts for key in part.keys)
    assert whole.rows.tolist() == [split.caption_keys.index(key) for key in whole.keys]
