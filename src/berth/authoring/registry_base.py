"""How is a base image read from a registry? `BaseSource` over the OCI client of `wire`.

The client is asynchronous and a build is not: each request runs to its end here, blobs go through a temporary file.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from typing import BinaryIO

from berth.authoring.base import BaseSource
from berth.errors import InvalidInput
from berth.oci import digest as digests
from berth.oci.reference import check_repository
from berth.wire import blobs, manifests
from berth.wire.auth import ANONYMOUS, Credential
from berth.wire.client import RegistryClient

_DOCKER_HUB = "registry-1.docker.io"
_HOST = re.compile(
    r"^(?:localhost|[A-Za-z0-9.-]+\.[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$|^[A-Za-z0-9.-]+:[0-9]{1,5}$"
)


class RegistrySource:
    """One repository of one registry, read-only."""

    def __init__(
        self, host: str, repository: str, *, credential: Credential = ANONYMOUS, insecure: bool = False
    ) -> None:
        self._host, self._repository = host, repository
        self._credential, self._insecure = credential, insecure

    def _client(self) -> RegistryClient:
        # A person named this host on the command line or in xumi.yaml, so it may be a private one.
        return RegistryClient(
            ("http://" if self._insecure else "https://") + self._host,
            credential=self._credential,
            insecure=self._insecure,
            private_hosts=[self._host.rpartition(":")[0] or self._host],
        )

    def manifest(self, reference: str) -> bytes:
        async def fetch() -> bytes:
            async with self._client() as client:
                return (await manifests.get(client, self._repository, reference)).body

        return asyncio.run(fetch())

    def open(self, digest: str) -> BinaryIO:
        out = tempfile.TemporaryFile(prefix="xumi-base-")  # noqa: SIM115 - the caller closes it

        async def fetch() -> None:
            async with self._client() as client:
                async for piece in blobs.read(client, self._repository, digest):
                    await asyncio.to_thread(out.write, piece)

        try:
            asyncio.run(fetch())
        except BaseException:
            out.close()
            raise
        out.seek(0)
        return out


def open_registry(reference: str, *, insecure: bool = False) -> tuple[BaseSource, str]:
    """The source and the tag or digest that an image reference names; "python:3.11" is Docker Hub's library/python.

    Raises:
        InvalidInput: not an image reference.
    """
    rest, at, digest = reference.partition("@")
    if at and not digests.is_digest(digest):
        raise InvalidInput(f"{reference!r} does not end in a digest.", hint="Write IMAGE@sha256:<64 hex digits>.")
    first, slash, path = rest.partition("/")
    if not (slash and _HOST.match(first)):
        first, path = "docker.io", rest
    head, colon, tag = path.rpartition(":")
    repository = head if colon else path
    if first in ("docker.io", "index.docker.io"):
        first = _DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    check_repository(repository)
    local = first.partition(":")[0] in ("localhost", "127.0.0.1") or first.startswith("[::1]")
    return RegistrySource(first, repository, insecure=insecure or local), digest if at else (tag if colon else "latest")
