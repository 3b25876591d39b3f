"""Which inputs and outputs follow from a graph's ports, or from the name of a task?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from berth.authoring.detect_onnx import Port

_FIELD = re.compile(r"[^a-z0-9]+")
_DIMENSION = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,31}$")
_IMAGE_TASKS = frozenset({"image-classification", "object-detection", "image-segmentation", "image-to-text"})
_MAX_LISTED = 200


def ports(found: Iterable[Port], stem: str) -> list[dict[str, Any]]:
    """Entries of the interface, in the graph's order; names become what a call can carry, each its own."""
    entries: list[dict[str, Any]] = []
    taken: set[str] = set()
    for number, port in enumerate(list(found)[:_MAX_LISTED]):
        name = _FIELD.sub("_", port.name.lower()).strip("_")[:60]
        if not name or not name[0].isalpha() or name in taken:
            name = f"{stem}_{number}"
        while name in taken:
            name += "_"
        taken.add(name)
        if port.dtype is None or (port.shape is not None and len(port.shape) > 16):
            entry: dict[str, Any] = {"name": name, "type": "object"}
        else:
            shape = ["batch", None] if port.shape is None else [_dimension(d) for d in port.shape]
            entry = {"name": name, "type": "tensor", "dtype": port.dtype, "shape": shape}
        if port.name != name and port.name.isprintable():
            entry["description"] = f"{port.name[:200]} in the graph."
        entries.append(entry)
    return entries


def _dimension(value: int | str | None) -> int | str | None:
    if isinstance(value, str):
        # Converters number the dimensions they have no name for; such a name tells nobody anything.
        return value if _DIMENSION.match(value) and not value.startswith("unk_") else None
    return value if value is None or 0 <= value < 2**53 else None


def of_task(task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(inputs, outputs) of the transformers pipeline that does the task."""
    if task in _IMAGE_TASKS:
        inputs: list[dict[str, Any]] = [{"name": "image", "type": "image"}]
    else:
        inputs = [{"name": "text", "type": "text", "max_length": 100000}]
    if task == "text-generation":
        inputs.append({"name": "max_new_tokens", "type": "integer", "minimum": 1, "maximum": 8192, "default": 256})
    return inputs, [{"name": "result", "type": "object", "description": f"What the pipeline {task[:60]} returns."}]
