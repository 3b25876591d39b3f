"""How does code talk to PostgreSQL? Short transactions on a pool that survives a restart of the database (design §5).

A restarted database costs no failed request: a pooled connection whose peer has gone is noticed before it is handed
out, without a round trip. Only statements in flight at that moment end with `Unavailable` (503).
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import errors as sqlstate
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from berth.errors import BerthError, SetupError, StorageFull, Unavailable

DRIVER: Final = "postgresql+psycopg"
STATEMENT_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_SECONDS: Final = 5
# How long a request waits for a free connection before it answers 503.
POOL_TIMEOUT_SECONDS: Final = 10


class Database:
    """A pool of connections to one database.

    Args:
        url: postgresql://… (also with `?host=/folder/of/the/socket`).
        pool_size: largest number of connections this process opens.
        statement_timeout_ms: a statement that runs longer is ended by the server and raises Unavailable.
        name: what PostgreSQL shows as `application_name`.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
        name: str = "berth",
    ) -> None:
        target = parse_url(url)
        own = target.query.get("options")
        options = " ".join([*([own] if isinstance(own, str) else []), f"-c statement_timeout={statement_timeout_ms}"])
        url_of_driver = target.set(drivername=DRIVER)
        self._opening = _Opening(
            url_of_driver,
            options=options,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=name,
            # A database machine that vanishes without a word is noticed after about half a minute.
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
        )
        self._engine: AsyncEngine = create_async_engine(
            url_of_driver,
            async_creator=self._opening,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            # Error texts end in logs; parameters may hold what should not be there.
            hide_parameters=True,
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self._engine.sync_engine, "checkout", _refuse_dead_connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises Unavailable when the database is away, too busy, or ended the transaction (deadlock, time-out);
        nothing was written then, unless the connection broke during the commit itself. StorageFull when its disk is.
        """
        with _translated():
            async with self._engine.begin() as conn:
                yield conn

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection where each statement stands alone: no BEGIN and COMMIT around reads. Errors as `transaction`."""
        with _translated():
            async with self._autocommit.connect() as conn:
                yield conn

    async def close(self) -> None:
        """Closes the idle connections; those in use close when they are given back."""
        await self._engine.dispose()
        await self._opening.settled()


class _Opening:
    """Opens connections, each to its end, also when nobody waits for it any more.

    One that is left in the middle of its sign-in keeps its place at the server for a minute (`authentication_timeout`).
    """

    def __init__(self, url: URL, **parameters: Any) -> None:
        self._positional, named = url.get_dialect()().create_connect_args(url)
        self._named = {**named, **parameters}
        self._unwanted: set[asyncio.Task[None]] = set()

    async def __call__(self) -> psycopg.AsyncConnection[Any]:
        opening = asyncio.ensure_future(psycopg.AsyncConnection.connect(*self._positional, **self._named))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            closing = asyncio.ensure_future(_close(opening))
            self._unwanted.add(closing)
            closing.add_done_callback(self._unwanted.discard)
            raise

    async def settled(self) -> None:
        """Waits until nothing is being opened that nobody wants."""
        await asyncio.gather(*self._unwanted)


async def _close(opening: Awaitable[psycopg.AsyncConnection[Any]]) -> None:
    with suppress(psycopg.Error):
        await (await opening).close()


def parse_url(url: str) -> URL:
    """The parts of a postgresql:// URL. Raises SetupError (never showing the URL, it holds a password)."""
    try:
        target = make_url(url)
    except exc.ArgumentError:
        raise SetupError(
            "The database URL cannot be read.", hint="It looks like postgresql://user:password@host:5432/name."
        ) from None
    if target.get_backend_name() not in ("postgresql", "postgres"):
        raise SetupError(
            f"Berth needs PostgreSQL; the database URL names {target.get_backend_name()!r}.",
            hint="It looks like postgresql://user:password@host:5432/name.",
        )
    return target


def unavailable(error: Exception) -> BerthError | None:
    """What to raise for an error of the driver or the pool; None when it is a mistake in our own statement."""
    cause: BaseException | None = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(error, exc.TimeoutError):
        return Unavailable("All connections to the database are busy.", hint="Try again in a moment.")
    if isinstance(cause, sqlstate.DiskFull):
        return StorageFull("The disk of the database is full.", hint="Free some space where PostgreSQL keeps its data.")
    if isinstance(cause, sqlstate.QueryCanceled):
        return Unavailable("The database took too long to answer.", hint="Try again in a moment.")
    if isinstance(cause, sqlstate.DeadlockDetected | sqlstate.SerializationFailure | sqlstate.LockNotAvailable):
        return Unavailable("The change met another one at the same time.", hint="Try again.")
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if lost or isinstance(cause, psycopg.OperationalError):
        return Unavailable("The database is not there right now.", hint="Try again in a moment.")
    return None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError, psycopg.Error) as error:
        answer = unavailable(error)
        if answer is None:
            raise
        raise answer from error


def _refuse_dead_connection(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Pool event: an idle connection with something to read has been closed by the server (or is about to be)."""
    connection = dbapi_connection.driver_connection
    if connection.closed or _has_input(connection.pgconn.socket):
        raise exc.InvalidatePoolError  # SQLAlchemy drops the older connections too and opens a new one


def _has_input(file_descriptor: int) -> bool:
    poll = select.poll()
    poll.register(file_descriptor, select.POLLIN)
    return bool(poll.poll(0))
