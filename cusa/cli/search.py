"""`cusa search`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cusa.cli.console import print_json, print_text
from cusa.cli.options import AsJson, Splits, Trust, Work, parse_path

if TYPE_CHECKING:
    from cusa.models.students.base import Student


def search(
    work: Work,
    words: Annotated[str, typer.Argument(help="What to look for; or give --image.")] = "",
    image: Annotated[Path | None, typer.Option(parser=parse_path, help="A picture to look for.")] = None,
    split: Splits = None,
    teacher: Annotated[
        str, typer.Option(help="The teacher's name, or the folder that loads it. Default: the only one.")
    ] = "",
    student: Annotated[str, typer.Option(help="Instead of the teachers, the student that `cusa index` embedded.")] = "",
    number: Annotated[int, typer.Option(min=1, help="Hits to show.")] = 10,
    html: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Write a strip of pictures to this file instead.")
    ] = None,
    trust: Trust = None,
    as_json: AsJson = False,
) -> None:
    """Find the captions and images nearest to words or to a picture, by the indexed teachers or student."""
    from cusa.manifests.samples import Split, splits
    from cusa.manifests.words import counted
    from cusa.pipeline.index import search as stage
    from cusa.pipeline.result_table import render

    def load(name: str) -> "Student":
        from cusa.models import student as students

        return students.load(name, trust=trust or ())

    opened = [Split(work, name) for name in split or splits(work)]
    hits = stage.run(
        opened, words=words, image=image, teacher=teacher, student=student, number=number, load_student=load
    )
    if html is not None:
        stage.write_html(html, opened, hits, words or str(image))
        print_text(f"search: {html}: {counted(len(hits), 'hit')}")
    elif as_json:
        print_json([vars(hit) for hit in hits])
    else:
        print_text(render(stage.answer(hits), "table").rstrip("\n"))
