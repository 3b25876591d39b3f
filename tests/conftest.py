"""Fixtures that every test may use: PostgreSQL (`postgres`, `database`, …), `berth`, `weed`, `dockerd`, `podman`, …"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from berth.db.embedded import EmbeddedPostgres
from berth.db.engine import Database
from tests.support.azurite import Azurite, running_azurite
from tests.support.daemons import Dockerd, running_dockerd, running_podman
from tests.support.postgres import FAST, Databases
from tests.support.processes import BerthFactory, BerthProcess, factory
from tests.support.seaweedfs import Weed, running_weed


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL server; one per test process."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options=FAST)
    with server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Databases:
    """Makes databases on that server."""
    return Databases(postgres)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """URL, with the service's role, of a fresh migrated database."""
    name = databases.create()
    yield databases.service_url(name)
    databases.drop(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A `Database` on a fresh migrated database."""
    opened = Database(database_url, pool_size=5)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def berth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BerthProcess]:
    """A running `berth up`; one per test module."""
    with factory(tmp_path_factory.mktemp("berth")) as make:
        yield make().start()


@pytest.fixture
def berth_factory(tmp_path: Path) -> Iterator[BerthFactory]:
    """Makes `berth up` processes with settings and data folders of their own."""
    with factory(tmp_path) as make:
        yield make


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A running object store with an empty bucket; one per test process, so every test takes a prefix of its own."""
    with running_weed(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A running emulator of Azure Blob Storage with an empty container; one per test process, as `weed`."""
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[Dockerd]:
    """A real Docker daemon; one per test process, so every test takes names of its own."""
    with running_dockerd() as running:
        yield running


@pytest.fixture(scope="session")
def dockerd(docker_daemon: Dockerd) -> str:
    """URL of the socket of that."""
    return docker_daemon.socket


@pytest.fixture(scope="session")
def podman() -> Iterator[str]:
    """The same of Podman's service, which speaks Docker's interface."""
    with running_podman() as url:
        yield url


@pytest.fixture(scope="session")
def podman_tcp() -> Iterator[str]:
    """A second one of those, on a port of loopback: tcp://127.0.0.1:PORT."""
    with running_podman(tcp=True) as url:
        yield url
