"""A student as a folder: our own, one for transformers, for sentence-transformers, or of ONNX; each with a model card.

Each export is loaded again as its user would load it and compared with the student before it counts as done.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import without_folders
from cusa.models import onnx_pair
from cusa.models import student as students
from cusa.models.config import EXPORT_FORMATS
from cusa.models.features import FEATURES
from cusa.models.pixels import model_inputs
from cusa.models.quiet import quiet
from cusa.models.students.base import Space, Student
from cusa.models.students.dual_encoder import DualEncoder
from cusa.models.towers import export as towers_export
from cusa.models.towers.two_tower import TwoTower

_LIBRARY = {
    "folder": "cusa",
    "hf": "transformers",
    "sentence-transformers": "sentence-transformers",
    "onnx": "onnxruntime",
}
TOLERANCE = 1e-5
"""Largest difference of a unit row's number between the student and its export."""

_TEXTS = ["a dog runs on grass", "two people at a table", "caf\u00e9 &amp; bar", "a red square left of a blue circle"]


def run(
    student: Student, to: str, out: Path, *, space: Space = "cross", facts: Mapping[str, Any] | None = None
) -> float:
    """Write an export.

    Args:
        student: in evaluation mode, on the CPU.
        to: one of `EXPORT_FORMATS`.
        out: the folder; replaced whole.
        space: of a sentence-transformers folder.
        facts: `recipe`, `data` and `metrics` of the run, for the model card; whatever is missing is left out.

    Returns:
        The largest difference between the student's rows and those of the folder, loaded again.

    Raises:
        ConfigError: for another format, or a student that cannot be written so.
        DataError: if the loaded export gives other rows.
    """
    if to not in EXPORT_FORMATS:
        raise ConfigError(f"There is no export to {to!r}. {nearest(to, EXPORT_FORMATS)}.", to=to)
    if to in ("hf", "onnx") and isinstance(student, TwoTower) and student.scores_pairs:
        raise ConfigError(
            f"--to {to} takes one vector an item, and this {type(student).__name__} scores patches with tokens. Use "
            "--to folder, or --to sentence-transformers for its pooled embedding.",
            to=to,
        )
    if to in ("hf", "onnx") and not isinstance(student, (DualEncoder, TwoTower)):
        raise ConfigError(
            f"--to {to} takes dual encoders of transformers (student.kind=dual-encoder or two-tower), and this is a "
            f"{type(student).__name__}: its own folder (RUN/model) loads with cusa.models.student.load. For encoding "
            "texts and pictures use --to sentence-transformers.",
            to=to,
        )
    if to == "hf" and isinstance(student, TwoTower):
        towers_export.refuse_own_code(student)
    if space == "uni" and not student.has_uni:
        raise ConfigError("This student has no uni-modal heads. Leave --space at cross.", space=space)
    with store.whole_folder(out) as place:
        if to == "sentence-transformers":
            from sentence_transformers import SentenceTransformer

            from cusa.models.sentence_module import StudentModule

            SentenceTransformer(modules=[StudentModule(student, space)], device="cpu").save(
                str(place), create_model_card=False
            )
            difference = _compare_sentence_transformers(student, place, space)
        elif to == "onnx":
            assert isinstance(student, (DualEncoder, TwoTower))
            onnx_pair.write(student, place)
            store.write_json(place / "preprocessor_config.json", student.preprocess.to_hugging_face())
            difference = onnx_pair.largest_difference(student, place, pictures=_pictures(), texts=_TEXTS)
        else:
            student.save(place / "all")
            for file in (place / "all").iterdir():
                file.rename(place / file.name)
            (place / "all").rmdir()
            if isinstance(student, DualEncoder):
                store.write_json(place / "preprocessor_config.json", student.preprocess.to_hugging_face())
            if to == "hf" and isinstance(student, TwoTower):
                difference = towers_export.largest_difference(student, place, pictures=_pictures(), texts=_TEXTS)
            elif to == "hf" and isinstance(student, DualEncoder):
                difference = _compare_hf(student, place)
            else:
                difference = _compare_loaded(student, place)
        if not difference <= TOLERANCE:
            raise DataError(
                f"The export to {to} gives rows that differ by {difference:.2g} from the student's; {TOLERANCE} is "
                "allowed. Nothing was written."
            )
        store.write_text(place / "README.md", card(student, to, space=space, facts=facts or {}))
    return difference


