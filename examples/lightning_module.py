"""CUSA's loss in a LightningModule.

    pip install lightning
    python examples/lightning_module.py WORK --tiny

`Retrieval` takes any model with `encode_image` and `encode_text`; the example's own is tiny. With several devices, use
the strategy `ddp`: the loss is part of the module, so its temperatures and projectors are averaged as the model is, and
every rank's pairs are the others' negatives.
"""

import argparse
from pathlib import Path
from typing import Any

import lightning
import tiny_clip
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import cusa
from cusa.integrations.teachers import KeyedTeachers


class Pairs(Dataset[tuple[Tensor, str, int, int]]):
    """The pairs of a split: pixels, caption, image row, caption row."""

    def __init__(self, teachers: KeyedTeachers) -> None:
        self.split = teachers.split

    def __len__(self) -> int:
        return self.split.num_captions

    def __getitem__(self, caption: int) -> tuple[Tensor, str, int, int]:
        import io

        from PIL import Image

        image = int(self.split.caption_owner[caption])
        with Image.open(io.BytesIO(self.split.image_bytes(image))) as picture:
            return tiny_clip.preprocess(picture), self.split.texts[caption], image, caption


class Retrieval(lightning.LightningModule):
    """Any two towers, the projectors of USA, and the loss."""

    def __init__(self, model: Any, width: int, teachers: KeyedTeachers, *, lr: float) -> None:
        super().__init__()
        self.model, self.lr = model, lr
        self.uni_image, self.uni_text = nn.Linear(width, 128), nn.Linear(width, 128)
        self.loss = cusa.CUSALoss(alpha=0.1, beta=0.5)
        self._teachers = teachers
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, list[str], Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, its terms logged."""
        pixels, captions, images, rows = batch
        image = self.model.encode_image(pixels)
        text = self.model.encode_text(tiny_clip.tokenize(captions).to(self.device))
        teachers = {name: each.to(self.device) for name, each in self._teachers.at(images, rows).items()}
        terms = self.loss(
            image=image, text=text, image_uni=self.uni_image(image), text_uni=self.uni_text(text), **teachers
        )
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, prog_bar=True)
        self.losses.append(float(terms["loss"].detach()))
        loss: Tensor = terms["loss"]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything, the temperatures among it, without weight decay."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train; return the first and the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--image", default="", help="The image teacher; the only one if not given.")
    parser.add_argument("--text", default="", help="The text teacher, likewise.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="The only model that this example has.")
    options = parser.parse_args(arguments)

    lightning.seed_everything(0)
    teachers = cusa.teacher_rows(options.work, split="train", image=options.image, text=options.text)
    module = Retrieval(tiny_clip.TinyCLIP(), tiny_clip.TinyCLIP.width, teachers, lr=1e-2)
    loader = DataLoader(Pairs(teachers), batch_size=options.batch, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=options.steps,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return module.losses[0], module.losses[-1]


if __name__ == "__main__":
    print(main())
