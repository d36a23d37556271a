"""Ordinary faults of a source file: from its syntax tree, every small change that somebody could have made by mistake.

Left alone are what no test should see: docstrings, annotations, imports, decorators, and the words of errors and
messages.
"""

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_BOUNDARY: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Pow: ast.Mult,
}
_OPPOSITES = (
    *(("min", "max"), ("any", "all"), ("minimum", "maximum"), ("argmin", "argmax"), ("floor", "ceil")),
    *(("startswith", "endswith"), ("zeros", "ones"), ("first", "last"), ("left", "right"), ("append", "extend")),
    *(("union", "intersection"), ("sum", "mean"), ("cumsum", "cumprod"), ("union_by_name", "by_position")),
)
_PARTNERS = (
    *(("image", "text"), ("image", "caption"), ("images", "texts"), ("images", "captions"), ("row", "column")),
    *(("low", "high"), ("lower", "upper"), ("start", "end"), ("start", "stop"), ("before", "after"), ("old", "new")),
    *(("rows", "columns"), ("query", "gallery"), ("train", "test"), ("source", "target"), ("inputs", "outputs")),
    *(("inputs", "parameters"), ("numerator", "denominator"), ("mean", "std"), ("name", "key"), ("width", "height")),
)
_UNWRAPPED = frozenset(
    {"sorted", "abs", "reversed", "set", "dict", "int", "bool", "nan_to_num", "unique", "flatnonzero", "resolve"}
    | {"strip", "lower", "casefold", "copy", "detach", "clone", "sort_by", "expanduser", "contiguous", "double"}
    | {"sqrt", "log", "exp", "rstrip", "lstrip", "upper", "normalize", "cumsum", "ravel", "float64", "round"}
)
"""Calls of one thing that give something of its kind: without them the code runs on."""
_WORDS = frozenset({"warn", "say", "on_message", "on_event", "print", "info", "debug", "warning", "echo", "cast"})
"""Calls whose arguments are words for people (or types for mypy)."""

