"""What do `xumi test`, `run` and `invoke` share? Options that say how a model is started, and what is checked first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from berth.authoring import fit as fitting
from berth.authoring.fit_machine import read_machine
from berth.authoring.running_targets import Target, find
from berth.cli.output import Output
from berth.client.credentials import environment
from berth.errors import Unavailable

TargetArgument = Annotated[
    str, typer.Argument(help="A folder, or project/model[:version] of the local repository.", metavar="[PATH|REF]")
]
PythonOption = Annotated[
    str | None,
    typer.Option("--python", help="Interpreter for code that runs without a container; default: the one of xumi."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Run the code of others without a container. It can do what you can do.")
]
EngineOption = Annotated[
    str, typer.Option("--engine", help="podman, docker, auto, or a command line such as 'podman --root DIR'.")
]
ImageOption = Annotated[
    str | None, typer.Option("--image", help="Start this image of a registry instead of the local repository's.")
]
BundleOption = Annotated[bool, typer.Option("--bundle", help="Start the image that holds the weights.")]
NetworkOption = Annotated[
    bool, typer.Option("--network", help="Give the container a network though the manifest declares no egress.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Start it though this machine lacks what it needs.")]


def open_target(text: str, *, force: bool, out: Output) -> Target:
    """The model that the command names, checked against this machine. Raises Unavailable with what is missing."""
    home = environment().home
    target = find(text, home)
    found = fitting.compare(target.manifest.hardware, read_machine(target.folder or home))
    missing = found.missing()
    if missing and not force:
        raise Unavailable(
            f"This machine lacks what {target.version} needs: {'; '.join(missing)}.",
            hint="--force starts it nevertheless; `xumi fit` shows all of it.",
            detail={"missing": missing},
        )
    for sentence in missing:
        out.note(f"warning: {sentence}")
    return target


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM (a CI job that is cancelled) does what Ctrl-C does: what was started is stopped on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
