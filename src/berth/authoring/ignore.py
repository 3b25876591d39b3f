"""Which paths does `.xumiignore` leave out? The rules of .gitignore: globs, `**`, leading and trailing `/`, `!`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from berth.errors import InvalidInput

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    folders_only: bool
    negated: bool


class Rules:
    """An ordered list of patterns; the last one that matches decides."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [rule for text in patterns if (rule := _rule(text)) is not None]

    @classmethod
    def read(cls, path: Path, always: Iterable[str]) -> Rules:
        """The patterns `always`, then those of the file if there is one. Raises InvalidInput."""
        if not path.is_file():
            return cls(always)
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidInput(f"{path.name} is larger than {_MAX_BYTES} bytes.")
        try:
            return cls([*always, *data.decode("utf-8-sig").splitlines()])
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path.name} is not UTF-8.") from error

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """Whether `path` (relative, with /) is left out. A folder left out takes all in it along."""
        out = False
        for rule in self._rules:
            if (folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                out = not rule.negated
        return out


def _rule(text: str) -> _Rule | None:
    text = text.rstrip()
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text.removeprefix("!").removeprefix("\\")
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    return _Rule(re.compile(("" if anchored else "(?:.*/)?") + _translate(text)), folders_only, negated)


def _translate(text: str) -> str:
    out, i = "", 0
    while i < len(text):
        if text.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif text.startswith("**", i):
            out, i = out + ".*", i + 2
        elif text[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif text[i] == "?":
            out, i = out + "[^/]", i + 1
        elif text[i] == "[" and (end := text.find("]", i + 2)) > 0:
            body = text[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out, i = out + "[" + ("^" + body[1:] if body[0] in "!^" else body) + "]", end + 1
        else:
            out, i = out + re.escape(text[i]), i + 1
    return out