def card(student: Student, to: str, *, space: Space, facts: Mapping[str, Any]) -> str:
    """Write the model card: how to load it, what it learned from and how, what it scored, what to cite."""
    recipe = facts.get("recipe") or {}
    name = without_folders(student.name)
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _head(student, to, facts).items()),
        "---",
        "",
        f"# {recipe.get('name', name)}",
        "",
        f"A student of kind `{_kind(student)}`, started from `{name}`, trained with cusa: cross-modal and "
        "uni-modal soft-label alignment.",
        "",
        *(towers_export.towers_table(student) if isinstance(student, TwoTower) else []),
        "## Use",
        "",
        "```python",
        *_use(student, to, space),
        "```",
        "",
    ]
    loss = recipe.get("loss")
    if loss:
        lines += [
            "## Training",
            "",
            f"Loss: {loss['infonce_weight']} x own loss or InfoNCE ({loss['reduction']}) + {loss['alpha']} x CSA + "
            f"{loss['beta']} x USA. Data: {facts.get('data') or 'not recorded'}.",
            "",
            *_changes(facts),
            "<details><summary>The whole recipe</summary>",
            "",
            "```json",
            json.dumps(_anywhere(recipe), indent=1, ensure_ascii=False),
            "```",
            "",
            "</details>",
            "",
        ]
    lines += _blend(student)
    tasks = (facts.get("metrics") or {}).get("tasks", {})
    if tasks:
        lines += ["## Evaluation", "", f"On `{facts['metrics'].get('dataset')}`, split `{facts['metrics']['split']}`."]
        lines += ["", "| task | metric | value |", "| --- | --- | --- |"]
        lines += [
            f"| {task} | {name} | {value} |"
            for task, summary in tasks.items()
            for name, value in summary.get("metrics", {}).items()
        ]
        lines.append("")
    return "\n".join(
        [
            *lines,
            "## Citation",
            "",
            "Huang, Nie, Wang, Shang: Cross-Modal and Uni-Modal Soft-Label Alignment for Image-Text Retrieval. AAAI "
            "2024, doi 10.1609/aaai.v38i16.29789.",
            "",
        ]
    )


