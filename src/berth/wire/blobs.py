"""How are blobs asked for, read and removed? (distribution-spec end-2, end-10.)

A read is streamed in constant memory, goes on with a `Range` request where a connection broke, and is compared with
its digest: the last piece is only handed out when everything before it and it have the right digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from berth.errors import BlobUnknown, IntegrityError, NotFound, RemoteError
from berth.wire.answers import transport_failure
from berth.wire.client import RegistryClient
from berth.wire.hashing import RunningDigest
from berth.wire.messages import Answer

PROGRESS_BYTES = 64 * 1024


def pull_scope(repository: str) -> frozenset[str]:
    return frozenset({f"repository:{repository}:pull"})


def delete_scope(repository: str) -> frozenset[str]:
    return frozenset({f"repository:{repository}:delete"})


async def head(client: RegistryClient, repository: str, digest: str) -> int | None:
    """Size in bytes of a blob that is there (0 when the registry doesn't say), else None."""
    async with client.exchange(
        "HEAD", client.url(repository, "blobs", digest), expect=(200, 404), scopes=pull_scope(repository)
    ) as response:
        return None if response.status == 404 else int(response.headers.get("content-length") or 0)


async def read(
    client: RegistryClient, repository: str, digest: str, *, size: int | None = None
) -> AsyncIterator[bytes]:
    """The verified bytes of a blob.

    Args:
        size: expected length in bytes; a longer or shorter body is refused.
    Raises:
        IntegrityError: other bytes than `digest` names; nothing that was handed out before may be used then.
        BlobUnknown: not there.
    """
    running = RunningDigest(digest)
    held: bytes | None = None
    async for chunk in stream(client, repository, digest, size=size):
        if held is not None:
            yield held
        await running.update(chunk)
        held = chunk
    if not running.matches():
        raise IntegrityError(
            f"{client.host} sent other bytes than {digest} of {repository}.",
            hint="Nothing of it was kept. The registry's storage, or something on the way, is damaged.",
            detail={"digest": digest, "repository": repository},
        )
    if held is not None:
        yield held


async def stream(
    client: RegistryClient, repository: str, digest: str, *, offset: int = 0, size: int | None = None
) -> AsyncIterator[bytes]:
    """The bytes of a blob from `offset`, *not* verified, resumed when a connection breaks.

    For callers that hash themselves; `read` is for all others.
    """
    position = offset
    failures = 0
    total = size
    if size is not None and 0 < size <= offset:
        return
    while True:
        before = position
        failure: httpx.TransportError | None = None
        headers = {"Range": f"bytes={position}-"} if position else {}
        try:
            async with client.exchange(
                "GET",
                client.url(repository, "blobs", digest),
                expect=(200, 206),
                scopes=pull_scope(repository),
                headers=headers,
            ) as response:
                skip, announced = _shape(response, position)
                if total is None:
                    total = announced
                if announced is not None and total is not None and announced != total:
                    raise IntegrityError(
                        f"{client.host} announces {announced} bytes for {digest}; it has {total}.",
                        detail={"digest": digest},
                    )
                async for received in response.raw():
                    chunk = received[skip:]
                    skip = max(0, skip - len(received))
                    if not chunk:
                        continue
                    position += len(chunk)
                    if total is not None and position > total:
                        raise IntegrityError(
                            f"{client.host} sent more than the {total} bytes of {digest}.", detail={"digest": digest}
                        )
                    yield chunk
            if total is None or position == total:
                return
        except NotFound as error:
            raise BlobUnknown(error.message, hint=error.hint, detail=error.detail) from error
        except httpx.TransportError as error:
            failure = error
        # The body ended early. Progress shows that the registry works, so patience starts anew; a few bytes at a time
        # are none.
        failures = 1 if position - before >= PROGRESS_BYTES else failures + 1
        if failures >= client.retry.attempts:
            if failure is not None:
                raise transport_failure(failure, client.origin) from failure
            raise RemoteError(f"{client.host} keeps ending {digest} after {position} of {total} bytes.")
        await client.sleep(client.retry.wait(failures))


async def read_all(
    client: RegistryClient, repository: str, digest: str, *, limit: int, size: int | None = None
) -> bytes:
    """A small blob in memory, verified. Raises IntegrityError when it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in read(client, repository, digest, size=size):
        body += chunk
        if len(body) > limit:
            raise IntegrityError(f"{digest} of {repository} is longer than {limit} bytes.", detail={"digest": digest})
    return bytes(body)


async def delete(client: RegistryClient, repository: str, digest: str) -> bool:
    """Removes a blob; False when it was not there. Raises Unsupported where the registry can't."""
    async with client.exchange(
        "DELETE", client.url(repository, "blobs", digest), expect=(200, 202, 404), scopes=delete_scope(repository)
    ) as response:
        return response.status != 404


def _shape(response: Answer, position: int) -> tuple[int, int | None]:
    """How many leading bytes to drop, and the blob's whole length if the answer says it."""
    length = response.headers.get("content-length", "")
    announced = int(length) if length.isascii() and length.isdigit() else None
    if response.status == 200:
        return position, announced  # the whole blob again: Range is optional for registries
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    span, _, whole = rest.partition("/")
    first = span.partition("-")[0]
    if unit.lower() != "bytes" or first != str(position):
        raise RemoteError(
            f"{response.url.host} answered range {rest or '?'} to a request for byte {position} and later."
        )
    if whole.isascii() and whole.isdigit():
        return 0, int(whole)
    return 0, None if announced is None else position + announced
