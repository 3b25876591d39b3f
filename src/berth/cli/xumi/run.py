"""`xumi run`: start a model on this machine, show its address, stop it at Ctrl-C."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from berth.authoring.hardware import size_in_bytes
from berth.authoring.running import Options, Running, relayed, started
from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi import _starting as starting
from berth.errors import InvalidInput


def run(
    target: starting.TargetArgument = ".",
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one. [runtime.port]")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    python: starting.PythonOption = None,
    trust_code: starting.TrustOption = False,
    engine: starting.EngineOption = "auto",
    image: starting.ImageOption = None,
    bundle: starting.BundleOption = False,
    network: starting.NetworkOption = False,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory of the container, such as 2GiB; 0B: no limit. [the manifest's]"),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option("--cpus", min=0, help="Processor cores of the container; 0: no limit. [the manifest's]"),
    ] = None,
    force: starting.ForceOption = False,
    output: OutputOption = Format.text,
) -> int:
    """Start a model on this machine, show its address, and stop it at Ctrl-C.

    Your own folder runs in a child process; a version of the local repository or a pulled folder in a container, with
    its weights mounted read-only and without a network unless the manifest declares egress.

    Example: xumi run acme/file-type:1.0.0 --port 9000
    """
    out = Output(output)
    found = starting.open_target(target, force=force, out=out)
    wanted = found.manifest.runtime.port if port is None else port
    options = Options(
        python=python,
        trust_code=trust_code,
        engine=engine,
        image=image,
        bundle=bundle,
        network=network,
        memory=_bytes(memory),
        cpus=cpus,
        host=host,
        port=wanted,
    )
    with suppress(KeyboardInterrupt), starting.ended_in_order(), started(found, options, tell=out.note) as running:
        caller = running.wait_ready(found.manifest.runtime.startup_timeout)
        with relayed(caller.address, host, wanted) as url:
            document: dict[str, Any] = {"version": found.version, "url": url, "how": running.how}
            out.result(document, f"{found.version} answers at {url}")
            sys.stdout.flush()
            out.step(f"xumi invoke --url {url} -i NAME=VALUE     (Ctrl-C stops the model)")
            _stay(running)
    return 0


def _stay(running: Running) -> None:
    """Until the person stops it (KeyboardInterrupt); raises Unavailable when the model ends by itself."""
    while running.exit_code is None:
        time.sleep(0.2)
    raise running.failure()


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(size_in_bytes(text))
    except ValueError as error:
        raise InvalidInput(f"--memory {text}: {error}.") from error
