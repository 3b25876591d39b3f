"""How do demo and bench run Berth? As a user would: `berth up` in a process of its own, stopped by SIGTERM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

BIN = Path(sys.executable).parent
START_SECONDS = 90
STOP_SECONDS = 60


class Service:
    """One Berth on loopback, all state below `data`."""

    def __init__(self, data: Path, *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.log = log
        self.env = dict(env or {})
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def token(self) -> str:
        return (self.data / "admin.token").read_text(encoding="utf-8").strip()

    def start(self) -> float:
        """Start and wait until it is ready; seconds it took.

        Raises RuntimeError with the end of its log.
        """
        begun = time.monotonic()
        # The service's own options only: a developer's BERTH_… variables must not change what is shown.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BERTH_", "XUMI_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "berth", "up", "--data", self.data, "--host", "127.0.0.1", "--port", str(self.port)],
                env={**clean, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which then ends the service in order.
                start_new_session=True,
            )
        while time.monotonic() - begun < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"berth up ended with status {self.process.returncode}:\n{self.tail()}")
            if answers(f"{self.url}/readyz"):
                return time.monotonic() - begun
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"berth up was not ready after {START_SECONDS} s:\n{self.tail()}")

    def stop(self) -> None:
        """End it in order; by force only when that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET gives 200."""
    # No proxy of the machine stands between us and loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
