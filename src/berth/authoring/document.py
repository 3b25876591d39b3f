"""What does the text of `xumi.yaml` say, and where? YAML → plain data, with the line and column of every value.

Safe on any input: no tags, no anchors or aliases (so nothing expands), no merge keys, limits on size, depth and number
of values. Words mean what YAML 1.2 says: only `true` and `false` are booleans, `no`, `1:30` and `2024-01-01` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from berth.errors import ManifestFileInvalid

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_VALUES = 20_000
_MAX_INTEGER = 2**63 - 1

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_TRUE = re.compile(r"^(?:true|True|TRUE)$")
_FALSE = re.compile(r"^(?:false|False|FALSE)$")
_INTEGER = re.compile(r"^[-+]?[0-9]{1,400}$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
# Characters that JSON, terminals or file names cannot carry unharmed.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and what to write instead."""

    place: Place
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        where = f"line {self.place.line}, column {self.place.column}"
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}: {what}" + (f" {self.hint}" if self.hint else "")


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each value and key stands."""

    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    # The scalar as written, so that `version: 1.10` can be quoted back as "1.10".
    written: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where `path` stands, or the nearest thing around it that exists."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(1, 1))


def failure(problems: Sequence[Problem], *, name: str) -> ManifestFileInvalid:
    """The error that shows all problems of the file `name`; `detail.problems` has them as data."""
    ordered = sorted(problems, key=lambda p: (p.place.line, p.place.column))
    lines = "\n".join(f"  {problem}" for problem in ordered)
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return ManifestFileInvalid(
        f"{name} has {count}:\n{lines}",
        detail={
            "problems": [
                {
                    "line": p.place.line,
                    "column": p.place.column,
                    "path": p.path,
                    "message": p.message,
                    "hint": p.hint,
                }
                for p in ordered
            ]
        },
    )


def parse(source: bytes | str, *, name: str = "xumi.yaml") -> Document:
    """Reads one YAML document.

    Raises:
        ManifestFileInvalid: not UTF-8, too large, not YAML, or YAML that a manifest may not use; `detail.problems`
            lists line, column, message and hint.
    """
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    if len(data) > MAX_BYTES:
        text = f"The file has {len(data)} bytes; {MAX_BYTES} are allowed."
        raise failure([Problem(Place(1, 1), "", text)], name=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise failure([Problem(place, "", "The file is not UTF-8.", "Save it as UTF-8.")], name=name) from error
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
        raise failure([Problem(place, "", f"Not YAML: {_sentence(error)}", _yaml_hint(error))], name=name) from error
    except yaml.reader.ReaderError as error:
        before_text = text[: error.position]
        place = Place(before_text.count("\n") + 1, error.position - (before_text.rfind("\n") + 1) + 1)
        problem = Problem(place, "", f"The character {error.character!r} is not allowed.", "Remove it.")
        raise failure([problem], name=name) from error
    except yaml.YAMLError as error:
        raise failure([Problem(Place(1, 1), "", f"Not YAML: {error}")], name=name) from error
    except _Refused as error:
        raise failure([error.problem], name=name) from error
    except (ValueError, OverflowError) as error:
        # PyYAML's scanner lets chr() complain about escapes beyond Unicode ("\UFFFFFFFF").
        problem = Problem(reader.last, "", "An escape here names no character.", "Write the character itself.")
        raise failure([problem], name=name) from error
    if not reader.documents:
        problem = Problem(Place(1, 1), "", "The file is empty.", "`xumi init` writes one to start from.")
        raise failure([problem], name=name)
    return reader.document


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class _Open:
    """A mapping or list that is being read."""

    container: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


class _Reader:
    """Builds the document from parser events with its own stack, so depth never becomes recursion."""

    def __init__(self) -> None:
        self.document = Document()
        self.documents = 0
        self.last = Place(1, 1)
        self._stack: list[_Open] = []
        self._count = 0

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        place = self.last if mark is None else Place(mark.line + 1, mark.column + 1)
        self.last = place
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self._refuse(place, "The file holds a second document.", "Remove the line `---`.")
            case yaml.AliasEvent():
                self._refuse(place, "Aliases (`*name`) are not used in this file.", "Write the value out.")
            case yaml.MappingStartEvent():
                self._check(event, place)
                self._open({}, place)
            case yaml.SequenceStartEvent():
                self._check(event, place)
                self._open([], place)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._stack.pop()
            case yaml.ScalarEvent():
                self._check(event, place)
                self._scalar(event, place)

    def _check(self, event: yaml.NodeEvent, place: Place) -> None:
        if event.anchor is not None:
            self._refuse(place, f"Anchors (`&{event.anchor}`) are not used in this file.", "Write the value out.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(place, f"The YAML tag {tag} is not used in this file.", "Remove it.")
        self._count += 1
        if self._count > MAX_VALUES:
            self._refuse(place, f"The file holds more than {MAX_VALUES} values.")

    def _open(self, container: dict[str, Any] | list[Any], place: Place) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(place, f"Nested deeper than {MAX_DEPTH} levels.")
        path = self._place_value(container, place)
        self._stack.append(_Open(container, path))

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        text = event.value
        bad = _FORBIDDEN.search(text)
        if bad:
            self._refuse(place, f"The character {bad.group()!r} is not allowed.", "Remove it.")
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.container, dict) and top.key is None:
            self._key(top, text, place)
            return
        value = self._plain(text, place) if event.style is None else text
        path = self._place_value(value, place)
        self.document.written[path] = text

    def _key(self, top: _Open, text: str, place: Place) -> None:
        if text == "<<":
            self._refuse(place, "Merge keys (`<<`) are not used in this file.", "Write the keys out.")
        path = (*top.path, text)
        if text in top.container:
            first = self.document.keys[path]
            self._refuse(place, f"The key `{text}` stands here twice.", f"It is also on line {first.line}; keep one.")
        self.document.keys[path] = place
        top.key = text

    def _place_value(self, value: Any, place: Place) -> Path:
        if not self._stack:
            self.document.data = value
            self.document.values[()] = place
            return ()
        top = self._stack[-1]
        if isinstance(top.container, list):
            path: Path = (*top.path, len(top.container))
            top.container.append(value)
        else:
            if top.key is None:
                self._refuse(place, "A key must be text.", "Write `key: value`.")
            path = (*top.path, top.key)
            top.container[top.key] = value
            top.key = None
        self.document.values[path] = place
        return path

    def _plain(self, text: str, place: Place) -> Any:
        if _NULL.match(text):
            return None
        if _TRUE.match(text):
            return True
        if _FALSE.match(text):
            return False
        if _INTEGER.match(text):
            number = int(text)
            if abs(number) > _MAX_INTEGER:
                self._refuse(place, f"The number {text} is too large.", "Quote it if it is meant as text.")
            return number
        if _FLOAT.match(text):
            real = float(text)
            if not math.isfinite(real):
                self._refuse(place, f"The number {text} is too large.", "Quote it if it is meant as text.")
            return real
        return text

    def _refuse(self, place: Place, message: str, hint: str | None = None) -> NoReturn:
        path = dotted(self._stack[-1].path) if self._stack else ""
        raise _Refused(Problem(place, path, message, hint))


def dotted(path: Sequence[str | int]) -> str:
    """("interface", "inputs", 0, "name") → "interface.inputs[0].name"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _sentence(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return ", ".join(parts) + "."


def _yaml_hint(error: yaml.MarkedYAMLError) -> str | None:
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "Indent with spaces, not tabs."
    if "mapping values are not allowed" in problem:
        return "Quote the text if it holds `: `, or check the indentation."
    if "could not find expected ':'" in problem:
        return "Write `key: value`."
    return None
