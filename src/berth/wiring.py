"""Which concrete parts does Berth run with? The only place that names them and builds server and worker.

What only one of the two needs is imported where it is built: a worker starts without the web framework, a server
without the scanners.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from berth.access import users
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.catalog import record
from berth.db.engine import Database
from berth.errors import SetupError
from berth.settings import ServiceSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from berth.jobs.context import JobContext
    from berth.server.services import Services
    from berth.sync.cache.fetcher import Fetcher

ADMIN_TOKEN_FILE = "admin.token"


def preload(part: Literal["server", "worker"]) -> None:
    """Import what `server_app` or `job_context` will need, while the caller waits for something else anyway."""
    modules = {
        "server": ("berth.server.app",),
        "worker": ("berth.adapters.scanners.trivy", "berth.adapters.scanners.weights", "berth.jobs.context"),
    }
    for module in modules[part]:
        import_module(module)


def now() -> datetime:
    """The clock of the service."""
    return datetime.now(UTC)


def database(settings: ServiceSettings, *, name: str) -> Database:
    """A pool for this process. Raises SetupError without a database URL (`berth up` sets it for its children)."""
    if settings.database_url is None:
        raise SetupError("No database is set.", hint="Use 'berth up' for the embedded one, or set BERTH_DATABASE_URL.")
    return Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool, name=name)


def store(settings: ServiceSettings) -> FileStore:
    """The depot in the data folder."""
    budget = TransferBudget(settings.transfer_buffer_bytes)
    return FileStore(settings.data_dir / "depot", budget=budget, threads=settings.transfer_threads)


async def prepare(settings: ServiceSettings) -> None:
    """Make what must exist before the first request: admin and token file, bearer secret, the pinned empty config.

    Safe to run at every start and by several processes at once.
    """
    db = database(settings, name="berth-prepare")
    depot = store(settings)
    try:
        await depot.check()
        empty = await depot.put_bytes(b"{}")
        async with db.transaction() as conn:
            await record.pin_empty_config(conn, empty)
            await users.ensure_bearer_secret(conn)
            token = await users.ensure_admin(conn)
            if token is not None:
                _write_admin_token(settings, token)
    finally:
        depot.close()
        await db.close()


def _write_admin_token(settings: ServiceSettings, token: str) -> None:
    """Before the commit: a crash in between leaves a file whose token is not known, and the next start writes anew."""
    path = settings.data_dir / ADMIN_TOKEN_FILE
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two servers may prepare one folder at once
    temporary.touch(mode=0o600)
    temporary.write_text(token)
    temporary.chmod(0o600)
    temporary.rename(path)


async def services(settings: ServiceSettings) -> tuple[Services, Database, FileStore]:
    """What the request handlers need, with the parts that have to be closed at the end."""
    from berth.adapters.registries.build import Registries
    from berth.server.services import Services

    factory = Registries()
    db = database(settings, name="berth-server")
    async with db.transaction() as conn:
        secret = await users.ensure_bearer_secret(conn)
    depot = store(settings)
    bundle = Services(db, depot, settings, secret, now, registries=factory, fetcher=fetcher(settings, db, depot))
    return bundle, db, depot


def fetcher(settings: ServiceSettings, db: Database, depot: FileStore) -> Fetcher:
    """What brings blobs of other registries into the depot. One per process."""
    from berth.access.registries import opener
    from berth.adapters.registries.build import Registries
    from berth.db.sealing import sealer
    from berth.sync.cache.fetcher import Fetcher
    from berth.wire.retry import RetryPolicy

    # Hardly patient: while somebody waits for the bytes, the next registry is asked rather than the same one again.
    impatient = Registries(retry=RetryPolicy(attempts=2, base_seconds=0.2, cap_seconds=1.0))
    remote = opener(db, impatient, lambda: sealer(settings))
    return Fetcher(db, depot, remote=remote, clock=now, bounded=settings.cache_bytes > 0)


async def server_app(settings: ServiceSettings) -> ASGIApp:
    """The whole HTTP application."""
    from berth.server.app import create_app

    bundle, db, depot = await services(settings)

    async def close() -> None:
        await bundle.cache.close()
        depot.close()
        await db.close()

    return create_app(bundle, on_shutdown=close)


def job_context(settings: ServiceSettings) -> JobContext:
    """What the jobs need."""
    from berth.access.registries import opener
    from berth.adapters.registries.build import Registries
    from berth.adapters.scanners.trivy import TrivyScanner
    from berth.adapters.scanners.weights import PickleWeightScanner
    from berth.db.sealing import sealer
    from berth.jobs.context import JobContext
    from berth.sync.places import Places

    password = settings.trivy_db_password
    db, depot = database(settings, name="berth-worker"), store(settings)
    remote = opener(db, Registries(), lambda: sealer(settings))
    cache = fetcher(settings, db, depot)
    return JobContext(
        db=db,
        store=depot,
        vulnerability_scanner=TrivyScanner(
            program=settings.trivy_path,
            cache=settings.trivy_cache or settings.data_dir / "trivy",
            db_repository=settings.trivy_db_repository,
            username=settings.trivy_db_username,
            password=password.get_secret_value() if password else None,
            timeout=settings.scan_timeout_seconds,
        ),
        weight_scanner=PickleWeightScanner(
            timeout=settings.scan_timeout_seconds, memory_bytes=settings.scan_memory_bytes
        ),
        settings=settings,
        now=now,
        registries=Places(db, depot, clock=now, remote=remote, fetcher=cache),
        fetcher=cache,
        sealer=lambda: sealer(settings),
    )
