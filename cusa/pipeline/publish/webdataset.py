"""WebDataset tars as others read them: `KEY.jpg`, `KEY.txt` (the first caption) and `KEY.json` (all that is known)."""

from cusa.manifests.samples import caption_json, sample_json
from cusa.manifests.storage import store
from cusa.pipeline.publish.rows import Part, Sample
from cusa.pipeline.shard.ustar import Archive


def write(part: Part) -> int:
    """Write one tar's samples as one tar; return how many.

    Our own tars have no `.txt`, which most training code asks for, and captions that were dropped later are still in
    them.
    """
    count = 0
    with store.whole_file(part.file) as temporary, temporary.open("wb", 0) as file:
        archive = Archive(file)
        for sample in part.samples():
            key = sample.row["key"]
            if sample.image:
                archive.add(f"{key}.{sample.row['ext']}", sample.image)
            if sample.captions:
                archive.add(f"{key}.txt", sample.captions[0]["text"].encode())
            archive.add(f"{key}.json", _described(sample))
            count += 1
        archive.end()
    return count


def _described(sample: Sample) -> bytes:
    return sample_json(
        key=sample.row["key"],
        captions=[caption_json(caption) for caption in sample.captions],
        **{name: sample.row[name] for name in ("label", "role", "source", "sha256", "width", "height")},
    )
