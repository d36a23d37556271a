"""The look of every HTML page that this package writes: one self-contained file, light and dark, phone and paper.

A page is a Jinja2 template beside the code that gathers its values, such as `pipeline/audit/gallery.html.j2`; here are
what they share: `base.html.j2` (the page around them), `parts.html.j2` (tables, cards, pictures), `style.css`. The room
belongs to the file formats because both `pipeline` and `eval` write pages and neither imports the other.
"""

from cusa.manifests.pages.environment import environment, render
from cusa.manifests.pages.values import Figure, Table, Term, thumbnail

__all__ = ["Figure", "Table", "Term", "environment", "render", "thumbnail"]
