"""The settings of each pipeline stage; no heavy import, so that `cusa --help` answers at once."""

from typing import Literal

from pydantic import Field

from cusa.manifests.settings import Settings


class ScenesConfig(Settings):
    """The embedded data set `scenes`."""

    seed: int = Field(default=0, ge=0, description="draws everything; another seed is another data set")
    train: int = Field(default=4000, ge=1, description="training images, five captions each")
    val: int = Field(default=500, ge=1, description="validation images")
    test: int = Field(default=500, ge=1, description="test images")
    size: int = Field(default=96, ge=32, le=512, description="pixels a side")


class DownloadConfig(Settings):
    """Fetching a data set's files."""

    workers: int = Field(default=4, ge=1, le=32, description="files at once")
    retries: int = Field(default=5, ge=0, description="further tries for each URL")
    first_wait: float = Field(default=1.0, ge=0, description="seconds before the first further try; doubles each time")
    timeout: float = Field(default=30.0, gt=0, description="seconds without a byte after which a try is given up")
    min_speed: float = Field(
        default=1000.0, ge=0, description="bytes a second, over `timeout` seconds, below which a try is given up"
    )


class UrlsConfig(Settings):
    """Fetching the pictures of a table of URLs."""

    rows: int = Field(default=1000, ge=1, le=100_000, description="URLs a tar")
    connections: int = Field(default=64, ge=1, le=2048, description="requests at once, a process")
    per_host: int = Field(default=16, ge=1, le=2048, description="requests at once to one host, all processes together")
    retries: int = Field(default=2, ge=0, le=20, description="further tries of a URL")
    first_wait: float = Field(default=1.0, ge=0, description="seconds before the first further try; doubles each time")
    patience: float = Field(default=60.0, ge=0, description="seconds that a server's Retry-After may ask for at most")
    timeout: float = Field(default=20.0, gt=0, description="seconds without a byte after which a try is given up")
    longest: float = Field(default=300.0, gt=0, description="seconds a try may take in all")
    min_speed: float = Field(
        default=1000.0, ge=0, description="bytes a second, from `timeout` seconds on, below which a try is given up"
    )
    max_bytes: int = Field(default=32 << 20, ge=1, description="bytes of a picture as it comes, at most")
    max_pixels: int = Field(default=100_000_000, ge=1, description="pictures with more pixels are refused undecoded")
    min_side: int = Field(default=8, ge=1, description="pictures with a shorter side are refused (pixels)")
    resize: int = Field(
        default=0, ge=0, description="shorter side in pixels to scale larger pictures to; 0 = as they are"
    )
    quality: int = Field(default=92, ge=1, le=100, description="of the JPEGs that resizing makes")
    robots: bool = Field(default=True, description="whether the robots.txt of each host is obeyed")
    refused_tags: tuple[str, ...] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="words of an X-Robots-Tag header by which a picture is refused",
    )
    private: Literal["refuse", "listed", "allow"] = Field(
        default="refuse",
        description="addresses of private networks: refused, allowed to hosts that the table names but not to "
        "redirects, or allowed",
    )
    user_agent: str = Field(default="cusa", min_length=1, description="the name that servers are told")
    workers: int = Field(default=0, ge=0, description="processes; 0 = one a core")


class ReadConfig(Settings):
    """What a reader cannot see in the files."""

    dataset: str = Field(default="", description="first half of every key; default: what the source is called")
    split: str = Field(default="", description="split of rows that name none; default: by the file's name, else train")
    split_names: dict[str, str] = Field(
        default_factory=dict, description="words of the source for a split -> the split, beside the usual ones"
    )
    image_column: str = Field(default="image", description="of a table: the image's path")
    caption_column: str = Field(default="caption", description="of a table: a caption, or a list of them")
    split_column: str = Field(default="split", description="of a table, where it has it")
    label_column: str = Field(default="label", description="of a table, where it has it")
    id_column: str = Field(default="id", description="of a table, where it has it: the image's own name in its key")
    source_column: str = Field(
        default="caption_source",
        description="of a table, where it has it: what made the caption, as human or synthetic",
    )
    caption_sources: dict[str, str] = Field(
        default_factory=dict,
        description="what made the captions of which the data do not say it: a place among the image's (`#3`, `#3-4`), "
        "a column or an ending -> source; the empty name = all others",
    )
    url_column: str = Field(default="url", description="of a table of URLs")
    sha256_column: str = Field(default="sha256", description="of a table of URLs, where it has it: what must come")
    md5_column: str = Field(default="md5", description="of a table of URLs, where it has it: likewise")
    train_classes: str = Field(default="1-100", description="of CUB: classes that train; all others test")


class ShardConfig(Settings):
    """From images and captions to tars and tables."""

    max_images: int = Field(default=1000, ge=1, description="images a tar at most")
    max_bytes: int = Field(default=256 << 20, ge=1, description="bytes a tar at most (one image may exceed it alone)")
    max_pixels: int = Field(
        default=100_000_000, ge=1, description="images with more pixels are dropped before decoding"
    )
    min_side: int = Field(default=8, ge=1, description="images with a shorter side are dropped (pixels)")
    check: Literal["structure", "decode"] = Field(
        default="structure",
        description="proof that an image is whole: its structure to the end mark (decoded where that proves nothing), "
        "or decoding every one",
    )
    resize: int = Field(
        default=0, ge=0, description="shorter side in pixels to scale larger images to; 0 = as they are"
    )
    quality: int = Field(default=92, ge=1, le=100, description="of the JPEGs that resizing makes")
    workers: int = Field(default=0, ge=0, description="processes; 0 = one a core")


