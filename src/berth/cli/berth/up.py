"""`berth up`: everything on this machine, from one command. Database, server and worker as our children.

Order of a start: lock of the data folder, listening socket (so a second start and a taken port are refused before
anything happens), children that import their code, database, migrations, go. Order of an end: no new connections,
server and worker finish what they do, database last. Killing this process ends all of them: the kernel sees to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from pydantic import SecretStr

from berth.cli.berth._children import Child, Pause, Signals, end, wait_until_ready
from berth.cli.berth._settings import service_settings
from berth.cli.berth.serve import GRACE_SECONDS, listen
from berth.db import launch
from berth.errors import BerthError, SetupError
from berth.settings import ServiceSettings
from berth.telemetry import PlainLog

if TYPE_CHECKING:
    from berth.db.embedded import EmbeddedPostgres

# Server and worker count their own 30 s; this is for what comes after.
_MARGIN_SECONDS: Final = 5
STATE_FILE: Final = "up.json"
LOCK_FILE: Final = "up.lock"


def up(
    data: Annotated[
        Path | None, typer.Option(help="Data folder, made when missing.  [BERTH_DATA, ./.berth]", show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [BERTH_HOST, 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port, 0 = any free one.  [BERTH_PORT, 8080]")] = None,
) -> None:
    """Start everything on this machine: database, server, worker. Ends with Ctrl-C or SIGTERM.

    Example: berth up --data /var/lib/berth --port 8080
    """
    settings = service_settings(data=data, host=host, port=port)
    log = PlainLog("up", settings.log_format, settings.log_level)
    with Signals().caught() as signals, _locked(settings.data_dir) as state:
        listener = listen(settings.host, settings.port)
        url = _url(listener)
        state.write(url=url)
        service = _Service(settings, listener, signals, log, state)
        try:
            if service.start():
                state.write(ready=True)
                _greet(settings, url, log)
                service.watch()
                log.info("stopping", hint="once more to stop at once")
        finally:
            service.stop()
        log.info("stopped")


class _Service:
    """The running service: its database (unless somebody else runs that), server and worker."""

    def __init__(
        self, settings: ServiceSettings, listener: socket.socket, signals: Signals, log: PlainLog, state: _State
    ) -> None:
        self._log = log
        self._signals = signals
        self._listener = listener
        self._state = state
        self._settings = settings
        self._database = _embedded(settings)
        self._database_pause = Pause()
        self._database_started = 0.0
        self._database_restart_at: float | None = None
        self._children: list[Child] = []

    def start(self) -> bool:
        """Starts everything; True when it is ready, False when a signal came first."""
        environment = self._environment()
        tied = launch.die_with_parent(signal.SIGKILL)
        fd = self._listener.fileno()
        serve = ("-m", "berth.cli.berth.serve", "--listen-fd", str(fd))
        server = Child("server", serve, environment, tied, inherited=(fd,))
        worker = Child("worker", ("-m", "berth.cli.berth.worker"), environment, tied)
        # One after the other: on a small machine the worker's imports would delay the first answer.
        server.start()
        self._children = [server]
        self._start_database()
        self._migrate()
        server.go()
        self._note()
        if not wait_until_ready(self._children, self._signals):
            return False
        worker.start()
        self._children.append(worker)
        worker.go()
        self._note()
        return wait_until_ready(self._children, self._signals)

    def watch(self) -> None:
        """Returns when we are told to stop; until then restarts what ends."""
        while not self._signals.stops:
            self._look_after_database()
            for child in self._children:
                self._look_after(child)
            times = [child.restart_at for child in self._children] + [self._database_restart_at]
            self._signals.wait(self._children, until=min((at for at in times if at is not None), default=None))

    def stop(self) -> None:
        """Ends everything: no new connections, then server and worker, then the database."""
        self._listener.close()
        killed = end(self._children, self._signals, grace_seconds=GRACE_SECONDS + _MARGIN_SECONDS)
        for name in killed:
            self._log.warning("killed", child=name)
        if self._database is not None:
            self._database.close()

    # -- parts ----------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        changes: dict[str, Any] = {"migration_database_url": None}
        if self._database is not None:
            self._database.prepare_home()
            changes["database_url"] = SecretStr(self._database.service_url)
        return self._settings.model_copy(update=changes).child_environment()

    def _start_database(self) -> None:
        if self._database is not None:
            self._database.start()
            self._database_started = time.monotonic()

    def _migrate(self) -> None:
        from berth.db import migrate

        if self._database is not None:
            service, owner = self._database.service_url, self._database.owner_url
        elif self._settings.database_url is not None:
            service = self._settings.database_url.get_secret_value()
            other = self._settings.migration_database_url
            owner = other.get_secret_value() if other is not None else service
        if migrate.pending(owner):
            for step in migrate.upgrade(owner, migrate.service_role_of(service, owner)):
                self._log.info("database.upgraded", step=step)

    def _look_after(self, child: Child) -> None:
        code = child.ended()
        if code is not None:
            wait = child.restart_later()
            self._log.error("child.ended", child=child.name, code=code, restart_in_seconds=round(wait, 1))
        if child.restart_at is not None and child.restart_at <= time.monotonic():
            child.start()
            child.go()
            self._note()

    def _look_after_database(self) -> None:
        if self._database is None:
            return
        code = self._database.poll()
        if code is not None and self._database_restart_at is None:
            wait = self._database_pause.after(time.monotonic() - self._database_started)
            self._database_restart_at = time.monotonic() + wait
            self._log.error("child.ended", child="database", code=code, restart_in_seconds=round(wait, 1))
        if self._database_restart_at is not None and self._database_restart_at <= time.monotonic():
            self._database_restart_at = None
            try:
                self._start_database()
            except BerthError as error:
                self._log.error("database.not_started", message=error.message, hint=error.hint)
                self._database_restart_at = time.monotonic() + self._database_pause.after(0)
            else:
                self._note()

    def _note(self) -> None:
        pids: dict[str, int | None] = {child.name: child.pid for child in self._children}
        if self._database is not None:
            pids["database"] = self._database.pid
        self._state.write(children=pids)


class _State:
    """DATA/up.json: who runs here and where, for people and for the message of a refused second start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Any] = {"pid": os.getpid()}

    def write(self, **facts: Any) -> None:
        self._facts |= facts
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(self._facts) + "\n")
        draft.rename(self._path)


