"""How is a model started on this machine, and stopped again? In a process, or in a container.

One's own folder runs in a child process with the runtime of this package (`python -m xumi`): its code is never imported
here. A version of the local repository or a pulled folder is somebody else's code and runs in a container, unless it is
trusted.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from berth.authoring import running_targets as targets
from berth.authoring.containers import (
    SOCKET,
    SOCKET_FOLDER,
    Container,
    Engine,
    Mount,
    find_engine,
    limits_of,
)
from berth.authoring.running_relay import Relay, entering_command
from berth.authoring.running_targets import Target
from berth.authoring.running_watch import POLL_SECONDS, Running
from berth.errors import BlobUnknown, Conflict, IntegrityError, InvalidInput, Unavailable
from xumi.relay import connect_unix, forward, listen_tcp
from xumi.settings import child_environment

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Options:
    """How a model is to be started.

    Attributes:
        python: interpreter for a process; default: the one that runs us.
        trust_code: run somebody else's code in a process of this machine instead of a container.
        engine: "auto", "podman", "docker" or a command line.
        image: image of a registry to start instead of the one in the local repository.
        bundle: prefer the image that holds the weights.
        network: give the container a network even if the manifest declares no egress.
        memory: limit in bytes instead of the manifest's.
        cpus: limit in cores instead of the manifest's.
        host: where a port is opened.
        port: which one; 0 takes a free one.
        name: of the container; default: made up from the model's name.
        tied: a process ends with the thread that started it, however that ends.
    """

    python: str | None = None
    trust_code: bool = False
    engine: str = "auto"
    image: str | None = None
    bundle: bool = False
    network: bool = False
    memory: int | None = None
    cpus: float | None = None
    host: str = "127.0.0.1"
    port: int = 0
    name: str | None = None
    tied: bool = False


@contextmanager
def started(target: Target, options: Options, *, tell: Callable[[str], None] = lambda _: None) -> Iterator[Running]:
    """A model that runs for the time of the block; it may not be ready yet.

    Args:
        target: from `running_targets.find`.
        options: see Options.
        tell: called with each line that it writes.
    Raises:
        Unavailable: no container engine, or no such Python.
        InvalidInput: the target has no image for this machine, or its port is taken.
        BlobUnknown, IntegrityError, ManifestFileInvalid: weights are missing or were changed.
    """
    scratch = Path(tempfile.mkdtemp(prefix="xumi-"))
    try:
        if target.trusted or options.trust_code:
            with _process(target, options, scratch, tell) as running:
                yield running
        else:
            with _container(target, options, scratch, tell) as running:
                yield running
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def relayed(address: str, host: str, port: int) -> Iterator[str]:
    """An http address for a model that listens on a Unix socket; any other address as it is. Raises InvalidInput."""
    if not address.startswith("unix:"):
        yield address
        return
    path = Path(address.removeprefix("unix:"))
    try:
        listener = listen_tcp(host, port)
    except OSError as error:
        raise _taken(host, port, error) from error
    threading.Thread(target=forward, args=(listener, lambda: connect_unix(path)), daemon=True).start()
    try:
        yield f"http://{_in_url(host)}:{listener.getsockname()[1]}"
    finally:
        # Closing alone would leave the thread in accept(), and the port open.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def _process(target: Target, options: Options, scratch: Path, tell: Callable[[str], None]) -> Iterator[Running]:
    manifest = target.manifest
    python = _python(options.python)
    code = targets.code_folder(target, scratch)
    port = options.port
    address: str | None = None
    if manifest.entry.command is not None:
        # The program serves by itself and knows one port only.
        if port not in (0, manifest.runtime.port):
            raise InvalidInput(f"The program of {target.label} listens on port {manifest.runtime.port} only.")
        port = manifest.runtime.port
        address = f"http://127.0.0.1:{port}"
    if port:
        _free(options.host, port)
    own = {
        **manifest.runtime.environment,
        "XUMI_MANIFEST": os.fspath(targets.write_manifest(target, scratch)),
        "XUMI_CODE": os.fspath(code),
        "XUMI_WEIGHTS_DIR": os.fspath(targets.link_weights(target, scratch)),
        "XUMI_HOST": options.host,
        "XUMI_PORT": str(port),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    search = os.pathsep.join([os.fspath(_runtime(scratch)), os.fspath(code)])
    running = Running(
        _spawn([python, "-m", "xumi"], cwd=code, env=child_environment(own, search=search), tied=options.tied),
        how="process",
        address=address,
        tell=tell,
    )
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def _container(target: Target, options: Options, scratch: Path, tell: Callable[[str], None]) -> Iterator[Running]:
    manifest = target.manifest
    engine = find_engine(options.engine)
    network = options.network or manifest.runtime.egress
    # The runtime in the image serves the socket; to a program without it somebody has to go in.
    by_socket = manifest.runtime.python is not None and not network
    entering = not by_socket and not network
    way_in = entering_command(engine, target.label) if entering else []
    if options.name is not None and engine.label(options.name) is not None:
        raise Conflict(f"There is a container named {options.name} already.", hint="Choose another --name.")
    image, mounts = _image(target, options, engine)
    name = options.name or f"xumi-{target.manifest.name.rpartition('/')[2][:40]}-{secrets.token_hex(4)}"
    address: str | None = None
    publish: tuple[str, int] | None = None
    if by_socket:
        folder = _socket_folder(scratch)
        mounts = [*mounts, Mount(folder, SOCKET_FOLDER, writable=True)]
        address = f"unix:{folder / Path(SOCKET).name}"
    elif not entering:
        port = options.port or _free_port(options.host)
        _free(options.host, port)
        publish, address = (options.host, port), f"http://{_in_url(options.host)}:{port}"
    container = Container(
        name=name,
        image=image,
        manifest=manifest,
        mounts=tuple(mounts),
        limits=limits_of(manifest, memory=options.memory, cpus=options.cpus),
        network=network,
        publish=publish,
        socket=by_socket,
    )
    running = Running(_spawn(engine.run(container)), how="container", address=address, tell=tell)
    with ExitStack() as stack:
        stack.callback(running.stop)
        stack.callback(lambda: engine.stop(name, seconds=running.patience))
        if entering and (pid := _pid(engine, name, running)) is not None:
            relay = Relay(way_in, pid, _runtime(scratch), scratch / "in.sock", port=manifest.runtime.port)
            stack.callback(relay.stop)
            running.address = relay.address
        yield running


def _pid(engine: Engine, name: str, running: Running) -> int | None:
    """The container's first process; None when it has ended already."""
    while running.exit_code is None:
        if (found := engine.pid(name)) is not None:
            return found
        time.sleep(POLL_SECONDS)
    return None


