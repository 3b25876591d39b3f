"""Which vulnerability database does Trivy use, and how is it brought up to date while scans run?

Each download is a folder of its own ("generation"); a symbolic link names the current one. A scan holds a shared
lock on its generation, so that a newer download neither disturbs it nor is delayed by it; superseded generations are
removed once nobody holds them. Workers of several processes may share the cache folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from berth.adapters.scanners.programs import Finished
from berth.errors import Unavailable

DEFAULT_REPOSITORY = "mirror.gcr.io/aquasec/trivy-db:2"
MAX_AGE = timedelta(hours=24)
# A database that says it should have been replaced already is not asked for again at once.
MIN_AGE = timedelta(hours=1)
# After a failed refresh scans go on with what is there and ask again later.
RETRY_AFTER = timedelta(minutes=5)
_LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Database:
    """One downloaded database. `digest` is the SHA-256 of its file, which is what the scanner reads."""

    folder: Path
    repository: str
    digest: str
    updated_at: datetime
    next_update: datetime
    downloaded_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As kept in `evidence.database`."""
        return {
            "repository": self.repository,
            "digest": self.digest,
            "updated_at": rfc3339(self.updated_at),
        }

    def is_due(self, now: datetime, repository: str) -> bool:
        """Whether a newer one should be asked for."""
        age = now - self.downloaded_at
        if self.repository != repository or age >= MAX_AGE:
            return True
        return now >= self.next_update and age >= MIN_AGE


def rfc3339(moment: datetime) -> str:
    """UTC with whole seconds, so that texts compare like instants."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class TrivyDatabases:
    """The generations in `folder`.

    Args:
        run: starts Trivy with these arguments and extra environment.
        repository: OCI reference to download from; None = Trivy's own public one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: Callable[[Sequence[str], Mapping[str, str]], Coroutine[Any, Any, Finished]],
        repository: str | None,
        username: str | None,
        password: str | None,
        now: Callable[[], datetime],
    ) -> None:
        self._folder = folder
        self._run = run
        self._given = repository
        self._login = {}
        if username is not None and password is not None:
            self._login = {"TRIVY_USERNAME": username, "TRIVY_PASSWORD": password}
        self._now = now
        self._updating = asyncio.Lock()
        self._failed: tuple[datetime, str] | None = None

    @property
    def repository(self) -> str:
        return self._given or DEFAULT_REPOSITORY

    def current(self) -> Database | None:
        """The newest downloaded database, or None."""
        return _read(self._folder / "current")

    async def refresh(self, *, force: bool = False) -> tuple[Database | None, str]:
        """Download if due (or `force`); (the database to use or None, what went wrong or "")."""
        async with self._updating:
            if (known := self._usable(force)) is not None:
                return known
            self._folder.mkdir(parents=True, exist_ok=True)
            async with _exclusive(self._folder / "update.lock"):
                # Another process may have downloaded while we waited.
                if (known := self._usable(force)) is not None:
                    return known
                trouble = await self._download()
                self._failed = (self._now(), trouble) if trouble else None
                return self.current(), trouble

    def _usable(self, force: bool) -> tuple[Database, str] | None:
        database = self.current()
        if database is None or force or database.repository != self.repository:
            return None
        now = self._now()
        if not database.is_due(now, self.repository):
            return database, ""
        if self._failed is not None and now - self._failed[0] < RETRY_AFTER:
            return database, self._failed[1]
        return None

    async def _download(self) -> str:
        """Make a new generation current; "" or what went wrong."""
        fresh = self._folder / uuid.uuid4().hex
        fresh.mkdir()
        try:
            arguments = ["image", "--download-db-only", "--cache-dir", str(fresh), "--no-progress"]
            arguments += ["--config", "", "--skip-version-check", "--disable-telemetry"]
            if self._given:
                arguments += ["--db-repository", self._given]
            try:
                finished = await self._run(arguments, self._login)
            except OSError as error:
                return f"trivy could not be started: {error}"
            if finished.code != 0:
                return f"trivy {finished.ending}: {last_words(finished.stderr)}"
            try:
                digest = await asyncio.to_thread(_file_digest, fresh / "db" / "trivy.db")
            except OSError:
                return f"trivy reported success but {self.repository} gave no database"
            (fresh / "berth.json").write_text(json.dumps({"repository": self.repository, "digest": digest}))
            (fresh / "lock").touch()
            if _read(fresh) is None:
                return f"the database of {self.repository} has no readable metadata.json"
            link = self._folder / f"current.{fresh.name}"
            link.symlink_to(fresh.name)
            os.replace(link, self._folder / "current")
        finally:
            await asyncio.to_thread(self._remove_superseded)
        return ""

    def _remove_superseded(self) -> None:
        current = self._folder / "current"
        keep = os.readlink(current) if current.is_symlink() else ""
        for folder in self._folder.iterdir():
            if folder.is_dir() and not folder.is_symlink() and folder.name != keep:
                with suppress(OSError), _Lock(folder / "lock", fcntl.LOCK_EX):
                    shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[tuple[Database, str]]:
        """The database for one scan, kept from removal meanwhile, and what went wrong when refreshing it.

        Raises:
            Unavailable: there is none and none can be had.
        """
        while True:
            database, trouble = await self.refresh()
            if database is None:
                raise Unavailable(trouble)
            try:
                lock = _Lock(database.folder / "lock", fcntl.LOCK_SH)
            except OSError:
                continue  # superseded and removed between looking and locking
            with lock:
                if (database.folder / "db" / "trivy.db").exists():
                    yield database, trouble
                    return


class _Lock:
    """An advisory lock on a file, taken without waiting. Raises OSError if it is held or the file's folder is gone."""

    def __init__(self, path: Path, operation: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, operation | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@asynccontextmanager
async def _exclusive(path: Path) -> AsyncIterator[None]:
    # Polling instead of a blocking flock: a cancelled job must not leave a thread waiting for the lock.
    while True:
        try:
            lock = _Lock(path, fcntl.LOCK_EX)
            break
        except BlockingIOError:
            await asyncio.sleep(_LOCK_POLL_SECONDS)
    with lock:
        yield


def last_words(stderr: bytes, limit: int = 600) -> str:
    """The end of what a program said, for a message: its last fatal line and what follows, else its last lines."""
    text = stderr.decode("utf-8", "replace").strip()
    fatal = text.rfind("FATAL")
    text = text[fatal:] if fatal >= 0 else text
    text = " ".join(text.split())
    return text if len(text) <= limit else "…" + text[-limit:]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> Database | None:
    try:
        folder = folder.resolve(strict=True)
        metadata = json.loads((folder / "db" / "metadata.json").read_bytes())
        origin = json.loads((folder / "berth.json").read_bytes())
        return Database(
            folder=folder,
            repository=str(origin["repository"]),
            digest=str(origin["digest"]),
            updated_at=_instant(metadata["UpdatedAt"]),
            next_update=_instant(metadata["NextUpdate"]),
            downloaded_at=_instant(metadata["DownloadedAt"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise TypeError("not a date")
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
