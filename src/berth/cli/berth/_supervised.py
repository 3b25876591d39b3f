"""How do `berth up` and its children talk? One socket pair each: the parent says "go", the child says "ready".

A child imports its code while the parent still starts the database, and waits for "go" before it uses it. Alone,
without `--supervisor-fd`, a command goes at once and tells nobody.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from berth.errors import SetupError

GO: Final = b"g"
READY: Final = b"r"

SupervisorFd = Annotated[int | None, typer.Option("--supervisor-fd", hidden=True)]


class Supervisor:
    """The child's end of the pair."""

    def __init__(self, file_descriptor: int | None) -> None:
        self._pair = socket.socket(fileno=file_descriptor) if file_descriptor is not None else None

    def wait_for_go(self) -> None:
        """Returns when the parent says so. Raises SetupError when it has gone."""
        if self._pair is not None and self._pair.recv(1) != GO:
            raise SetupError("`berth up` ended before everything was set up.")

    def say_ready(self) -> None:
        """Tells the parent that we do our work from now on."""
        if self._pair is not None:
            try:
                self._pair.sendall(READY)
            except OSError:
                return  # the parent is going away, and we with it


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the imports of a service process: nothing of them is ever garbage, so looking for some only costs time.

    structlog loads rich for coloured tracebacks if it can, which takes a sixth of a start; a service prints none.
    """
    gc.disable()
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment] # what makes an import fail
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rich"]
        gc.freeze()
        gc.enable()


def run_alone(command: str) -> None:
    """What `python -m berth.cli.berth.<command>` does: the same as `berth <command>`."""
    from berth.cli.berth import COMMANDS
    from berth.cli.main import run

    sys.exit(run("berth", COMMANDS, [command, *sys.argv[1:]]))
