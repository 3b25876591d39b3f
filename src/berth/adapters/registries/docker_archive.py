"""What goes in and out of a container daemon? Tars of images, written and read while they pass (registries §5, §6).

Written is the form that every daemon loads: `manifest.json`, the config, and layers as they are, compressed or not.
Read is also what newer daemons save: an OCI layout with `manifest.json` beside it.
"""

from __future__ import annotations

import asyncio
import posixpath
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Final, cast

from berth.adapters.registries.contract import WholeImage
from berth.errors import IntegrityError, ManifestInvalid, RemoteError, TooLarge
from berth.oci import digest as digests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps, loads
from berth.wire.hashing import RunningDigest

READ_SIZE: Final = 1 << 20
# Up to here a member may be one of the archive's documents; all of them are kept until the end.
DOCUMENT: Final = 1 << 20
DOCUMENTS: Final = 64 << 20
MEMBERS: Final = 10_000
_END: Final = bytes(2 * tarfile.BLOCKSIZE)

Keep = Callable[[int, AsyncIterator[bytes]], Awaitable[str]]


async def written(
    image: WholeImage, *, name: str, read: Callable[[Descriptor], AsyncIterator[bytes]]
) -> AsyncGenerator[bytes, None]:
    """The archive of an image that is to be called `name`.

    Raises:
        IntegrityError: a layer's bytes are not those of its digest; the archive ends in its middle then.
    """
    places: dict[str, str] = {}
    for layer in image.layers:
        if layer.digest in places:
            continue
        places[layer.digest] = f"{len(places):03d}-{digests.parse(layer.digest).encoded}/layer.tar"
        yield _header(places[layer.digest], layer.size)
        running = RunningDigest(layer.digest)
        async for chunk in read(layer):
            await running.update(chunk)
            if running.count > layer.size:
                break
            yield chunk
        if running.count != layer.size or not running.matches():
            raise IntegrityError(f"The layer {layer.digest} arrived with other bytes.")
        yield _padding(layer.size)
    config = f"{digests.parse(digests.of_bytes(image.config)).encoded}.json"
    listed = [{"Config": config, "RepoTags": [name], "Layers": [places[layer.digest] for layer in image.layers]}]
    for member, body in ((config, image.config), ("manifest.json", dumps(listed))):
        yield _header(member, len(body)) + body + _padding(len(body))
    yield _END


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


async def unpacked(stream: AsyncIterator[bytes], *, name: str, keep: Keep) -> WholeImage:
    """The image called `name` out of an archive; every layer goes to `keep` as it comes by.

    Raises:
        RemoteError: the archive ends too early, or is none. ManifestInvalid, TooLarge: it is not usable.
    """
    archive = _Archive(stream)
    documents: dict[str, bytes] = {}
    layers: dict[str, Descriptor] = {}
    links: dict[str, str] = {}
    held = 0
    try:
        count = 0
        while (member := await archive.next()) is not None:
            count += 1
            path = posixpath.normpath(member.name)
            if count > MEMBERS:
                raise TooLarge(f"The daemon's archive of {name} has more than {MEMBERS} files.")
            if member.issym():
                links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            elif member.islnk():
                links[path] = posixpath.normpath(member.linkname)
            elif member.isreg() and member.size <= DOCUMENT:
                documents[path] = b"".join([piece async for piece in archive.content(member)])
                held += member.size
                if held > DOCUMENTS:
                    raise TooLarge(f"The daemon's archive of {name} has too many small files.")
            elif member.isreg():
                layers[path] = await _kept(member.size, archive.content(member), keep)
        return await _assembled(documents, layers, links, name=name, keep=keep)
    except tarfile.TarError as error:
        raise RemoteError(f"The daemon's archive of {name} cannot be read: {error}.") from error
    finally:
        await archive.close()


async def _assembled(
    documents: dict[str, bytes], layers: dict[str, Descriptor], links: dict[str, str], *, name: str, keep: Keep
) -> WholeImage:
    listed = loads(documents.get("manifest.json", b"[]"), what="manifest.json")
    entry = _entry(listed, name)

    def place(value: Any) -> str:
        path = posixpath.normpath(str(value))
        return links.get(path, path)

    config = documents.get(place(entry.get("Config")))
    if config is None:
        raise ManifestInvalid(f"The daemon's archive of {name} has no config.")
    ordered: list[Descriptor] = []
    for value in entry.get("Layers") or []:
        path = place(value)
        if path not in layers:
            if path not in documents:
                raise ManifestInvalid(f"The daemon's archive of {name} lacks its layer {path}.")
            layers[path] = await _kept(len(documents[path]), _once(documents[path]), keep)
        ordered.append(layers[path])
    return WholeImage(config, ordered)


def _entry(listed: Any, name: str) -> dict[str, Any]:
    entries = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    for entry in entries:
        if name in (entry.get("RepoTags") or []) or len(entries) == 1:
            return entry
    raise ManifestInvalid(f"The daemon's archive does not hold {name}.")


async def _kept(size: int, chunks: AsyncIterator[bytes], keep: Keep) -> Descriptor:
    """A layer stored as it is, and what it is by its first bytes."""
    start = b""

    async def watched() -> AsyncIterator[bytes]:
        nonlocal start
        async for chunk in chunks:
            start = start or chunk[:4]
            yield chunk

    async with aclosing(watched()) as pieces:  # type: ignore[type-var]
        digest = await keep(size, pieces)
    return Descriptor(_layer_type(start), digest, size)


def _layer_type(start: bytes) -> str:
    if start.startswith(b"\x1f\x8b"):
        return types.OCI_LAYER_TAR_GZIP
    return types.OCI_LAYER_TAR_ZSTD if start.startswith(b"\x28\xb5\x2f\xfd") else types.OCI_LAYER_TAR


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


class _Archive:
    """The standard library's tar reader over an async stream: it works in a thread and asks the loop for bytes."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._pipe = _Pipe(stream, asyncio.get_running_loop())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="docker-archive")
        self._tar: Any = None

    async def next(self) -> tarfile.TarInfo | None:
        def step() -> Any:
            if self._tar is None:
                self._tar = tarfile.open(fileobj=cast(Any, self._pipe), mode="r|", bufsize=READ_SIZE)  # noqa: SIM115
            found = self._tar.next()
            self._tar.members.clear()  # it would remember all of them
            return found

        found: tarfile.TarInfo | None = await self._in_thread(step)
        return found

    async def content(self, member: tarfile.TarInfo) -> AsyncGenerator[bytes, None]:
        source = self._tar.extractfile(member)
        left = member.size
        while left and source is not None:
            piece = await self._in_thread(source.read, min(READ_SIZE, left))
            if not piece:
                raise tarfile.ReadError("unexpected end of data")
            left -= len(piece)
            yield piece

    async def close(self) -> None:
        self._pipe.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


class _Pipe:
    """What `tarfile` reads from; only its thread calls `read`."""

    def __init__(self, stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._buffer = bytearray()
        self._asked: Any = None
        self._stopped = False

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._stopped:
            self._asked = asyncio.run_coroutine_threadsafe(self._piece(), self._loop)
            piece = self._asked.result()
            if not piece:
                break
            self._buffer += piece
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _piece(self) -> bytes:
        return await anext(self._stream, b"")

    def stop(self) -> None:
        self._stopped = True
        if self._asked is not None:
            self._asked.cancel()
