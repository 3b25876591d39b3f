"""Would the tests notice if the gate were wrong? Breaks gates/decide.py in one place at a time and runs its tests.

Each mutant flips one comparison, boolean, operator, number, code word or condition, or leaves out one statement. It
counts as killed when the decision table or, after that, the properties fail. Prints the survivors and killed/total;
ends with status 1 below the score given by `--least` (percent).
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src/berth/gates/decide.py"
TABLE = "tests.unit.gates.test_decide"
PROPERTIES = "tests.unit.gates.test_decide_properties"
# A busy machine must not make a mutant look killed, so only wrong answers count and never slowness.
FEW = settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
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
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
BUILTINS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One way to break the file: where, what, and the broken tree."""

    line: int
    what: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of the file, in order of its lines."""
    tree = ast.parse(source)
    skipped = _not_behaviour(tree)
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for what, change in _changes(node):
            broken = copy.deepcopy(tree)
            twin = next(other for number, other in enumerate(ast.walk(broken)) if number == place)
            change(twin)
            yield Mutant(getattr(node, "lineno", 0), what, ast.fix_missing_locations(broken))


def _not_behaviour(tree: ast.Module) -> set[int]:
    """Docstrings, annotations, type aliases and the wording of messages: changing them changes no decision."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts.append(node.annotation)
        if isinstance(node, ast.FunctionDef):
            parts.append(node.returns)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            parts.append(node.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts.append(node)
        if isinstance(node, ast.JoinedStr):
            parts += [part for part in node.values if isinstance(part, ast.Constant)]
            parts += [part.format_spec for part in node.values if isinstance(part, ast.FormattedValue)]
        if isinstance(node, ast.ClassDef):
            parts += node.decorator_list
        skipped |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    return skipped


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield f"{type(operator).__name__} → {other.__name__}", _set_item("ops", place, other())
    elif isinstance(node, ast.BoolOp):
        other_op: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{type(node.op).__name__} → {type(other_op).__name__}", _set("op", other_op)
        for place in range(len(node.values)):
            yield f"operand {place + 1} left out", _drop("values", place)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        swapped = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} → {swapped.__name__}", _set("op", swapped())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not left out", _set("op", ast.UAdd())
    elif isinstance(node, ast.Name) and node.id in BUILTINS:
        yield f"{node.id} → {BUILTINS[node.id]}", _set("id", BUILTINS[node.id])
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif isinstance(node, ast.comprehension):
        for place in range(len(node.ifs)):
            yield "filter left out", _drop("ifs", place)
    elif isinstance(node, ast.Tuple | ast.Set | ast.List) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        for place in range(len(node.elts)):
            yield f"element {place + 1} left out", _drop("elts", place)
    yield from _statements(node)


def _statements(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, ast.If | ast.IfExp):
        yield "condition negated", _negate
    for body in ("body", "orelse"):
        statements = getattr(node, body, None)
        if isinstance(statements, list) and isinstance(node, ast.FunctionDef | ast.If | ast.For):
            for place, statement in enumerate(statements):
                if isinstance(statement, ast.Return | ast.Expr | ast.AugAssign) and not _is_text(statement):
                    yield f"left out: {ast.unparse(statement)[:50]}", _set_item(body, place, ast.Pass())


def _constants(value: object) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(value, bool):
        yield f"{value} → {not value}", _set("value", not value)
    elif isinstance(value, int):
        for other in (value + 1, value - 1):
            yield f"{value} → {other}", _set("value", other)
    elif isinstance(value, str) and value and " " not in value:
        yield f"'{value}' → 'x'", _set("value", "x")


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _set(name: str, value: object) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, name, value)


def _set_item(name: str, place: int, value: object) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        getattr(node, name)[place] = value

    return change


def _drop(name: str, place: int) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        getattr(node, name).pop(place)

    return change


def _negate(node: ast.AST) -> None:
    assert isinstance(node, ast.If | ast.IfExp)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)


def killed(mutant: Mutant) -> bool:
    """Run the tests in a child process in which the broken module stands in for the real one."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _run(mutant)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _run(mutant: Mutant) -> int:
    """0 when every test passes. Plain calls instead of pytest: hundreds of mutants, and a fraction of a second each."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    module = types.ModuleType("berth.gates.decide")
    module.__file__ = str(TARGET)
    sys.modules["berth.gates.decide"] = module
    exec(compile(mutant.tree, str(TARGET), "exec"), module.__dict__)
    for name in (TABLE, PROPERTIES):
        for test in _tests(importlib.import_module(name)):
            test()
    return 0


def _tests(module: types.ModuleType) -> Iterator[Callable[[], object]]:
    """The tests of a module, one callable per row of `parametrize` and fewer examples per property."""
    for name, test in vars(module).items():
        if not name.startswith("test_"):
            continue
        if hasattr(test, "hypothesis"):
            yield FEW(test)
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        rows = marks[0].args[1] if marks else [()]
        single = bool(marks) and isinstance(marks[0].args[0], str)
        for row in rows:
            yield functools.partial(test, *((row,) if single else row))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--least", type=float, default=0.0, help="lowest score in percent that is good enough")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    importlib.import_module("pytest")  # loaded once, before the forks
    importlib.import_module("berth.gates.policies")
    found = list(mutants(TARGET.read_text(encoding="utf-8")))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(killed, found))
    for mutant, dead in zip(found, outcomes, strict=True):
        if not dead:
            print(f"survived: {TARGET.relative_to(ROOT)}:{mutant.line}: {mutant.what}")
    score = 100 * sum(outcomes) / len(found)
    print(f"gate mutation score: {sum(outcomes)}/{len(found)} killed = {score:.1f} %")
    return 0 if score >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())
