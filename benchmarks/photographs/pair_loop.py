"""The loop on wrong own pairs, by the commands: swaps planted in Flickr8k, found, judged, repaired, trained, scored.

    python -m benchmarks.photographs.pair_loop FLICKR8K TAUGHT --out OUT [--share 0.1 --asked 4000 --seeds 3]

`FLICKR8K`: the data set in its official layout. `TAUGHT`: it sharded, with the tables that `flickr8k-heads.toml` names;
their rows are carried over. A share of the training captions changes places. A simulated reviewer, who knows what was
moved, is asked about the first pairs of `cusa review --pairs`: keeps the right ones, chooses a caption of the picture
where one is offered, else says that the pair is wrong. RSUM on the 1,000 test images of heads trained on: the data set
as it is, with the swaps, repaired by the verdicts, and weighted by `loss.pair_weights=audit`.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.pipeline.extract import carry
from cusa.pipeline.review.room import Room

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
TEACHERS = ("--image", "benchmarks.photographs.lite_Lite2", "--text", "all-mpnet-base-v2")


def cusa(*words: object) -> str:
    """Run a command as a user does."""
    command = [sys.executable, "-c", "from cusa.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cusa {' '.join(map(str, words))}\n{done.stderr[-2000:]}")
    return done.stdout


Owners = dict[str, set[str]]
"""Caption -> the images that it is of; the same words are written of several."""


def plant(source: Path, out: Path, share: float) -> Owners:
    """Write the annotations with a share of the training captions moved; return whose each caption really is."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source.glob("Flickr_8k.*.txt"):
        (out / path.name).write_bytes(path.read_bytes())
    lines = [line.split("\t", 1) for line in (source / "Flickr8k.token.txt").read_text().splitlines()]
    trained = set((source / "Flickr_8k.trainImages.txt").read_text().split())
    rows = [row for row, (place, _) in enumerate(lines) if place.partition("#")[0] in trained]
    owner: Owners = {}
    for place, text in lines:
        owner.setdefault(text, set()).add(place.partition("#")[0])
    draw = np.random.default_rng(0)
    moved = draw.permutation(rows)[: int(share * len(rows))]
    texts = [lines[row][1] for row in moved]
    for row, text in zip(moved, np.roll(texts, 1), strict=True):
        lines[row][1] = str(text)
    (out / "Flickr8k.token.txt").write_text("".join(f"{place}\t{caption}\n" for place, caption in lines))
    return owner


def review(work: Path, owner: Owners, asked: int) -> dict[str, int]:
    """Answer the first pairs of the review as somebody who sees the pictures; return how often what was said."""
    split = Split(work, "train")
    file_of = dict(zip(split.image_keys, (Path(one).name for one in split.samples["source"].to_pylist()), strict=True))
    text_of = dict(zip(split.caption_keys, split.texts, strict=True))
    said = {"kept": 0, "wrong": 0, "chosen": 0}
    room = Room(split, own_pairs=True)
    shown = room.next(reviewer="simulated", tab="one")
    for number in range(asked):
        candidate = shown["candidate"]
        if candidate is None:
            break
        image, caption = candidate["image_key"], candidate["caption_key"]
        answer = {"id": f"simulated-{number}", "image_key": image, "caption_key": caption}
        who = {"reviewer": "simulated", "tab": "one"}
        offered = [one["caption_key"] for one in candidate["better"]]
        fits = [key for key in offered if file_of[image] in owner[text_of[key]]]
        if file_of[image] in owner[text_of[caption]]:
            said["kept"] += 1
            shown = room.judge(**answer, **who, verdict="match")
        elif fits:
            said["chosen"] += 1
            shown = room.choose(**answer, **who, chooses=fits[0])
        else:
            said["wrong"] += 1
            shown = room.judge(**answer, **who, verdict="no match")
    room.close()
    return said


def wrong_share(work: Path, owner: Owners) -> float:
    """Return the share of the training captions that lie with another image."""
    split = Split(work, "train")
    files = [Path(one).name for one in split.samples["source"].to_pylist()]
    pairs = zip(split.texts, split.caption_owner, strict=True)
    return statistics.mean(files[image] not in owner[text] for text, image in pairs)


def rsum(work: Path, run: Path, seed: int, *settings: str) -> float:
    """Train heads and return RSUM on the test images."""
    words = [
        word for one in (f"train.seed={seed}", "loss.alpha=0", "loss.beta=0", *settings) for word in ("--set", one)
    ]
    cusa("train", HERE / "flickr8k-heads.toml", "--data", work, "--out", run, *words)
    found = json.loads(cusa("eval", run, "--data", work, "--tasks", "cross-modal", "--json"))
    return float(found["tasks"]["cross-modal"]["metrics"]["rsum"])


def main() -> None:
    """Run the loop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("flickr8k", type=Path)
    parser.add_argument("taught", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--asked", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    out: Path = options.out
    swapped, repaired = out / "swapped", out / "repaired"
    owner = plant(options.flickr8k, out / "raw", options.share)
    cusa("shard", "flickr8k", out / "raw", "--images", options.flickr8k / "images", "--out", swapped, "--workers", 1)
    carried = len(carry.run(options.taught, swapped))
    assert carried >= 4 * len(splits(swapped)), "the work folder lacks a teacher's rows"
    for words in (("index", swapped, "--split", "train"), ("audit", swapped, "--split", "train", "--pairs", *TEACHERS)):
        print(cusa(*words), flush=True)
    if not (out / "said.json").is_file():
        store.write_json(out / "said.json", review(swapped, owner, options.asked))
    said = store.read_json(out / "said.json")
    print(said, flush=True)
    print(cusa("shard", "subset", swapped, "--verdicts", "repair", "--out", repaired, "--workers", 1), flush=True)
    arms: dict[str, tuple[Path, tuple[str, ...]]] = {
        "as it is": (options.taught, ()),
        "swapped": (swapped, ()),
        "repaired by verdicts": (repaired, ()),
        "weighted by the audit, verdicts included": (swapped, ("loss.pair_weights=audit",)),
    }
    found: dict[str, Any] = {}
    for seed in range(options.seeds):
        for name, (work, settings) in arms.items():
            run = out / "runs" / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            found.setdefault(name, []).append(rsum(work, run, seed, *settings))
        print({name: values[-1] for name, values in found.items()}, flush=True)
    lost = [clean - bad for clean, bad in zip(found["as it is"], found["swapped"], strict=True)]
    result = {
        "moved": options.share,
        "asked": options.asked,
        "said": said,
        "wrong_before": wrong_share(swapped, owner),
        "wrong_after": wrong_share(repaired, owner),
        "rsum": found,
        "got_back": {
            name: statistics.mean(
                (value - bad) / cost for value, bad, cost in zip(values, found["swapped"], lost, strict=True)
            )
            for name, values in found.items()
        },
    }
    today = datetime.date.today().isoformat()
    store.write_json(RESULTS / f"pair-loop-flickr8k-2-core-x86-{today}.json", result)
    print(result)


if __name__ == "__main__":
    main()