_CHECKS = frozenset({"strict"})
"""Arguments that only guard against our own mistakes: `zip(strict=True)`."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        kind: What was done, in a word or two.
        line: The first line of the change in the source, 1-based.
        end: The last line of it.
        function: Qualified name of the outermost function that is changed; empty for what runs at import.
        old: The lines that are changed.
        new: What stands there instead.
        source: The whole file with the fault in it.
    """

    kind: str
    line: int
    end: int
    function: str
    old: str
    new: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What finds the mutant again when the lines above it have changed."""
        return self.kind, self.old, self.new


def sample(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """Draw some mutants, of each kind by the root of its number: constants do not crowd out the rest."""
    generator = random.Random(seed)
    kinds: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        kinds[mutant.kind].append(mutant)
    drawn: list[tuple[float, Mutant]] = []
    for kind in sorted(kinds):
        share = len(kinds[kind]) ** 0.5
        # The smallest exponential variables of a rate are a weighted sample without replacement.
        rate = share / len(kinds[kind])
        drawn += [(generator.expovariate(rate), mutant) for mutant in kinds[kind]]
    chosen = [mutant for _, mutant in sorted(drawn, key=lambda one: one[0])[:number]]
    return sorted(chosen, key=lambda mutant: (mutant.line, mutant.kind, mutant.new))


def of_source(source: str) -> list[Mutant]:
    """Return every mutant of a source that compiles to other code than the source does."""
    tree = ast.parse(source)
    right = ast.dump(tree)
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines()
    mutants: dict[str, Mutant] = {}
    for kind, node, words, function in _Faults(tree).all():
        first, last = node.lineno, node.end_lineno or node.lineno
        begin = starts[first - 1] + node.col_offset
        end = starts[last - 1] + (node.end_col_offset or 0)
        changed = (text[:begin] + words.encode() + text[end:]).decode()
        try:
            different = ast.dump(ast.parse(changed)) != right
            compile(changed, "<mutant>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        if not different or changed in mutants:
            continue
        after = changed.splitlines()
        kept = len(lines) - last
        old = "\n".join(lines[first - 1 : last]).strip()
        new = "\n".join(after[first - 1 : len(after) - kept]).strip()
        mutants[changed] = Mutant(kind, first, last, function, old, new, changed)
    return list(mutants.values())


_Found = tuple[str, ast.expr | ast.stmt, str, str]


class _Faults:
    """Walks a tree and gives for each fault its kind, the node it replaces, the text instead, and the function."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        named = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        members = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        self._names, self._members = frozenset(named), frozenset(members)

    def all(self) -> Iterator[_Found]:
        yield from self._block(self._tree.body, "", None)

    def _block(self, body: list[ast.stmt], function: str, scope: "_Scope | None") -> Iterator[_Found]:
        for number, statement in enumerate(body):
            if number == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            for kind, node, words, where in self._statement(statement, function, scope):
                yield kind, node, words, where.lstrip("=")

    def _statement(self, node: ast.stmt, function: str, scope: "_Scope | None") -> Iterator[_Found]:
        """Faults of a statement and of what is inside it.

        `function` is the outermost function's qualified name; with `=` before it a class's, whose body runs at import.
        """
        inside = function if scope else ""
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert, ast.Global, ast.Nonlocal, ast.Pass)):
            return
        if isinstance(node, ast.ClassDef):
            prefix = f"{function.lstrip('=')}.{node.name}".lstrip(".")
            yield from self._block(node.body, function if scope else f"={prefix}", scope)
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            prefix = function if scope else f"{function.lstrip('=')}.{node.name}".lstrip(".")
            for default in [*node.args.defaults, *node.args.kw_defaults]:
                if default is not None:
                    yield from self._expression(default, inside, scope)
            yield from self._block(node.body, prefix, _Scope.of(node))
            return
        if isinstance(node, ast.If) and _is_for_types(node.test):
            return
        yield from ((kind, at, words, inside) for kind, at, words in self._whole(node, scope))
        for expression in self._parts(node):
            yield from self._expression(expression, inside, scope)
        for name in ("body", "orelse", "finalbody"):
            yield from self._block(getattr(node, name, []), function, scope)
        for handler in getattr(node, "handlers", []):
            yield from self._block(handler.body, function, scope)
        for case in getattr(node, "cases", []):
            yield from self._block(case.body, function, scope)

    @staticmethod
    def _parts(node: ast.stmt) -> Iterator[ast.expr]:
        """The expressions of a statement whose value matters."""
        if isinstance(node, ast.Raise):
            return
        if isinstance(node, ast.With):
            yield from (item.context_expr for item in node.items)
            return
        if isinstance(node, ast.Try):
            yield from (handler.type for handler in node.handlers if isinstance(handler.type, ast.Tuple))
            return
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring of a field
        for name in ("test", "iter", "value", "subject"):
            part = getattr(node, name, None)
            if isinstance(part, ast.expr):
                yield part
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Subscript):
                yield target.slice

    def _whole(self, node: ast.stmt, scope: "_Scope | None") -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
        """Faults that leave a statement out or turn where it goes."""
        if isinstance(node, ast.If):
            yield "branch always", node.test, "True"
            yield "branch never", node.test, "False"
        elif isinstance(node, ast.Continue):
            yield "continue dropped", node, "pass"
        elif isinstance(node, ast.Break):
            yield "break dropped", node, "pass"
        elif isinstance(node, ast.Return) and scope is not None and node is not scope.last:
            yield "return dropped", node, "pass"
        elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await)):
            if _called(node.value) not in _WORDS:
                yield "call dropped", node, "pass"
        elif isinstance(node, (ast.AugAssign, ast.Delete)):
            yield "statement dropped", node, "pass"
        elif isinstance(node, ast.Assign):
            if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
                yield "statement dropped", node, "pass"
            elif scope is not None and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node.value)):
                    yield "statement dropped", node, "pass"  # x = f(x)
        if isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
            turned = copy.copy(node)
            turned.op = _ARITHMETIC[type(node.op)]()
            yield "arithmetic", node, ast.unparse(turned)
        if isinstance(node, ast.With) and all(item.optional_vars is None for item in node.items):
            for item in node.items:
                yield "with dropped", item.context_expr, "__import__('contextlib').nullcontext()"

    def _expression(self, node: ast.expr, function: str, scope: "_Scope | None") -> Iterator[_Found]:
        if isinstance(node, ast.JoinedStr):
            return
        for kind, words in self._changes(node, scope):
            yield kind, node, words, function
        if isinstance(node, ast.Lambda):
            yield from self._expression(node.body, function, scope)
            return
        if isinstance(node, ast.Call):
            name = _called(node)
            if name in _WORDS or name.endswith("Error"):
                return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self._expression(child, function, scope)
            elif isinstance(child, ast.keyword) and child.arg not in _CHECKS:
                yield from self._expression(child.value, function, scope)
            elif isinstance(child, ast.comprehension):
                for part in (child.iter, *child.ifs):
                    yield from self._expression(part, function, scope)

    def _changes(self, node: ast.expr, scope: "_Scope | None") -> Iterator[tuple[str, str]]:
        """What can stand instead of an expression."""
        if isinstance(node, ast.Constant):
            yield from _constants(node.value)
        elif isinstance(node, ast.Compare):
            for number, operator in enumerate(node.ops):
                for other in _BOUNDARY[type(operator)]:
                    turned = copy.copy(node)
                    turned.ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
                    yield "comparison", ast.unparse(turned)
        elif isinstance(node, ast.BoolOp):
            turned = copy.copy(node)
            turned.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", f"({ast.unparse(turned)})"
            for number in range(len(node.values)):
                yield "condition dropped", _without(node, "values", number)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            yield "not or minus dropped", f"({ast.unparse(node.operand)})"
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            turned = copy.copy(node)
            turned.op = _ARITHMETIC[type(node.op)]()
            yield "arithmetic", f"({ast.unparse(turned)})"
            if not isinstance(node.op, (ast.Mod, ast.FloorDiv)):
                yield "operand dropped", f"({ast.unparse(node.left)})"
        elif isinstance(node, ast.IfExp):
            yield "branch always", f"({ast.unparse(node.body)})"
            yield "branch never", f"({ast.unparse(node.orelse)})"
        elif isinstance(node, ast.Call):
            yield from self._calls(node)
        elif isinstance(node, ast.Dict) and len(node.keys) > 1:
            for number in range(len(node.keys)):
                short = ast.Dict([*node.keys[:number], *node.keys[number + 1 :]], _less(node.values, number))
                yield "item dropped", ast.unparse(short)
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)) and len(node.elts) > 1:
            if isinstance(node, ast.Set) or isinstance(node.ctx, ast.Load):
                for number in range(len(node.elts)):
                    yield "item dropped", _in_brackets(_without(node, "elts", number), node)
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            for number, part in enumerate(node.generators):
                for place in range(len(part.ifs)):
                    turned = copy.deepcopy(node)
                    del turned.generators[number].ifs[place]
                    yield "filter dropped", ast.unparse(turned)
        elif isinstance(node, ast.Slice):
            for bound in ("lower", "upper"):
                if getattr(node, bound) is not None:
                    turned = copy.copy(node)
                    setattr(turned, bound, None)
                    yield "bound dropped", ast.unparse(turned)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            near = self._names if scope is None else scope.names | (self._names & _all_capitals(self._names))
            for other in dict.fromkeys([*(scope.alike(node.id) if scope else ()), *_partners(node.id, near)]):
                yield "neighbour", other
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            for other in _partners(node.attr, self._members):
                yield "neighbour", f"{ast.unparse(node.value)}.{other}"

    def _calls(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        name = _called(node)
        if name in _WORDS or name.endswith("Error"):
            return
        for first, second in _OPPOSITES:
            if name in (first, second):
                other = second if name == first else first
                turned = copy.copy(node)
                if isinstance(node.func, ast.Name):
                    turned.func = ast.Name(other, ast.Load())
                elif isinstance(node.func, ast.Attribute):
                    turned.func = ast.Attribute(node.func.value, other, ast.Load())
                yield "opposite", ast.unparse(turned)
        if name in _UNWRAPPED:
            if len(node.args) == 1:
                yield "unwrapped", f"({ast.unparse(node.args[0])})"
            elif not node.args and isinstance(node.func, ast.Attribute):
                yield "unwrapped", f"({ast.unparse(node.func.value)})"
        for number, keyword in enumerate(node.keywords):
            if keyword.arg not in _CHECKS:
                yield "argument dropped", _without(node, "keywords", number)
        if len(node.args) > 1:
            swapped = copy.copy(node)
            swapped.args = [node.args[1], node.args[0], *node.args[2:]]
            yield "arguments swapped", ast.unparse(swapped)
            yield "argument dropped", _without(node, "args", len(node.args) - 1)


class _Scope:
    """The names that a function knows, and which of them could be taken for each other."""

    def __init__(self, names: frozenset[str], types: dict[str, str], last: ast.stmt) -> None:
        self.names = names
        self._types = types
        self.last = last

    @classmethod
    def of(cls, node: ast.FunctionDef | ast.AsyncFunctionDef) -> "_Scope":
        """Read a function's parameters and the names it assigns."""
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        types = {one.arg: ast.unparse(one.annotation) for one in arguments if one.annotation is not None}
        for one in ast.walk(node):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                types[one.target.id] = ast.unparse(one.annotation)
        assigned = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        return cls(frozenset(assigned | {one.arg for one in arguments}), types, node.body[-1])

    def alike(self, name: str) -> list[str]:
        """Return the names of the same written type."""
        kind = self._types.get(name)
        return [other for other, theirs in self._types.items() if other != name and theirs == kind]


def _constants(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield "flag", str(not value)
    elif isinstance(value, int):
        yield "constant", str(value + 1)
        yield "constant", f"({value - 1})"
    elif isinstance(value, float):
        yield "constant", repr(value * 2 if value else 1.0)
        yield "constant", f"(-{value!r})" if value else "(-1.0)"
    elif isinstance(value, (str, bytes)) and value and (len(value) == 1 or b" " not in _bytes(value)):
        yield "text", repr(type(value)())


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _called(node: ast.expr) -> str:
    if isinstance(node, ast.Await):
        node = node.value
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _without(node: ast.expr, field: str, number: int) -> str:
    """Return a node's text without one of its parts."""
    short = copy.copy(node)
    setattr(short, field, _less(getattr(node, field), number))
    if isinstance(short, ast.BoolOp) and len(short.values) == 1:
        return f"({ast.unparse(short.values[0])})"
    return ast.unparse(short)


def _in_brackets(words: str, node: ast.expr) -> str:
    return words if not isinstance(node, ast.Tuple) or words.startswith("(") else f"({words})"


def _less(values: list[Any], number: int) -> list[Any]:
    return [*values[:number], *values[number + 1 :]]


def _partners(name: str, known: frozenset[str]) -> list[str]:
    """Return the known names in which one word of the field stands for its partner: `image_rows`, `text_rows`."""
    words = name.split("_")
    found = []
    for pair in _PARTNERS:
        for word, other in (pair, pair[::-1]):
            turned = "_".join(other if one == word else one for one in words)
            if turned != name and turned in known:
                found.append(turned)
    return found


def _all_capitals(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.isupper())


def _is_for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in ast.unparse(test)
