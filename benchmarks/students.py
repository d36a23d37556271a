"""Speed of the students against doing the same without them: ratios within one run, on whatever machine this is.

- CLIP ViT-B/32 (random weights): images and captions a second through our student, and through Hugging Face directly.
- SGR and SAF at real size (36 regions of 2,048 numbers, width 1,024): similarities of images and captions, and the
  reference's algorithm written plainly, one caption after the other against all images.

    python benchmarks/students.py [images] [captions]
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from cusa.models import openai_clip
from cusa.models.dual_encoder import DualEncoder, _card
from cusa.models.preprocess import Preprocess
from cusa.models.sgraf_network import SgrafNetwork, unit


def best_of(runs: int, *functions: Callable[[], Any]) -> list[float]:
    """Seconds of each function, the fastest of `runs`, taken in turns so that both meet the same machine."""
    found = [float("inf")] * len(functions)
    for _ in range(runs):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            found[number] = min(found[number], time.perf_counter() - start)
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
        vectors = torch.cat([whole[:, None], local], 1)[:, None]
        columns.append(sim.score(vectors)[0])
    return torch.cat(columns, 1)


@torch.inference_mode()
def sgraf(module: Any, images: int, captions: int) -> dict[str, Any]:
    torch.manual_seed(0)
    network = SgrafNetwork(module, region_width=2048, vocabulary=11353).eval()
    regions = network.encode_regions(torch.randn(images, 36, 2048))
    lengths = torch.randint(8, 18, (captions,))
    words = network.encode_words(torch.randint(4, 11353, (captions, 17)), lengths)
    image_global, text_global = network.pool_regions(regions), network.pool_words(words, lengths)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def ours() -> Tensor:
        return network.similarity(regions, words, lengths, image_global_ID=image_global, text_global_CD=text_global)

    first = ours()
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    difference = float((first - plain(network, regions, words, lengths)).abs().max())
    seconds, theirs = best_of(2, ours, lambda: plain(network, regions, words, lengths))
    return {
        "images": images,
        "captions": captions,
        "pairs_per_second": round(images * captions / seconds),
        "plain_pairs_per_second": round(images * captions / theirs),
        "ratio": round(theirs / seconds, 2),
        "largest_difference": difference,
        "peak_memory_added_mib": round(more / 1024),
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
        "images_per_second": round(batch / image, 1),
        "image_ratio": round(direct_image / image, 3),
        "captions_per_second": round(batch / text, 1),
        "text_ratio": round(direct_text / text, 3),
    }


def main() -> None:
    images, captions = (int(value) for value in (*sys.argv[1:], *("150", "300")[len(sys.argv) - 1 :]))
    torch.set_num_threads(2)
    found = {
        "machine": f"2-core-x86, {platform.processor() or platform.machine()}",
        "torch": torch.__version__,
        "clip": clip(),
        "sgr": sgraf("sgr", images, captions),
        "saf": sgraf("saf", images, captions),
    }
    path = Path(__file__).parent / "results" / f"students-2-core-x86-{date.today()}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
