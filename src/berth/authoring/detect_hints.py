"""What do the type hints of `predict` say? Read from the syntax tree; the code is never imported.

`xumi init` fills `interface` from them, and `detect_conflicts` compares them with what the manifest declares. What a
hint does not say for certain is left open.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SOURCE_BYTES = 1024 * 1024
Tree = ast.Module
_FIELD_NAME = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
_PLAIN = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
_FILES = frozenset({"bytes", "bytearray", "File", "xumi.File"})
_IMAGES = frozenset({"Image", "Image.Image", "PIL.Image.Image"})
_TENSORS = frozenset(
    {"Tensor", "xumi.Tensor", "np.ndarray", "numpy.ndarray", "ndarray", "torch.Tensor", "NDArray", "npt.NDArray"}
)
_LISTS = frozenset({"list", "List", "tuple", "Tuple", "Sequence", "Iterable", "set", "Set"})
_OBJECTS = frozenset({"dict", "Dict", "Mapping", "MutableMapping"})


@dataclass(frozen=True)
class Hint:
    """What one annotation says. `kind` is a type of the manifest, or None when it says nothing certain."""

    kind: str | None = None
    text: str = ""
    values: tuple[str, ...] = ()
    optional: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """One argument of predict(). `default` is only meant when `has_default`; it is None when it is no literal."""

    name: str
    hint: Hint
    has_default: bool = False
    default: Any = None
    literal: bool = False
    keyword: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Signature:
    """predict() of one class.

    `open` says that it also takes any other keyword (`**inputs`), `decorated` that a decorator may change all of it.
    """

    owner: str
    line: int
    parameters: tuple[Parameter, ...]
    open: bool
    decorated: bool
    returns: Hint
    fields: Mapping[str, Hint] = field(default_factory=dict)


def parse(source: bytes, *, name: str) -> ast.Module | None:
    """The syntax tree, or None when the text is no Python or too large to be anybody's code."""
    if len(source) > MAX_SOURCE_BYTES:
        return None
    try:
        return ast.parse(source, filename=name)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def signature(tree: ast.Module, owner: str) -> Signature | None:
    """predict() of the class named `owner`; None when the file alone does not show it."""
    try:
        return _signature(tree, owner)
    except RecursionError:
        # A hint or an expression nested a thousand times deep says nothing.
        return None


def classes_with_predict(tree: ast.Module) -> list[str]:
    """Names of the classes that could be served: they define predict() and can be reached from outside."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_is_predict(item) for item in node.body)
    ]


def bases(tree: ast.Module, owner: str) -> set[str]:
    """Last parts of the names of the class's bases, as written: {"Model"} for `class X(xumi.Model)`."""
    return {
        (_dotted(base) or "").rpartition(".")[2]
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == owner
        for base in node.bases
    }


def inputs(found: Signature) -> list[dict[str, Any]]:
    """Entries of `interface.inputs`; parameters whose names a call cannot carry are left out."""
    entries = []
    for parameter in found.parameters:
        if not _FIELD_NAME.match(parameter.name):
            continue
        entry = {"name": parameter.name, **_entry(parameter.hint), **parameter.extra}
        if parameter.has_default and parameter.literal and _default_fits(entry, parameter.default):
            entry["default"] = parameter.default
        elif parameter.has_default or parameter.hint.optional:
            entry["required"] = False
        entries.append(entry)
    return entries


def outputs(found: Signature) -> list[dict[str, Any]]:
    """Entries of `interface.outputs`: the fields of a returned TypedDict, or one value named `output`."""
    if found.fields:
        return [{"name": name, **_entry(hint)} for name, hint in found.fields.items() if _FIELD_NAME.match(name)] or [
            {"name": "output", **_entry(found.returns)}
        ]
    entry = _entry(found.returns)
    if entry.get("schema") == {"type": "object"}:
        # A dict may be the value itself, or hold it under the output's name; what is in it, nobody said.
        del entry["schema"]
    return [{"name": "output", **entry}]


