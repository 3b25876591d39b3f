"""How is a model started on this machine, and stopped again? In a process, or in a container.

One's own folder runs in a child process with the runtime of this package (`python -m xumi`): its code is never imported
here. A version of the local repository or a pulled folder is somebody else's code and runs in a container, unless it is
trusted.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from berth.authoring import running_targets as targets
from berth.authoring.containers import (
    SOCKET,
    SOCKET_FOLDER,
    STOP_SECONDS,
    Container,
    Engine,
    Mount,
    find_engine,
    limits_of,
)
from berth.authoring.running_targets import Target
from berth.errors import BlobUnknown, IntegrityError, InvalidInput, Unavailable
from xumi.caller import Caller
from xumi.relay import connect_unix, forward, listen_tcp
from xumi.settings import child_environment

_LISTENING = re.compile(r"xumi: listening on (\S+):(\d+)\s*$")
_KEPT_LINES = 400
_POLL_SECONDS = 0.05
# What starting and loading may take beyond setup() itself.
_GRACE_SECONDS = 60
_BARE = (
    "A folder runs on this machine's Python: install its requirements and name that Python with --python, or "
    "`xumi build` and start the version, which has them in its image."
)
_EXITS = {
    2: "it is set up wrong",
    3: "weights are missing",
    4: "setup() failed",
    127: "its program is not in the image, where one without Python needs `runtime.python: null`",
    137: "it was killed, for want of memory",
}


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


class Running:
    """A started model.

    Attributes:
        address: for `xumi.caller.Caller`; known once it listens.
        how: "process" or "container".
        patience: seconds that calls which still run get at the end.
    """

    def __init__(
        self, process: subprocess.Popen[str], *, how: str, address: str | None, tell: Callable[[str], None]
    ) -> None:
        self.how = how
        self.address = address
        self.patience = STOP_SECONDS
        self._process = process
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._tell = tell
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._lines)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self) -> int:
        """Waits until it ends by itself; its exit code."""
        code = self._process.wait()
        self._reader.join(timeout=5)
        return code

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds: a connection breaks off a moment before its process is gone."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def wait_ready(self, seconds: float) -> Caller:
        """Waits until it takes calls.

        Raises:
            Unavailable: it ended, or is not ready in time; the message has what it said.
        """
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        while True:
            address = self.address
            if address is not None and Caller(address).ready():
                return Caller(address)
            if self.exit_code is not None:
                raise self.failure()
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The model is not ready after {seconds + _GRACE_SECONDS:.0f} seconds.\n{self.log}".rstrip(),
                    hint="Raise runtime.startup_timeout if it needs longer; "
                    "an image built by an older xumi needs a new build, or --network.",
                )
            time.sleep(_POLL_SECONDS)

    def failure(self) -> Unavailable:
        """Why it ended, with its last words."""
        code = self.wait()
        meaning = f": {_EXITS[code]}" if code in _EXITS else ""
        bare = self.how == "process" and "ModuleNotFoundError: " in self.log
        return Unavailable(
            f"The model ended with exit code {code}{meaning}.\n{self.log}".rstrip(),
            hint=_BARE if bare else None,
            detail={"exit_code": code, "log": list(self._lines)},
        )

    def peak_memory(self) -> int | None:
        """Most bytes of memory that the process ever had; None for containers and where /proc does not say."""
        if self.how != "process":
            return None
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None

    def stop(self) -> None:
        """Ends it in order, by force when it takes too long."""
        if self.how == "container":
            # The engine has stopped the container already; its program is about to see that.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self.patience)
            except subprocess.TimeoutExpired:
                # With the workers it may have started: it leads a group of its own.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(timeout=5)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            text = line.rstrip("\n")
            self._lines.append(text)
            found = _LISTENING.search(text)
            if found and self.address is None:
                self.address = f"http://{found[1]}:{found[2]}"
            self._tell(text)


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
        _spawn([python, "-m", "xumi"], cwd=code, env=child_environment(own, search=search)),
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
    # The runtime in the image serves the socket; a program without it is only reached through a port.
    by_socket = manifest.runtime.python is not None and not network
    if not by_socket and not network:
        raise InvalidInput(
            f"{target.label} has no Python in its image, so it can only be reached through a network, and its manifest "
            "declares none.",
            hint="Allow one with --network, or declare runtime.egress.",
        )
    image, mounts = _image(target, options, engine)
    name = f"xumi-{target.manifest.name.rpartition('/')[2][:40]}-{secrets.token_hex(4)}"
    address: str | None = None
    publish: tuple[str, int] | None = None
    if by_socket:
        folder = _socket_folder(scratch)
        mounts = [*mounts, Mount(folder, SOCKET_FOLDER, writable=True)]
        address = f"unix:{folder / Path(SOCKET).name}"
    else:
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
    try:
        yield running
    finally:
        engine.stop(name, seconds=running.patience)
        running.stop()


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
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
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
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started: {error.strerror}.") from error


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
