"""The same pixels whatever reads them, teachers' rows unchanged, and what cannot be augmented refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cusa.errors import ConfigError, DataError, StoppedError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.preprocess import Preprocess, decode_rgb
from cusa.models.students.base import Student
from cusa.train.data.augment import pictures
from cusa.train.data.augment.augmentation import Augmentation
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.augment.draws import uniforms
from cusa.train.data.augment.opened import open_augmentation
from cusa.train.data.augment.words import one_sided
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream, Pictures, Share, Tables, batches
from tests import towers
from tests.train import processes
from tests.train.conftest import STUDENT, Train
from tests.train.test_survival import metrics, same, state, wait_for_checkpoint

ALL = AugmentConfig(crop=0.4, flip=0.5, brightness=0.3, contrast=0.2, saturation=0.4, hue=0.02, patches=0.5)
NO_CROP = ALL.model_copy(update={"crop": 0.0})


@pytest.fixture(scope="module")
def student(world: Path) -> Student:
    return students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)


def _augmentation(world: Path, student: Student, config: AugmentConfig = ALL, seed: int = 0) -> Augmentation:
    split = Split(world, "train")
    made = open_augmentation(config, student, [split], Pairs(split).owner, seed=seed)
    assert made is not None
    return made


def _stream(world: Path, student: Student, augmentation: Augmentation | None, **options: Any) -> PairStream:
    split = Split(world, "train")
    how = Pictures(augmentation=augmentation, cache_bytes=options.pop("cache_bytes", 0))
    return PairStream(Pairs(split), Order(split.num_captions, 8, 0), student, pictures=how, **options)


@pytest.mark.parametrize("config", [ALL, NO_CROP])
def test_every_picture_is_the_one_of_seed_epoch_and_row(world: Path, student: Student, config: AugmentConfig) -> None:
    """Against a loop over rows that opens each picture, and takes its numbers by their meaning."""
    split = Split(world, "train")
    augmentation = _augmentation(world, student, config, seed=5)
    stream = _stream(world, student, augmentation)
    sides = one_sided([split], split.caption_owner, config.flip_words)
    preprocess: Any = student.preprocess
    seen = set()
    for step in (0, 3, 4, 9):  # epochs of four steps
        batch = stream[step]
        for place, row in enumerate(batch.rows.tolist()):
            owner = int(split.caption_owner[row])
            numbers = uniforms(np.array([row]), 10, seed=5, epoch=step // 4)[0]
            image = decode_rgb(split.image_bytes(owner))
            square = preprocess.array(image)
            if config.crop:
                box = pictures.crop_box(*image.size, numbers[:4], smallest=config.crop, ratio=config.crop_ratio)
                square = preprocess.array_of(image, box)
            if numbers[4] < config.flip and not sides[owner]:
                square = square[:, :, ::-1]
                seen.add("mirrored")
            square = pictures.recolour(square, numbers[5:], config)
            np.testing.assert_array_equal(batch.images[place].numpy(), square)
        assert batch.patches is not None
        assert batch.patches.shape == (8, 2)
    assert seen


@pytest.mark.parametrize("crop", [0.0, 0.4])
def test_patches_in_own_proportions_are_changed_as_pictures(world: Path, tmp_path: Path, crop: float) -> None:
    """Against Pillow on the pictures themselves."""
    folder = towers.write_image("siglip2", tmp_path / "naflex")
    reader = students.create(StudentConfig(name=str(folder), max_patches=30), captions=[], uni=False, seed=0)
    split = Split(world, "train")
    config = AugmentConfig(crop=crop, flip=0.5, brightness=0.3, hue=0.02)
    batch = _stream(world, reader, _augmentation(world, reader, config, seed=5))[3]
    sides = one_sided([split], split.caption_owner, config.flip_words)
    how: Any = reader.preprocess
    mirrored = 0
    for place, row in enumerate(batch.rows.tolist()):
        owner = int(split.caption_owner[row])
        numbers = uniforms(np.array([row]), 10, seed=5, epoch=0)[0]
        image = decode_rgb(split.image_bytes(owner))
        box = (0, 0, *image.size)
        if crop:
            box = pictures.crop_box(*image.size, numbers[:4], smallest=crop, ratio=config.crop_ratio, own=True)
        tall, wide = how.grid(box[3] - box[1], box[2] - box[0])
        changed = image.resize((8 * wide, 8 * tall), Image.Resampling.BILINEAR, box=box)
        if numbers[4] < config.flip and not sides[owner]:
            changed = ImageOps.mirror(changed)
            mirrored += 1
        expected = pictures.recolour(np.asarray(changed).transpose(2, 0, 1), numbers[5:], config)
        np.testing.assert_array_equal(how.unpacked(batch.images[place].numpy()), expected)
    assert mirrored
    with pytest.raises(ConfigError, match=r"train\.augment\.patches is 0\.5.*or of any number \(NaFlex"):
        _augmentation(world, reader, AugmentConfig(patches=0.5))


@pytest.mark.parametrize("config", [ALL, NO_CROP])
def test_threads_ranks_parts_start_and_cache_change_no_pixel(
    world: Path, student: Student, config: AugmentConfig
) -> None:
    augmentation = _augmentation(world, student, config)
    expected = [_stream(world, student, augmentation)[step] for step in range(10)]
    for threads, cache in ((0, 1 << 20), (3, 0), (2, 768 * 5)):
        stream = _stream(world, student, augmentation, cache_bytes=cache)
        for got, one in zip(batches(stream, 0, 10, threads=threads), expected, strict=True):
            assert torch.equal(got.images, one.images)
            assert got.patches is not None
            assert one.patches is not None
            assert torch.equal(got.patches, one.patches)
    later = list(batches(_stream(world, student, augmentation), 7, 10, threads=2))
    assert all(torch.equal(got.images, one.images) for got, one in zip(later, expected[7:], strict=True))
    parts = [_stream(world, student, augmentation, share=Share(rank, 3))[6] for rank in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), expected[6].images)


def test_teachers_see_the_clean_picture(world: Path, student: Student, tmp_path: Path) -> None:
    split = Split(world, "train")
    tables = Tables(
        teachers={
            modality: TeacherRows(split, name, fallback=tmp_path)
            for modality, name in (("image", "colours"), ("text", "words"))
        }
    )
    plain = _stream(world, student, None, tables=tables)
    changed = _stream(world, student, _augmentation(world, student), tables=tables)
    for step in range(9):
        one, other = plain[step], changed[step]
        assert (one.keys, one.tokens.keys()) == (other.keys, other.tokens.keys())
        assert not torch.equal(one.images, other.images)
        for name in ("teacher_image", "teacher_text", "image_ids", "rows"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert all(torch.equal(one.tokens[name], other.tokens[name]) for name in one.tokens)


def test_by_default_nothing_changes(world: Path, student: Student, train: Train, tmp_path: Path) -> None:
    split = Split(world, "train")
    assert open_augmentation(AugmentConfig(), student, [split], Pairs(split).owner, seed=0) is None
    train(tmp_path / "plain")
    train(tmp_path / "asked", train={"augment": AugmentConfig(crop=0.0, flip=0.0, crop_ratio=2.0)})
    assert same(state(tmp_path / "plain"), state(tmp_path / "asked"))


def test_stopped_and_resumed_it_ends_with_the_same_bits(train: Train, tmp_path: Path) -> None:
    options: dict[str, Any] = {"augment": ALL, "cache_mib": 1}
    messages: list[str] = []
    train(tmp_path / "whole", train=options, on_message=messages.append)
    assert "crops of at least 40% of the area, 50% mirrored" in messages[0]
    assert "Never mirrored: 0 images of 12 with a caption that says left, right" in messages[0]
    asked = iter([False] * 4)
    with pytest.raises(StoppedError):
        train(tmp_path / "stopped", train=options, should_stop=lambda: next(asked, True))
    assert train(tmp_path / "stopped", train={**options, "workers": 3}).started_at == 5
    assert same(state(tmp_path / "whole"), state(tmp_path / "stopped"))
    train(tmp_path / "plain")
    assert metrics(tmp_path / "plain")[10, "loss"] != metrics(tmp_path / "whole")[10, "loss"]


def test_two_ranks_go_on_with_the_pictures_of_one(world: Path, tmp_path: Path) -> None:
    told = {"dropout": 0.0, "augment": ALL, "checkpoint_every": 1}
    processes.Run(world, tmp_path / "one", told).ends()
    begun = processes.Run(world, tmp_path / "both", told, waits_at=10)
    assert begun.reaches(4)
    wait_for_checkpoint(tmp_path / "both", 4)
    begun.kill()
    for run in processes.together(world, tmp_path / "both", told, world=2):
        run.ends()
    one, both = metrics(tmp_path / "one"), metrics(tmp_path / "both")
    for step in (6, 9, 10):
        assert both[step, "loss"] == pytest.approx(one[step, "loss"], rel=1e-4)


def test_chunks_keep_the_same_patches(train: Train, tmp_path: Path) -> None:
    told: dict[str, Any] = {"augment": ALL, "steps": 3}
    train(tmp_path / "whole", train=told)
    train(tmp_path / "chunks", train={**told, "chunk": 3})
    one, other = metrics(tmp_path / "whole"), metrics(tmp_path / "chunks")
    assert other[3, "loss"] == pytest.approx(one[3, "loss"], rel=1e-4)


def test_what_cannot_be_augmented_is_refused_by_name(world: Path, student: Student) -> None:
    split = Split(world, "train")

    def opened(config: AugmentConfig, one: Any, rows_of: str = "") -> None:
        open_augmentation(config, one, [split], Pairs(split).owner, seed=0, rows_of=rows_of)

    with pytest.raises(ConfigError, match=r"augment\.flip is 0\.5, and DualEncoder reads rows of the table colours"):
        opened(AugmentConfig(flip=0.5), student, "colours")
    regions = students.create(
        StudentConfig.model_validate({"kind": "sgraf", "sgraf": {"width": 16, "word_width": 8, "region_width": 4}}),
        captions=["a dog on grass"],
        uni=False,
        seed=0,
    )
    with pytest.raises(ConfigError, match=r"augment\.crop is 0\.5, and Sgraf reads no pictures"):
        opened(AugmentConfig(crop=0.5), regions)
    with pytest.raises(ConfigError, match=r"augment\.patches is 0\.5, and the image tower of this TwoTower needs all"):
        opened(AugmentConfig(patches=0.5), _two_towers())
    opened(AugmentConfig(crop=0.5, flip=0.5), _two_towers())
    augmentation = Augmentation(AugmentConfig(crop=0.5), 0, Preprocess(8), np.zeros(1, dtype=bool))
    with pytest.raises(DataError, match="The shards hold arrays"):
        augmentation.crop(np.zeros((3, 4), np.float32), row=0, epoch=0)


def _two_towers() -> Student:
    names = {"image": {"name": "tests.towers:Colours", "mode": "learn"}, "text": {"name": "tests.towers:Letters"}}
    assert towers.Colours
    config = StudentConfig.model_validate({"kind": "two-tower", "towers": names})
    return students.create(config, captions=[], uni=False, seed=0)


def test_sentence__speaks_of_mirrors_only_where_there_are_some(student: Student) -> None:
    changed = open_augmentation(AugmentConfig(crop=0.25), student, [], np.zeros(0, np.int64), seed=0)
    assert changed is not None
    assert changed.sentence() == "Pictures change from epoch to epoch: crops of at least 25% of the area."


def test_an_image_with_a_side_in_its_captions_is_never_mirrored(world: Path, student: Student) -> None:
    augmentation = _augmentation(world, student, AugmentConfig(flip=1.0))
    sides = augmentation.one_sided.copy()
    sides[3] = True
    changed = replace(augmentation, one_sided=sides)
    square = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(3, 16, 16)
    for epoch in range(20):
        assert np.array_equal(changed.changed(square, row=9, image=3, epoch=epoch), square)
        assert np.array_equal(changed.changed(square, row=9, image=2, epoch=epoch), square[:, :, ::-1])
    assert "Never mirrored: 1 image of 12" in changed.sentence()


def test_a_squashed_picture_is_cropped_in_its_own_proportions() -> None:
    augmentation = Augmentation(
        AugmentConfig(crop=0.5, crop_ratio=1.0), 0, Preprocess(8, fit="squash"), np.zeros(0, dtype=bool)
    )
    wide = Image.new("RGB", (400, 100))
    shapes: list[tuple[int, int]] = []
    original = Preprocess.array_of

    def spy(self: Preprocess, image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
        shapes.append((box[2] - box[0], box[3] - box[1]))
        return original(self, image, box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preprocess, "array_of", spy)
        for row in range(20):
            augmentation.crop(wide, row=row, epoch=0)
    assert all(width / height == pytest.approx(4, rel=0.02) for width, height in shapes)


@pytest.mark.parametrize(("share", "kept"), [(0.0, None), (0.25, 12), (0.5, 8), (0.8, 3), (0.99, 1)])
def test_kept__the_share_is_what_is_left_out(share: float, kept: int | None) -> None:
    """Of sixteen patches."""
    config = AugmentConfig(patches=share, flip=0.5)
    patches = 16 if share else 0
    made = Augmentation(config, 0, Preprocess(size=8), np.zeros(3, dtype=bool), patches)
    chosen = made.kept(np.arange(5), epoch=0)
    assert (None if chosen is None else tuple(chosen.shape)) == (None if kept is None else (5, kept))
