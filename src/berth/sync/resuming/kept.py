"""Where is an upload remembered? In the database, its address sealed like a password, until it ends or is given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog

from berth.adapters.registries.contract import Registry, Resuming
from berth.db.engine import Database
from berth.db.sealing import Sealer
from berth.errors import SetupError, Unavailable
from berth.sync.flow import lasting
from berth.sync.resuming import queries
from berth.sync.resuming.queries import Owner

log = structlog.get_logger(__name__)


class KeptUploads:
    """The unfinished uploads of one run, or of one place.

    Args:
        sealer: seals the addresses; without it, or without its key, nothing is remembered and blobs start anew.
    """

    def __init__(
        self,
        db: Database,
        sealer: Callable[[], Sealer] | None,
        owner: Owner,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._db = db
        self._sealer = sealer
        self._owner = owner
        self._now = now
        self._sleep = sleep

    async def find(self, repository: str, digest: str) -> str | None:
        """The session that a blob's upload left at the target."""
        async with self._db.reading() as conn:
            sealed = await queries.session_of(conn, self._owner, repository, digest)
        return None if sealed is None else self._opened(sealed, repository, digest)

    async def keep(self, repository: str, digest: str, *, session: str | None, offset: int) -> None:
        """Remember a session, or with None forget it."""
        if self._sealer is None:
            return
        if session is None:
            await lasting(lambda: self._forget(repository, digest), sleep=self._sleep)
            return
        try:
            sealed = self._sealer().seal(session, purpose=self._purpose(repository, digest))
        except SetupError as error:
            log.warning("upload_not_remembered", message=error.message)
            return
        with suppress(Unavailable):  # a blob that may have to start anew is no reason to wait for the database
            async with self._db.transaction() as conn:
                await queries.keep(
                    conn, self._owner, repository, digest, session=sealed, offset=offset, now=self._now()
                )

    async def give_up(self, target: Registry) -> None:
        """End what is left at the target, and forget it."""
        async with self._db.reading() as conn:
            left = await queries.unfinished(conn, self._owner)
        if not left:
            return
        for upload in left:
            session = self._opened(upload.session, upload.repository, upload.digest)
            if session is not None and isinstance(target, Resuming):
                await target.give_up(upload.repository, session)
        await lasting(lambda: self._forget(None, None), sleep=self._sleep)

    def _opened(self, sealed: bytes, repository: str, digest: str) -> str | None:
        try:
            return self._sealer().open(sealed, purpose=self._purpose(repository, digest)) if self._sealer else None
        except SetupError as error:  # the key has changed: the blob starts anew
            log.warning("upload_not_remembered", message=error.message)
            return None

    async def _forget(self, repository: str | None, digest: str | None) -> None:
        async with self._db.transaction() as conn:
            await queries.forget(conn, self._owner, repository=repository, digest=digest)

    def _purpose(self, repository: str, digest: str) -> str:
        owner = f"run {self._owner.run}" if self._owner.run is not None else f"placement {self._owner.placement}"
        return f"upload of {owner} to {repository} {digest}"
