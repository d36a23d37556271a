"""Regions of a picture without a detector: its own patches, or a vision model's grid.

An extractor is any module with `width`, `preprocess` and `forward((B, 3, S, S)) -> (B, R, width)`; `GridFeatures` is
one. Features of a detector come through shards as `.npy` members instead.

Legend: B images, R regions, F width of a region's features, C H W channels and pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models.preprocess import Preprocess
from cusa.models.teachers import hub


def patches(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Cut pictures into squares: (B, R, 3 side side), row by row."""
    return F.unfold(pixels_BCHW, side, stride=side).transpose(1, 2)


class GridFeatures(nn.Module):
    """A frozen Hugging Face vision model whose last feature map, pooled to a square grid, gives the regions.

    Args:
        model: gives `last_hidden_state`, (B, tokens, F) with the patches last, or (B, F, h, w).
        preprocess: what it reads.
        side: regions a side.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, *, side: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.side = side
        config: Any = model.config
        self.width = int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])

    @staticmethod
    def load(name: str, *, side: int) -> "GridFeatures":
        """Load a model by hub name or folder; of a dual encoder, its image tower.

        Raises:
            DataError: if it cannot be loaded or is no vision model.
        """
        from transformers import AutoModel
        from transformers.utils.hub import cached_file

        where = hub.where(name, what=f"student.sgraf.regions_from is {name!r}")
        try:
            model = AutoModel.from_pretrained(name, trust_remote_code=False, **where)
            config_path = cached_file(
                name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False, **where
            )
        except Exception as error:  # transformers raises almost anything for a bad model
            raise DataError(
                f"{name!r} cannot be loaded as a Hugging Face vision model: {str(error).strip().splitlines()[0]} "
                "Check student.sgraf.regions_from: a hub name, a folder, 'patches' or 'shard'.",
                name=name,
            ) from error
        model = getattr(model, "vision_model", model)
        size = getattr(model.config, "image_size", None)
        if size is None:
            raise DataError(f"{name!r} is a {type(model).__name__}, no vision model with an image_size.", name=name)
        size = size if isinstance(size, int) else size[0]
        fields = store.read_json(Path(config_path)) if config_path else {}
        return GridFeatures(model, Preprocess.from_hugging_face(fields, image_size=size), side=side)

    def save(self, folder: Path) -> None:
        """Write the model and its preprocessing, as `load` reads them."""
        model: Any = self.model
        model.save_pretrained(folder)
        store.write_json(folder / "preprocessor_config.json", self.preprocess.to_hugging_face())

    def train(self, mode: bool = True) -> "GridFeatures":
        """Stay in evaluation mode: it does not learn."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return (B, side side, F)."""
        hidden = self.model(pixel_values=pixels_BCHW).last_hidden_state
        if hidden.ndim == 3:
            config: Any = self.model.config
            patch = config.patch_size
            patch = patch if isinstance(patch, int) else patch[0]
            rows, columns = pixels_BCHW.shape[2] // patch, pixels_BCHW.shape[3] // patch
            hidden = hidden[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
        return F.adaptive_avg_pool2d(hidden, self.side).flatten(2).transpose(1, 2)
