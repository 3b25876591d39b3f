"""Berth's real processes, and real programs of others, for stories."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Generous: a loaded machine is slow, and a hang is a failure either way.
DEADLINE_SECONDS = 60.0

# Programs that Debian 12 offers, by package: in CI a missing one is a failure, elsewhere a skipped test.
DEBIAN_PACKAGES = {
    "buildah": "buildah",
    "chromium": "chromium",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "mmdebstrap": "mmdebstrap",
    "podman": "podman",
    "skopeo": "skopeo",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
}


def needs(program: str, *, peer: str | None = None, version: str | None = None) -> str:
    """Path of a program of others, noted as a peer that really ran.

    Without the program the test is skipped; in CI (`CI=true`) it fails if Debian offers the program.

    Args:
        program: its name on PATH, or an absolute path.
        peer: what the table of peers calls it; default: the program's name.
        version: what the table shows; default: the first line that `program --version` prints.
    """
    found = shutil.which(program)
    package = DEBIAN_PACKAGES.get(program)
    if found is None:
        reason = f"needs {program}" + (f" (apt-get install {package})" if package else "")
        if package is not None and os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    note_peer(peer or Path(found).name, version or _version(found))
    return found


def note_peer(name: str, version: str) -> None:
    """Writes that a real peer took part to the file named by BERTH_PEERS_FILE; `.ci/run` prints that table."""
    target = os.environ.get("BERTH_PEERS_FILE")
    if target:
        # One short write in append mode: test processes run side by side.
        with open(target, "a", encoding="utf-8") as file:
            file.write(f"{name}\t{version}\n")


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0].strip() if lines else "?"


def poll(
    question: Callable[[], Any],
    *,
    what: str,
    seconds: float = DEADLINE_SECONDS,
    shown: Callable[[], Any] = lambda: "",
) -> Any:
    """Asks until the answer is true and returns it; fails after `seconds`, with what `shown` gives then."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what} {shown()}".rstrip()
        time.sleep(0.02)


class BerthProcess:
    """A `berth up` on a free port with a data folder of its own.

    Args:
        data: the data folder.
        env: BERTH_… settings on top; other BERTH_ variables of the test run do not reach it.
    """

    def __init__(self, data: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.log_path = data.parent / f"{data.name}.log"
        self.seconds_to_ready = 0.0
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    # -- facts

    @property
    def url(self) -> str:
        """Where API and registry answer."""
        return str(self.state()["url"])

    @property
    def host(self) -> str:
        """The same without `http://`: how image references name it."""
        return self.url.removeprefix("http://")

    @property
    def admin_token(self) -> str:
        """Token of the first admin."""
        return (self.data / "admin.token").read_text().strip()

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def children(self) -> dict[str, int]:
        """Process ids by name: server, worker, database."""
        return {name: pid for name, pid in self.state().get("children", {}).items() if pid is not None}

    @property
    def returncode(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    @property
    def log(self) -> str:
        """Everything that all its processes wrote, all starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def state(self) -> dict[str, Any]:
        """DATA/up.json."""
        return dict(json.loads((self.data / "up.json").read_text()))

    # -- life

    def launch(self) -> BerthProcess:
        """Starts the processes and does not wait."""
        env = {key: value for key, value in os.environ.items() if not key.upper().startswith("BERTH_")}
        env |= {"PYTHONPATH": str(ROOT / "src"), **self._env}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "berth.cli.berth.up", "--data", str(self.data), "--port", "0"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def start(self) -> BerthProcess:
        """Starts the processes; returns when /readyz answers 200 and the worker runs."""
        began = time.monotonic()
        self.launch()
        poll(self.is_ready, what="/readyz answers 200")
        self.seconds_to_ready = time.monotonic() - began
        poll(lambda: self._alive() and self.state().get("ready"), what="the worker is ready too")
        return self

    def is_ready(self) -> bool:
        """Whether /readyz answers 200 now. Fails when the process has ended."""
        self._alive()
        try:
            state = self.state()
            if state.get("pid") != self.pid or "url" not in state:
                return False  # left behind by a killed one
            with urllib.request.urlopen(f"{state['url']}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def kill(self, sent: signal.Signals = signal.SIGKILL) -> None:
        """Sends the supervisor a signal and does not wait."""
        assert self._process is not None
        self._process.send_signal(sent)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Waits for the supervisor's end; its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> int:
        """Ends it in order (SIGTERM); its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _alive(self) -> bool:
        assert self.returncode is None, f"berth up ended with {self.returncode}:\n{self.log[-4000:]}"
        return True

    def __enter__(self) -> BerthProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class BerthFactory:
    """Makes `berth up` processes, each with its own data folder, and ends them all at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[BerthProcess] = []

    def __call__(self, *, env: Mapping[str, str] | None = None, data: Path | None = None) -> BerthProcess:
        """A process that has not been started yet."""
        made = BerthProcess(data or self._folder / f"berth{len(self._made)}", env=env)
        self._made.append(made)
        return made

    def end(self) -> None:
        for process in self._made:
            process.stop()


@contextmanager
def factory(folder: Path) -> Iterator[BerthFactory]:
    """For fixtures: a factory whose processes end with the block."""
    made = BerthFactory(folder)
    try:
        yield made
    finally:
        made.end()
