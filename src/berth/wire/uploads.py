"""How does a blob get into a registry? HEAD, mount, then POST + PUT or chunks (distribution-spec end-4 to 6, end-11).

The source is hashed while it is sent. When it turns out not to have the digest, the last piece is held back, so the
registry sees a broken request and can never take the wrong bytes for the right ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import httpx

from berth.errors import (
    BerthError,
    IntegrityError,
    NotFound,
    RangeInvalid,
    RemoteAuthError,
    RemoteError,
    TooManyRequests,
    Unavailable,
    UploadUnknown,
)
from berth.oci import digest as digests
from berth.wire import blobs
from berth.wire.client import RegistryClient
from berth.wire.hashing import RunningDigest

# Opens the blob's bytes from an offset; each call starts anew.
OpenAt = Callable[[int], AsyncIterator[bytes]]
OCTETS = "application/octet-stream"


class Arrival(StrEnum):
    """How a blob came to be in the repository."""

    present = "present"
    mounted = "mounted"
    uploaded = "uploaded"


@dataclass(frozen=True)
class Upload:
    """What is to be sent.

    Args:
        mount_from: repositories of the same registry that may hold the blob already.
        chunk_bytes: send in chunks of this size, resumed after a failure; None = in one PUT.
        restartable: whether `open` can be called again; without it a broken upload is not repeated.
        sent: told the number of bytes as they leave (bytes sent again are not counted again).
        absent: the registry has just said that it lacks the blob, so it is not asked first.
    """

    digest: str
    size: int
    open: OpenAt
    mount_from: Sequence[str] = ()
    chunk_bytes: int | None = None
    restartable: bool = True
    sent: Callable[[int], None] = lambda _: None
    absent: bool = False


def push_scopes(repository: str, *also_pull: str) -> frozenset[str]:
    return frozenset({f"repository:{repository}:pull,push", *(f"repository:{r}:pull" for r in also_pull)})


async def put(client: RegistryClient, repository: str, upload: Upload) -> Arrival:
    """Makes sure that `repository` has the blob.

    Raises:
        IntegrityError: the source has other bytes than the digest names (nothing is stored).
    """
    try:
        if not upload.absent and await blobs.head(client, repository, upload.digest) is not None:
            return Arrival.present
    except RemoteAuthError:
        pass  # an answer to HEAD has no body: the POST below is refused with the reason, or the right is to push only
    location: httpx.URL | None = None
    for origin in upload.mount_from:
        if origin == repository:
            continue
        mounted, session = await _mount(client, repository, upload.digest, origin)
        if mounted or session is not None:
            await _cancel(client, repository, location)
            location = session  # the answer to a mount that is not done is an ordinary session: it can be used
        if mounted:
            return Arrival.mounted
    source = _Source(upload)
    if upload.chunk_bytes is not None and upload.size > upload.chunk_bytes:
        await _chunks(client, repository, source, location)
    else:
        await _whole(client, repository, source, location)
    return Arrival.uploaded


async def put_bytes(client: RegistryClient, repository: str, content: bytes) -> str:
    """The same for a small blob in memory; returns its digest."""

    async def opened(offset: int) -> AsyncIterator[bytes]:
        yield content[offset:]

    digest = digests.of_bytes(content)
    await put(client, repository, Upload(digest, len(content), opened))
    return digest


class _Source:
    """The bytes to send, hashed once however often parts of them are read again."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.running = RunningDigest(upload.digest)

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`; raises IntegrityError before the last piece of a wrong source."""
        upload = self.upload
        position = start
        held: bytes | None = None
        if start < end or upload.size == 0:
            async for read in upload.open(start):
                chunk = read[: end - position]
                if not chunk:
                    break
                seen = self.running.count
                if position + len(chunk) > seen >= position:
                    fresh = memoryview(chunk)[seen - position :]
                    await self.running.update(fresh)
                    upload.sent(len(fresh))
                position += len(chunk)
                if held is not None:
                    yield held
                held = chunk
        if position != end or (end == upload.size and not self.running.matches()):
            raise IntegrityError(
                f"The content of {upload.digest} changed while it was sent.",
                hint="Build the version again, then push.",
                detail={"digest": upload.digest},
            )
        if held is not None:
            yield held


async def mount(client: RegistryClient, repository: str, digest: str, *, source: str) -> bool:
    """Links a blob of another repository of the same registry; False when it has to be uploaded instead."""
    mounted, session = await _mount(client, repository, digest, source)
    await _cancel(client, repository, session)
    return mounted


async def _mount(client: RegistryClient, repository: str, digest: str, origin: str) -> tuple[bool, httpx.URL | None]:
    url = client.url(repository, "blobs", "uploads/", query=f"mount={digest}&from={origin}")
    try:
        async with client.exchange(
            "POST", url, expect=(201, 202), scopes=push_scopes(repository, origin), headers={"Content-Length": "0"}
        ) as response:
            if response.status_code == 201:
                return True, None
            return False, _location(client, response)
    except (NotFound, RemoteAuthError):
        return False, None  # no right to read there, or a registry without mounts: an ordinary upload will do


async def _start(client: RegistryClient, repository: str) -> httpx.URL:
    async with client.exchange(
        "POST",
        client.url(repository, "blobs", "uploads/"),
        expect=(202,),
        scopes=push_scopes(repository),
        headers={"Content-Length": "0"},
    ) as response:
        return _location(client, response)


async def _whole(client: RegistryClient, repository: str, source: _Source, location: httpx.URL | None) -> None:
    """POST + PUT with the whole body; after a failure a new session, unless the blob arrived after all."""
    upload = source.upload
    failures = 0
    while True:
        location = location or await _start(client, repository)
        try:
            async with client.exchange(
                "PUT",
                _with_digest(location, upload.digest),
                expect=(201,),
                scopes=push_scopes(repository),
                headers={"Content-Type": OCTETS, "Content-Length": str(upload.size)},
                body=lambda: source.pieces(0, upload.size),
                repeat=False,
            ) as response:
                _check_digest(client, response, upload.digest)
                return
        except BerthError as error:
            failures += 1
            if not upload.restartable or not _may_pass(error) or failures >= client.retry.attempts:
                await _cancel(client, repository, location)
                raise
            await client.sleep(client.retry.wait(failures, error.detail.get("retry_after")))
            if await blobs.head(client, repository, upload.digest) is not None:
                return
            location = None


async def _chunks(client: RegistryClient, repository: str, source: _Source, location: httpx.URL | None) -> None:
    """PATCH by PATCH. After a failure the registry is asked how far it got, and the upload goes on from there."""
    upload = source.upload
    step = upload.chunk_bytes or upload.size
    offset = 0
    failures = 0
    while True:
        location = location or await _start(client, repository)
        try:
            while offset < upload.size:
                end = min(offset + step, upload.size)
                location = await _patch(client, repository, location, source, offset, end)
                offset, failures = end, 0
            await _close(client, repository, location, upload.digest)
            return
        except BerthError as error:
            failures += 1
            if not upload.restartable or not _may_pass(error) or failures >= client.retry.attempts:
                await _cancel(client, repository, location)
                raise
            await client.sleep(client.retry.wait(failures, error.detail.get("retry_after")))
            if offset >= upload.size and await blobs.head(client, repository, upload.digest) is not None:
                return
            location, offset = await _where(client, repository, location)


async def _patch(
    client: RegistryClient, repository: str, location: httpx.URL, source: _Source, start: int, end: int
) -> httpx.URL:
    async with client.exchange(
        "PATCH",
        location,
        expect=(202,),
        scopes=push_scopes(repository),
        headers={"Content-Type": OCTETS, "Content-Length": str(end - start), "Content-Range": f"{start}-{end - 1}"},
        body=lambda: source.pieces(start, end),
        repeat=False,
    ) as response:
        return _location(client, response)


async def _close(client: RegistryClient, repository: str, location: httpx.URL, digest: str) -> None:
    async with client.exchange(
        "PUT",
        _with_digest(location, digest),
        expect=(201,),
        scopes=push_scopes(repository),
        headers={"Content-Length": "0"},
        repeat=False,
    ) as response:
        _check_digest(client, response, digest)


async def _where(client: RegistryClient, repository: str, location: httpx.URL) -> tuple[httpx.URL | None, int]:
    """The session's newest location and the number of bytes it has; (None, 0) when it is gone."""
    try:
        async with client.exchange("GET", location, expect=(204,), scopes=push_scopes(repository)) as response:
            last = response.headers.get("range", "").removeprefix("bytes=").rpartition("-")[2]
            if not (last.isascii() and last.isdigit()):
                return None, 0
            # An empty session reads as 0-0 in places, like one with a single byte: then the chunk is refused (416)
            # or starts a byte late, which the digest would show. Starting anew costs nothing at this point.
            if last == "0":
                return None, 0
            return _location(client, response, location), int(last) + 1
    except (NotFound, RemoteError):
        return None, 0


async def _cancel(client: RegistryClient, repository: str, location: httpx.URL | None) -> None:
    if location is None:
        return
    try:
        async with client.exchange(
            "DELETE", location, expect=(200, 202, 204, 404), scopes=push_scopes(repository), repeat=False
        ):
            pass
    except BerthError:
        pass  # optional for registries; sessions end by themselves


def _location(client: RegistryClient, response: httpx.Response, default: httpx.URL | None = None) -> httpx.URL:
    value = response.headers.get("location")
    if value:
        return client.resolve(response.request.url, value)
    if default is not None:
        return default
    raise RemoteError(f"{client.host} answered an upload without a Location.")


def _with_digest(location: httpx.URL, digest: str) -> httpx.URL:
    """Appends the digest and changes nothing else: the query may be signed."""
    raw = location.raw_path
    return location.copy_with(raw_path=raw + (b"&" if b"?" in raw else b"?") + b"digest=" + digest.encode("ascii"))


def _check_digest(client: RegistryClient, response: httpx.Response, digest: str) -> None:
    said = response.headers.get("docker-content-digest")
    if said is not None and said != digest:
        raise RemoteError(f"{client.host} stored {digest} as {said}.", detail={"digest": digest, "stored": said})


def _may_pass(error: BerthError) -> bool:
    """Whether trying again can help: nobody answered, the registry was busy, or the session was lost."""
    status = error.detail.get("status")
    if isinstance(error, RemoteAuthError):
        return False
    if isinstance(status, int) and status < 500 and status not in (404, 408, 416, 429):
        return False
    return isinstance(error, Unavailable | TooManyRequests | UploadUnknown | NotFound | RangeInvalid | RemoteError)
