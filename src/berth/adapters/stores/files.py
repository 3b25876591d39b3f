"""The depot in a folder: `blobs/<algorithm>/<xx>/<hex>` and `uploads/<id>`, one copy of everything.

Uploads collect up to one batch in memory, then one executor call writes and hashes it while the next batch arrives
(both calls release the GIL). A file is fsynced, renamed and its folder fsynced before the caller may tell anybody.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.contract import Appended, StoredBlob
from berth.errors import (
    BerthError,
    BlobUnknown,
    Conflict,
    SetupError,
    StorageFull,
    TooLarge,
    Unavailable,
    UploadUnknown,
)
from berth.oci import digest as digests

READ_SIZE = 1 << 20
# Dirty pages are pushed to the disk this often while an upload runs, so that the final fsync has little left to do.
WRITEBACK_EVERY = 32 << 20
# Running hashes kept for uploads that arrive in several requests; older ones are re-hashed from the file.
KEPT_HASHES = 256

T = TypeVar("T")


def _storage_error(error: OSError) -> BerthError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull("The depot's disk is full; nothing of this upload was stored.", hint="Free space and retry.")
    return Unavailable(f"The depot could not be written or read: {error.strerror}.")


class FileStore:
    """A `BlobStore` with `LocalPaths` and `Listing` in one folder of a local (or POSIX-like network) file system.

    Args:
        root: the folder; made when missing.
        budget: memory shared by all transfers of this process.
        threads: size of the executor for hashing, reading and writing.
    """

    def __init__(self, root: Path, *, budget: TransferBudget, threads: int = 8) -> None:
        self.root = root
        self._budget = budget
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="depot")
        self._hashes: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        for folder in ("blobs", "uploads"):
            (root / folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    def close(self) -> None:
        self._executor.shutdown(wait=True)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        except OSError as error:
            raise _storage_error(error) from error

    def path_of(self, location: str) -> Path:
        return self.root / location

    # -- uploads -------------------------------------------------------------------------------------------------

    async def create_upload(self, upload_id: str) -> str:
        location = f"uploads/{upload_id}"

        def create() -> None:
            os.close(os.open(self.root / location, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

        await self._run(create)
        return location

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
        path = self.root / location

        def open_at() -> int:
            try:
                descriptor = os.open(path, os.O_WRONLY)
            except FileNotFoundError:
                raise UploadUnknown(f"Upload {upload_id} is gone.", hint="Start the upload again.") from None
            try:
                # The kernel drops this lock when a process dies, so a killed server never blocks a resuming client.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise Conflict(
                    "Another request is writing to this upload.", hint="Wait for it, ask for the status, then resume."
                ) from None
            os.ftruncate(descriptor, offset)
            os.lseek(descriptor, offset, os.SEEK_SET)
            return descriptor

        descriptor = await self._run(open_at)
        hasher = self._hash_at(upload_id, offset) or (digests.new_hasher(algorithm) if offset == 0 else None)
        size = offset
        try:
            async with self._budget.transfer() as share:
                complete, size = await self._pump(
                    descriptor, chunks, hasher=hasher, size=size, share=share, written=written
                )
            await self._run(os.fsync, descriptor)
        except StorageFull:
            # Give the space back at once: others may be waiting for it, and this upload cannot go on anyway.
            with suppress(OSError):
                os.ftruncate(descriptor, offset)
            raise
        finally:
            os.close(descriptor)
        if hasher is not None:
            self._keep_hash(upload_id, size, hasher)
        return Appended(size, complete)

    async def _pump(
        self,
        descriptor: int,
        chunks: AsyncIterable[bytes],
        *,
        hasher: Any,  # hashlib's object type has no public name
        size: int,
        share: Callable[[], int],
        written: Callable[[int], None] | None,
    ) -> tuple[bool, int]:
        """Write and hash batches while the next one arrives; returns (sender finished, bytes in the file)."""
        loop = asyncio.get_running_loop()
        batch: list[bytes] = []
        batched = 0
        writing: asyncio.Future[None] | None = None
        writeback: asyncio.Future[None] | None = None
        unsynced = 0
        complete = False

        async def flush() -> None:
            nonlocal batch, batched, writing, size, unsynced, writeback
            if writing is not None:
                await writing
            if not batched:
                return
            size += batched
            unsynced += batched
            writing = loop.run_in_executor(self._executor, _write_and_hash, descriptor, batch, hasher)
            if written is not None:
                writing.add_done_callback(_reporting(written, size))
            batch, batched = [], 0
            if unsynced >= WRITEBACK_EVERY and (writeback is None or writeback.done()):
                if writeback is not None:
                    await writeback
                writeback = loop.run_in_executor(self._executor, os.fdatasync, descriptor)
                unsynced = 0

        try:
            try:
                async for chunk in chunks:
                    batch.append(chunk)
                    batched += len(chunk)
                    # Somebody who reads along waits for bytes, not for batches: whatever is there is written at once.
                    idle = written is not None and (writing is None or writing.done())
                    if idle or batched >= share():
                        await flush()
                complete = True
            except ConnectionError:
                complete = False
            await flush()
            if writing is not None:
                await writing
            if writeback is not None:
                await writeback
        except OSError as error:
            raise _storage_error(error) from error
        finally:
            # Whatever went wrong, no thread may still hold the descriptor when the caller closes it.
            pending = [f for f in (writing, writeback) if f is not None and not f.done()]
            if pending:
                await asyncio.wait(pending)
        return complete, size

    def _hash_at(self, upload_id: str, offset: int) -> Any | None:
        known = self._hashes.pop(upload_id, None)
        return known[1] if known is not None and known[0] == offset and offset else None

    def _keep_hash(self, upload_id: str, size: int, hasher: Any) -> None:
        self._hashes[upload_id] = (size, hasher)
        while len(self._hashes) > KEPT_HASHES:
            self._hashes.popitem(last=False)

    async def digest_of_upload(self, location: str, *, upload_id: str, algorithm: str, size: int) -> str:
        known = self._hashes.get(upload_id)
        if known is not None and known[0] == size and known[1].name == algorithm:
            return f"{algorithm}:{known[1].hexdigest()}"
        return await self._run(_hash_file, self.root / location, algorithm, size)

    async def promote(self, location: str, digest: str) -> str:
        target = _blob_location(digest)

        def move() -> None:
            path = self.root / target
            _make_folder(path.parent)
            try:
                # Young again: whoever looks for forgotten files must not take it for one before its row commits.
                os.utime(self.root / location)
                os.rename(self.root / location, path)
            except FileNotFoundError:
                raise UploadUnknown("The upload is gone.", hint="Start the upload again.") from None
            _sync_folder(path.parent)

        await self._run(move)
        self._hashes.pop(location.rpartition("/")[2], None)
        return target

    async def put_bytes(self, data: bytes) -> StoredBlob:
        digest = digests.of_bytes(data)
        target = _blob_location(digest)

        def put() -> None:
            path = self.root / target
            _make_folder(path.parent)
            temporary = self.root / "uploads" / f"document-{os.getpid()}-{time.monotonic_ns()}"
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
            _sync_folder(path.parent)

        await self._run(put)
        return StoredBlob(digest, len(data), target)

    # -- reading -------------------------------------------------------------------------------------------------

    async def read(self, location: str, *, start: int = 0, length: int) -> AsyncIterator[bytes]:
        if length <= READ_SIZE:
            # Small content in one trip to the executor: beside big transfers each trip may wait for a turn.
            yield await self._run(_read_piece, self.root / location, start, length)
            return
        descriptor = await self._run(_open, self.root / location)
        try:
            async with self._budget.reading():
                end = start + length
                while start < end:
                    piece = await self._run(os.pread, descriptor, min(READ_SIZE, end - start), start)
                    if not piece:
                        raise Unavailable("The depot's copy of this blob is shorter than recorded.")
                    start += len(piece)
                    yield piece
        finally:
            os.close(descriptor)

    async def read_all(self, location: str, *, limit: int) -> bytes:
        def load() -> bytes:
            try:
                with open(self.root / location, "rb") as file:
                    data = file.read(limit + 1)
            except FileNotFoundError:
                raise BlobUnknown("The depot has lost this blob.") from None
            if len(data) > limit:
                raise TooLarge(f"This document is larger than {limit} bytes.")
            return data

        return await self._run(load)

    # -- keeping house -------------------------------------------------------------------------------------------

    async def delete(self, location: str) -> None:
        def unlink() -> None:
            path = self.root / location
            with suppress(FileNotFoundError):
                path.unlink()
                _sync_folder(path.parent)

        await self._run(unlink)
        self._hashes.pop(location.rpartition("/")[2], None)

    async def check(self) -> None:
        probe = self.root / "uploads" / f"probe-{os.getpid()}"

        def write() -> None:
            probe.write_bytes(b"berth")
            probe.unlink(missing_ok=True)

        try:
            await self._run(write)
        except (Unavailable, StorageFull) as error:
            raise SetupError(f"The depot at {self.root} cannot be written.", hint=error.message) from error

    async def blobs_older_than(self, age_seconds: float) -> AsyncIterator[StoredBlob]:
        for location, size in await self._run(_older_files, self.root, "blobs", age_seconds):
            _, algorithm, _, encoded = location.split("/")
            yield StoredBlob(f"{algorithm}:{encoded}", size, location)

    async def uploads_older_than(self, age_seconds: float) -> AsyncIterator[str]:
        for location, _ in await self._run(_older_files, self.root, "uploads", age_seconds):
            yield location


def _blob_location(digest: str) -> str:
    parsed = digests.parse(digest)  # the grammar check comes before any use as a path
    return f"blobs/{parsed.algorithm}/{parsed.encoded[:2]}/{parsed.encoded}"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise BlobUnknown("The depot has lost this blob.", hint="Push it again.") from None


def _read_piece(path: Path, start: int, length: int) -> bytes:
    descriptor = _open(path)
    try:
        piece = os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)
    if len(piece) < length:
        raise Unavailable("The depot's copy of this blob is shorter than recorded.")
    return piece


def _reporting(written: Callable[[int], None], size: int) -> Callable[[asyncio.Future[None]], None]:
    def report(writing: asyncio.Future[None]) -> None:
        if not writing.cancelled() and writing.exception() is None:
            written(size)

    return report


def _write_and_hash(descriptor: int, batch: list[bytes], hasher: Any) -> None:
    # IOV_MAX is 1024 on Linux; pieces from the HTTP server are about 64 KiB, so a batch rarely comes near it.
    for first in range(0, len(batch), 512):
        group = batch[first : first + 512]
        wanted = sum(len(piece) for piece in group)
        written = os.writev(descriptor, group)
        if written < wanted:
            rest = memoryview(b"".join(group))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    if hasher is not None:
        for piece in batch:
            hasher.update(piece)


def _hash_file(path: Path, algorithm: str, size: int) -> str:
    hasher = digests.new_hasher(algorithm)
    left = size
    with open(path, "rb", buffering=0) as file:
        while left and (piece := file.read(min(READ_SIZE, left))):
            hasher.update(piece)
            left -= len(piece)
    if left:
        raise UploadUnknown("The upload's bytes are incomplete in the depot.", hint="Start the upload again.")
    return f"{algorithm}:{hasher.hexdigest()}"


def _make_folder(folder: Path) -> None:
    """Make `blobs/<algorithm>/<xx>` and make its own directory entry durable too."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sync_folder(folder.parent)
        _sync_folder(folder.parent.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _older_files(root: Path, folder: str, age_seconds: float) -> list[tuple[str, int]]:
    limit = time.time() - age_seconds
    found = []
    for directory, _, names in os.walk(root / folder):
        for name in names:
            path = Path(directory) / name
            with suppress(FileNotFoundError):
                facts = path.stat()
                if facts.st_mtime < limit:
                    found.append((str(path.relative_to(root)), facts.st_size))
    return found
