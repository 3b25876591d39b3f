"""How does a container start? `python3 -m xumi`: weights, then setup(), then serve until SIGTERM.

Exit codes: 0 stopped on request · 2 set up wrong · 3 weights missing · 4 setup() failed or took too long.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Dict, Mapping, cast

from xumi.model import Model
from xumi.problems import StartFailed
from xumi.relay import start_beside
from xumi.server import Server, Service, SocketServer
from xumi.settings import Settings
from xumi.weights import ensure

EXIT_SETUP = 4
# Calls that run when the container is stopped get so long to finish.
DRAIN_SECONDS = 25.0


def main() -> int:
    """Runs the container; returns the exit code."""
    try:
        settings = Settings()
        manifest = read_manifest(settings.manifest)
        folders = ensure(settings, manifest)
        command = (manifest.get("entry") or {}).get("command")
        if command:
            port = (manifest.get("runtime") or {}).get("port") or 8080
            if settings.socket is not None:
                start_beside(settings.socket, int(port))
            run_command(command)
        return serve(settings, manifest, folders)
    except StartFailed as error:
        print(f"xumi: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def read_manifest(path: Path) -> Dict[str, Any]:
    """The manifest the build put into the image. Raises StartFailed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartFailed(f"The manifest {path} cannot be read: {error.strerror}.", 2) from None
    except ValueError as error:
        raise StartFailed(f"The manifest {path} is damaged: {error}.", 2) from None
    if not isinstance(found, dict):
        raise StartFailed(f"The manifest {path} holds no object.", 2)
    return found


def run_command(command: Any) -> None:
    """Replaces this process by the model's own server, now that the weights are there. Raises StartFailed."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - the author's own command, no shell wanted
    except OSError as error:
        raise StartFailed(f"The command {command[0]!r} cannot be started: {error.strerror}.", 2) from None


def load(settings: Settings, manifest: Mapping[str, Any], folders: Mapping[str, Path]) -> Model:
    """Imports the class that `entry.python` names, makes the model, runs setup(). Raises StartFailed."""
    entry = (manifest.get("entry") or {}).get("python") or ""
    module_name, colon, class_name = entry.partition(":")
    if not colon:
        raise StartFailed(f"entry.python must be module:Class, not {entry!r}.", 2)
    if str(settings.code) not in sys.path:
        sys.path.insert(0, str(settings.code))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except AttributeError:
        raise StartFailed(f"The module {module_name} has no {class_name}.", EXIT_SETUP) from None
    except Exception as error:  # noqa: BLE001 - importing foreign code can raise anything
        traceback.print_exc()
        raise StartFailed(f"Importing {module_name} failed: {type(error).__name__}: {error}", EXIT_SETUP) from None
    if not inspect.isclass(found) or not callable(getattr(found, "predict", None)):
        raise StartFailed(f"{entry} is not a class with predict().", EXIT_SETUP)
    try:
        model: Any = found()
        model.weights = dict(folders)
        model.manifest = manifest
        setup = getattr(model, "setup", None)
        if setup is not None:
            setup()
    except Exception as error:  # noqa: BLE001 - same: the author's code
        traceback.print_exc()
        raise StartFailed(f"{entry}.setup() failed: {type(error).__name__}: {error}", EXIT_SETUP) from None
    return cast(Model, model)


def serve(settings: Settings, manifest: Dict[str, Any], folders: Dict[str, Path]) -> int:
    """Listens at once (live), loads the model (ready), answers until SIGTERM or SIGINT."""
    runtime = manifest.get("runtime") or {}
    concurrency = settings.concurrency or int(runtime.get("concurrency") or 1)
    service = Service(manifest, concurrency=concurrency, max_body=settings.max_body)
    port = settings.port if settings.port is not None else int(runtime.get("port") or 8080)
    where = f"unix:{settings.socket}" if settings.socket else f"{settings.host}:{port}"
    try:
        if settings.socket is not None:
            server: Server = SocketServer(settings.socket, service)
        else:
            server = Server(settings.host, port, service)
            where = f"{settings.host}:{server.server_port}"
    except OSError as error:
        raise StartFailed(f"Cannot listen on {where}: {error.strerror or error}.", 2) from None
    print(f"xumi: listening on {where}", file=sys.stderr, flush=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    outcome: Dict[str, Any] = {"code": 0}
    done = threading.Event()

    def start() -> None:
        try:
            service.model = load(settings, manifest, folders)
            print("xumi: ready", file=sys.stderr, flush=True)
        except StartFailed as error:
            outcome.update(code=error.exit_code, message=str(error))
            done.set()
        finally:
            loaded.set()

    loaded = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    threading.Thread(target=start, name="setup", daemon=True).start()

    def watch() -> None:
        limit = runtime.get("startup_timeout") or 300
        if not loaded.wait(limit):
            outcome.update(code=EXIT_SETUP, message=f"setup() took longer than {limit} seconds.")
            done.set()

    threading.Thread(target=watch, name="startup-timeout", daemon=True).start()
    done.wait()
    service.stopping = True
    if outcome.get("message"):
        print(f"xumi: {outcome['message']}", file=sys.stderr, flush=True)
    server.shutdown()
    service.drain(DRAIN_SECONDS)
    server.server_close()
    return int(outcome["code"])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the model's own libraries must not keep a stopped container alive.
    os._exit(code)
