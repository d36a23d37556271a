"""Write docs/cli.md, recipe.md and metrics.md from the code; `--check` only compares (the test suite does)."""

import sys
from pathlib import Path

from typer.main import get_command

from cusa import cli, recipe, recipe_file
from cusa.eval.tasks.metrics import METRICS
from cusa.eval.tasks.registry import TASKS
from cusa.train.optimizers.labels import LABELS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def cli_page() -> str:
    """Return the reference of every command, as its own `--help` says it."""
    group = get_command(cli.app)
    lines = [
        "# Commands",
        "",
        "Written by `make docs` from the commands' own help; `make test` checks that it is current.",
        "",
    ]
    context = group.make_context("cusa", ["list"], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = type(context)(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        lines += [f"## cusa {name}", "", "```", command.get_help(inner).rstrip(), "```", ""]
    return "\n".join(lines)


def recipe_page() -> str:
    """Return how a recipe looks, and every key with its default, what it may be and what it means."""
    example = recipe_file.new("scratch", ["teachers.image=facebook/dinov2-base", "teachers.text=all-mpnet-base-v2"])
    lines = [
        "# Recipes",
        "",
        "A recipe is everything that a run depends on besides the data, in one TOML file. `cusa recipe new mine.toml`",
        "writes one of only what matters, `cusa recipe show NAME` shows a packaged one (`--all`: every key). Packaged:",
        ", ".join(f"`{name}`" for name in recipe.pieces("")) + ", and the paper's, below.",
        "",
        "```toml",
        example.rstrip(),
        "```",
        "",
        "`base` names recipes that it starts from, by name or by path relative to the file; later ones and its own",
        "keys win. `--set key=value` on the command line wins over the file, in every command that takes a recipe; the",
        "value is read as TOML, and as a text where it is none.",
        "",
        "## Keys",
        "",
        "Written by `make docs` from the configuration classes, as all of this page.",
        "",
        "| key | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for key in recipe_file.every_key():
        default = "the file's name" if key.name == "name" else f"`{recipe_file.toml(key.default)}`"
        cells = (f"`{key.name}`", "not set" if key.default is None else default, key.allowed, key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", chr(92) + "|") for cell in cells) + " |")
    return "\n".join([*lines, "", *_optimizers(), *_composed()])


def _optimizers() -> list[str]:
    """Return a label for each optimiser."""
    lines = [
        "## Optimisers",
        "",
        "`train.optimizer`. All are torch's own; what decays (`train.decay`), warm-up, schedule, towers' rates and",
        "`train.clip_norm` are the same for each. `cusa doctor` says which the installed torch has.",
        "",
        "| name | what it is | reads, besides `lr` | weights decay | keeps | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label in LABELS:
        reads = ", ".join(f"`{key}`" for key in label.reads) or "nothing"
        cells = (f"`{label.name}`", label.title, reads, label.decays, label.keeps, label.about)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


FIGURES = {
    "RSUM": ("coco-5k/rsum", "cross-modal/rsum"),
    "ECCV mAP@R i2t": ("eccv-caption/image-to-text/map_at_r",),
    "ECCV mAP@R t2i": ("eccv-caption/text-to-image/map_at_r",),
    "CUB": ("cub/image-to-image/r@1",),
    "SOP": ("sop/image-to-image/r@1",),
    "In-Shop": ("in-shop/image-to-image/r@1",),
    "iNaturalist": ("inaturalist-2018/image-to-image/r@1",),
    "STS": ("sts/average",),
}


def _composed() -> list[str]:
    """Return the paper's recipes with the main ones of their expected figures."""
    lines = [
        "## The paper's recipes",
        "",
        "`MODEL/DATA/METHOD`: "
        + "; ".join(f"{kind} " + ", ".join(f"`{name}`" for name in recipe.pieces(kind)) for kind in recipe.KINDS)
        + ". Each piece says in its description where it departs from the paper; a model goes with the data that its",
        "piece has an `[on.DATA]` for (of Flickr8k there are no regions). Published figures (RSUM of COCO 5K or",
        "Flickr30K 1K; R@1 of the image sets; `[expected]` has all of them):",
        "",
        "| recipe | " + " | ".join(FIGURES) + " |",
        "| --- " * (1 + len(FIGURES)) + "|",
    ]
    for name in recipe.packaged():
        told = recipe.load(name).expected
        if told:
            cells = [next((f"{told[key]:.1f}" for key in keys if key in told), "") for keys in FIGURES.values()]
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def metrics_page() -> str:
    """Return every metric with its name, unit and definition, and every task with what it needs."""
    lines = [
        "# Metrics",
        "",
        "Written by `make docs` from the tables of metrics and tasks. In `metrics.json` a value stands under its task,",
        "its direction and its name: `cross-modal`, `image-to-text`, `r@1`. Report and terminal show each with the",
        "chance level and a 95 % interval over resampled queries.",
        "",
        "| metric | name in JSON | unit | better | definition |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in METRICS:
        lines.append(f"| {one.title} | `{one.name}` | {one.unit} | {one.better} | {one.definition} |")
    lines += ["", "## Tasks", "", "| task | what it gives | needs |", "| --- | --- | --- |"]
    lines += [f"| `{task.name}` | {task.about} | {', '.join(task.needs) or 'images'} |" for task in TASKS.values()]
    return "\n".join([*lines, ""])


PAGES = {"cli.md": cli_page, "recipe.md": recipe_page, "metrics.md": metrics_page}


def main() -> None:
    """Write the pages, or with `--check` say which are not current."""
    stale = []
    for name, page in PAGES.items():
        path = DOCS / name
        text = page()
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    if stale:
        sys.exit(f"Not current: {', '.join(stale)}. Run `make docs` and commit.")


if __name__ == "__main__":
    main()
