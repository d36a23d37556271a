"""The one template environment of the package: it escapes every value, and a name it does not know is an error."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from cusa.manifests.storage.paths import without_folders


@cache
def environment() -> Environment:
    """Return the environment; templates are files of this package, named by their path in it."""
    made = Environment(
        loader=PackageLoader("cusa", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["thousands"] = _thousands
    made.filters["without_folders"] = without_folders
    return made


def render(template: str, **values: object) -> str:
    """Return a whole page, or a part of one.

    Args:
        template: path of a `*.html.j2` file in this package, such as `pipeline/audit/gallery.html.j2`.
        values: what it shows; texts are escaped where they stand in the page. A byte of a file's name that is no UTF-8
            shows as a question mark.

    Raises:
        jinja2.UndefinedError: if the template shows something that is not among the values.
    """
    html = environment().get_template(template).render(**values)
    return html.encode("utf-8", "replace").decode("utf-8")


def _thousands(number: float) -> str:
    """Return a number without decimals, its digits in groups of three."""
    return f"{number:,.0f}"
