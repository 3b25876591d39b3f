"""How does a blob get into an image layout on disk? Into a part file that a later process goes on with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from berth.errors import IntegrityError
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout
from berth.wire import blobs
from berth.wire.client import RegistryClient
from berth.wire.hashing import in_thread

READ_BYTES: Final = 4 * 1024 * 1024
PREFIX: Final = ".sync-"
KEPT_SECONDS: Final = 7 * 24 * 3600


async def fetch(
    client: RegistryClient,
    repository: str,
    blob: Descriptor,
    layout: Layout,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Bring a blob that the layout lacks into it, verified; returns the bytes that were sent for it.

    Raises:
        IntegrityError: other bytes than its digest names; nothing is kept then.
    """
    final = layout.path_of(blob.digest)
    algorithm = digests.parse(blob.digest).algorithm
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{PREFIX}{final.name}.part")
    hasher = digests.new_hasher(algorithm)
    file = await in_thread(part.open, "a+b")
    with file:
        held = await in_thread(_hash_what_is_there, file, hasher, blob.size)
        advance(held)
        sent = 0
        async for chunk in blobs.stream(client, repository, blob.digest, offset=held, size=blob.size):
            await in_thread(_write, file, hasher, chunk)
            sent += len(chunk)
            advance(len(chunk))
        if f"{algorithm}:{hasher.hexdigest()}" != blob.digest:
            await in_thread(part.unlink)
            raise IntegrityError(
                f"{client.host} sent other bytes than {blob.digest} of {repository}.", hint="Nothing of it was kept."
            )
        await in_thread(_settle, file, part, final)
    return sent


def forget_stale_parts(layout: Layout) -> None:
    """Part files that nobody has written to for a week will not be gone on with."""
    for part in (layout.path / "blobs").glob(f"*/{PREFIX}*.part"):
        if time.time() - part.stat().st_mtime > KEPT_SECONDS:
            part.unlink(missing_ok=True)


def _hash_what_is_there(file: BinaryIO, hasher: Any, limit: int) -> int:
    file.seek(0)
    count = 0
    while piece := file.read(READ_BYTES):
        hasher.update(piece)
        count += len(piece)
    if count > limit:  # not from this blob
        file.truncate(0)
        file.seek(0)
        raise IntegrityError("A part file was longer than its blob; it was emptied.", hint="Try again.")
    return count


def _write(file: BinaryIO, hasher: Any, chunk: bytes) -> None:
    file.write(chunk)
    hasher.update(chunk)


def _settle(file: BinaryIO, part: Path, final: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.chmod(0o644)
    os.replace(part, final)
