"""What can be done with an upload session? Begin it, ask how far it is, feed, close, cancel it (end-4 to 6, 13, 14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from berth.errors import (
    BerthError,
    NotFound,
    RangeInvalid,
    RemoteAuthError,
    RemoteError,
    TooManyRequests,
    Unavailable,
    UploadUnknown,
)
from berth.wire.client import RegistryClient
from berth.wire.messages import Answer
from berth.wire.urls import Url

OCTETS = "application/octet-stream"
ABANDON_SECONDS: Final = 2.0


def push_scopes(repository: str, *also_pull: str) -> frozenset[str]:
    return frozenset({f"repository:{repository}:pull,push", *(f"repository:{r}:pull" for r in also_pull)})


async def start(client: RegistryClient, repository: str) -> tuple[Url, int]:
    """A new session: its location, and the fewest bytes of a chunk that is not the last."""
    async with client.exchange(
        "POST",
        client.url(repository, "blobs", "uploads/"),
        expect=(202,),
        scopes=push_scopes(repository),
        headers={"Content-Length": "0"},
    ) as response:
        fewest = response.headers.get("oci-chunk-min-length", "")
        return location_of(client, response), int(fewest) if fewest.isascii() and fewest.isdigit() else 0


async def patch(
    client: RegistryClient,
    repository: str,
    location: Url,
    *,
    start: int,
    end: int,
    body: Callable[[], AsyncIterator[bytes]],
) -> Url:
    """Sends the bytes from `start` up to `end`; returns where it goes on."""
    async with client.exchange(
        "PATCH",
        location,
        expect=(202,),
        scopes=push_scopes(repository),
        headers={"Content-Type": OCTETS, "Content-Length": str(end - start), "Content-Range": f"{start}-{end - 1}"},
        body=body,
        repeat=False,
    ) as response:
        return location_of(client, response)


async def close(client: RegistryClient, repository: str, location: Url, digest: str) -> None:
    """Makes a blob of what was sent; the registry compares it with the digest."""
    async with client.exchange(
        "PUT",
        with_digest(location, digest),
        expect=(201,),
        scopes=push_scopes(repository),
        headers={"Content-Length": "0"},
        repeat=False,
    ) as response:
        check_digest(client, response, digest)


async def where(client: RegistryClient, repository: str, location: Url) -> tuple[Url | None, int]:
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
            return location_of(client, response, location), int(last) + 1
    except (Unavailable, TooManyRequests):
        raise
    except BerthError:
        return None, 0


async def cancel(client: RegistryClient, repository: str, location: Url | None) -> None:
    """Gives a session up; one that is gone, or cannot be cancelled, is no failure."""
    if location is None:
        return
    try:
        async with client.exchange(
            "DELETE", location, expect=(200, 202, 204, 404), scopes=push_scopes(repository), repeat=False
        ):
            pass
    except BerthError:
        pass  # optional for registries; sessions end by themselves


async def abandon(client: RegistryClient, repository: str, location: Url | None) -> None:
    """The same for who is cancelled and has little time left: registries keep what was sent for days otherwise."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ABANDON_SECONDS):
            await cancel(client, repository, location)


def location_of(client: RegistryClient, response: Answer, default: Url | None = None) -> Url:
    value = response.headers.get("location")
    if value:
        return client.resolve(response.url, value)
    if default is not None:
        return default
    raise RemoteError(f"{client.host} answered an upload without a Location.")


def with_digest(location: Url, digest: str) -> Url:
    """Appends the digest and changes nothing else: the query may be signed."""
    target = location.target
    return location._replace(target=target + (b"&" if b"?" in target else b"?") + b"digest=" + digest.encode("ascii"))


def check_digest(client: RegistryClient, response: Answer, digest: str) -> None:
    said = response.headers.get("docker-content-digest")
    if said is not None and said != digest:
        raise RemoteError(f"{client.host} stored {digest} as {said}.", detail={"digest": digest, "stored": said})


def may_pass(error: BerthError) -> bool:
    """Whether trying again can help: nobody answered, the registry was busy, or the session was lost."""
    status = error.detail.get("status")
    if isinstance(error, RemoteAuthError):
        return False
    if isinstance(status, int) and status < 500 and status not in (404, 408, 416, 429):
        return False
    return isinstance(error, Unavailable | TooManyRequests | UploadUnknown | NotFound | RangeInvalid | RemoteError)
