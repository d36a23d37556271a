"""Speed of the students against doing the same without them: ratios within one run, on whatever machine this is.

- CLIP ViT-B/32 (random weights): images and captions a second through our student, and through Hugging Face directly.
- SGR and SAF at real size (36 regions of 2,048 numbers, width 1,024): similarities of images with the first of 5,000
  captions, and the reference's algorithm written plainly, one caption after the other against all images. Time is
  linear in the captions, so some of them tell the ratio; `all` scores the 5,000 and says what that takes.
- X2-VLM, small: re-ranking 16 candidates of 200 images and 1,000 captions, and how often each tower reads each item.

    python benchmarks/students.py clip|sgr|saf|rerank [captions | all] [images]     # each adds to the day's results
"""

import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from cusa.eval import pairs
from cusa.eval.config import EvalConfig
from cusa.eval.encode import PartsCache, encode
from cusa.eval.scores import Cosines
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.preprocess import Preprocess
from cusa.models.students import openai_clip
from cusa.models.students.dual_encoder import DualEncoder, _card
from cusa.models.students.sgraf_network import SgrafNetwork, SgrafSizes, unit
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.workflow import download as downloading


def best_of(runs: int, *functions: Callable[[], Any]) -> list[float]:
    """CPU seconds of each function, the least of `runs`, taken in turns so that both meet the same machine.

    Of the CPU, both cores', so that what else the machine does counts less.
    """
    found = [float("inf")] * len(functions)
    for _ in range(runs):
        for number, function in enumerate(functions):
            start = time.process_time()
            function()
            found[number] = min(found[number], time.process_time() - start)
    return found


