"""What refers to a manifest, with and without the referrers API? (distribution-spec end-12, "Referrers tag schema".)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from berth.errors import Conflict, ManifestInvalid, NotFound, RemoteError
from berth.oci import digest as digests
from berth.oci import manifest as oci_manifest
from berth.oci import media_types
from berth.oci import referrers as oci_referrers
from berth.oci.descriptor import Descriptor
from berth.wire import manifests
from berth.wire.blobs import pull_scope
from berth.wire.client import RegistryClient
from berth.wire.tags import bounded_body, next_link
from berth.wire.urls import Url

_PAGE_LIMIT = 16 * 1024 * 1024
_MAX_PAGES = 1000
MERGE_ATTEMPTS = 5


@dataclass(frozen=True)
class ByApi:
    """What the referrers API said: its list, or None where it has none to give.

    Attributes:
        missing: there is no such API; not only nothing known under that name.
    """

    found: list[Descriptor] | None
    missing: bool = False


async def ls(
    client: RegistryClient, repository: str, digest: str, *, artifact_type: str | None = None
) -> list[Descriptor]:
    """Descriptors of the manifests whose subject is `digest`, by the API or, where it is missing, the fallback tag.

    The type is filtered here too; a fallback index may lack it, so such entries are kept for the caller to look at.
    """
    found = (await ls_by_api(client, repository, digest)).found
    if found is None:
        found = await _by_tag(client, repository, digest)
    unique = {d.digest: d for d in found}
    return [d for d in unique.values() if artifact_type is None or d.artifact_type in (artifact_type, None)]


async def ls_by_tag(client: RegistryClient, repository: str, digest: str) -> list[Descriptor]:
    """What the index under the fallback tag names, for registries whose API is missing or does not know everything."""
    return await _by_tag(client, repository, digest)


async def push(client: RegistryClient, repository: str, body: bytes) -> str:
    """Stores a manifest with a subject by its digest and makes sure that it can be found; returns its digest."""
    parsed = oci_manifest.parse(body)
    if parsed.subject is None:
        raise ManifestInvalid("A referrer needs a subject.")
    digest = digests.of_bytes(body)
    stored = await manifests.put(client, repository, digest, body, parsed.media_type)
    if stored.subject is None:
        await add_to_tag(client, repository, parsed.subject.digest, oci_referrers.descriptor_for(parsed, digest))
    return digest


async def add_to_tag(client: RegistryClient, repository: str, subject: str, entry: Descriptor) -> None:
    """Adds an entry to the index under the fallback tag, as clients must where the answer had no OCI-Subject."""
    await _change_tag(
        client,
        repository,
        subject,
        lambda old: None if any(d.digest == entry.digest for d in old) else [*old, entry],
    )


async def remove_from_tag(client: RegistryClient, repository: str, subject: str, digest: str) -> None:
    """The reverse, for when a referrer is deleted."""
    await _change_tag(
        client,
        repository,
        subject,
        lambda old: [d for d in old if d.digest != digest] if any(d.digest == digest for d in old) else None,
    )


async def _change_tag(
    client: RegistryClient,
    repository: str,
    subject: str,
    change: Callable[[list[Descriptor]], list[Descriptor] | None],
) -> None:
    """Read, change, write, read again: another client may write at the same time, and the last one would win."""
    tag = oci_referrers.fallback_tag(subject)
    for _ in range(MERGE_ATTEMPTS):
        wanted = change(await _tag_entries(client, repository, tag, strict=True))
        if wanted is None:
            return
        await manifests.put(client, repository, tag, oci_referrers.index_of(wanted), media_types.OCI_INDEX)
        if change(await _tag_entries(client, repository, tag, strict=True)) is None:
            return
    raise Conflict(
        f"Other clients keep changing the referrers of {subject} in {repository}.", hint="Try again in a moment."
    )


async def ls_by_api(client: RegistryClient, repository: str, digest: str) -> ByApi:
    """What the referrers API names, and whether there is one."""
    found: list[Descriptor] = []
    url: Url | None = client.url(repository, "referrers", digest)
    for number in range(_MAX_PAGES):
        if url is None:
            return ByApi(found)
        try:
            async with client.exchange(
                "GET",
                url,
                expect=(200,),
                scopes=pull_scope(repository),
                headers={"Accept": media_types.OCI_INDEX},
            ) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                body = await bounded_body(response, _PAGE_LIMIT)
                url = next_link(client, response)
        except NotFound as error:
            if number == 0:
                # An unknown digest would be an empty list. Who knows the API says what is unknown, in its words.
                return ByApi(None, missing=not error.detail.get("codes"))
            raise
        if number == 0 and kind != media_types.OCI_INDEX:
            return ByApi(None)  # some page of a proxy or of an old registry
        try:
            found.extend(oci_manifest.parse(body, max_bytes=_PAGE_LIMIT).children())
        except ManifestInvalid as error:
            raise RemoteError(f"{client.host} answered an unreadable list of referrers: {error}") from error
    raise RemoteError(f"{client.host} does not come to the end of its list of referrers.")


async def _by_tag(client: RegistryClient, repository: str, digest: str) -> list[Descriptor]:
    return await _tag_entries(client, repository, oci_referrers.fallback_tag(digest), strict=False)


async def _tag_entries(client: RegistryClient, repository: str, tag: str, *, strict: bool) -> list[Descriptor]:
    """The entries of the fallback index; anything else under that tag is "none" to a reader, an error to a writer."""
    try:
        fetched = await manifests.get(client, repository, tag)
        parsed = oci_manifest.parse(fetched.body, fetched.media_type or None)
        if parsed.kind != "index":
            raise ManifestInvalid("not an index")
    except NotFound:
        return []
    except ManifestInvalid as error:
        if strict:
            raise RemoteError(
                f"The tag {tag} of {repository} holds something that is not a list of referrers.",
                hint="Remove that tag, or ask its owner to.",
            ) from error
        return []
    return list(parsed.children())
