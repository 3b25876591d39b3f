"""What must be saved so that a function or class of a notebook runs elsewhere? Its source and what the source names.

The source comes from `inspect` and `linecache`, which know the cells of notebooks. Names it uses are followed: modules
and imported things become import lines, functions and classes of the same notebook come along as source, plain values
become constants. Anything else (a fitted model, a connection) is refused with what to do instead; nothing is pickled.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from berth.errors import InvalidInput

_MAX_CONSTANT = 10_000
_MAX_PIECES = 1000
_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_CLASSDEREF"})
_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL", "IMPORT_NAME"})


@dataclass
class Saved:
    """Everything that a module needs. `modules` are the top-level names of what is imported."""

    imports: dict[str, None] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    pieces: dict[str, str] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)

    def text(self) -> str:
        """The module's body: imports, constants, definitions in the order they need each other."""
        parts = ["\n".join(self.imports), "\n".join(self.constants.values()), *self.pieces.values()]
        return "\n\n\n".join(part.strip("\n") for part in parts if part)


def save(*targets: Callable[..., Any]) -> Saved:
    """The source of functions and classes, with all they name.

    Raises:
        InvalidInput: no source, a lambda, or a value that source cannot say.
    """
    saver = _Saver({str(getattr(target, "__module__", None)) for target in targets})
    for target in targets:
        saver.definition(target, name_of(target))
    _absolute_modules(saver.saved)
    return saver.saved


def name_of(target: Callable[..., Any]) -> str:
    """The name a function or class was defined with. Raises InvalidInput."""
    if isinstance(target, functools.partial):
        raise InvalidInput(
            "A functools.partial has no source of its own.", hint="Write a function with `def` that calls it."
        )
    if isinstance(target, type):
        return target.__name__
    if inspect.ismethod(target):
        raise InvalidInput(
            f"{target.__name__} is a method of an object, and the object cannot be saved.",
            hint="Give the class itself; its setup() loads what predict() needs.",
        )
    if not isinstance(target, FunctionType):
        raise InvalidInput(
            f"A {type(target).__name__} is no function or class with Python source.",
            hint="Give a function, or a class with predict().",
        )
    if target.__name__ == "<lambda>":
        raise InvalidInput("A lambda cannot be saved by itself.", hint="Write it with `def` and a name.")
    return target.__name__


def source_of(target: Callable[..., Any]) -> str:
    """The source of one definition, without indentation. Raises InvalidInput."""
    name = name_of(target)
    try:
        text = _class_source(target) if isinstance(target, type) else inspect.getsource(inspect.unwrap(target))
        text = textwrap.dedent(text).rstrip() + "\n"
        ast.parse(text)
    except (OSError, TypeError) as error:
        raise InvalidInput(
            f"There is no source of {name}: it was typed into a console, made by exec(), or its file is gone.",
            hint="Define it in a notebook cell or a file.",
        ) from error
    except (SyntaxError, ValueError) as error:
        raise InvalidInput(
            f"The source of {name} is not there any more as it was: {error}.", hint="Run its cell or file again."
        ) from error
    return text


def _class_source(target: type) -> str:
    """Also for classes of notebooks, which `inspect` takes for built in: found by where their methods are."""
    for value in vars(target).values():
        function = inspect.unwrap(value) if callable(value) else getattr(value, "__func__", None)
        code = getattr(function, "__code__", None)
        if not isinstance(code, CodeType) or code.co_qualname.rpartition(".")[0] != target.__qualname__:
            continue
        linecache.checkcache(code.co_filename)
        lines = linecache.getlines(code.co_filename)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == target.__name__ and node.end_lineno is not None:
                if node.lineno <= code.co_firstlineno <= node.end_lineno:
                    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                    return "".join(lines[first - 1 : node.end_lineno])
    return inspect.getsource(target)


