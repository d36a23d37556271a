"""Run the notebooks of examples/notebooks in this process and keep what they print; `--check` writes nothing.

A notebook here is plain Python without magics, so no kernel is needed: cells run in order, in a folder of their own.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "examples/notebooks"


def run(path: Path) -> dict[str, Any]:
    """Run a notebook in a new folder.

    Args:
        path: the notebook.

    Returns:
        The notebook with the output of this run; whatever a cell raises is raised.
    """
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    space: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), space)
                cell["execution_count"] = number
                text = printed.getvalue()
                stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
                cell["outputs"] = [stream] if text else []
        finally:
            os.chdir(before)
    return notebook


def main() -> None:
    """Run all, or those whose names are given."""
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = run(path)
        if "--check" not in sys.argv:
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name} ran")


if __name__ == "__main__":
    main()
