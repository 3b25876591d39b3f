"""Where does predict() contradict the manifest? Its type hints against `interface`.

Only what would go wrong in a call is named; a hint that is not known is never a problem.
"""

from __future__ import annotations

from typing import Any

from berth.authoring.detect_hints import Hint, Signature
from berth.authoring.interface import Interface

# Which types of the manifest a hint allows. A tensor or a file arrives as an object of its own, whatever the hint; an
# `object` may be any JSON value that its schema allows.
_FITS = {
    "text": {"text", "enum", "object"},
    "integer": {"integer", "object"},
    "number": {"number", "integer", "object"},
    "boolean": {"boolean", "object"},
    "enum": {"enum", "text", "object"},
    "object": {"object", "tensor"},
    "tensor": {"tensor", "object"},
    "image": {"image", "file"},
    "file": {"image", "audio", "video", "file"},
}


def compare(found: Signature, interface: Interface) -> list[str]:
    """What calls of the manifest's interface would get wrong about predict()."""
    problems: list[str] = []
    if found.decorated:
        return problems
    parameters = {p.name: p for p in found.parameters}
    for number, value in enumerate(interface.inputs):
        where = f"interface.inputs[{number}]"
        parameter = parameters.get(value.name)
        if parameter is None:
            if not found.open:
                there = ", ".join(parameters) or "nothing"
                problems.append(f"{where}: {found.owner}.predict() takes no {value.name}; it takes {there}.")
            continue
        if not parameter.keyword:
            problems.append(f"{where}: {found.owner}.predict() takes {value.name} only by position; remove the `/`.")
        problems += _compare_value(where, value.name, parameter.hint, value, found)
        left_out = not value.required and "default" not in value.model_fields_set
        if left_out and not parameter.has_default:
            problems.append(
                f"{where}: a call may leave {value.name} out, but predict() has no default for it; "
                f"write a default here or there."
            )
    known = {value.name for value in interface.inputs}
    for parameter in found.parameters:
        if parameter.name not in known and not parameter.has_default:
            problems.append(
                f"interface.inputs: {found.owner}.predict() needs {parameter.name}, which no call can give; "
                f"add it here, or give it a default."
            )
    return problems + _compare_outputs(found, interface)


def _compare_value(where: str, name: str, hint: Hint, value: Any, found: Signature) -> list[str]:
    if hint.kind is not None and value.type not in _FITS[hint.kind]:
        return [f"{where}: {name} is {value.type}, but {found.owner}.predict() takes {name}: {hint.text}."]
    if hint.kind == "enum" and value.type == "enum":
        unknown = [word for word in value.values if word not in hint.values]
        if unknown:
            return [f"{where}: {name} may be {unknown[0]}, which {found.owner}.predict() does not take: {hint.text}."]
    return []


def _compare_outputs(found: Signature, interface: Interface) -> list[str]:
    hint = found.returns
    if hint.kind is None or hint.kind == "object" or found.fields or interface.streaming:
        return []
    if len(interface.outputs) > 1:
        names = ", ".join(v.name for v in interface.outputs)
        return [f"interface.outputs: {found.owner}.predict() returns {hint.text}, not a dict with {names}."]
    fits = _FITS[hint.kind] | ({"number"} if hint.kind == "integer" else set())
    for value in interface.outputs:
        if value.type not in fits:
            return [
                f"interface.outputs[0]: {value.name} is {value.type}, but {found.owner}.predict() returns {hint.text}."
            ]
    return []