class LanguagesConfig(Settings):
    """Languages of captions."""

    only: tuple[str, ...] = Field(
        default=(), description="ISO 639-1 codes of the languages that there may be; empty = all that are known"
    )
    minimum: float = Field(
        default=0.5, ge=0, le=1, description="probability below which a caption's language counts as not known"
    )
    workers: int = Field(default=0, ge=0, description="processes; 0 = one a core")


DATA_FORMATS = ("parquet", "webdataset")
"""What a work folder can be exported to."""


class PublishConfig(Settings):
    """From a work folder to files for others, with a data card."""

    name: str = Field(default="", description="what the card calls the data; default: by the keys")
    licence: str = Field(default="", description="terms of the data, as the card states them")
    url: str = Field(default="", description="where the data will lie, for its metadata")
    workers: int = Field(default=0, ge=0, description="processes; 0 = one a core")


class ExtractConfig(Settings):
    """Embeddings of the frozen teachers."""

    name: str = Field(default="", description="what the tables are called; empty = by the teacher's own name")
    batch_size: int = Field(default=64, ge=1, description="items a pass of the teacher")
    dtype: Literal["float16", "float32"] = Field(default="float16", description="numbers in the table")
    transform: Literal["clean", "none"] = Field(
        default="clean", description="captions as the text teacher reads them; the paper's: clean"
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="numbers the model calculates with; auto: float16 on CUDA, float32 elsewhere"
    )
    weights: str = Field(default="", description="the file of a teacher's published weights, or its folder (Unicom)")
    workers: int = Field(
        default=0, ge=0, description="processes, for example one a GPU; 0 = this one (on Ray: one a GPU, else a core)"
    )


class IndexConfig(Settings):
    """Nearest neighbours within a split."""

    neighbours: int = Field(default=50, ge=1, le=10_000, description="neighbours a row, itself left out")
    method: Literal["auto", "exact", "ivf", "hnsw"] = Field(
        default="auto", description="exact search, inverted lists or a graph; auto: exact up to `exact_up_to` rows"
    )
    exact_up_to: int = Field(default=1_000_000, ge=0, description="rows up to which auto searches exactly")
    memory: float = Field(default=8.0, gt=0, description="GiB that an approximate index may take")
    latency: float = Field(default=10.0, gt=0, description="milliseconds that a query of an approximate index may take")
    recall: float = Field(default=0.95, gt=0, le=1, description="share of the exact neighbours to find, by tuning")


class ProbeConfig(Settings):
    """What a text teacher cannot tell apart."""

    edits: int = Field(default=500, ge=1, description="edited captions of each kind at most, one of a picture")
    batch_size: int = Field(default=64, ge=1, description="captions a pass of the teacher")


class AuditConfig(Settings):
    """Candidate false negatives."""

    neighbours: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="depth of the neighbourhoods that are joined, with a calibration at most",
    )
    shipped: bool = Field(default=True, description="take a calibration of the package where one fits the teachers")
    floor: float = Field(
        default=0.005,
        ge=0,
        lt=1,
        description="with a calibration: smaller probabilities are not written, and not searched for",
    )
    rows: int = Field(default=20_000_000, ge=1, description="with a calibration: rows of candidates, about, at most")
    whole: int = Field(
        default=10_000_000, ge=0, description="with a calibration: pairs up to which every pair of a split is scored"
    )
    per_image: int = Field(default=1000, ge=0, description="candidates an image keeps at most, the best; 0 = all")
    near_image: float = Field(default=0.97, gt=0, le=1, description="cosine from which images are near duplicates")
    near_caption: float = Field(default=0.97, gt=0, le=1, description="cosine from which captions are")
    leaks: bool = Field(default=True, description="look for images of this split in the others")
    sample: int = Field(default=0, ge=0, description="pairs drawn for judging, in strata, to estimate what is missing")
    seed: int = Field(default=0, ge=0, description="of the sample")
    minimum_score: float = Field(default=0.0, ge=0, le=1, description="candidates below are not written")
    gallery: int = Field(default=60, ge=0, le=2000, description="candidates shown as pictures")
    batch_size: int = Field(default=128, ge=2, description="batch for which expected false negatives are counted")


class PairsConfig(Settings):
    """Wrong own pairs."""

    seed: int = Field(default=0, ge=0, description="of the wrong pairs that are planted to measure the others by")
    better: int = Field(default=3, ge=0, le=20, description="captions of other images named for a doubtful pair")
    gallery: int = Field(default=60, ge=0, le=2000, description="pairs shown as pictures")
    pictures: bool = Field(default=True, description="look at the pixels for faults: each picture is decoded once")


class CalibrateConfig(Settings):
    """From ratings to a probability."""

    neighbours: int = Field(default=50, ge=1, le=10_000, description="depth of the neighbourhoods that pairs come from")
    pairs: int = Field(default=20_000, ge=100, description="judged pairs at most, where every pair is judged")
    background: int = Field(default=2000, ge=0, description="random pairs drawn; the less alike half is no match")
    seed: int = Field(default=0, ge=0, description="of what is drawn")
