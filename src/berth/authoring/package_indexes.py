"""Which index is each package taken from? `[tool.uv.sources]` of the folder's pyproject.toml, for requirement lines.

uv applies them to the dependencies of a pyproject.toml only. So it gets one, made for the purpose, that repeats those
of the requirements which have an index of their own, and the indexes that it names.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from berth.authoring.wheels import canonical
from berth.errors import InvalidInput

_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def project_with_sources(root: Path, requirements: Sequence[str], scratch: Path) -> Path | None:
    """The pyproject.toml for uv; None when no requirement has an index of its own.

    Args:
        root: the project's folder; its own pyproject.toml is read.
        requirements: requirement lines.
        scratch: where it is written.
    Raises:
        InvalidInput: pyproject.toml cannot be read.
    """
    try:
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("uv", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"pyproject.toml cannot be read: {error}.") from error
    names = {canonical(found[1]) for line in requirements if (found := _NAME.match(line))}
    sources = {
        name: source
        for name, source in settings.get("sources", {}).items()
        if canonical(name) in names and _names_an_index(source)
    }
    if not sources:
        return None
    lines = [
        "[project]",
        'name = "xumi-requirements"',
        'version = "0"',
        f"dependencies = {json.dumps(sorted(sources))}",
    ]
    lines += ["[tool.uv]", f"index = {_toml(settings.get('index', []))}", "[tool.uv.sources]"]
    lines += [f"{json.dumps(name)} = {_toml(source)}" for name, source in sources.items()]
    folder = scratch / "sources"
    folder.mkdir(exist_ok=True)
    path = folder / "pyproject.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _names_an_index(source: Any) -> bool:
    each = source if isinstance(source, list) else [source]
    return all(isinstance(one, Mapping) and "index" in one for one in each)


def _toml(value: Any) -> str:
    """TOML of what pyproject.toml held; its strings, numbers and booleans are written as in JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
