"""How are manifests read, written and removed? (distribution-spec end-3, end-7, end-9.)

The bytes are compared with their digest on every read.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from berth.errors import DigestInvalid, IntegrityError, ManifestUnknown, NameUnknown, NotFound, RemoteError
from berth.oci import digest as digests
from berth.oci import manifest as oci_manifest
from berth.oci import media_types
from berth.wire.blobs import delete_scope, pull_scope
from berth.wire.client import RegistryClient
from berth.wire.messages import Answer
from berth.wire.sessions import push_scopes

ACCEPT = ", ".join(sorted(media_types.INDEX_TYPES) + sorted(media_types.MANIFEST_TYPES))


@dataclass(frozen=True)
class Fetched:
    """A manifest as it was sent; `digest` is computed from `body`."""

    body: bytes
    digest: str
    media_type: str


@dataclass(frozen=True)
class Seen:
    """What a HEAD says, unverified: a registry may leave the digest or the size out."""

    digest: str | None
    media_type: str
    size: int | None


@dataclass(frozen=True)
class Stored:
    """What a registry said about a manifest it took."""

    digest: str
    subject: str | None


async def head(client: RegistryClient, repository: str, ref: str, *, likely: str | None = None) -> Seen | None:
    """Asks for a manifest by tag or digest; None when it is not there.

    Args:
        likely: the digest that it probably has. Many registries use it as ETag, and need not open the manifest to say
            that it is still so (RFC 9110 section 13.1.2); of size and type there is nothing in that answer.
    """
    headers = {"Accept": ACCEPT} if likely is None else {"Accept": ACCEPT, "If-None-Match": f'"{likely}"'}
    async with client.exchange(
        "HEAD",
        client.url(repository, "manifests", ref),
        expect=(200, 404) if likely is None else (200, 304, 404),
        scopes=pull_scope(repository),
        headers=headers,
    ) as response:
        if response.status == 404:
            return None
        if response.status == 304:
            return Seen(likely, "", None)
        length = response.headers.get("content-length", "")
        return Seen(
            response.headers.get("docker-content-digest"),
            _media_type(response),
            int(length) if length.isascii() and length.isdigit() else None,
        )


async def get(client: RegistryClient, repository: str, ref: str, *, max_bytes: int = oci_manifest.MAX_BYTES) -> Fetched:
    """A manifest by tag or digest.

    Raises:
        ManifestUnknown: not there.
        IntegrityError: other bytes than the digest asked for (or the one the registry claims), or too many.
    """
    try:
        async with client.exchange(
            "GET",
            client.url(repository, "manifests", ref),
            expect=(200,),
            scopes=pull_scope(repository),
            headers={"Accept": ACCEPT},
        ) as response:
            body = await _read(response, max_bytes)
            media_type = _media_type(response)
            claimed = response.headers.get("docker-content-digest")
    except NotFound as error:
        kind = NameUnknown if isinstance(error, NameUnknown) else ManifestUnknown
        raise kind(error.message, hint=error.hint, detail=error.detail) from error
    except httpx.TransportError as error:
        raise RemoteError(f"{client.host} broke off the manifest {ref} of {repository}: {error}.") from error
    wanted = ref if digests.is_digest(ref) else claimed
    found = _digest_like(wanted, body)
    if wanted is not None and found != wanted:
        raise IntegrityError(
            f"{client.host} sent a manifest that is not {wanted} but {found} ({repository}).",
            detail={"wanted": wanted, "found": found, "repository": repository},
        )
    return Fetched(body, found, media_type)


async def put(client: RegistryClient, repository: str, ref: str, body: bytes, media_type: str | None = None) -> Stored:
    """Stores a manifest under a tag or its digest.

    Args:
        media_type: default: the one the body names.
    Raises:
        RemoteError: the registry says it stored something else.
    """
    if media_type is None:
        media_type = oci_manifest.parse(body).media_type
    own = digests.of_bytes(body, digests.parse(ref).algorithm if digests.is_digest(ref) else "sha256")
    if digests.is_digest(ref) and own != ref:
        raise DigestInvalid(f"The manifest is {own}, not {ref}.")
    async with client.exchange(
        "PUT",
        client.url(repository, "manifests", ref),
        expect=(201, 200, 202),
        scopes=push_scopes(repository),
        headers={"Content-Type": media_type},
        body=body,
    ) as response:
        said = response.headers.get("docker-content-digest")
        if said is not None and said != own and said.partition(":")[0] == own.partition(":")[0]:
            raise RemoteError(f"{client.host} stored {own} as {said}.", detail={"digest": own, "stored": said})
        return Stored(own, response.headers.get("oci-subject"))


async def delete(client: RegistryClient, repository: str, ref: str) -> bool:
    """Removes a manifest by digest, or a tag; False when it was not there. Raises Unsupported where that is off."""
    async with client.exchange(
        "DELETE", client.url(repository, "manifests", ref), expect=(200, 202, 404), scopes=delete_scope(repository)
    ) as response:
        return response.status != 404


async def _read(response: Answer, limit: int) -> bytes:
    def too_long() -> IntegrityError:
        return IntegrityError(
            f"{response.url.host} sends a manifest of more than {limit} bytes.",
            hint="Manifests are small; this is something else.",
        )

    return await response.whole(limit, too_long=too_long, decoded=False)


def _media_type(response: Answer) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _digest_like(wanted: str | None, body: bytes) -> str:
    algorithm = digests.parse(wanted).algorithm if wanted is not None and digests.is_digest(wanted) else "sha256"
    return digests.of_bytes(body, algorithm)
