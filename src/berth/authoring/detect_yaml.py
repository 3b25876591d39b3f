"""How is a value written into a generated xumi.yaml? As one line of YAML that any reader takes."""

from __future__ import annotations

import json
import re
from typing import Any

MIB = 1024 * 1024


def quoted(text: str) -> str:
    """A YAML scalar on one line: JSON strings are YAML."""
    return json.dumps(_clean(text), ensure_ascii=False)


def flow(value: Any) -> str:
    """Any plain data on one line; words that need no quotes have none."""
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]*", value) and value not in ("true", "false", "null"):
        return value
    return json.dumps(_clean(value), ensure_ascii=False)


def _clean(value: Any) -> Any:
    """Without characters that YAML cannot carry."""
    match value:
        case str():
            return "".join(c if c.isprintable() else " " for c in value)
        case dict():
            return {_clean(key): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case _:
            return value


def comment(text: str) -> str:
    """Strange text for a comment: short, and on one line."""
    return "".join(c for c in text if c.isprintable())[:100]


def human_size(count: int) -> str:
    """Bytes as people say them."""
    for unit, factor in (("GiB", 1024 * MIB), ("MiB", MIB), ("KiB", 1024)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def round_up(count: int) -> str:
    """A round size that is not less: whole GiB, or 256 MiB below that."""
    if count > 4096 * MIB:
        return f"{-(-count // (1024 * MIB))}GiB"
    return f"{-(-count // (256 * MIB)) * 256}MiB"