def _head(student: Student, to: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the card's head, which the hub reads; their values are written as JSON, which is YAML."""
    towers = student.card["towers"].values() if isinstance(student, TwoTower) else ()
    names = [tower["name"] for tower in towers] or [student.name]
    bases = [name.partition("@")[0] for name in names if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", name)]
    recipe, metrics = (facts.get(key) or {} for key in ("recipe", "metrics"))
    dataset = recipe.get("data", {}).get("dataset") or metrics.get("dataset")
    return {
        "library_name": _LIBRARY[to],
        "pipeline_tag": "feature-extraction",
        "tags": ["image-text-retrieval", "cusa"],
        **_licence([tower["licence"] for tower in towers], names),
        **({"base_model": bases} if bases else {}),
        **({"datasets": [Path(dataset).name.removesuffix(".toml")]} if dataset else {}),
    }


def _licence(stated: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return what is known of the weights' licence: that of what they were made of; nobody chose one for new weights.

    Args:
        stated: the towers' licences, empty where one states none.
        names: what the weights started from.
    """
    if stated and len(set(stated)) == 1 and re.fullmatch(r"[a-z0-9.-]+", stated[0]):
        return {"license": stated[0]}
    pretrained = [without_folders(name) for name in names if "/" in name]
    if not pretrained:
        return {"license": "unknown"}
    return {"license": "other", "license_name": f"that of {' and '.join(pretrained)}"}


def _blend(student: Student) -> list[str]:
    """Return what two models a blend lies between, by name and by the digest of their weights."""
    blend = (getattr(student, "card", None) or {}).get("blend")
    if blend is None:
        return []
    return [
        "## Blend",
        "",
        f"The weights are {1 - blend['alpha']:g} times those of `{blend['base']}` (SHA-256 `{blend['base_digest']}`) "
        f"plus {blend['alpha']:g} times those of `{blend['run']}` (SHA-256 `{blend['run_digest']}`), as in WiSE-FT "
        f"(Wortsman et al., CVPR 2022). How the point was chosen: {blend['chosen_by']}. The training above is that "
        "of the second.",
        "",
    ]


def _changes(facts: Mapping[str, Any]) -> list[str]:
    """Return what was changed of the recipe for this run, which its own words do not speak of."""
    changes = (facts.get("run") or {}).get("changes", [])
    if not changes:
        return []
    words = ", ".join(f"`{one['key']} = {one['set']}` ({one['recipe']})" for one in changes)
    return [f"Changed of the recipe of that name, in brackets its own: {without_folders(words)}.", ""]


def _anywhere(value: Any) -> Any:
    """Return a recipe without the folders of this machine."""
    if isinstance(value, dict):
        return {key: _anywhere(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_anywhere(one) for one in value]
    return without_folders(value) if isinstance(value, str) else value


def _kind(student: Student) -> str:
    card: Mapping[str, Any] = getattr(student, "card", {})
    return str(card.get("kind", type(student).__name__))


def _classes(student: Student) -> list[str]:
    """Return the classes outside cusa that loading and using a student runs."""
    named = [*students.classes(getattr(student, "card", {})), *(table.encoder for table in student.features.values())]
    return [name for name in dict.fromkeys(named) if ":" in name]


def _use(student: Student, to: str, space: Space) -> list[str]:
    classes = _classes(student)
    if to == "sentence-transformers":
        trust = f", model_kwargs={{'trust': {classes}}}" if classes else ""
        return [
            "from sentence_transformers import SentenceTransformer",
            "",
            "# The code that it asks to trust is cusa's own, as installed; the folder holds none.",
            f"model = SentenceTransformer(FOLDER, trust_remote_code=True{trust})",
            f"rows = model.encode(['a dog on grass'])  # the {space}-modal space; PIL images likewise",
        ]
    if to == "folder":
        trust = f", trust={classes}" if classes else ""
        return ["from cusa.models import student", "", f"model = student.load(FOLDER{trust})"]
    if to == "onnx":
        assert isinstance(student, (DualEncoder, TwoTower))
        return onnx_pair.use(student)
    if isinstance(student, TwoTower):
        return towers_export.use(student)
    heads = isinstance(student, DualEncoder) and len(student.heads) > 0
    return [
        "from transformers import AutoModel, AutoTokenizer",
        "",
        "model, tokenizer = AutoModel.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)",
        *(
            ["# The heads of CUSA lie in heads.safetensors; cusa.models.student.load(FOLDER) applies them."]
            if heads
            else []
        ),
    ]


def _pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (80, 61), (75, 79), (64, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@torch.no_grad()
def _compare_loaded(student: Student, folder: Path) -> float:
    """Load the folder as a student and compare texts, and of two towers that score pairs the scores."""
    again = students.load(folder, trust=_classes(student))
    if isinstance(student, TwoTower) and student.scores_pairs:
        pixels = torch.stack([student.image_transform(picture) for picture in _pictures()])
        ours, theirs = (
            one.pair_scores(one.image_parts(pixels), one.text_parts(_tokens(one))) for one in (student, again)
        )
        if not torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE):
            return float((ours - theirs).abs().max())
    spaces: tuple[Space, ...] = ("cross", "uni") if student.has_uni else ("cross",)
    read = _rows_of_a_table if "text" in student.features else _tokens
    return max(
        float((student.encode_text(read(student), space) - again.encode_text(read(again), space)).abs().max())
        for space in spaces
    )


def _tokens(student: Student) -> dict[str, torch.Tensor]:
    return student.tokenize(_TEXTS)


def _rows_of_a_table(student: Student) -> dict[str, torch.Tensor]:
    width = student.features["text"].width
    return {FEATURES: torch.randn(len(_TEXTS), width, generator=torch.Generator().manual_seed(0))}


@torch.no_grad()
def _compare_hf(student: DualEncoder, folder: Path) -> float:
    """Load the folder with transformers alone, put the heads on by hand, and compare."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    heads = load_file(folder / "heads.safetensors") if (folder / "heads.safetensors").is_file() else {}
    pixels = torch.stack([student.image_transform(picture) for picture in _pictures()])
    tokens = student.tokenize(_TEXTS)
    text = student.card["text"]
    again = tokenizer(
        student.cleaned(_TEXTS),
        padding=text["padding"],
        truncation=True,
        max_length=text["context"],
        return_tensors="pt",
    )
    if not torch.equal(again["input_ids"], tokens["input_ids"]):
        return float("inf")
    images = model.get_image_features(**model_inputs(pixels, student.preprocess))
    features = {"image": images, "text": model.get_text_features(**tokens)}
    worst = 0.0
    spaces: tuple[Space, ...] = ("cross", "uni") if student.has_uni else ("cross",)
    for space in spaces:
        for modality, ours in (
            ("image", student.encode_image(pixels, space)),
            ("text", student.encode_text(tokens, space)),
        ):
            rows = getattr(features[modality], "pooler_output", features[modality])
            if f"{space}.{modality}.linear.weight" in heads:
                norm, linear = (f"{space}.{modality}.{part}" for part in ("layernorm", "linear"))
                rows = F.layer_norm(rows, rows.shape[-1:], heads[f"{norm}.weight"], heads[f"{norm}.bias"])
                rows = F.linear(rows, heads[f"{linear}.weight"], heads[f"{linear}.bias"])
            worst = max(worst, float((F.normalize(rows, dim=-1) - ours).abs().max()))
    return worst


@torch.no_grad()
def _compare_sentence_transformers(student: Student, folder: Path, space: Space) -> float:
    """Load the folder as `SentenceTransformer` and compare texts and pictures."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), device="cpu", trust_remote_code=True, model_kwargs={"trust": _classes(student)}
    )
    pictures = _pictures()
    arrays = torch.from_numpy(np.stack([student.image_array(picture) for picture in pictures]))
    ours = {
        "image": student.encode_image(student.pixels(arrays), space),
        "text": student.encode_text(student.tokenize(_TEXTS), space),
    }
    theirs = {
        "image": model.encode(pictures, show_progress_bar=False),
        "text": model.encode(_TEXTS, show_progress_bar=False),
    }
    return max(float(np.abs(ours[modality].numpy() - theirs[modality]).max()) for modality in ours)