def _image(target: Target, options: Options, engine: Engine) -> tuple[str, list[Mount]]:
    """What the engine starts, and the weights it needs beside it."""
    if options.image is not None:
        return engine.pull(options.image), targets.weight_mounts(target)
    source = target if target.kind == "version" else targets.built(target)
    if source is None or source.repository is None:
        raise Unavailable(
            f"The image of {target.version} is not in the local repository; a pulled folder has code and weights only.",
            hint=f"Name the image at its registry: --image HOST/{target.version}; or run without a container, if you "
            "trust the code: --trust-code.",
        )
    descriptor, bundled = targets.image_of(source, bundle=options.bundle)
    mounts: list[Mount] = []
    if not (bundled and options.bundle):
        try:
            mounts = targets.weight_mounts(target)
            descriptor, bundled = targets.image_of(source)
        except (BlobUnknown, IntegrityError):
            descriptor, bundled = targets.image_of(source, bundle=True)
            if not bundled:
                raise
    return engine.load(source.repository, descriptor, name=source.version), mounts


def _runtime(scratch: Path) -> Path:
    """A folder that holds the package `xumi` and nothing else, so that nothing of ours reaches the model's imports."""
    folder = scratch / "runtime"
    with resources.as_file(resources.files("xumi")) as package:
        shutil.copytree(package, folder / "xumi", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _socket_folder(scratch: Path) -> Path:
    """A folder that any user of a container can write to; ours around it keeps other users of this machine out."""
    folder = scratch / "s"
    folder.mkdir()
    folder.chmod(0o777)
    if len(os.fspath(folder / Path(SOCKET).name)) > 100:
        raise InvalidInput(
            f"The path of the folder for temporary files is too long for a socket: {folder}.", hint="Set TMPDIR=/tmp."
        )
    return folder


def _python(wanted: str | None) -> str:
    found = shutil.which(wanted) if wanted else sys.executable
    if not found:
        raise Unavailable(
            f"There is no Python {wanted}.", hint="Name an interpreter: --python /path/of/venv/bin/python."
        )
    return found


def _spawn(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, tied: bool = False
) -> subprocess.Popen[str]:
    """In a session of its own: a Ctrl-C is ours to pass on in order. Raises Unavailable."""
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent() if tied else None,  # noqa: PLW1509 - one call, of a library that is loaded
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started: {error.strerror}.") from error


def _die_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: SIGTERM when the thread that started the child ends. None where Linux is not."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # before the fork: loading takes locks
    parent = os.getpid()

    def arrange() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return arrange


def _free(host: str, port: int) -> None:
    """Raises InvalidInput when something listens there already."""
    try:
        listen_tcp(host, port).close()
    except OSError as error:
        raise _taken(host, port, error) from error


def _free_port(host: str) -> int:
    with listen_tcp(host, 0) as found:
        return int(found.getsockname()[1])


def _taken(host: str, port: int, error: OSError) -> InvalidInput:
    return InvalidInput(f"Cannot listen on {host}:{port}: {error.strerror}.", hint="Choose another one: --port 0.")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
