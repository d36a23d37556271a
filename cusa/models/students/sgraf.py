"""Students that score pairs: SGR, SAF and their ensemble, with CUSA's fully connected layers on the global vectors.

Legend: B images or captions, R regions, F width of a region's features, L words, D width of the embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import ConfigError, DataError
from cusa.models.captions import TRANSFORMS, prepare
from cusa.models.config import StudentConfig
from cusa.models.preprocess import Preprocess
from cusa.models.students import folder as folders
from cusa.models.students import vocabulary
from cusa.models.students.base import Space, Student
from cusa.models.students.regions import GridFeatures, patches
from cusa.models.students.sgraf_network import SgrafNetwork, SgrafSizes, hinge

_EXTRACTOR = "extractor"


class Sgraf(Student):
    """SGR, SAF, or both averaged.

    The paper gives USA the pooled image and text vectors through fully connected layers, one for each modality; CSA
    acts on the pairwise similarity.

    Args:
        networks: `sgr`, `saf` or both.
        tokenizer: gives word ids, the padding being 0.
        card: what `student.json` holds.
        extractor: the frozen model whose grid features are the regions, or None.

    Source: Diao et al., AAAI 2021, arXiv 2101.01368; Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789.
    """

    has_own_loss = True
    scores_pairs = True
    embeds_parts = True

    def __init__(
        self,
        networks: Mapping[str, SgrafNetwork],
        tokenizer: Any,
        card: Mapping[str, Any],
        *,
        extractor: GridFeatures | None = None,
        head_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.card = dict(card)
        self.name = str(card["name"])
        self.has_uni = bool(card["uni"])
        self.networks = nn.ModuleDict(networks)
        network_width = int(card["network"]["width"])
        self.width = network_width * len(networks)
        self.uni = nn.ModuleDict(
            {
                name: nn.ModuleDict(
                    {modality: nn.Linear(network_width, network_width) for modality in ("image", "text")}
                )
                for name in networks
                if self.has_uni
            }
        )
        for layer in self.uni.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=head_std)
        self.extractor = extractor
        self.preprocess = Preprocess.from_json(card["preprocess"]) if card["preprocess"] else None
        self.words = self.unknown = 0
        self._tokenizer = tokenizer
        self._unknown_id = tokenizer.unk_token_id

    @staticmethod
    def create(config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> "Sgraf":
        """Make a student for training; see `cusa.models.student.create`."""
        settings = config.sgraf
        if config.name != "scratch":
            raise ConfigError(
                f"student.name is {config.name!r}; SGRAF starts from nothing here. Set student.name=scratch (regions "
                "from a pretrained model are student.sgraf.regions_from).",
                key="student.name",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            extractor = None
            preprocess: Preprocess | None = None
            width = settings.region_width
            side = round(settings.regions**0.5)
            if settings.regions_from != "shard":
                if side * side != settings.regions:
                    raise ConfigError(
                        f"student.sgraf.regions is {settings.regions}; from pictures it must be a square number: 16, "
                        "25, 36, 49...",
                        key="student.sgraf.regions",
                    )
                if settings.regions_from == "patches":
                    width, preprocess = 3 * settings.patch**2, Preprocess(side * settings.patch, fit="squash")
                else:
                    extractor = GridFeatures.load(settings.regions_from, side=side)
                    width, preprocess = extractor.width, extractor.preprocess
            if settings.vocabulary:
                tokenizer = vocabulary.from_reference(Path(settings.vocabulary), context=config.context)
            else:
                cleaned = [TRANSFORMS[config.captions](caption) for caption in captions]
                tokenizer = vocabulary.build(
                    cleaned, size=config.vocabulary, context=config.context, min_count=settings.min_count
                )
            card: dict[str, Any] = {
                "kind": "sgraf",
                "name": f"{settings.module} from {settings.regions_from}",
                "modules": [settings.module],
                "network": {
                    "region_width": width,
                    "vocabulary": len(tokenizer),
                    "regions": settings.regions,
                    "word_width": settings.word_width,
                    "width": settings.width,
                    "similarity_width": settings.similarity_width,
                    "steps": settings.steps,
                    "dropout": settings.dropout,
                },
                "regions_from": settings.regions_from,
                "patch": settings.patch,
                "preprocess": preprocess.to_json() if preprocess else None,
                "text": {"transform": config.captions, "max_words": config.max_words, "context": config.context},
                "hinge": {"margin": settings.margin, "hardest": settings.negatives == "hardest"},
                "max_unknown": settings.max_unknown,
                "uni": uni,
            }
            return Sgraf(
                {settings.module: SgrafNetwork(settings.module, SgrafSizes(**card["network"]))},
                tokenizer,
                card,
                extractor=extractor,
                head_std=config.head_std,
            ).train()

    @staticmethod
    def load(folder: Path) -> "Sgraf":
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing or broken.
        """
        card, state, tokenizer = folders.read(folder)
        extractor = None
        if (folder / _EXTRACTOR).is_dir():
            side = round(card["network"]["regions"] ** 0.5)
            extractor = GridFeatures.load(str(folder / _EXTRACTOR), side=side)
        networks = {name: SgrafNetwork(name, SgrafSizes(**card["network"])) for name in card["modules"]}
        student = Sgraf(networks, tokenizer, card, extractor=extractor)
        folders.load_state(student, state, folder, optional="extractor.")
        return student

    @staticmethod
    def ensemble(first: "Sgraf", second: "Sgraf") -> "Sgraf":
        """Average the similarities of a trained SGR and a trained SAF, the paper's SGRAF.

        Raises:
            ConfigError: if they are of the same module, or read images or words differently.
        """
        for key in ("network", "regions_from", "preprocess", "text", "uni"):
            if first.card[key] != second.card[key]:
                raise ConfigError(
                    f"The two students differ in {key}: {first.card[key]} and {second.card[key]}. Train both on the "
                    "same data with the same sizes."
                )
        if first._tokenizer.get_vocab() != second._tokenizer.get_vocab():
            raise ConfigError("The two students have different vocabularies. Train both on the same data.")
        both = {**dict(first.networks.items()), **dict(second.networks.items())}
        if len(both) != 2:
            raise ConfigError(f"An ensemble joins one SGR and one SAF; these are two of {', '.join(both)}.")
        card = {**first.card, "modules": list(both), "name": " + ".join(sorted((first.name, second.name)))}
        ensemble = Sgraf(both, first._tokenizer, card, extractor=first.extractor)  # type: ignore[arg-type]
        for student in (first, second):
            ensemble.uni.load_state_dict(student.uni.state_dict(), strict=False)
        return ensemble.train(first.training)

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: whole or not at all."""
        extractor = self.extractor
        also = None if extractor is None else lambda place: extractor.save(place / _EXTRACTOR)
        folders.write(folder, self.card, self, self._tokenizer, exclude="extractor.", also=also)

    def image_array(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Return a picture as (3, S, S) uint8, or the regions of a shard as (R, F) float32, absent ones 0."""
        if self.preprocess is not None:
            return self.preprocess.array(image)
        max_regions, width = self.card["network"]["regions"], self.card["network"]["region_width"]
        if not isinstance(image, np.ndarray):
            raise DataError(
                "The shards hold pictures, and student.sgraf.regions_from is 'shard'. Set it to 'patches' or to a "
                "vision model, or shard region features.",
                key="student.sgraf.regions_from",
            )
        if image.ndim != 2 or image.shape[1] != width or not 0 < len(image) <= max_regions:
            raise DataError(
                f"The region features are {image.shape}; expected 1 to {max_regions} rows of {width} numbers. Set "
                "student.sgraf.regions and student.sgraf.region_width to what the shards hold.",
                key="student.sgraf.region_width",
            )
        regions = np.zeros((max_regions, width), np.float32)
        regions[: len(image)] = image
        return regions

    def pixels(self, arrays: Tensor) -> Tensor:
        """Return pictures as normalised (B, 3, S, S), regions as they are."""
        if self.preprocess is None:
            return arrays
        return torch.from_numpy(self.preprocess.normalise(arrays.cpu().numpy())).to(arrays.device)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions: `input_ids` and `attention_mask`, both (B, L)."""
        cleaned, shortened = prepare(texts, self.card["text"])
        tokens = vocabulary.encode(self._tokenizer, cleaned, context=self.card["text"]["context"])
        self.count_captions(len(texts), truncated=tokens.cut, shortened=shortened)
        self.words += int(tokens.mask.sum()) - 2 * len(texts)
        self.unknown += int((tokens.ids == self._unknown_id).sum())
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask}

    def remarks(self) -> tuple[str, ...]:
        """Return sentences about captions cut and words unknown."""
        share = self.unknown / max(self.words, 1)
        if share <= self.card["max_unknown"]:
            return super().remarks()
        return (
            *super().remarks(),
            f"{share:.1%} of the words read ({self.unknown:,} of {self.words:,}) are not in the vocabulary of "
            f"{len(self._tokenizer):,}, more than student.sgraf.max_unknown={self.card['max_unknown']}. Lower "
            "student.sgraf.min_count, raise student.vocabulary, or use a vocabulary of this data.",
        )

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the names of what embeds regions or words, the pooling apart."""
        part = "img_enc" if modality == "image" else "txt_enc"
        return tuple(f"networks.{name}.{part}" for name in self.networks)

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Embed regions, `regions.NAME` (B, R, D) and `global.NAME` (B, D) of each network, and `there` (B, R)."""
        features = self._features(pixels)
        there = features.abs().sum(2) > 0
        mask = None if bool(there.all()) else there
        parts = {"there": there}
        for name, network in self._members():
            parts[f"regions.{name}"] = network.encode_regions(features)
            parts[f"global.{name}"] = network.pool_regions(parts[f"regions.{name}"], mask)
        return parts

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed words, `words.NAME` (B, L, D) and `global.NAME` (B, D) of each network, and `lengths` (B,)."""
        ids, lengths = tokens["input_ids"], tokens["attention_mask"].sum(1)
        parts = {"lengths": lengths}
        for name, network in self._members():
            parts[f"words.{name}"] = network.encode_words(ids, lengths)
            parts[f"global.{name}"] = network.pool_words(parts[f"words.{name}"], lengths)
        return parts

    def pair_scores(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Score all pairs in (0, 1); an ensemble is the mean of its members."""
        mask = None if bool(images["there"].all()) else images["there"]
        scores = [
            network.similarity(
                images[f"regions.{name}"],
                texts[f"words.{name}"],
                texts["lengths"],
                image_global_ID=images[f"global.{name}"],
                text_global_CD=texts[f"global.{name}"],
                mask_IR=mask,
            )
            for name, network in self._members()
        ]
        return scores[0] if len(scores) == 1 else torch.stack(scores).mean(0)

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `similarity` (B, B) and, with uni-modal heads, `image_uni` and `text_uni`."""
        images, texts = self.image_parts(pixels_BCHW), self.text_parts(tokens)
        out = {"similarity": self.pair_scores(images, texts).float()}
        if self.has_uni:
            out |= {"image_uni": self.embed(images, "uni", "image"), "text_uni": self.embed(texts, "uni", "text")}
        return out

    def base_loss(
        self, out: Mapping[str, Any], *, image_ids: Tensor, match_labels: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the hinge loss; captions of the same image are no negatives, which the reference ignores."""
        return {"hinge": hinge(out["similarity"], image_ids=image_ids, **self.card["hinge"])}

    def _members(self) -> list[tuple[str, SgrafNetwork]]:
        return list(self.networks.items())  # type: ignore[arg-type]

    def _features(self, pixels: Tensor) -> Tensor:
        if self.preprocess is None:
            return pixels
        if self.extractor is None:
            return patches(pixels, self.card["patch"])
        features: Tensor = self.extractor(pixels)
        return features

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Return the global vectors of images or of captions as unit rows; an ensemble concatenates its members'."""
        rows: list[Tensor] = []
        for name, _ in self._members():
            pooled: Tensor = parts[f"global.{name}"]
            if space == "uni" and self.has_uni:
                heads: Any = self.uni[name]
                pooled = heads[modality](pooled)
            rows.append(F.normalize(pooled.float()))
        return rows[0] if len(rows) == 1 else F.normalize(torch.cat(rows, 1))