def _signature(tree: ast.Module, owner: str) -> Signature | None:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    method = _find(classes, owner)
    if method is None:
        return None
    arguments = method.args
    positional = [*arguments.posonlyargs, *arguments.args]
    gaps = len(positional) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * gaps), *arguments.defaults]
    pairs = list(zip(positional, defaults, strict=True))[1:]
    by_position = {a.arg for a in arguments.posonlyargs}
    parameters = [_parameter(a, d, keyword=a.arg not in by_position) for a, d in pairs]
    parameters += [_parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    returns = _hint(method.returns)
    return Signature(
        owner=owner,
        line=method.lineno,
        parameters=tuple(parameters),
        open=arguments.kwarg is not None,
        decorated=bool(method.decorator_list),
        returns=returns,
        fields=_typed_dict(method.returns, classes),
    )


def _find(classes: Mapping[str, ast.ClassDef], owner: str) -> ast.FunctionDef | None:
    """predict() of the class or of its nearest base in the same file."""
    seen: set[str] = set()
    queue = [owner]
    while queue:
        name = queue.pop(0)
        if name in seen or name not in classes:
            continue
        seen.add(name)
        for node in classes[name].body:
            if isinstance(node, ast.FunctionDef) and node.name == "predict":
                return node
        queue += [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return None


def _is_predict(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "predict"


def _parameter(argument: ast.arg, default: ast.expr | None, *, keyword: bool = True) -> Parameter:
    hint = _hint(argument.annotation)
    extra: dict[str, Any] = {}
    has_default = default is not None
    if isinstance(default, ast.Call) and _dotted(default.func) in ("Input", "cog.Input"):
        default, extra = _cog_input(default, hint)
        has_default = default is not None
        if extra.get("values"):
            hint = Hint("enum", hint.text, tuple(extra.pop("values")), hint.optional)
    value, literal = _literal(default)
    return Parameter(argument.arg, hint, has_default, value, literal, keyword, extra)


def _cog_input(call: ast.Call, hint: Hint) -> tuple[ast.expr | None, dict[str, Any]]:
    """`Input(description=…, default=…, ge=…, le=…, choices=[…])` of a Cog predictor."""
    given = {k.arg: k.value for k in call.keywords if k.arg}
    extra: dict[str, Any] = {}
    text, known = _literal(given.get("description"))
    if known and isinstance(text, str) and text.strip():
        extra["description"] = text.strip()[:4000]
    if hint.kind in ("integer", "number"):
        for key, name in (("ge", "minimum"), ("le", "maximum")):
            value, known = _literal(given.get(key))
            if known and isinstance(value, int | float) and not isinstance(value, bool):
                extra[name] = value
    choices, known = _literal(given.get("choices"))
    if known and hint.kind == "text" and isinstance(choices, list) and all(isinstance(c, str) for c in choices):
        extra["values"] = list(dict.fromkeys(choices))
    return given.get("default"), extra


def _literal(node: ast.expr | None) -> tuple[Any, bool]:
    if node is None:
        return None, False
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None, False
    return value, isinstance(value, str | int | float | bool | list | dict)


def _hint(node: ast.expr | None) -> Hint:
    if node is None:
        return Hint()
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 1000:
        try:
            return _hint(ast.parse(node.value, mode="eval").body)
        except (SyntaxError, ValueError, MemoryError):
            return Hint()
    text = ast.unparse(node)[:200]
    name = _dotted(node)
    if name is not None:
        return _named(name, text)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right], text)
    if isinstance(node, ast.Subscript):
        return _subscripted(node, text)
    return Hint(text=text)


def _named(name: str, text: str) -> Hint:
    last = name.rpartition(".")[2]
    if name in _PLAIN:
        return Hint(_PLAIN[name], text)
    if name in _FILES:
        return Hint("file", text)
    if name in _IMAGES:
        return Hint("image", text)
    if name in _TENSORS:
        return Hint("tensor", text)
    if last in _LISTS:
        return Hint("object", text, schema={"type": "array"})
    if last in _OBJECTS:
        return Hint("object", text, schema={"type": "object"})
    return Hint(text=text)


def _subscripted(node: ast.Subscript, text: str) -> Hint:
    name = (_dotted(node.value) or "").rpartition(".")[2]
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        words = [i.value for i in items if isinstance(i, ast.Constant)]
        if len(words) == len(items) and all(isinstance(w, str) for w in words):
            return Hint("enum", text, tuple(dict.fromkeys(str(w) for w in words)))
        return Hint(text=text)
    if name == "Optional":
        return _union([*items, ast.Constant(None)], text)
    if name == "Union":
        return _union(items, text)
    if name == "Annotated" and items:
        inner = _hint(items[0])
        return Hint(inner.kind, text, inner.values, inner.optional, inner.schema)
    if name in _LISTS and items:
        item = {"text": "string", "integer": "integer", "number": "number", "boolean": "boolean"}.get(
            _hint(items[0]).kind or ""
        )
        same = name not in ("tuple", "Tuple") or len(items) == 1
        return Hint("object", text, schema={"type": "array", **({"items": {"type": item}} if item and same else {})})
    outer = _named(_dotted(node.value) or "", text)
    return Hint(outer.kind, text, schema=outer.schema)


def _union(members: Iterable[ast.expr], text: str) -> Hint:
    hints = []
    optional = False
    for member in members:
        if isinstance(member, ast.Constant) and member.value is None:
            optional = True
            continue
        hints.append(_hint(member))
    optional = optional or any(h.optional for h in hints)
    kinds = {h.kind for h in hints}
    if len(hints) == 1:
        return Hint(hints[0].kind, text, hints[0].values, optional, hints[0].schema)
    if kinds == {"integer", "number"}:
        return Hint("number", text, optional=optional)
    return Hint(None, text, optional=optional)


def _typed_dict(node: ast.expr | None, classes: Mapping[str, ast.ClassDef]) -> dict[str, Hint]:
    if not isinstance(node, ast.Name) or node.id not in classes:
        return {}
    found = classes[node.id]
    if not any((_dotted(base) or "").rpartition(".")[2] == "TypedDict" for base in found.bases):
        return {}
    return {
        item.target.id: _hint(item.annotation)
        for item in found.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _dotted(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _entry(hint: Hint) -> dict[str, Any]:
    match hint.kind:
        case "tensor":
            return {"type": "tensor", "dtype": "float32", "shape": ["batch", None]}
        case "enum":
            return {"type": "enum", "values": list(hint.values)}
        case "object":
            return {"type": "object", "schema": dict(hint.schema)}
        case None:
            return {"type": "object"}
        case kind:
            return {"type": kind}


def _default_fits(entry: Mapping[str, Any], value: Any) -> bool:
    """Only the plain types; anything else stays the code's own default."""
    match entry["type"]:
        case "text":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and _in_bounds(entry, value)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and _in_bounds(entry, value)
        case "enum":
            values: Sequence[str] = entry["values"]
            return value in values
        case _:
            return False


def _in_bounds(entry: Mapping[str, Any], value: float) -> bool:
    return entry.get("minimum", value) <= value <= entry.get("maximum", value) and abs(value) < 2**53
