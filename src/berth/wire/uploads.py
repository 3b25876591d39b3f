"""How does a blob get into a registry? HEAD, mount, then POST + PUT or chunks (distribution-spec end-4 to 6, end-11).

What is sent is hashed on its way (sending.py); large blobs may go in chunks (chunks.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum

from berth.errors import BerthError, NotFound, RemoteAuthError
from berth.oci import digest as digests
from berth.wire import blobs, chunks, sessions
from berth.wire.client import RegistryClient
from berth.wire.sending import Sending, Upload
from berth.wire.sessions import OCTETS
from berth.wire.urls import Url


class Arrival(StrEnum):
    """How a blob came to be in the repository."""

    present = "present"
    mounted = "mounted"
    uploaded = "uploaded"


async def put(client: RegistryClient, repository: str, upload: Upload) -> Arrival:
    """Makes sure that `repository` has the blob.

    Raises:
        IntegrityError: the source has other bytes than the digest names (nothing is stored).
    """
    location: Url | None = None
    try:
        if upload.tells and not upload.absent:
            present, location = await _mount(client, repository, upload.digest, repository)
            if present:
                return Arrival.present
        elif not upload.absent and await blobs.head(client, repository, upload.digest) is not None:
            return Arrival.present
    except RemoteAuthError:
        pass  # an answer to HEAD has no body: the POST below is refused with the reason, or the right is to push only
    for origin in upload.mount_from:
        if origin == repository:
            continue
        mounted, session = await _mount(client, repository, upload.digest, origin)
        if mounted or session is not None:
            await sessions.cancel(client, repository, location)
            location = session  # the answer to a mount that is not done is an ordinary session: it can be used
        if mounted:
            return Arrival.mounted
    source = Sending(upload)
    try:
        if upload.chunk_bytes is not None and upload.size > upload.chunk_bytes:
            if await chunks.send(client, repository, source, location):
                return Arrival.uploaded
            location = None
        await _whole(client, repository, source, location)
    finally:
        await source.close()
    return Arrival.uploaded


async def put_bytes(client: RegistryClient, repository: str, content: bytes) -> str:
    """The same for a small blob in memory; returns its digest."""

    async def opened(offset: int) -> AsyncIterator[bytes]:
        yield content[offset:]

    digest = digests.of_bytes(content)
    await put(client, repository, Upload(digest, len(content), opened))
    return digest


async def mount(client: RegistryClient, repository: str, digest: str, *, source: str) -> bool:
    """Links a blob of another repository of the same registry; False when it has to be uploaded instead."""
    mounted, session = await _mount(client, repository, digest, source)
    await sessions.cancel(client, repository, session)
    return mounted


async def _mount(client: RegistryClient, repository: str, digest: str, origin: str) -> tuple[bool, Url | None]:
    url = client.url(repository, "blobs", "uploads/", query=f"mount={digest}&from={origin}")
    try:
        async with client.exchange(
            "POST",
            url,
            expect=(201, 202),
            scopes=sessions.push_scopes(repository, origin),
            headers={"Content-Length": "0"},
        ) as response:
            if response.status == 201:
                return True, None
            return False, sessions.location_of(client, response)
    except (NotFound, RemoteAuthError):
        return False, None  # no right to read there, or a registry without mounts: an ordinary upload will do


async def _whole(client: RegistryClient, repository: str, source: Sending, location: Url | None) -> None:
    """POST + PUT with the whole body; after a failure a new session, unless the blob arrived after all."""
    upload = source.upload
    failures = 0
    while True:
        location = location or (await sessions.start(client, repository))[0]
        try:
            async with client.exchange(
                "PUT",
                sessions.with_digest(location, upload.digest),
                expect=(201,),
                scopes=sessions.push_scopes(repository),
                headers={"Content-Type": OCTETS, "Content-Length": str(upload.size)},
                body=source.whole,
                repeat=False,
            ) as response:
                sessions.check_digest(client, response, upload.digest)
                return
        except asyncio.CancelledError:
            await sessions.abandon(client, repository, location)
            raise
        except BerthError as error:
            failures += 1
            if not upload.restartable or not sessions.may_pass(error) or failures >= client.retry.attempts:
                await sessions.cancel(client, repository, location)
                raise
            await client.sleep(client.retry.wait(failures, error.detail.get("retry_after")))
            if await blobs.head(client, repository, upload.digest) is not None:
                return
            location = None
