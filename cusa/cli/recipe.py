"""`cusa recipe`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import is_conversation, point_on, print_json, print_text
from cusa.cli.options import AsJson, Settings, parse_path
from cusa.errors import ConfigError


def recipe(
    what: Annotated[Literal["show", "new"], typer.Argument(help="Show a recipe, or write a new one.")],
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe to show; of new: the TOML file to write.")],
    student: Annotated[
        str,
        typer.Option(
            help="Of new: scratch, heads, or a dual encoder's hub name, folder or file. Default: asked for, or scratch."
        ),
    ] = "",
    image: Annotated[str, typer.Option(metavar="TEACHER", help="Of new: the image teacher.")] = "",
    text: Annotated[str, typer.Option(metavar="TEACHER", help="Of new: the text teacher.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Of show: with the keys at their defaults.")] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe as one TOML file, or write a new one with comments, of only what matters."""
    from cusa import recipe as recipes
    from cusa import recipe_file

    if what == "show":
        if as_json:
            print_json(recipes.load(name, settings or ()).model_dump(mode="json"))
        else:
            print_text(recipe_file.show(name, settings or (), everything=everything).rstrip("\n"))
        return
    from cusa.manifests.storage import store

    path = parse_path(name)
    if path.suffix != ".toml":
        raise ConfigError(f"recipe new {name}: a recipe's file ends in .toml. Write {name}.toml.", recipe=name)
    if path.exists():
        raise ConfigError(f"{path} is there already. Choose another name, or remove it.", path=path)
    if is_conversation():
        student = student or typer.prompt("Student (scratch, heads, a hub name, folder or file)", "scratch")
        image = image or typer.prompt("Image teacher (empty: the work folder's only one)", "", show_default=False)
        text = text or typer.prompt("Text teacher (empty: the work folder's only one)", "", show_default=False)
    teachers = [
        f"teachers.{modality}={recipe_file.toml(word)}" for modality, word in (("image", image), ("text", text)) if word
    ]
    written = recipe_file.new(student or "scratch", [*teachers, *(settings or ())])
    store.write_text(path, written)
    if as_json:
        print_json({"path": path})
        return
    print_text(f"recipe: {path}")
    point_on(path, f"cusa train {path} --data WORK --out work/runs/{Path(path).stem}")
