"""How does an admitted version become a folder here? Its content streams straight into place, in one pass.

Small files are fetched first, several at a time; each large one then streams from the service into its file with the
next piece already on the way. `authoring.unpack` compares every digest and only shows the folder when all is there.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from berth.authoring import checkpoints
from berth.authoring.packing import LAYER_KIND
from berth.authoring.unpack import CODE, Unpacked, unpack
from berth.client.pushing import file_names
from berth.errors import BlobUnknown, Conflict, ManifestUnknown, RemoteError
from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.wire import blobs, transfer
from berth.wire.client import RegistryClient
from berth.wire.parallel import each
from berth.wire.transfer import Progress, RemoteSource, Tree

# What is fetched ahead into memory: files up to so many bytes, so many bytes in all.
SMALL_BYTES = 2 * 1024 * 1024
AHEAD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Pulled:
    """What a pull did: the version's digest, and what was written where."""

    repository: str
    digest: str
    files: Unpacked


def check_destination(destination: Path, *, force: bool) -> None:
    """Raises Conflict, before any byte moves, when the folder exists and has something in it."""
    if not force and destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise Conflict(f"{destination} exists already.", hint="Name another folder, or use --force to replace it.")


async def pull(
    client: RegistryClient,
    repository: str,
    digest: str,
    destination: Path,
    *,
    force: bool,
    weights: bool,
    parallel: int,
    progress: Progress | None,
) -> Pulled:
    """Writes the version into a new folder; with `force` over one that exists.

    Raises:
        Denied: the gate does not let it out; with all its reasons.
    """
    source = RemoteSource(client, repository)
    tree = await transfer.tree_of(source, digest)
    wanted = {b.digest: b for b in _wanted(tree, weights)}
    names = await file_names(source, digest) if progress is not None else {}
    label = names.get(next(iter(wanted))) if len(wanted) == 1 else None
    label = label or f"{repository}@{transfer.short(digest)}"
    total = sum(b.size for b in wanted.values())
    if progress is not None:
        progress.start(label, total)
    ahead = await _fetch_ahead(client, repository, list(wanted.values()), parallel)
    content = _Content(asyncio.get_running_loop(), client, repository, tree, ahead)
    loop = asyncio.get_running_loop()

    def advance(count: int) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress.advance, label, count)

    files = await content.during(
        partial(unpack, digest, destination, content, force=force, weights=weights, advance=advance)
    )
    if progress is not None:
        progress.finish(label, "pulled")
    return Pulled(repository, digest, files)


def _wanted(tree: Tree, weights: bool) -> Iterator[Descriptor]:
    """The blobs that unpacking reads: the code layer of each image and every weight file."""
    for _, manifest in tree.order:
        if _is_checkpoint(manifest):
            yield from checkpoints.weights_of(manifest.layers) if weights else ()
        else:
            yield from (layer for layer in manifest.layers if layer.annotations.get(LAYER_KIND) == CODE)


def _is_checkpoint(manifest: Manifest) -> bool:
    return manifest.artifact_type == media_types.MODELPACK_ARTIFACT


async def _fetch_ahead(
    client: RegistryClient, repository: str, wanted: list[Descriptor], parallel: int
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    async def one(blob: Descriptor) -> None:
        found[blob.digest] = await blobs.read_all(client, repository, blob.digest, limit=SMALL_BYTES, size=blob.size)

    chosen: list[Descriptor] = []
    room = AHEAD_BYTES
    for blob in sorted(wanted, key=lambda b: b.size):
        if blob.size <= min(SMALL_BYTES, room):
            chosen.append(blob)
            room -= blob.size
    await each(chosen, one, at_once=parallel)
    return found


@dataclass
class _Content:
    """The version as `unpack`, which is synchronous and runs in a thread, wants to read it."""

    loop: asyncio.AbstractEventLoop
    client: RegistryClient
    repository: str
    tree: Tree
    ahead: dict[str, bytes]
    stopped: bool = False
    waiting: set[Future[Any]] = field(default_factory=set)

    async def during(self, work: Callable[[], Unpacked]) -> Unpacked:
        """Runs `work` in a thread; when we are cancelled, its next read fails and it tidies up before we leave."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.stopped = True
            for future in list(self.waiting):
                future.cancel()
            await asyncio.wait([task])
            raise

    def manifest(self, digest: str) -> bytes:
        for known, manifest in self.tree.order:
            if known == digest:
                return manifest.body
        raise ManifestUnknown(f"{self.repository} has no manifest {digest}.")

    def open_blob(self, digest: str) -> BinaryIO:
        if digest in self.ahead:
            return io.BytesIO(self.ahead[digest])
        blob = self.tree.blobs.get(digest)
        if blob is None:
            raise BlobUnknown(f"{self.repository} has no blob {digest}.")
        stream = blobs.stream(self.client, self.repository, digest, size=blob.size)
        return cast(BinaryIO, _Incoming(self, stream))

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        if self.stopped:
            work.close()
            raise RemoteError("The transfer was stopped.")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self.waiting.add(future)
        future.add_done_callback(self.waiting.discard)
        return future


class _Incoming(io.RawIOBase):
    """A blob as it arrives; one piece is always on the way while another is written."""

    def __init__(self, content: _Content, stream: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._content = content
        self._stream = stream
        self._rest = memoryview(b"")
        self._next: Future[Any] | None = content.start(self._piece())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and self._next is not None:
            piece = self._next.result()
            self._next = self._content.start(self._piece()) if piece else None
            self._rest = memoryview(piece)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed and self._next is not None:
            self._next.cancel()
            self._next = None
        super().close()

    async def _piece(self) -> bytes:
        return await anext(self._stream, b"")
