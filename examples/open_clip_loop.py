"""A plain training loop in the style of open_clip, with CUSA's loss and the tars of a work folder.

    python examples/open_clip_loop.py WORK --model ViT-B-32 --pretrained openai [--steps 1000] [--batch 64]
    python examples/open_clip_loop.py WORK --tiny      # a model of a few thousand weights, to see it run

Only `create` knows open_clip (`pip install open_clip_torch`); the rest works with any model that has `encode_image` and
`encode_text`.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset
from torch import Tensor, nn

import cusa


def create(options: argparse.Namespace) -> tuple[Any, Callable[[Any], Tensor], Callable[[list[str]], Tensor], int]:
    """Return the model, its preprocessing, its tokenizer and the width of its embeddings."""
    if options.tiny:
        import tiny_clip

        return tiny_clip.TinyCLIP(), tiny_clip.preprocess, tiny_clip.tokenize, tiny_clip.TinyCLIP.width
    import open_clip

    model, preprocess, _ = open_clip.create_model_and_transforms(options.model, pretrained=options.pretrained or None)
    return model, preprocess, open_clip.get_tokenizer(options.model), model.visual.output_dim


def batches(options: argparse.Namespace, preprocess: Callable[[Any], Tensor]) -> Iterator[tuple[Any, ...]]:
    """Give batches of pixels, captions, teacher rows and image numbers for ever."""
    teachers = cusa.teacher_rows(options.work, split="train", image=options.image, text=options.text)
    shards = sorted(str(path) for path in (options.work / "train").glob("*.tar"))
    pairs = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .decode("pil")
        .compose(teachers)
        .shuffle(2000, initial=2000)
        .to_tuple("jpg;jpeg;png;webp", "caption", "teacher_image", "teacher_text", "image_id")
        .map_tuple(preprocess, str, torch.from_numpy, torch.from_numpy, int)
        .batched(options.batch, partial=False)
        .repeat()
    )
    yield from pairs


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train; return the first and the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained", default="openai")
    parser.add_argument("--image", default="", help="The image teacher; the only one if not given.")
    parser.add_argument("--text", default="", help="The text teacher, likewise.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, preprocess, tokenize, width = create(options)
    uni_image, uni_text, loss = nn.Linear(width, 128), nn.Linear(width, 128), cusa.CUSALoss(alpha=0.1, beta=0.5)
    modules = nn.ModuleList([model, uni_image, uni_text, loss]).to(device)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-2 if options.tiny else 1e-5, weight_decay=0)
    losses = []
    for step, batch in enumerate(batches(options, preprocess), 1):
        pixels, captions, teacher_image, teacher_text, image_ids = batch
        image, text = model.encode_image(pixels.to(device)), model.encode_text(tokenize(captions).to(device))
        terms = loss(
            image=image,
            text=text,
            image_uni=uni_image(image),
            text_uni=uni_text(text),
            teacher_image=teacher_image.to(device),
            teacher_text=teacher_text.to(device),
            image_ids=torch.as_tensor(image_ids, device=device),
        )
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
        if step % 20 == 0:
            print(step, {name: round(float(value.detach()), 4) for name, value in terms.items()})
        if step == options.steps:
            break
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
