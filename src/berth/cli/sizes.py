"""How are numbers of bytes given on the command line? As digits, or as people say them: 20MB, 15MiB, 1.5 GiB."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import typer

_SAID: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?(?:/s)?", re.IGNORECASE)
_POWERS: Final = "kmgt"


def parse_size(text: str) -> int:
    """Bytes: kB, MB, GB, TB count in thousands, KiB, MiB, GiB, TiB in 1024s (IEC 80000-13). Raises ValueError."""
    found = _SAID.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a number of bytes; write 20000000, 20MB or 15MiB")
    number, unit, binary = found.groups()
    scale = 1 if unit is None else (1024 if binary else 1000) ** (_POWERS.index(unit.lower()) + 1)
    return round(float(number) * scale) if "." in number else int(number) * scale


def size(least: int = 0, *, none: int | None = None) -> Callable[[str], int]:
    """The parser of an option that takes a number of bytes.

    Args:
        least: the smallest that is taken.
        none: another number that is taken too, for "no limit".
    """

    def parse(value: str) -> int:
        if none is not None and value == str(none):
            return none
        try:
            count = parse_size(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if count < least:
            raise typer.BadParameter(f"{count} bytes are too few; the least is {least}")
        return count

    return parse
