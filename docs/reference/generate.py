"""Which settings are there? Writes settings.md beside this file from berth/settings.py; tests/house compares.

Usage: python docs/reference/generate.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from berth.settings import ClientSettings, ServiceSettings

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Every option is an environment variable and has a default that works on a laptop. This page is generated from
`src/berth/settings.py` by `make docs`; a test fails when the two differ.
"""
UNITS = ((1024**3, "GiB"), (1024**2, "MiB"))


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page as Markdown."""
    groups: tuple[tuple[str, type[BaseSettings]], ...] = (
        ("The service", ServiceSettings),
        ("The client side (`berth`, `xumi`, the SDK)", ClientSettings),
    )
    parts = [HEAD]
    for title, settings in groups:
        parts.append(f"\n## {title}\n\n{(settings.__doc__ or '').strip()}\n")
        parts.append("\n| variable | default | what it does |\n| --- | --- | --- |\n")
        parts += [
            f"| `{variable(name, field)}` | {default(field)} | {(field.description or '').strip()} |\n"
            for name, field in settings.model_fields.items()
        ]
    return "".join(parts)


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable of one field; every option of ours starts with BERTH_ but XUMI_HOME."""
    alias = field.validation_alias
    if isinstance(alias, str):
        return alias
    return f"BERTH_{name.upper()}"


def default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None:
        return "unset, secret" if SecretStr in (field.annotation, *get_args(field.annotation)) else "unset"
    if isinstance(value, Path):
        # The page must be the same on every machine.
        home = Path.home()
        value = f"~/{value.relative_to(home)}" if value.is_relative_to(home) else str(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        for size, unit in UNITS:
            if value >= size and value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value}`"


if __name__ == "__main__":
    main()
