"""How is a program reached that serves a port in a container without a network, and has no Python beside it?

The runtime in our images relays a Unix socket to it. Where the image has no Python, a relay of this machine's goes into
the container's network, which is its loopback alone, and nothing else of it: the container still reaches nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from berth.authoring.containers import Engine, last_line
from berth.errors import InvalidInput, Unavailable

_SECONDS = 30
_POLL_SECONDS = 0.05
_CODE = """\
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from xumi.relay import connect_tcp, forward, listen_unix
forward(listen_unix(Path(sys.argv[2])), lambda: connect_tcp(("127.0.0.1", int(sys.argv[3]))))
"""


def entering_command(engine: Engine, label: str) -> list[str]:
    """The program that goes into a container's network. Raises InvalidInput when this user can't."""
    nsenter = shutil.which("nsenter")
    root = sys.platform == "linux" and os.geteuid() == 0
    if nsenter is not None and root:
        return [nsenter]
    if nsenter is not None and engine.kind == "podman":
        return [*engine.command, "unshare", nsenter]  # the user's own containers live in the user's own namespace
    why = "nsenter (of util-linux) is not here" if nsenter is None else "only root can enter a container of docker"
    raise InvalidInput(
        f"{label} has no Python in its image, so it is reached by entering its network, and {why}.",
        hint="Use --engine podman, or give it a network: --network, or runtime.egress in the manifest.",
    )


class Relay:
    """A child process in a container's network that serves a Unix socket of this machine.

    Args:
        way_in: from `entering_command`.
        pid: a process of the container.
        runtime: folder with the package `xumi`.
        socket: where to listen.
        port: of the program, on the container's loopback.
    Raises:
        Unavailable: it cannot go in.
    """

    def __init__(self, way_in: Sequence[str], pid: int, runtime: Path, socket: Path, *, port: int) -> None:
        inside = [sys.executable, "-I", "-c", _CODE, os.fspath(runtime), os.fspath(socket), str(port)]
        self.address = f"unix:{socket}"
        self._process = subprocess.Popen(
            [*way_in, "--net", "--target", str(pid), "--", *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        deadline = time.monotonic() + _SECONDS
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = self._process.stderr.read() if self._process.stderr else ""
                raise Unavailable(
                    f"The container's network cannot be entered: {last_line(said)}",
                    hint="Give it a network: --network, or runtime.egress in the manifest.",
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