class _Saver:
    def __init__(self, homes: set[str]) -> None:
        # What is defined beside the targets comes along; the file they are in does not.
        self.homes = homes
        self.saved = Saved()
        self._owners: dict[str, Any] = {}
        self._running: list[str] = []

    def definition(self, target: Callable[..., Any], name: str) -> None:
        """Adds a function or class, after all that it names."""
        if not self._claim(name, target):
            return
        if len(self._owners) > _MAX_PIECES:
            raise InvalidInput(f"{name} needs more than {_MAX_PIECES} other definitions.", hint="Put them into a file.")
        own = name_of(target)
        text = source_of(target)
        self._running.append(own)
        try:
            values = _values(target)
            for used in sorted(_names(text) - {own}):
                self._used(used, values, text)
        finally:
            self._running.pop()
        self.saved.pieces[own] = text
        if own != name:
            self.saved.pieces[name] = f"{name} = {own}\n"

    def _used(self, name: str, values: Mapping[str, Any], text: str) -> None:
        if name.startswith("__") and name.endswith("__"):
            return
        if name not in values:
            if not hasattr(builtins, name):
                raise InvalidInput(
                    f"{self._running[-1]} uses {name}, which is not defined.", hint=f"Define or import {name} first."
                )
            return
        value = values[name]
        if isinstance(value, ModuleType):
            self._module(name, value, text)
        elif isinstance(value, type | FunctionType) and self._is_local(value):
            self.definition(value, name)
        elif (line := self._import_line(name, value)) is not None:
            if self._claim(name, value):
                self.saved.imports[line] = None
                self.saved.modules.add(line.split()[1].partition(".")[0])
        elif (constant := _constant(value)) is not None:
            if self._claim(name, value):
                self.saved.constants[name] = f"{name} = {constant}"
        else:
            raise InvalidInput(
                f"{self._running[-1]} uses {name}, a {type(value).__name__} of this session, which source cannot say.",
                hint="Save it to a file, give the file as weights=, and load it in setup().",
            )

    def _module(self, name: str, module: ModuleType, text: str) -> None:
        if module.__name__ == "__main__":
            raise InvalidInput(f"{self._running[-1]} uses the module __main__, which exists only here.")
        if self._claim(name, module):
            full = module.__name__
            self.saved.imports[f"import {full}" if full == name else f"import {full} as {name}"] = None
            self.saved.modules.add(full.partition(".")[0])
        # `a.b.c()` needs `import a.b` when b is a module, whoever imported it here.
        for chain in _chains(text, name):
            found = module.__name__
            for part in chain:
                found = f"{found}.{part}"
                if not isinstance(sys.modules.get(found), ModuleType):
                    break
                self.saved.imports[f"import {found}"] = None

    def _is_local(self, value: Any) -> bool:
        """Defined in the notebook or file of the targets, or inside a function: importing it elsewhere is no way."""
        home = getattr(value, "__module__", None)
        inside = "<locals>" in getattr(value, "__qualname__", "")
        return home in (None, "__main__") or home in self.homes or inside

    def _import_line(self, name: str, value: Any) -> str | None:
        """`from module import thing as name`, if importing that gives the very same object."""
        module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(qualified, str) or "." in qualified:
            return None
        if module in {"__main__", *self.homes} or getattr(sys.modules.get(module), qualified, None) is not value:
            return None
        # What `xumi` shows is at its top; its inner modules are not for authors.
        if module.startswith("xumi.") and getattr(sys.modules.get("xumi"), qualified, None) is value:
            module = "xumi"
        return f"from {module} import {qualified}" + ("" if qualified == name else f" as {name}")

    def _claim(self, name: str, value: Any) -> bool:
        """False when the name was saved already; two values under one name cannot both be."""
        if name not in self._owners:
            self._owners[name] = value
            return True
        if self._owners[name] is not value and self._owners[name] != value:
            raise InvalidInput(f"Two different things are named {name}.", hint="Rename one of them.")
        return False


def _values(target: Callable[..., Any]) -> dict[str, Any]:
    """What names mean for the code of `target`: its module's globals, and what it closes over."""
    found: dict[str, Any] = {}
    for function in _functions(target):
        found.update(function.__globals__)
    if isinstance(target, type) and not found:
        found.update(vars(sys.modules.get(target.__module__, builtins)))
    for function in _functions(target):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            if name == "__class__":
                continue
            try:
                found[name] = cell.cell_contents
            except ValueError:
                # Assigned only after the function was made, and not yet: as good as not there.
                found.pop(name, None)
    return found


def _functions(target: Any) -> Iterator[FunctionType]:
    if isinstance(target, type):
        for value in vars(target).values():
            inner = inspect.unwrap(value) if callable(value) else getattr(value, "__func__", None)
            if isinstance(inner, FunctionType) and inner.__module__ == target.__module__:
                yield inner
    else:
        inner = inspect.unwrap(target)
        if isinstance(inner, FunctionType):
            yield inner


def _names(text: str) -> set[str]:
    """Names that the source reads from outside itself when it is run; hints are not among them."""
    code = compile(f"from __future__ import annotations\n{text}", "<saved>", "exec", dont_inherit=True)
    return set(_loaded(code))


def _loaded(code: CodeType) -> Iterator[str]:
    own = {i.argval for i in dis.get_instructions(code) if i.opname in _STORES}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _LOADS and instruction.argval not in own:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _loaded(constant)


def _chains(text: str, name: str) -> set[tuple[str, ...]]:
    """Attribute chains on a name: `scipy.stats.norm.pdf` → ("stats", "norm", "pdf")."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        parts: list[str] = []
        inner: ast.expr | ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == name:
            found.add(tuple(reversed(parts)))
    return found


def _constant(value: Any) -> str | None:
    """Plain data as source; None for anything that does not come back equal."""
    text = repr(value)
    if len(text) > _MAX_CONSTANT:
        return None
    try:
        same = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return text if type(same) is type(value) and bool(same == value) else None


def _absolute_modules(saved: Saved) -> None:
    """Imports that stand inside the saved source count as well."""
    for text in saved.pieces.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                saved.modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                saved.modules.add(node.module.partition(".")[0])