@contextmanager
def _locked(data: Path) -> Iterator[_State]:
    """Holds the data folder for this process. Raises SetupError when another one has it."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock: IO[str] = (data / LOCK_FILE).open("w")
    except OSError as error:
        raise SetupError(
            f"The data folder {data} cannot be used: {error.strerror}.", hint="Choose another one with --data."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                f"Berth runs already on the data folder {data}{_who(data / STATE_FILE)}.",
                hint="Use that one, stop it, or choose another folder with --data.",
            ) from error
        try:
            yield _State(data / STATE_FILE)
        finally:
            (data / STATE_FILE).unlink(missing_ok=True)


def _who(path: Path) -> str:
    try:
        facts = json.loads(path.read_text())
        return f" (process {facts['pid']}, {facts['url']})"
    except (OSError, ValueError, KeyError):
        return ""


def _embedded(settings: ServiceSettings) -> EmbeddedPostgres | None:
    if settings.database_url is not None:
        return None
    from berth.db.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.data_dir / "postgres")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 — only what to show: such an address is for listening, not for calling
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(settings: ServiceSettings, url: str, log: PlainLog) -> None:
    token = settings.data_dir / "admin.token"
    if settings.log_format == "json":
        log.info("ready", url=url, admin_token_file=str(token))
        return
    environment = f"export BERTH_URL={url} BERTH_TOKEN=$(cat '{token}')"
    print(
        f"\n  Berth is ready at {url}\n"
        f"  Admin token      {token}\n"
        f"  Next, elsewhere  {environment}\n"
        f"                   berth project create demo\n"
        f"                   docker login {urlsplit(url).netloc} -u admin --password-stdin < '{token}'\n"
        f"  Stop             Ctrl-C\n",
        flush=True,
    )


if __name__ == "__main__":
    from berth.cli.berth._supervised import run_alone

    run_alone("up")
