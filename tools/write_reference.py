"""Write docs/cli.md and docs/recipe.md from the code; `--check` only compares (the test suite does)."""

import sys
from pathlib import Path

from pydantic import BaseModel
from typer.main import get_command

from cusa import cli, recipe

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
    """Return every key of a recipe with its default and meaning."""
    lines = [
        "# Recipe keys",
        "",
        "Written by `make docs` from the configuration classes. Every key can stand in a recipe's TOML file or be",
        "given as `--set key=value`. Packaged recipes: " + ", ".join(f"`{name}`" for name in recipe.pieces("")) + ",",
        "and the paper's, below.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
    ]
    for key, meaning in recipe.keys().items():
        default = _default(recipe.Recipe, key.split("."))
        lines.append(f"| `{key}` | {default} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", *_composed()])


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


def _default(model: type[BaseModel], path: list[str]) -> str:
    field = model.model_fields[path[0]]
    if len(path) > 1:
        inner = field.annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        return _default(inner, path[1:])
    if field.is_required():
        return "the file's name"
    value = field.get_default(call_default_factory=True)
    return f"`{value!r}`"


PAGES = {"cli.md": cli_page, "recipe.md": recipe_page}


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
