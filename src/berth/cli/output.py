"""How does a command print? Results go to stdout, as text or as one JSON document; everything else to stderr.

With `-o json` nothing but JSON reaches stdout, so a program can read it. Progress is a bar on a terminal and a plain
line at the start and the end elsewhere (logs of CI jobs).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol

import typer

from berth.errors import InvalidInput


class Format(StrEnum):
    """What stdout gets."""

    text = "text"
    json = "json"


OutputOption = Annotated[
    Format, typer.Option("--output", "-o", help="Print the result as text or as JSON.", show_default=True)
]
# For commands whose `-o` names a file or folder.
LongOutputOption = Annotated[
    Format, typer.Option("--output", help="Print the result as text or as JSON.", show_default=True)
]

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

# In a log: how often something that takes long says how far it is.
TELL_SECONDS: Final = 10.0

# A key, or a key and its title. (A str is a Sequence[str] too, so lists of both need no annotation.)
Column = Sequence[str]


class Progress(Protocol):
    """Receives how far a transfer is; safe to call from one event loop."""

    def start(self, name: str, total: int) -> None: ...
    def advance(self, name: str, count: int) -> None: ...
    def finish(self, name: str, note: str = "") -> None: ...


def confirm(question: str) -> None:
    """Asks at the terminal. Raises InvalidInput unless the answer is yes, also where nobody is there to give one.

    Not by typer's own, which writes a blank to stdout, where JSON is to stand alone.
    """
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    answer, echoed = "", False
    with suppress(OSError, ValueError, AttributeError):  # there is no stdin, or it is closed
        answer = sys.stdin.readline()
        echoed = answer.endswith("\n") and sys.stdin.isatty()
    if not echoed:
        print(file=sys.stderr)  # nobody has ended the line of the question
    if answer.strip().lower() not in ("y", "yes"):
        raise InvalidInput("Nothing was changed: the answer was not yes.", hint="With --yes it does not ask.")


class Output:
    """Prints one command's result in the format the user asked for."""

    def __init__(self, format: Format = Format.text) -> None:
        self.format = format

    @property
    def json(self) -> bool:
        return self.format is Format.json

    def result(self, data: Any, text: str | None = None) -> None:
        """Prints the command's one result: `data` (JSON types) as JSON, or `text`, or `data` as "key: value" lines."""
        if self.json:
            print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        else:
            print(text if text is not None else _plain(data))

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, empty: str = "Nothing.") -> None:
        """Prints rows: as JSON a list of the whole rows, as text the named columns (a key, or key and title).

        Numbers under a key `bytes` or `bytes_…` are written for people in the text.
        """
        if self.json:
            self.result([dict(row) for row in rows])
            return
        if not rows:
            self.note(empty)
            return
        pairs = [(c, c.replace("_", " ").upper()) if isinstance(c, str) else (c[0], c[1].upper()) for c in columns]
        cells = [[title for _, title in pairs]] + [
            [_cell(_sized(key, row.get(key))) for key, _ in pairs] for row in rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(pairs))]
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def note(self, message: str) -> None:
        """One line for the person at the terminal: stderr, never part of the result."""
        print(message, file=sys.stderr)

    def step(self, message: str) -> None:
        """What to do next; text output only."""
        if not self.json:
            print(f"→ {message}", file=sys.stderr)

    @contextmanager
    def following(self, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str], None]]:
        """Tells how far something on the service is: one line, rewritten, on a terminal; one now and then in a log."""
        on_terminal = sys.stderr.isatty()
        told = clock()

        def tell(message: str) -> None:
            nonlocal told
            if on_terminal:
                print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
            elif clock() - told >= TELL_SECONDS:
                self.note(message)
                told = clock()

        try:
            yield tell
        finally:
            if on_terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A progress display for transfers, for the time of the `with` block."""
        if sys.stderr.isatty() and not self.json:
            with _Bars() as bars:
                yield bars
        else:
            yield _Lines()


class _Lines:
    """A plain line per blob; for logs."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    def start(self, name: str, total: int) -> None:
        self._totals[name] = total

    def advance(self, name: str, count: int) -> None:
        pass

    def finish(self, name: str, note: str = "") -> None:
        print(f"{note or 'done'}: {name} ({human_size(self._totals.get(name, 0))})", file=sys.stderr)


class _Bars:
    """Rich bars on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Rich

        self._rich = Rich(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()

    def start(self, name: str, total: int) -> None:
        self._tasks[name] = self._rich.add_task(name, total=total)

    def advance(self, name: str, count: int) -> None:
        self._rich.advance(self._tasks[name], count)

    def finish(self, name: str, note: str = "") -> None:
        task = self._rich.tasks[self._rich.task_ids.index(self._tasks[name])]
        self._rich.update(self._tasks[name], completed=task.total, description=f"{name} {note}".rstrip())


def counted(number: int, what: str) -> str:
    """A number and what it is of: "1 rule", "3 rules"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def human_size(count: int) -> str:
    """Bytes as people say them: 1536 → "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _sized(key: str, value: Any) -> Any:
    """Numbers of bytes as people say them; anything else as it is."""
    counts_bytes = key == "bytes" or key.startswith("bytes_")
    return human_size(value) if counts_bytes and isinstance(value, int) and not isinstance(value, bool) else value


def _cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ",".join(_cell(v) for v in value) or "-"
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return " ".join(str(value).split())


def _plain(data: Any) -> str:
    match data:
        case dict():
            width = max((len(str(key)) for key in data), default=0) + 1
            return "\n".join(f"{str(key) + ':':<{width}} {_cell(value)}" for key, value in data.items())
        case list() | tuple():
            return "\n".join(_plain(item) for item in data)
        case _:
            return str(data)
