"""A hook of mkdocs: pages of the site that do not lie under docs/, taken from where they are.

- CONTRIBUTING.md and CHANGELOG.md, their links into docs/ made relative to the site;
- result tables and files that a page links to by `../benchmarks/results/`;
- notebooks of examples/notebooks, as pages with their code and what it printed.
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
TOP = ("CONTRIBUTING.md", "CHANGELOG.md")
RESULTS = "../benchmarks/results/"
_LINK = re.compile(re.escape(f"]({RESULTS}") + r"([^)#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files."""
    for name in TOP:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=re.sub(r"\]\(docs/", "](", text)))
    linked = {name for page in (ROOT / "docs").rglob("*.md") for name in _LINK.findall(page.read_text("utf-8"))}
    for name in sorted(linked):
        content = (ROOT / "benchmarks/results" / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"results/{name}", content=content))
    for path in sorted((ROOT / "examples/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links into benchmarks/results point to the copies."""
    return markdown.replace(f"]({RESULTS}", "](results/")


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its words, its code, and what the code printed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join([*parts, f"*The notebook: `examples/notebooks/{path.name}`.*", ""])
