"""How is a started model watched? Its address, what it writes, whether it takes calls, why it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from berth.authoring.containers import STOP_SECONDS
from berth.errors import Unavailable
from xumi.caller import Caller

_LISTENING = re.compile(r"xumi: listening on (\S+):(\d+)\s*$")
_KEPT_LINES = 400
POLL_SECONDS = 0.05
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
            time.sleep(POLL_SECONDS)

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
