"""Any registry of the OCI distribution specification: CNCF Distribution, another Berth, and the base of all vendors.

What a vendor does differently is a subclass: names (names.py), credentials, and the calls that the specification leaves
optional. Repositories of the callers are `project/name`; only this file and subclasses see the outward names.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import ClassVar

from berth.adapters.registries.contract import (
    Capabilities,
    Delivery,
    Health,
    Inward,
    Kind,
    Page,
    RegistrySettings,
    RemoteEvent,
    Resumable,
    Stat,
)
from berth.adapters.registries.lists import Lists
from berth.adapters.registries.names import LIMITS, RULES, Limits, Names
from berth.adapters.registries.notifications import of_envelope
from berth.errors import (
    BerthError,
    Conflict,
    DigestInvalid,
    IntegrityError,
    InvalidInput,
    ManifestInvalid,
    ManifestUnknown,
    NotFound,
    RemoteAuthError,
    RemoteError,
    Unavailable,
    Unsupported,
)
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.oci import referrers as oci_referrers
from berth.oci.descriptor import Descriptor
from berth.wire import blobs, referrers, sessions, uploads
from berth.wire import manifests as wire_manifests
from berth.wire.auth import ANONYMOUS, Credential, CredentialSource
from berth.wire.client import RegistryClient
from berth.wire.retry import RetryPolicy
from berth.wire.sending import Upload
from berth.wire.uploads import Arrival
from berth.wire.urls import parse

ABSENT_BLOBS = 1_000
# After so many uploads it pays to try whether the registry can be asked for less.
TRIED_AFTER = 8
# Of large blobs: what a break costs at most where a registry, or a proxy before it, keeps nothing of a broken request.
# Smaller ones cost time, as Distribution syncs its disk after each: 8 MiB are a third slower than one request, 64 MiB
# as fast.
CHUNK_BYTES = 64 << 20
# S3, behind many registries, takes 10,000 parts, and a chunk may become two.
MOST_CHUNKS = 5_000
_NO_CONTENT = "application/vnd.berth.removed-tag.v1+json"

COMMON_OPTIONS = {
    "prefix": "Leading path of every repository there.",
    "flat": "true: project and model become one component, project__model.",
    "insecure": "true: plain http is allowed.",
    "allow_private": "true: private and loopback addresses are allowed, redirects included.",
    "chunk": "MiB per request for large blobs, where something before the registry refuses long ones (413).",
    "realm_hosts": "Other hosts whose token service may be shown the credentials.",
    "capabilities": "What it can do, over what a probe found.",
}


class DistributionRegistry:
    """A `Registry` over HTTP.

    Args:
        retry: how patiently requests are repeated.
    """

    # Whether large blobs go in chunks of our choice, where `chunked_upload` does not say otherwise.
    RESUMES: ClassVar[bool] = True

    KIND: ClassVar[Kind] = Kind(
        "distribution",
        "CNCF Distribution, or any other OCI registry",
        # No referrers API; deletion where it is switched on.
        Capabilities(referrers=False, oci_subject=False),
        COMMON_OPTIONS,
        notifies=True,
    )

    def __init__(self, settings: RegistrySettings, *, retry: RetryPolicy | None = None) -> None:
        self.settings = settings
        self.capabilities = capabilities_of(self.KIND, settings)
        self.names = Names(RULES[settings.kind], settings.text("prefix") or "", settings.flag("flat"))
        self.retry = retry or RetryPolicy()
        # Until somebody has asked it, a registry that is not known to list referrers may do so all the same.
        self._probed = settings.capabilities is not None
        source = self.credential_source()
        self.client = RegistryClient(
            settings.url,
            credential=ANONYMOUS if source else self.credential(),
            credential_source=source,
            insecure=settings.flag("insecure"),
            allow_private=settings.flag("allow_private"),
            realm_hosts=(*self.realm_hosts(), *settings.words("realm_hosts")),
            retry=self.retry,
            scope=self.scope,
        )
        self._lists = Lists(self.client)
        # Blobs that were just asked for and are not there: whoever sends one need not ask again.
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._api_missing = False
        self._tells = False
        self._until_tried = TRIED_AFTER

    # ---- what subclasses change

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        """Raises InvalidInput for settings that this kind cannot work with. Asks nobody."""

    def credential(self) -> Credential:
        """As whom we ask: user and password, or a bare secret as a ready Bearer token."""
        settings = self.settings
        if settings.username is not None:
            return Credential(username=settings.username, password=settings.secret or "")
        return Credential(token=settings.secret) if settings.secret else ANONYMOUS

    def credential_source(self) -> CredentialSource | None:
        """For credentials that end by themselves."""
        return None

    def realm_hosts(self) -> Sequence[str]:
        """Hosts whose token service belongs to this registry."""
        return ()

    def scope(self, scope: str) -> str:
        """The token scope to ask for instead of `scope`."""
        return scope

    # ---- lists

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        if not self.capabilities.list_repositories:
            raise Unsupported(f"{self.settings.name} does not tell which repositories it has.")
        scopes = frozenset({"registry:catalog:*"})
        found, following = await self._lists.page("_catalog", "repositories", scopes, after=after, limit=limit)
        return Page([name for name in map(self.names.inward, found) if name is not None], following)

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        name, scopes = self.names.outward(repository), blobs.pull_scope(self.names.outward(repository))
        try:
            return Page(*await self._lists.page(f"{name}/tags/list", "tags", scopes, after=after, limit=limit))
        except NotFound:
            return Page([])

    # ---- reading

    async def stat(self, repository: str, reference: str) -> Stat | None:
        name = self.names.outward(repository)
        seen = await wire_manifests.head(self.client, name, reference)
        if seen is None:
            return None
        by_digest = digests.is_digest(reference)
        digest = reference if by_digest else seen.digest
        if digest is not None and digests.is_digest(digest) and seen.size is not None and seen.media_type:
            return Stat(digest, seen.media_type, seen.size)
        try:  # the answer to HEAD was incomplete
            fetched = await wire_manifests.get(self.client, name, reference)
        except NotFound:
            return None
        return Stat(fetched.digest, fetched.media_type, len(fetched.body))

    async def tag_digest(self, repository: str, tag: str, *, likely: str) -> str | None:
        seen = await wire_manifests.head(self.client, self.names.outward(repository), tag, likely=likely)
        if seen is None or (seen.digest is not None and digests.is_digest(seen.digest)):
            return None if seen is None else seen.digest
        found = await self.stat(repository, tag)
        return None if found is None else found.digest

    async def manifest(self, repository: str, digest: str) -> bytes:
        try:
            return (await wire_manifests.get(self.client, self.names.outward(repository), digest)).body
        except NotFound as error:
            raise ManifestUnknown(error.message, hint=error.hint, detail=error.detail) from error

    async def blob_size(self, repository: str, digest: str) -> int | None:
        name = self.names.outward(repository)
        size = await blobs.head(self.client, name, digest)
        if size is None:
            self._absent[name, digest] = None
            if len(self._absent) > ABSENT_BLOBS:
                self._absent.popitem(last=False)
        return size

    def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        return blobs.stream(self.client, self.names.outward(repository), digest, offset=offset)

    # ---- writing

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        if not self.capabilities.mount:
            return False
        return await uploads.mount(
            self.client, self.names.outward(repository), digest, source=self.names.outward(source)
        )

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        digests.parse(digest)
        self.limits().check(self.settings.kind, [Descriptor(sessions.OCTETS, digest, size)])
        name = self.names.outward(repository)
        absent = self._absent.pop((name, digest), self) is None
        asked = self._chunk_bytes()
        # Asked once: against a protocol that costs as much as a request's head.
        resumable = chunks if isinstance(chunks, Resumable) else None
        step = asked or self._step(size, resumable.burst) if resumable is not None else None
        if resumable is not None and step is not None:
            upload = Upload(
                digest,
                size,
                resumable.at,
                chunk_bytes=step,
                sent=resumable.passed,
                absent=absent,
                keeper=resumable,
                or_whole=asked is None,
            )
        else:
            source = _Chunks(chunks if resumable is None else aiter(resumable))
            upload = Upload(
                digest,
                size,
                source.opened,
                chunk_bytes=asked,
                restartable=source.restartable,
                absent=absent,
                tells=self.tells_on_upload,
            )
        try:
            arrival = await uploads.put(self.client, name, upload)
        except IntegrityError as error:
            raise DigestInvalid(f"The pushed bytes are not {digest} ({size} bytes).", detail=error.detail) from error
        if arrival is Arrival.uploaded and self._until_tried:
            self._until_tried -= 1
            if not self._until_tried and self.capabilities.mount:
                await self._try_telling(name, digest)

    @property
    def tells_on_upload(self) -> bool:
        return self._tells

    async def _try_telling(self, name: str, digest: str) -> None:
        """Mount a blob that it has for certain from where it is: only a registry that then says so is relied on."""
        with suppress(BerthError):
            self._tells = await uploads.mount(self.client, name, digest, source=name)

    def _chunk_bytes(self) -> int | None:
        """Bytes per request as configured; None = whole blobs in one, which every registry takes, unless large."""
        chunk = self.settings.number("chunk")
        if chunk is None:
            return None
        if not self.capabilities.chunked_upload:
            raise Unsupported(
                f"{self.settings.name} takes no uploads in chunks.", hint="Take the option away: --option chunk=."
            )
        return chunk << 20

    def _step(self, size: int, burst: int | None) -> int | None:
        """Bytes per request of a blob that should survive a break; None where it goes in one all the same."""
        if not self.RESUMES or not self.capabilities.chunked_upload:
            return None
        return max(burst or CHUNK_BYTES, -(-size // MOST_CHUNKS))

    async def give_up(self, repository: str, session: str) -> None:
        await sessions.cancel(self.client, self.names.outward(repository), parse(session))

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        name = self.names.outward(repository)
        manifest = manifests.parse(body, media_type)
        by_digest = digests.is_digest(reference)
        digest = digests.of_bytes(body, digests.parse(reference).algorithm if by_digest else "sha256")
        if by_digest and digest != reference:
            raise DigestInvalid(f"The manifest is {digest}, not {reference}.")
        if not by_digest:
            references.check_tag(reference)
        self.limits().check(self.settings.kind, [Descriptor(manifest.media_type, digest, len(body))])
        stored = await self._put_manifest(name, reference, body, media_type, digest)
        if manifest.subject is not None and stored is None and not self.capabilities.referrers:
            entry = oci_referrers.descriptor_for(manifest, digest)
            await referrers.add_to_tag(self.client, name, manifest.subject.digest, entry)
        return digest

    async def _put_manifest(self, name: str, reference: str, body: bytes, media_type: str, digest: str) -> str | None:
        """Stores it; the subject that the registry says it has filed it under. A taken immutable tag that already
        means this digest is no failure."""
        try:
            return (await wire_manifests.put(self.client, name, reference, body, media_type)).subject
        except (Conflict, RemoteError) as error:
            if not digests.is_digest(reference) and not isinstance(error, RemoteAuthError):
                seen = await wire_manifests.head(self.client, name, reference)
                if seen is not None and seen.digest == digest:
                    return None
            raise

    # ---- removing

    async def delete_tag(self, repository: str, tag: str) -> bool:
        references.check_tag(tag)
        name = self.names.outward(repository)
        seen = await wire_manifests.head(self.client, name, tag)
        if seen is None:
            return False
        if self.capabilities.tag_delete:
            try:
                if await wire_manifests.delete(self.client, name, tag):
                    return True
                if await wire_manifests.head(self.client, name, tag) is None:
                    return False  # somebody else was faster
            except RemoteAuthError:
                raise
            except (Unsupported, InvalidInput, RemoteError) as error:
                if error.detail.get("status") not in (400, 405):
                    raise
        return await self._replace_and_delete(name, tag)

    async def _replace_and_delete(self, name: str, tag: str) -> bool:
        """Distribution before 3.0 deletes by digest only, with every tag: so the tag first gets content of its own."""
        if not await self._deletes_by_digest(name):
            raise Unsupported(
                f"{self.settings.name} cannot remove the tag {tag}.", hint="Is deletion switched on at that registry?"
            )
        config = await uploads.put_bytes(self.client, name, b"{}")
        body = manifests.image(
            config=Descriptor(_NO_CONTENT, config, 2), layers=[], annotations={"removed": secrets.token_hex(16)}
        )
        stored = await wire_manifests.put(self.client, name, tag, body, types.OCI_MANIFEST)
        return await wire_manifests.delete(self.client, name, stored.digest)

    async def _deletes_by_digest(self, name: str) -> bool:
        """Whether the call exists: asked with a digest that nothing has."""
        if not self.capabilities.content_delete:
            return False
        try:
            await wire_manifests.delete(self.client, name, "sha256:" + secrets.token_hex(32))
        except (Unsupported, RemoteError):
            return False
        return True

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        if not self.capabilities.content_delete:
            raise Unsupported(f"{self.settings.name} does not delete content.")
        name = self.names.outward(repository)
        digests.parse(digest)
        manifest = None
        if not self.capabilities.referrers:
            try:
                manifest = manifests.parse((await wire_manifests.get(self.client, name, digest)).body)
            except NotFound:
                return False
            except ManifestInvalid:
                pass  # not of ours, so in no list of referrers
        gone = await self._delete_content(name, digest)
        if gone and manifest is not None and manifest.subject is not None:
            await referrers.remove_from_tag(self.client, name, manifest.subject.digest, digest)
        return gone

    async def _delete_content(self, name: str, digest: str) -> bool:
        return await wire_manifests.delete(self.client, name, digest)

    # ---- health, referrers, events, limits, end

    async def health(self) -> Health:
        """`GET /v2/` with our credentials: does it answer, and does it take them?"""
        url = self.client.origin.at("/v2/")
        async with self.client.exchange("GET", url, expect=(200,), scopes=()) as answer:
            shown = answer.signed_in
        given = self.settings.secret is not None or self.credential_source() is not None
        credentials = "healthy" if given and shown else "not asked for" if given else "none are given"
        return Health(healthy=True, components={"reachable": "healthy", "credentials": credentials})

    @property
    def referrers_in_tags(self) -> bool:
        return not self.capabilities.referrers and (self._probed or self._api_missing)

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        name = self.names.outward(repository)
        listed: list[Descriptor] | None = None
        if not self.referrers_in_tags:
            try:
                said = await referrers.ls_by_api(self.client, name, digest)
                listed, self._api_missing = said.found, said.missing and not self.capabilities.referrers
            except InvalidInput:  # Quay answers 400 where the subject is missing
                listed = []
        if listed is None or not self.capabilities.referrers:
            listed = [*(listed or ()), *await referrers.ls_by_tag(self.client, name, digest)]
        found = {d.digest: d for d in listed}
        typed = []
        for entry in found.values():
            if artifact_type is None or entry.artifact_type == artifact_type:
                typed.append(entry)
            elif entry.artifact_type is None:  # an index that another client wrote may lack it
                body = await self.manifest(repository, entry.digest)
                whole = oci_referrers.descriptor_for(manifests.parse(body), entry.digest)
                typed += [whole] if whole.artifact_type == artifact_type else []
        return sorted(typed, key=lambda d: d.digest)

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """For the kinds that notify; a vendor with a form of its own reads that instead."""
        return of_envelope(delivery.body, inward=inward)

    def called(self, repository: str) -> str:
        return self.names.outward(repository)

    def limits(self) -> Limits:
        """What it takes: by kind, or as configured."""
        known = LIMITS.get(self.settings.kind, Limits())
        return Limits(
            self.capabilities.largest_blob or known.largest_blob,
            self.capabilities.largest_manifest or known.largest_manifest,
        )

    def check_content(self, repository: str, tag: str | None, content: Iterable[Descriptor]) -> None:
        """Whether name and sizes fit, before a byte moves. Raises NameInvalid, TooLarge."""
        self.names.outward(repository)
        if tag is not None:
            references.check_tag(tag)
        self.limits().check(self.settings.kind, content)

    async def close(self) -> None:
        await self.client.aclose()


class BerthRegistry(DistributionRegistry):
    """Another Berth: user and token as Basic, exchanged at its token endpoint. Its gate decides what we may read."""

    KIND = Kind("berth", "Another Berth", Capabilities(), COMMON_OPTIONS)


def capabilities_of(kind: Kind, settings: RegistrySettings) -> Capabilities:
    """Defaults of the kind, corrected by the probe, corrected by the option `capabilities`."""
    chosen = settings.options.get("capabilities", {})
    if not isinstance(chosen, dict):
        raise InvalidInput(f"The option 'capabilities' of registry '{settings.name}' must be an object.")
    defaults = asdict(Capabilities())
    for key, value in chosen.items():
        wanted = bool if isinstance(defaults.get(key), bool) else int
        if key not in defaults or key == "notes" or type(value) is not wanted:
            raise InvalidInput(
                f"The option 'capabilities' of registry '{settings.name}' has no such '{key}'.",
                hint=f"It takes {', '.join(sorted(set(defaults) - {'notes'}))}, with true, false or a number of bytes.",
            )
    probed = Capabilities.from_json(settings.capabilities or {}, defaults=kind.capabilities)
    return Capabilities.from_json(chosen, defaults=probed)


class _Chunks:
    """An upload's source over an iterable that may be readable only once."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.restartable = aiter(chunks) is not chunks
        self._opened = False

    async def opened(self, offset: int) -> AsyncIterator[bytes]:
        if self._opened and not self.restartable:
            raise Unavailable("The registry wants the content again, and its source cannot be read twice.")
        self._opened = True
        async for chunk in self._chunks:
            rest = chunk[offset:]
            offset = max(0, offset - len(chunk))
            if rest:
                yield rest
