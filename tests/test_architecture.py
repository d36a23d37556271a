"""The arrows of the house go one way, only the command line touches the terminal, light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cusa

PACKAGE = Path(cusa.__path__[0])
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "manifests": {"errors"},
    "models": {"errors", "manifests"},
    "pipeline": {"errors", "manifests", "models"},
    "train": {"errors", "manifests", "models"},
    "eval": {"errors", "manifests", "models"},
    # The recipe sees the rooms' configurations only; that is checked apart.
    "recipe": {"errors", "models", "train", "eval", "pipeline"},
    "workflow": {"errors", "manifests", "models", "pipeline", "train", "eval", "recipe"},
    "doctor": set(),
    "cli": {"errors", "manifests", "models", "pipeline", "train", "eval", "recipe", "workflow", "doctor"},
    "__init__": {"train"},
    "__main__": {"cli"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = _room(path)
    allowed = MAY_IMPORT[room] | {room}
    for name in _imports(path):
        if name == "cusa" or not name.startswith("cusa."):
            continue
        target = name.split(".")[1]
        if target in MAY_IMPORT:
            assert target in allowed, f"{path.relative_to(PACKAGE)} ({room}) imports {name}"


def test_the_recipe_sees_configurations_only() -> None:
    for name in _imports(PACKAGE / "recipe.py"):
        if name.startswith(("cusa.models", "cusa.train", "cusa.eval", "cusa.pipeline")):
            assert name.split(".")[2] == "config", name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_touches_the_terminal(path: Path) -> None:
    if path.name == "console.py":
        return
    assert _room(path) == "cli" or not {name.split(".")[0] for name in _imports(path)} & {"typer", "rich", "click"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_from_disk_is_executed(path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path)} & {"pickle", "dill", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in ("eval", "exec", "os.system"), f"{path}:{node.lineno}"
        assert told.get("shell") != "True", f"{path}:{node.lineno}"
        assert told.get("allow_pickle") != "True", f"{path}:{node.lineno}"
        if called == "torch.load":
            assert told.get("weights_only") == "True", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "module", ["cusa", "cusa.cli", "cusa.recipe", "cusa.pipeline.config", "cusa.pipeline.shard.stage"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "faiss", "duckdb", "scipy")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_room_of_the_design_exists() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        "cli",
        "eval",
        "manifests",
        "models",
        "pipeline",
        "train",
        "workflow",
    }
