"""Makes what the jobs need beyond Flickr8k's work folder: a centred image teacher, and parts of the training images.

    python -m benchmarks.photographs.derive WORK --out OUT

`WORK` itself gets `lite2-centred`: EfficientNet-Lite2's rows less the training images' mean, of unit length.
`OUT/share-2`, `-4` and `-8` are work folders with a half, a quarter and an eighth of the training images, chosen by a
hash of their keys, with the teachers' rows of these.
"""

import argparse
from hashlib import sha256
from pathlib import Path

import numpy as np

from cusa.manifests import tables
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract import carry, import_features

IMAGE_TEACHER = "benchmarks.photographs.lite_Lite2"
PARTS = (2, 4, 8)


def centre(work: Path, scratch: Path) -> None:
    """Import the centred rows of all splits."""
    every = [tables.read_teacher(Split(work, name), IMAGE_TEACHER) for name in splits(work)]
    mean = tables.read_teacher(Split(work, "train"), IMAGE_TEACHER).embeddings.astype(np.float32).mean(0)
    path = scratch / "lite2-centred.npz"
    rows = np.concatenate([one.embeddings.astype(np.float32) - mean for one in every])
    np.savez(path, ids=[key for one in every for key in one.keys], features=rows)
    features, digest = import_features.read_features(path), store.sha256_file(path)
    for name in splits(work):
        import_features.run(
            ExtractConfig(),
            split=Split(work, name),
            features=features,
            sha256=digest,
            teacher="lite2-centred",
            modality="image",
        )


def part_of(work: Path, out: Path, part: int) -> None:
    """Shard one `part`-th of the training images, and all others."""
    kept = [key for name in splits(work) for key in Split(work, name).image_keys]
    trained = {key for key in Split(work, "train").image_keys if sha256(key.encode()).digest()[0] % part}
    reading = readers.read_subset(work, [key for key in kept if key not in trained])
    shard.run(ShardConfig(workers=1), reading=reading, out=out)
    carry.run(work, out)


def main() -> None:
    """Make all of it; what is there stays."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    centre(options.work, options.out)
    for part in PARTS:
        part_of(options.work, options.out / f"share-{part}", part)
        print(f"{options.out / f'share-{part}'}: {Split(options.out / f'share-{part}', 'train').num_images} images")


if __name__ == "__main__":
    main()
