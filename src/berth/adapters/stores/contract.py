"""What must a depot store do? Content in and out by opaque location; the database remembers which digest is where.

A location is the store's own name for bytes (a relative path, an object key). Callers keep it in `blobs.location`
or `uploads.location` and never take it apart. Everything here is safe to call from an event loop: file work and
hashing happen in the store's own executor.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredBlob:
    """Bytes that are durable in the store (fsynced, in their final place) but perhaps not yet in the database."""

    digest: str
    size: int
    location: str


@dataclass(frozen=True)
class Appended:
    """Outcome of one `append`: bytes now in the upload, and whether the sender finished its body."""

    size: int
    complete: bool


class BlobStore(Protocol):
    """A place for blobs. Errors: StorageFull when the disk or quota is full, Unavailable when it cannot be reached."""

    async def create_upload(self, upload_id: str) -> str:
        """Make an empty upload; returns its location."""
        ...

    async def append(
        self,
        location: str,
        *,
        upload_id: str,
        algorithm: str,
        offset: int,
        chunks: AsyncIterable[bytes],
        written: Callable[[int], None] | None = None,
    ) -> Appended:
        """Write `chunks` from byte `offset` on (what lies beyond is cut off), hash on the way, make them durable.

        `chunks` raises ConnectionError when the sender goes away mid-body: the call then ends with `complete=False`,
        and what arrived is durable and counted. Raises Conflict while another process or request writes to it.
        `written` is told the upload's size whenever more of it can be read, for those who read along.
        """
        ...

    async def digest_of_upload(self, location: str, *, upload_id: str, algorithm: str, size: int) -> str:
        """Digest of the first `size` bytes; re-read only when the running hash is not in this process."""
        ...

    async def promote(self, location: str, digest: str) -> str:
        """Move a finished upload to its place among the blobs, durable on return; returns the new location.

        Promoting onto an existing blob of the same digest replaces it with equal bytes.
        """
        ...

    async def put_bytes(self, data: bytes) -> StoredBlob:
        """Store a small document (sha256)."""
        ...

    def read(self, location: str, *, start: int = 0, length: int) -> AsyncIterator[bytes]:
        """Yield `length` bytes from `start` in pieces of at most 1 MiB. Raises BlobUnknown when nothing is there."""
        ...

    async def read_all(self, location: str, *, limit: int) -> bytes:
        """The whole content; TooLarge when it is longer than `limit` bytes."""
        ...

    async def delete(self, location: str) -> None:
        """Remove a blob or an upload; nothing happens when it is gone already."""
        ...

    async def check(self) -> None:
        """Raise SetupError or Unavailable unless content can be written."""
        ...


class LocalPaths(Protocol):
    """Optional power of stores whose content lies in local files: programs such as Trivy read it without a copy."""

    def path_of(self, location: str) -> Path: ...


class Listing(Protocol):
    """Optional power: list what the store holds, for reconciling it with the database after a crash."""

    def blobs_older_than(self, age_seconds: float) -> AsyncIterator[StoredBlob]: ...

    def uploads_older_than(self, age_seconds: float) -> AsyncIterator[str]: ...
