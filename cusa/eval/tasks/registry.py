"""The evaluation tasks on a work folder, in the order in which they are shown."""

from collections.abc import Container, Iterator

from cusa.eval.tasks import coco, composition, cross_modal, cxc, flickr8k, metrics, uni_modal, zero_shot
from cusa.eval.tasks.task import Embedded, Task, TaskResult

_ALL = (
    Task(
        "cross-modal",
        "Cross-modal retrieval, the data set's own pairs",
        "R@K both ways and RSUM by the data set's own pairs, all captions",
        cross_modal.own_pairs,
        needs=("captions",),
    ),
    Task(
        "cross-modal-first-five",
        "Cross-modal retrieval, the first five captions an image",
        "the same with the first five captions an image",
        cross_modal.first_five,
        needs=("more than five captions",),
        judged_by="the first five captions",
    ),
    Task(
        "cross-modal-truth",
        "Cross-modal retrieval, every known match",
        "R@1, R-Precision and mAP@R both ways by every known match",
        cross_modal.known_matches,
        needs=("truth",),
        judged_by="every known match",
    ),
    Task(
        "audited",
        "Cross-modal retrieval, own pairs and what people judged to match",
        "R@K, RSUM, R-Precision and mAP@R both ways by own pairs and what people judged to match",
        cross_modal.audited,
        needs=("verdicts",),
        judged_by="own and judged matches",
    ),
    Task(
        "coco-5k",
        "COCO 5K",
        "R@K on COCO's 5,000 test images, five captions each",
        coco.task("coco-5k"),
        needs=("COCO's lists",),
        judged_by="COCO 5K",
    ),
    Task(
        "coco-1k",
        "COCO 1K",
        "the mean of five folds of it",
        coco.task("coco-1k"),
        needs=("COCO's lists",),
        judged_by="COCO 1K",
    ),
    Task(
        "cxc",
        "Crisscrossed Captions (CxC)",
        "R@K by the matches of Crisscrossed Captions",
        coco.task("cxc"),
        needs=("COCO's lists",),
        judged_by="CxC",
    ),
    Task(
        "eccv-caption",
        "ECCV Caption",
        "R@1, R-Precision and mAP@R by the matches of ECCV Caption",
        coco.task("eccv-caption"),
        needs=("COCO's lists",),
        judged_by="ECCV Caption",
    ),
    Task(
        "plausible-matches",
        "Plausible matches of COCO (PMRP)",
        "R-Precision by whatever shows the same objects (PMRP)",
        coco.task("plausible-matches"),
        needs=("COCO's lists", "plausible matches"),
        judged_by="plausible matches",
    ),
    Task(
        "cxc-uni-modal",
        "CxC within a modality",
        "R@K image to image and text to text by the ratings of Crisscrossed Captions",
        cxc.uni_modal_task,
        needs=("CxC's ratings",),
        judged_by="CxC's ratings",
    ),
    Task(
        "cxc-ratings",
        "CxC's ratings",
        "rank correlation with its ratings of texts, images, and images with texts",
        cxc.ratings_task,
        needs=("CxC's ratings",),
        judged_by="CxC's ratings",
    ),
    Task(
        flickr8k.NAME,
        "Flickr8k's human judgements",
        "rank correlation with experts and crowd, and who of both calls which pair right, on pairs they judged",
        flickr8k.judgements_task,
        needs=("Flickr8k's judgements",),
        judged_by="Flickr8k's judges",
    ),
    Task(
        "text-to-text",
        "Text to text (uni-modal)",
        "captions of the same image, in the uni-modal space",
        uni_modal.text_to_text,
        needs=("captions",),
        table="uni-modal",
    ),
    Task(
        "image-to-image",
        "Image to image (uni-modal)",
        "images of the same class (CUB, SOP, In-Shop, iNaturalist) or match, in the uni-modal space",
        uni_modal.image_to_image,
        table="uni-modal",
    ),
    Task(
        zero_shot.NAME,
        "Zero-shot classification",
        "top-1 and top-5 accuracy, and the mean over classes, of labelled images by the classes' names in prompts",
        zero_shot.zero_shot,
        needs=("to be named",),
        judged_by="class names",
        texts=zero_shot.texts,
    ),
    Task(
        composition.NAME,
        "Composition and robustness, captions edited by rule",
        "how often a caption scores above itself with one thing changed by rule, and R@K with these in the gallery",
        composition.composition,
        needs=("captions", "to be named"),
        judged_by="edited captions",
        texts=composition.texts,
    ),
    Task(
        composition.SUGARCREPE,
        "SugarCrepe",
        "how often a true caption of COCO scores above SugarCrepe's altered one",
        composition.sugarcrepe,
        needs=("SugarCrepe",),
        judged_by="SugarCrepe",
        texts=composition.sugarcrepe_texts,
    ),
    Task(
        composition.ROCOCO,
        "RoCOCO",
        "R@K image to text with RoCOCO's altered captions in the gallery",
        composition.rococo,
        needs=("RoCOCO",),
        judged_by="RoCOCO",
        texts=composition.rococo_texts,
    ),
)
TASKS = {task.name: task for task in _ALL}
"""Name -> task, in the order in which they are computed and shown."""

CXC = tuple(task.name for task in _ALL if "CxC's ratings" in task.needs)
"""Those that need the ratings of Crisscrossed Captions."""

COCO = tuple(task.name for task in _ALL if "COCO's lists" in task.needs)
"""Those that need the official lists of COCO's test split."""

JUDGED = tuple(task.name for task in _ALL if "Flickr8k's judgements" in task.needs)
"""Those that score judged pairs and rank nothing."""

HEADLINES = (
    "cross-modal/rsum",
    "cross-modal-truth/image-to-text/r_precision",
    "cross-modal-truth/text-to-image/r_precision",
    "image-to-image/r_precision",
    "text-to-text/r_precision",
)
"""The numbers, as TASK/METRIC, that stand for an evaluation where there is room for a few."""


def results(seen: Embedded, wanted: Container[str]) -> Iterator[TaskResult]:
    """Give each wanted task's result; one that cannot be done says why, and the others go on.

    Args:
        seen: the embedded split.
        wanted: names of `TASKS`.
    """
    for task in _ALL:
        if task.name in wanted:
            yield task.compute(seen)


def title(name: str) -> str:
    """Return a task's title; its name where there is no such task."""
    return TASKS[name].title if name in TASKS else name


def table(name: str) -> str:
    """Return a task's name in `per_query.parquet`."""
    return (TASKS[name].table if name in TASKS else "") or name


def label(path: str) -> str:
    """Return a number's full name for people, such as `R-Precision, image to text, every known match`.

    Args:
        path: TASK/METRIC.
    """
    name, _, metric = path.partition("/")
    one = metrics.named(metric)
    way = metrics.WAYS.get(one.direction or name, ("",))[0]
    judged_by = TASKS[name].judged_by if name in TASKS else name
    return ", ".join(words for words in (one.title, way, judged_by) if words)
