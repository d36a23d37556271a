"""Draw a sheet of what training makes of pictures: a row each, first as evaluation sees it, then epoch by epoch.

python tools/draw_augmented.py WORK SHEET.png [--split train] [--rows 0 5 10] [--epochs 7] [--size 112] \
    --set crop=0.5 --set flip=0.5
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from cusa import recipe
from cusa.manifests.samples import Split
from cusa.models.preprocess import Preprocess, decode_rgb
from cusa.train.data.augment.augmentation import Augmentation
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.augment.draws import kept_patches
from cusa.train.data.augment.words import one_sided

_GAP = 4


def sheet(
    split: Split, config: AugmentConfig, *, rows: list[int], epochs: int, preprocess: Preprocess, side: int = 14
) -> Image.Image:
    """Return the sheet; patches that are left out are grey.

    Args:
        split: the pictures.
        config: what is done to them.
        rows: caption rows.
        epochs: columns beside the first.
        preprocess: of the student.
        side: patches a side.
    """
    owners, size = split.caption_owner, preprocess.size
    sides = one_sided([split], owners, config.flip_words)
    made = Augmentation(config, 0, preprocess, sides)
    page = np.full((len(rows) * (size + _GAP), (epochs + 1) * (size + _GAP), 3), 255, dtype=np.uint8)
    for place, row in enumerate(rows):
        image, top = int(owners[row]), place * (size + _GAP)
        picture = decode_rgb(split.image_bytes(image))
        columns = [preprocess.array(picture)]
        for epoch in range(epochs):
            square = made.crop(picture, row=row, epoch=epoch) if config.crop else columns[0]
            square = made.changed(square, row=row, image=image, epoch=epoch).copy()
            if config.patches:
                kept = round(side * side * (1 - config.patches))
                seen = kept_patches(np.array([row]), patches=side * side, kept=kept, seed=0, epoch=epoch)[0]
                mask = np.isin(np.arange(side * side), seen).reshape(side, side)
                mask = mask.repeat(size // side, 0).repeat(size // side, 1)
                square[:, ~mask] = 128
            columns.append(square)
        for column, square in enumerate(columns):
            left = column * (size + _GAP)
            page[top : top + size, left : left + size] = square.transpose(1, 2, 0)
    return Image.fromarray(page)


def main() -> None:
    """Draw one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 5, 10, 15, 20])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    config = recipe.section(AugmentConfig, given.set)
    split = Split(given.work, given.split)
    made = sheet(split, config, rows=given.rows, epochs=given.epochs, preprocess=Preprocess(given.size))
    made.save(given.sheet, optimize=True)
    print(f"{given.sheet}: {config.sentence()}")
    for row in given.rows:
        print(f"  {split.caption_keys[row]}: {split.texts[row]}")


if __name__ == "__main__":
    main()
