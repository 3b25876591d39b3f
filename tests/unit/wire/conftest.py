"""A real registry for the tests of the HTTP client, and a client that waits for nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from berth.wire.client import RegistryClient
from berth.wire.retry import RetryPolicy
from tests.unit.wire.registry_process import running_registry

IMPATIENT = RetryPolicy(attempts=4, base_seconds=0.0, cap_seconds=0.0)


@pytest.fixture(scope="session")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running docker-registry; tests use repositories of their own in it."""
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
async def registry(registry_url: str) -> AsyncIterator[RegistryClient]:
    """A client of that registry."""
    async with RegistryClient(registry_url, retry=IMPATIENT) as client:
        yield client
