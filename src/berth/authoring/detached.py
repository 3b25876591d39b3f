"""Which models run in the background, and how do they start and end there? `xumi run --detach`, `ps`, `logs`, `stop`.

Each is an ordinary `xumi run` in a session of its own. It holds the lock of a file for as long as it lives, so that no
other process is ever taken for it; its folder in the local repository keeps what it was started with and what it says.
A container outlives a supervisor that is killed, so ending a model always asks its engine, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from berth.authoring.containers import STOP_SECONDS, Engine, find_engine
from berth.errors import BerthError, Conflict, InvalidInput, NotFound, SetupError, Unavailable

if sys.platform != "win32":
    import fcntl

State = Literal["starting", "running", "ended"]
_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,60}$")
_TIDY_SECONDS = 10
_POLL_SECONDS = 0.1
_LOG_LINES = 30


@dataclass(frozen=True)
class Detached:
    """A model in the background.

    Attributes:
        state: "ended" when its process is gone, whether it failed or was killed.
        engine: command line of the container engine, if it runs in one; its container has the model's name.
        url: where it answers, once it does.
        started_at: seconds since 1970.
    """

    name: str
    version: str
    pid: int
    engine: str
    started_at: float
    state: State
    how: str | None
    url: str | None
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["folder"]
        container = self.name if self.how == "container" else None
        return {**data, "container": container, "log": str(self.log)}


def start(home: Path, *, name: str | None, version: str, engine: str, arguments: Sequence[str]) -> Detached:
    """Starts `xumi run` with these arguments in the background and returns when the model answers.

    Args:
        home: the local repository.
        name: default: made up from the model's name.
        version: what is started, to be shown.
        engine: what `--engine` says.
    Raises:
        Conflict: a model of that name runs already.
        Unavailable: it ended before it answered; the message has what it said. Nothing of it is left.
    """
    if sys.platform == "win32":
        raise SetupError("--detach does not work on Windows.", hint="Leave the terminal open, or use WSL.")
    name = name or f"{version.partition(':')[0].rpartition('/')[2][:40]}-{secrets.token_hex(2)}"
    check_name(name)
    folder = home / "running" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                f"A model named {name} runs already.", hint=f"`xumi stop {name}`, or choose another --name."
            ) from error
        command = [sys.executable, "-c", "from berth.cli.main import xumi; xumi()", "run", *arguments]
        with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--name", name, "--output", "json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock,),
            )
        about = {"version": version, "pid": process.pid, "engine": engine, "started_at": time.time()}
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    finally:
        os.close(lock)
    try:
        while (found := _read(folder)) is None or found.url is None:
            if process.poll() is not None:
                raise Unavailable(
                    f"The model ended before it answered.\n{_tail(folder / 'log')}".rstrip(),
                    detail={"exit_code": process.returncode},
                )
            time.sleep(_POLL_SECONDS)
    except BaseException:
        # Also Ctrl-C while it starts: what was begun here ends here.
        ended = process.poll()
        _end(folder, process.pid, engine, name, seconds=STOP_SECONDS, orderly=ended is not None and ended >= 0)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return found


def every(home: Path) -> list[Detached]:
    """All that were started and not stopped, by name."""
    folder = home / "running"
    found = [_read(each) for each in sorted(folder.iterdir())] if folder.is_dir() else []
    return [one for one in found if one is not None]


def one(home: Path, name: str) -> Detached:
    """Raises NotFound."""
    found = _read(home / "running" / name) if _NAME.match(name) else None
    if found is None:
        names = ", ".join(each.name for each in every(home))
        raise NotFound(
            f"No model named {name[:80]} runs here.", hint=f"There is {names}." if names else "See `xumi ps`."
        )
    return found


def stop(found: Detached, *, seconds: float = STOP_SECONDS) -> None:
    """Ends a model in order, after `seconds` by force, and forgets it. One that has ended already is cleaned up."""
    _end(found.folder, found.pid, found.engine, found.name, seconds=seconds)
    shutil.rmtree(found.folder, ignore_errors=True)


def check_name(name: str) -> None:
    """Raises InvalidInput for what is no name of a container."""
    if not _NAME.match(name):
        raise InvalidInput(f"{name[:80]!r} is not a name.", hint="Lower case letters, digits, '-', '_' and '.'.")


def _end(folder: Path, pid: int, engine: str, name: str, *, seconds: float, orderly: bool = False) -> None:
    """`orderly`: it has ended by itself, and has ended its container, if it ever had one."""
    # It gives its container `seconds` itself, and then has a little to do.
    deadline = time.monotonic() + seconds + _TIDY_SECONDS
    sent: signal.Signals | None = None
    while _alive(folder):
        wanted = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        if wanted is not sent:
            # The lock is held, so the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, wanted)
            sent = wanted
        time.sleep(_POLL_SECONDS)
    if orderly:
        return
    with contextlib.suppress(BerthError):  # without an engine nothing can run in one
        _remove(find_engine(engine), name)


def _remove(engine: Engine, name: str) -> None:
    if engine.label(name) == name:
        engine.stop(name)


def _alive(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _read(folder: Path) -> Detached | None:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / "out").read_text(encoding="utf-8"))
    state: State = "ended"
    if _alive(folder):
        state = "running" if said else "starting"
    return Detached(name=folder.name, state=state, how=said.get("how"), url=said.get("url"), folder=folder, **about)


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
