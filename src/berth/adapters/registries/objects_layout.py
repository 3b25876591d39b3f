"""How does an OCI image layout live in an object store, where nothing can be renamed and nothing locked?

A blob's key is written once, after its hash agreed: in one request, or in parts of which the store makes an object only
when the last one was sound. `index.json` changes by compare-and-swap (docs/decisions/0019).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from berth.adapters.registries.objects_store import Door, errors, library, told
from berth.errors import BlobUnknown, ManifestInvalid, RemoteError, Unavailable, Unsupported
from berth.oci import digest as digests
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps, loads
from berth.oci.layout import LAYOUT_VERSION, entries_of
from berth.oci.media_types import OCI_INDEX

if TYPE_CHECKING:
    from berth.adapters.registries.objects_store import Store

READ_SIZE: Final = 1 << 20
SMALL: Final = 8 << 20
# Parts of one blob that wait or are under way; with 8 MiB parts a blob takes about 32 MiB of memory.
IN_FLIGHT: Final = 24 << 20
INDEX_LIMIT: Final = 64 << 20
TRIES: Final = 60
LONGEST_WAIT: Final = 1.0
_LAYOUTS_KNOWN: Final = 200
_ABORT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Index:
    """An `index.json` as it was read; `version` is what the next write must still find, None when there is none."""

    document: dict[str, Any]
    entries: list[Descriptor]
    version: dict[str, str] | None


class _Abandoned(Unavailable):
    """Told to obstore only, which then throws the parts away."""


class Objects:
    """Reads and writes below one prefix of a store.

    Args:
        single_writer: nobody else writes there, so a store without conditional writes will do.
    """

    def __init__(self, store: Store, prefix: str, *, door: Door | None, single_writer: bool, what: str) -> None:
        self._store = store
        self._prefix = prefix
        self._door = door
        self._single_writer = single_writer
        self._what = what
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._conditional: bool | None = None

    # ---- keys

    def key(self, *parts: str) -> str:
        return "/".join(part for part in (self._prefix, *parts) if part)

    def blob_key(self, repository: str, digest: str) -> str:
        """Raises DigestInvalid before anything malformed becomes a key."""
        parsed = digests.parse(digest)
        return self.key(repository, "blobs", parsed.algorithm, parsed.encoded)

    # ---- objects

    async def size(self, key: str) -> int | None:
        """Bytes of an object, None when it is not there."""
        await self._pass()
        with suppress(FileNotFoundError), told(self._what):
            return int((await library().head_async(self._store, key))["size"])
        return None

    async def read(self, key: str, *, limit: int) -> bytes | None:
        """A small object whole."""
        await self._pass()
        with suppress(FileNotFoundError), told(self._what):
            found = await library().get_async(self._store, key)
            if found.meta["size"] > limit:
                raise ManifestInvalid(f"{key} has {found.meta['size']} bytes, which is too many.")
            return bytes(await found.bytes_async())
        return None

    async def stream(self, key: str, *, offset: int) -> AsyncIterator[bytes]:
        """An object's bytes from `offset`, which must lie inside. Raises BlobUnknown."""
        await self._pass()
        options = {"range": {"offset": offset}} if offset else {}
        try:
            with told(self._what):
                found = await library().get_async(self._store, key, options=options)
                async for piece in found.stream(min_chunk_size=READ_SIZE):
                    yield bytes(piece)
        except FileNotFoundError as error:
            raise BlobUnknown(f"{key} is no longer there.") from error

    async def put_once(self, key: str, body: bytes) -> None:
        """Write a small object unless it is there; its content is known by its key."""
        await self._pass()
        with suppress(errors().AlreadyExistsError), told(self._what):
            await library().put_async(self._store, key, body, mode="create")

    async def put_parts(self, key: str, pieces: AsyncIterator[bytes], *, part: int) -> None:
        """Write a large object; when `pieces` raises, or we are told to stop, the parts are thrown away."""
        await self._pass()
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        sound = False

        async def fed() -> AsyncIterator[bytes]:
            while (piece := await waiting.get()) is not None:
                yield piece
            if not sound:
                raise _Abandoned("The upload was given up.")

        sending: asyncio.Future[Any] = asyncio.ensure_future(
            library().put_async(
                self._store, key, fed(), use_multipart=True, chunk_size=part, max_concurrency=max(1, IN_FLIGHT // part)
            )
        )
        try:
            async for piece in pieces:
                if not await _offered(waiting, piece, sending):
                    break
            else:
                sound = True
        finally:
            await _offered(waiting, None, sending)
            # Unsound: obstore aborts the upload, which takes one request.
            await asyncio.wait({sending}, timeout=None if sound else _ABORT_SECONDS)
            failure = sending.exception() if sending.done() and not sending.cancelled() else None
            sending.cancel()
        with told(self._what):
            if failure is not None and not isinstance(failure, _Abandoned):
                raise failure

    async def copy(self, source: str, target: str) -> bool:
        """A copy that the store makes by itself; False when there is nothing to copy."""
        await self._pass()
        with suppress(FileNotFoundError), told(self._what):
            await library().copy_async(self._store, source, target)
            return True
        return False

    async def delete(self, key: str) -> None:
        await self._pass()
        with suppress(FileNotFoundError), told(self._what):
            await library().delete_async(self._store, key)

    async def folders(self, *below: str) -> list[str]:
        """Names one level below a prefix, sorted."""
        await self._pass()
        with told(self._what):
            found = await library().list_with_delimiter_async(self._store, self.key(*below) or None)
        return sorted(str(prefix).rpartition("/")[2] for prefix in found["common_prefixes"])

    async def sign(self, key: str, *, seconds: int) -> str:
        """A URL for reading without credentials. Raises Unsupported where they cannot sign."""
        await self._pass()
        try:
            with told(self._what):
                url: str = await library().sign_async(self._store, "GET", key, timedelta(seconds=seconds))
        except (TypeError, ValueError) as error:  # a store that has no such thing
            raise Unsupported("This object store signs no URLs.") from error
        return url

    # ---- index.json

    async def index(self, repository: str) -> Index:
        """What `index.json` says now; it is sent again only when it has changed."""
        await self._pass()
        key, known = self.key(repository, "index.json"), self._indexes.get(repository)
        tag = known.version.get("e_tag") if known is not None and known.version is not None else None
        options = {"if_none_match": tag} if tag is not None else {}
        try:
            with told(self._what):
                found = await library().get_async(self._store, key, options=options)
                if found.meta["size"] > INDEX_LIMIT:
                    raise ManifestInvalid(f"{key} has {found.meta['size']} bytes, which is too many.")
                body = bytes(await found.bytes_async())
        except FileNotFoundError:
            return Index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, [], None)
        except errors().NotModifiedError:
            if known is None:
                raise Unavailable(f"{key} cannot be read.") from None
            return known
        document = loads(body, max_bytes=INDEX_LIMIT, what=key)
        if not isinstance(document, dict):
            raise ManifestInvalid(f"{key} is not an object.")
        version = {name: found.meta[name] for name in ("e_tag", "version") if found.meta.get(name) is not None}
        read = Index(document, entries_of(document), version)
        self._indexes[repository] = read
        self._indexes.move_to_end(repository)
        if len(self._indexes) > _LAYOUTS_KNOWN:
            self._indexes.popitem(last=False)
        return read

    async def change(self, repository: str, change: Callable[[list[Descriptor]], Iterable[Descriptor]]) -> None:
        """Read, change and swap `index.json` until nobody else was faster.

        Raises:
            Unavailable: others kept being faster. Unsupported: this store has no conditional writes.
        """
        await self._check_conditional()
        async with self._locks.setdefault(repository, asyncio.Lock()):
            for attempt in range(TRIES):
                read = await self.index(repository)
                entries = list(change(list(read.entries)))
                if entries == read.entries and read.version is not None:
                    return
                if await self._swapped(repository, read, entries):
                    return
                self._indexes.pop(repository, None)
                await asyncio.sleep(random.uniform(0, min(LONGEST_WAIT, 0.005 * 2**attempt)))  # noqa: S311
        raise Unavailable(f"The index of {repository} changes all the time.", hint="Try again.")

    async def _swapped(self, repository: str, read: Index, entries: list[Descriptor]) -> bool:
        document = {**read.document, "manifests": [entry.to_json() for entry in entries]}
        mode: Any = "create" if read.version is None else read.version
        if self._single_writer:
            mode = "overwrite"
        if read.version is None:
            await self.put_once(self.key(repository, "oci-layout"), dumps({"imageLayoutVersion": LAYOUT_VERSION}))
        try:
            with told(self._what):
                await library().put_async(self._store, self.key(repository, "index.json"), dumps(document), mode=mode)
        except (errors().PreconditionError, errors().AlreadyExistsError, FileNotFoundError):
            return False
        return True

    async def _check_conditional(self) -> None:
        if self._single_writer or self._conditional:
            return
        if not await self.swaps():
            raise Unsupported(
                "This object store ignores conditional writes: two writers could lose each other's versions.",
                hint="If nobody but this Berth, with one worker, writes there: --option single_writer=true.",
            )

    async def swaps(self) -> bool:
        """Whether the store refuses a write whose condition does not hold; tried once, on an object of its own."""
        if self._conditional is None:
            await self._pass()
            key = self.key(f".berth-{secrets.token_hex(8)}")

            async def refused(mode: Any) -> bool:
                try:
                    with told(self._what):
                        await library().put_async(self._store, key, b"{}", mode=mode)
                except (errors().PreconditionError, errors().AlreadyExistsError, FileNotFoundError):
                    return True
                return False

            try:
                with told(self._what):
                    made = await library().put_async(self._store, key, b"", mode="create")
                stale = {n: "1" if n == "version" else f'"{"0" * 32}"' for n in ("e_tag", "version") if made.get(n)}
                self._conditional = await refused("create") and await refused(stale)
            finally:
                await self.delete(key)
        return self._conditional

    async def refuses_writing(self) -> str | None:
        """Why the store takes nothing from us, None when it does. One object comes and goes, always the same."""
        await self._pass()
        key = self.key(".berth-health")
        try:
            with told(self._what):
                await library().put_async(self._store, key, b"", mode="overwrite")
        except (RemoteError, Unsupported) as error:
            return str(error)
        with suppress(RemoteError):  # a place that keeps everything
            await self.delete(key)
        return None

    async def _pass(self) -> None:
        if self._door is not None:
            await self._door.passed()


async def _offered(waiting: asyncio.Queue[bytes | None], piece: bytes | None, sending: asyncio.Future[Any]) -> bool:
    """Hand over a piece; False when the upload has ended before."""
    offering = asyncio.ensure_future(waiting.put(piece))
    try:
        await asyncio.wait({offering, sending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not offering.done():
            offering.cancel()
    return not sending.done()


def part_size(size: int, *, parts: int) -> int:
    """Bytes of one part, so that no blob needs more parts than the store takes."""
    least = -(-size // (parts - 1))
    return max(SMALL, -(-least // SMALL) * SMALL)
