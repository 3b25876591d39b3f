"""`xumi run`: start a model on this machine, show its address; stop it at Ctrl-C, or leave it in the background."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from berth.authoring import detached
from berth.authoring.hardware import size_in_bytes
from berth.authoring.running import Options, relayed, started
from berth.authoring.running_watch import Running
from berth.cli.output import Format, Output, OutputOption
from berth.cli.xumi import _starting as starting
from berth.client.credentials import environment
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
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Leave it in the background once it answers; `xumi stop` ends it.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Its name for `xumi ps`, and its container's.")] = None,
    output: OutputOption = Format.text,
) -> int:
    """Start a model on this machine, show its address, and stop it at Ctrl-C.

    Your own folder runs in a child process; a version of the local repository or a pulled folder in a container, with
    its weights mounted read-only and without a network unless the manifest declares egress.

    Example: xumi run acme/file-type:1.0.0 --port 9000

    Example: xumi run acme/file-type:1.0.0 --detach --port 0 -o json
    """
    out = Output(output)
    if name is not None:
        detached.check_name(name)
    found = starting.open_target(target, force=force, out=out)
    wanted = found.manifest.runtime.port if port is None else port
    if detach:
        arguments = _arguments(
            target,
            {"trust-code": trust_code, "bundle": bundle, "network": network, "force": force},
            {"port": wanted, "host": host, "python": python, "engine": engine, "image": image, "memory": memory,
             "cpus": cpus},
        )  # fmt: skip
        there = detached.start(environment().home, name=name, version=found.version, engine=engine, arguments=arguments)
        out.result(there.to_json(), f"{there.name} ({there.version}) answers at {there.url}")
        out.step(f"xumi logs {there.name}, xumi stop {there.name}")
        return 0
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
        name=name,
        tied=True,
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


def _arguments(target: str, flags: dict[str, bool], values: dict[str, str | int | float | None]) -> list[str]:
    """The same command line without what makes it a background one."""
    words = [target, *(f"--{name}" for name, said in flags.items() if said)]
    for name, value in values.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return words


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