def plain(network: SgrafNetwork, regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    """The reference's algorithm: for each caption, its words against the regions of every image."""
    sim, columns = network.sim_enc, []
    image_global = network.pool_regions(regions)
    for caption, length in zip(words, lengths.tolist(), strict=True):
        some = caption[None, :length]
        text_global = sim.t_global_w(some)
        query = some.expand(len(regions), -1, -1)
        attention = unit(F.leaky_relu(torch.bmm(regions, query.transpose(1, 2)), 0.1), 2).transpose(1, 2)
        context = unit(torch.bmm((9.0 * attention).softmax(2), regions))
        local = unit(sim.sim_tranloc_w((context - query).pow(2)))
        whole = unit(sim.sim_tranglo_w((image_global - text_global).pow(2)))
        nodes = torch.cat([whole[:, None], local], 1)
        if hasattr(sim, "SGR_module"):
            for step in sim.SGR_module:
                edges = torch.bmm(step.graph_query_w(nodes), step.graph_key_w(nodes).transpose(1, 2)).softmax(2)
                nodes = step.sim_graph_w(torch.bmm(edges, nodes)).relu()
            one = nodes[:, 0]
        else:
            kept = sim.SAF_module.bn(sim.SAF_module.attn_sim_w(nodes).view(-1, 1)).view(len(regions), -1).sigmoid()
            kept = kept / (kept.sum(1, keepdim=True) + 1e-8)
            one = unit(torch.bmm(kept[:, None], nodes)[:, 0])
        columns.append(sim.sim_eval_w(one).sigmoid())
    return torch.cat(columns, 1)


@torch.inference_mode()
def sgraf(module: Any, captions: int, *, whole: bool, images: int = 1000, every: int = 5000) -> dict[str, Any]:
    torch.manual_seed(0)
    network = SgrafNetwork(module, SgrafSizes(region_width=2048, vocabulary=11353)).eval()
    regions = torch.cat([network.encode_regions(torch.randn(100, 36, 2048)) for _ in range(images // 100)])
    count = every if whole else captions
    lengths = torch.randint(8, 18, (count,))
    words = network.encode_words(torch.randint(4, 11353, (count, 17)), lengths)
    image_global, text_global = network.pool_regions(regions), network.pool_words(words, lengths)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def ours(some: int) -> Tensor:
        return network.similarity(
            regions, words[:some], lengths[:some], image_global_ID=image_global, text_global_CD=text_global[:some]
        )

    found: dict[str, Any] = {"images": images, "captions": captions}
    if whole:
        start = time.perf_counter()
        first = ours(every)
        found |= {"captions_whole": every, "seconds_whole": round(time.perf_counter() - start, 1)}
    else:
        first = ours(captions)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    some = words[:captions], lengths[:captions]
    difference = float((first[:, :captions] - plain(network, regions, *some)).abs().max())
    seconds, theirs = best_of(2, lambda: ours(captions), lambda: plain(network, regions, *some))
    return {
        **found,
        "pairs_per_cpu_second": round(images * captions / seconds),
        "plain_pairs_per_cpu_second": round(images * captions / theirs),
        "ratio": round(theirs / seconds, 2),
        "largest_difference": difference,
        "peak_memory_added_mib": round(more / 1024),
    }


def rerank(images: int = 200, captions: int = 1000, k: int = 16) -> dict[str, Any]:
    """Re-rank a drawn split as the evaluation does, and count what each tower reads."""
    with tempfile.TemporaryDirectory() as name:
        raw, work = Path(name) / "raw", Path(name) / "data"
        downloading.download("scenes", out=raw, settings=("train=200", "val=1", f"test={images}"))
        shard.run(ShardConfig(), reading=readers.read("karpathy", raw / "dataset_scenes.json", raw), out=work)
        split = Split(work, "test")
        assert split.num_captions == captions
        config = StudentConfig(kind="x2vlm", image_size=96, width=128, context=28)
        student = students.create(config, captions=split.texts, uni=False, seed=0).eval()
        told = EvalConfig(rerank=k, device="cpu", bootstrap=0)
        read = {"images": 0, "captions": 0, "pairs": 0}

        def counting(what: str, function: Any, size: Callable[..., int]) -> Any:
            def call(*given: Any) -> Any:
                read[what] += size(*given)
                return function(*given)

            return call

        network: Any = student.network  # type: ignore[attr-defined]
        network.encode_image = counting("images", network.encode_image, lambda pixels: len(pixels))
        network.encode_text = counting("captions", network.encode_text, lambda ids, mask: len(ids))
        network.match = counting("pairs", network.match, lambda tokens, texts, mask: len(texts))
        start = time.perf_counter()
        kept = PartsCache()
        embedded = encode(student, split, told, uni=False, kept=kept)
        encoded = time.perf_counter()
        first = dict(read)
        cosines = Cosines(embedded.image["cross"], embedded.text["cross"])
        done = pairs.rerank(student, split, cosines, told, kept=kept)
        seconds = time.perf_counter() - encoded
        distinct = {
            *((row, int(c)) for row, some in enumerate(done.captions_IK) for c in some),
            *((int(i), row) for row, some in enumerate(done.images_CK) for i in some),
        }
        return {
            "images": images,
            "captions": captions,
            "k": k,
            "encode_seconds": round(encoded - start, 1),
            "rerank_seconds": round(seconds, 1),
            "read_by_the_first_ranking": first,
            "read_by_the_re_ranking": {what: read[what] - first[what] for what in read},
            "distinct_candidates": len(distinct),
        }


@torch.inference_mode()
def clip(batch: int = 16) -> dict[str, Any]:
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={"patch_size": 32})).eval()
    tokenizer = openai_clip.tokenizer()
    student = DualEncoder(model, tokenizer, _card("ViT-B/32", model, Preprocess(224), 77, tokenizer)).eval()
    pixels = torch.randn(batch, 3, 224, 224)
    tokens = student.tokenize(["a man riding a wave on top of a surfboard"] * batch)
    image, direct_image, text, direct_text = best_of(
        7,
        lambda: student.encode_image(pixels),
        lambda: model.get_image_features(pixel_values=pixels),
        lambda: student.encode_text(tokens),
        lambda: model.get_text_features(**tokens),
    )
    return {
        "images_per_cpu_second": round(batch / image, 1),
        "image_ratio": round(direct_image / image, 3),
        "captions_per_cpu_second": round(batch / text, 1),
        "text_ratio": round(direct_text / text, 3),
    }


def main() -> None:
    what, captions = sys.argv[1], (sys.argv[2:] or ["20"])[0]
    images = int((sys.argv[3:] or ["1000"])[0])
    torch.set_num_threads(2)
    number = 20 if captions == "all" else int(captions)
    path = Path(__file__).parent / "results" / f"students-2-core-x86-{date.today()}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found |= {"machine": f"2-core-x86, {platform.processor() or platform.machine()}", "torch": torch.__version__}
    made: dict[str, Callable[[], dict[str, Any]]] = {"clip": clip, "rerank": rerank}
    found[what] = made[what]() if what in made else sgraf(what, number, whole=captions == "all", images=images)
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found[what], indent=2))


if __name__ == "__main__":
    main()
