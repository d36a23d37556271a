"""The arrows of the house go one way, only the command line touches the terminal, light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
    "recipe": {"errors", "manifests", "models", "train", "eval", "pipeline", "data_config"},
    "data_config": {"errors", "manifests"},
    "recipe_file": {"errors", "models", "recipe"},
    "integrations": {"errors", "manifests", "train"},
    "workflow": {"errors", "manifests", "models", "pipeline", "train", "eval", "recipe", "data_config"},
    "doctor": {"train"},
    "cli": {
        "errors",
        "manifests",
        "models",
        "pipeline",
        "train",
        "eval",
        "recipe",
        "recipe_file",
        "integrations",
        "workflow",
        "doctor",
    },
    "__init__": {"train", "integrations"},
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
        elif name.startswith("cusa.manifests"):
            assert name == "cusa.manifests.settings.Settings", "their base"


def _module(path: Path) -> str:
    name = ".".join(("cusa", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


MODULES = {_module(path): path for path in FILES}


def _edges(path: Path) -> set[str]:
    """Return the modules that a module imports, inside functions too."""
    edges = set()
    for name in _imports(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        edges |= {name} - {"", "cusa", _module(path)}
    return edges


def test_no_module_imports_itself_by_a_detour_not_even_lazily() -> None:
    graph = {module: _edges(path) for module, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order()), "a CycleError names the modules"


def test_rooms_form_no_cycle_either() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        room = _floor(module)
        graph.setdefault(room, set()).update(_floor(name) for name in _edges(path))
        graph[room].discard(room)
    assert list(TopologicalSorter(graph).static_order()), "a CycleError names the rooms"


def _floor(module: str) -> str:
    """Return the folder a module lies in; one that lies flat among rooms is a room of its own."""
    path = MODULES[module]
    folder = path.parent
    flat = path.name != "__init__.py" and any(child.is_dir() and child.name[0] != "_" for child in folder.iterdir())
    return module if flat or folder == PACKAGE else ".".join(("cusa", *folder.relative_to(PACKAGE).parts))


IN_PIPELINE: dict[str, set[str]] = {
    "config": set(),
    "engine": set(),
    "units": {"engine"},
    "result_table": set(),
    "download": {"config"},
    "scenes": {"config"},
    "languages": {"config", "engine"},
    "readers": {"config", "languages"},
    "shard": {"config", "engine", "readers"},
    "urls": {"config", "engine", "readers", "shard", "download"},
    "publish": {"config", "engine", "readers", "shard"},
    "extract": {"config", "engine"},
    "index": {"config", "units", "result_table"},
    "probe": {"config"},
    "pairs": {"config", "index"},
    "calibrate": {"config", "units", "index", "pairs"},
    "audit": {"config", "units", "index", "pairs", "calibrate", "probe"},
    "own_pairs": {"config", "index", "pairs"},
    "sql": {"config", "result_table"},
    "review": {"config", "sql", "probe"},
    "verify": {"config", "engine", "download"},
}


def test_inside_pipeline_arrows_go_one_way() -> None:
    for path in (PACKAGE / "pipeline").rglob("*.py"):
        parts = path.relative_to(PACKAGE / "pipeline").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in _edges(path):
            if name.startswith("cusa.pipeline."):
                target = name.split(".")[2]
                assert target in IN_PIPELINE[parts[0]] | {parts[0]}, f"{path.relative_to(PACKAGE)} imports {name}"


def test_a_folder_holds_sixteen_modules_at_most() -> None:
    for folder in (PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())):
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if folder.name not in ("cli", "readers"):
            assert len(modules) <= 16, f"{folder.relative_to(PACKAGE)} has {len(modules)} modules"


NAMED_LOSSES = {"infonce", "csa", "usa"}


def _signatures(path: Path) -> Iterator[tuple[str, int, int]]:
    """Give each function's place, its parameters and those that may be positional; `self` apart."""
    tree = ast.parse(path.read_text())
    owner = {child: node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        positional = [*node.args.posonlyargs, *node.args.args]
        static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
        if node in owner and (not static or [each.arg for each in positional[:1]] == ["ctx"]):  # autograd's `self`
            positional = positional[1:]
        name = f"{owner[node]}.{node.name}" if node in owner else node.name
        yield f"{path.relative_to(PACKAGE)}:{name}", len(positional) + len(node.args.kwonlyargs), len(positional)


def test_no_function_has_more_than_eight_parameters_or_five_positional_ones() -> None:
    too_many = []
    for path in FILES:
        if _room(path) == "cli" or path.name in ("kernels.py", "kernel_tiles.py"):
            continue
        for place, parameters, positional in _signatures(path):
            name = place.rpartition(":")[2]
            if name.startswith("CUSALoss.") or name in NAMED_LOSSES:
                continue
            if parameters > 8 or positional > 5:
                too_many.append(f"{place} has {parameters} parameters, {positional} of them positional")
    assert too_many == []


DIALECT = {"told", "found", "heard", "book", "settled", "ears"}
"""Names that say nothing of what they hold; the noun does: config, rows, results, ledger_path..."""


def _identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_names_are_plain_words() -> None:
    odd = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in FILES
        for line, name in _identifiers(path)
        if name.lower().strip("_") in DIALECT
    ]
    assert odd == []


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
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in ("eval", "exec", "os.system"), f"{path}:{node.lineno}"
        assert arguments.get("shell") != "True", f"{path}:{node.lineno}"
        assert arguments.get("allow_pickle") != "True", f"{path}:{node.lineno}"
        if called == "torch.load":
            assert arguments.get("weights_only") == "True", f"{path}:{node.lineno}"


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
        "integrations",
        "manifests",
        "models",
        "pipeline",
        "train",
        "workflow",
    }
