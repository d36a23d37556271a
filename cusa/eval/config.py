"""Settings of evaluation; no heavy import, so that `cusa --help` answers at once."""

from typing import Literal

from pydantic import Field

from cusa.manifests.settings import Settings

RETRIEVAL_PROTOCOL = 3
"""Of tasks on a split; raised when a number changes its meaning: results of another protocol are computed again."""

STS_PROTOCOL = 1
"""Of the STS sets, likewise."""

EMBEDDINGS = "embeddings"
"""Folder of kept embeddings, in the run or in the folder of the results."""

NOT_IN_THE_NUMBERS = {"device", "cache_mib", "train_classes", "templates", "class_names"}
"""Settings that change no number of a given split, or that are compared by the texts that come of them."""


class EvalConfig(Settings):
    """How a student is scored."""

    batch_size: int = Field(default=256, ge=1, description="images or captions encoded at once")
    ks: tuple[int, ...] = Field(
        default=(1, 5, 10), min_length=1, description="the K of R@K; RSUM is their sum, both ways"
    )
    block: int = Field(default=4096, ge=1, description="queries ranked at once, at most; 64 MiB of scores bound it too")
    top: int = Field(default=10, ge=1, le=1000, description="nearest items kept for each query")
    rerank: int = Field(
        default=16,
        ge=0,
        description="candidates of a query that are scored again by a fusion encoder, or with pairs=candidates by a "
        "student that scores pairs; 0 = none",
    )
    pairs: Literal["all", "candidates"] = Field(
        default="all",
        description="what a student that scores pairs scores: every image with every caption, or the `rerank` first "
        "ones by its pooled embeddings",
    )
    bootstrap: int = Field(default=1000, ge=0, description="resamples of the queries for intervals; 0 = none")
    seed: int = Field(default=0, ge=0, description="of the resamples")
    cache_mib: int = Field(
        default=2048, ge=0, description="embeddings kept for the next evaluation, in the run; 0 = none"
    )
    max_patches: int = Field(
        default=0,
        ge=0,
        description="of a student that reads pictures in their own proportions (NaFlex): patches of a picture at most; "
        "0 = as it was trained; validation during training always reads as training does",
    )
    train_classes: str = Field(
        default="1-100", description="of CUB in its official layout: the classes that train; all others are tested"
    )
    templates: str = Field(
        default="",
        description="of zero-shot: file of prompt templates, one a line with {} for the class; clip-7 = the seven of "
        "CLIP's release; empty = 'a photo of a {}.'",
    )
    class_names: str = Field(
        default="",
        description="of zero-shot: file of the classes' names, label<TAB>name a line or JSON; empty = by rule from the "
        "labels",
    )
    device: str = Field(default="", description="torch device; empty = CUDA if there is one")
