"""What can a registry do? One small contract for every place that holds models. The only door of this folder.

What not every registry can do is in abilities.py, administration.py and events.py, and is seen by others through here.

Repositories are `project/name` in Berth's own words; an adapter maps them to its registry's rules and back. Digests are
verified by whoever receives bytes: an adapter must raise IntegrityError rather than hand out bytes that do not match.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from berth.adapters.registries.abilities import LARGE_BYTES as LARGE_BYTES
from berth.adapters.registries.abilities import Confirming as Confirming
from berth.adapters.registries.abilities import Housekeeping as Housekeeping
from berth.adapters.registries.abilities import ImageChoice as ImageChoice
from berth.adapters.registries.abilities import Limited as Limited
from berth.adapters.registries.abilities import Measured as Measured
from berth.adapters.registries.abilities import Naming as Naming
from berth.adapters.registries.abilities import Redirecting as Redirecting
from berth.adapters.registries.abilities import Repacking as Repacking
from berth.adapters.registries.abilities import RepositoryUsage as RepositoryUsage
from berth.adapters.registries.abilities import Resumable as Resumable
from berth.adapters.registries.abilities import Resuming as Resuming
from berth.adapters.registries.abilities import Scanning as Scanning
from berth.adapters.registries.abilities import ScanState as ScanState
from berth.adapters.registries.abilities import Tagging as Tagging
from berth.adapters.registries.abilities import Telling as Telling
from berth.adapters.registries.abilities import Usage as Usage
from berth.adapters.registries.abilities import WholeImage as WholeImage
from berth.adapters.registries.administration import Accessory as Accessory
from berth.adapters.registries.administration import Administered as Administered
from berth.adapters.registries.administration import Administration as Administration
from berth.adapters.registries.administration import Artifact as Artifact
from berth.adapters.registries.administration import Expiring as Expiring
from berth.adapters.registries.administration import Health as Health
from berth.adapters.registries.administration import Informed as Informed
from berth.adapters.registries.administration import ManagedProject as ManagedProject
from berth.adapters.registries.administration import ProjectPlan as ProjectPlan
from berth.adapters.registries.administration import Retained as Retained
from berth.adapters.registries.administration import Retaining as Retaining
from berth.adapters.registries.administration import Retention as Retention
from berth.adapters.registries.administration import RetentionChange as RetentionChange
from berth.adapters.registries.administration import RetentionRun as RetentionRun
from berth.adapters.registries.administration import Robot as Robot
from berth.adapters.registries.administration import Rule as Rule
from berth.adapters.registries.administration import ScanLogging as ScanLogging
from berth.adapters.registries.administration import Watched as Watched
from berth.adapters.registries.events import Delivery as Delivery
from berth.adapters.registries.events import Hooking as Hooking
from berth.adapters.registries.events import Inward as Inward
from berth.adapters.registries.events import Notifying as Notifying
from berth.adapters.registries.events import RemoteEvent as RemoteEvent
from berth.errors import InvalidInput
from berth.oci.descriptor import Descriptor

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; `after` continues it, None ends it."""

    items: Sequence[T]
    after: str | None = None


@dataclass(frozen=True)
class Capabilities:
    """What this registry can do: defaults by kind, corrected by a probe, corrected by configuration.

    Attributes:
        referrers: it lists referrers itself; without it the fallback tag is kept.
        mount: a blob can be linked from another repository without sending it.
        tag_delete: a tag can go without its content.
        content_delete: a manifest can be deleted by digest.
        list_repositories: it can tell which repositories there are.
        repacks: it changes bytes on import (a container daemon), so digests are not kept.
        largest_blob: bytes, None when not known.
        oci_subject: it answers `OCI-Subject` when it has filed a manifest as a referrer.
        largest_manifest: bytes, None when not known.
        scan: it scans by itself and tells what it found.
        last_tag_takes_content: `delete_tag` is DESTRUCTIVE for the last tag of a manifest: the content goes with it.
        chunked_upload: a blob can be sent in several requests (large ones and the option `chunk` rely on it).
        rate_limit: requests that it takes in `rate_window` seconds, None when it does not tell.
        rate_remaining: how many of them were left when it was asked.
    """

    referrers: bool = True
    mount: bool = True
    tag_delete: bool = True
    content_delete: bool = True
    list_repositories: bool = True
    repacks: bool = False
    largest_blob: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    oci_subject: bool = True
    largest_manifest: int | None = None
    scan: bool = False
    last_tag_takes_content: bool = False
    chunked_upload: bool = True
    rate_limit: int | None = None
    rate_window: int | None = None
    rate_remaining: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], *, defaults: Capabilities | None = None) -> Capabilities:
        """What was stored, over the defaults of the kind; words we do not know (a newer Berth's) are left out."""
        known = {f.name for f in fields(cls)}
        found = {**asdict(defaults or cls()), **{key: value for key, value in stored.items() if key in known}}
        return cls(**{**found, "notes": tuple(found["notes"])})


@dataclass(frozen=True)
class Stat:
    """What a reference means at this registry."""

    digest: str
    media_type: str
    size: int


class Registry(Protocol):
    """A place that holds models.

    Errors of every method: RemoteAuthError (our credentials are refused), RemoteError (it answers in a way we cannot
    use), Unavailable (it cannot be reached), IntegrityError (its bytes do not match their digest).
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        """Repositories in name order. Raises Unsupported without `list_repositories`."""
        ...

    async def tags(self, repository: str, *, after: str | None = None, limit: int = 100) -> Page[str]:
        """Tags of a repository; an unknown repository has none. The order is the registry's own, but stable."""
        ...

    async def stat(self, repository: str, reference: str) -> Stat | None:
        """What a tag or digest means, without its content; None when it is not there."""
        ...

    async def manifest(self, repository: str, digest: str) -> bytes:
        """A manifest by digest, verified. Raises ManifestUnknown."""
        ...

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """Size in bytes of a blob of this repository, None when it is not there."""
        ...

    def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """A blob's bytes from `offset`; whoever receives them verifies the digest. Raises BlobUnknown."""
        ...

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        """Link a blob from another repository here; False when it was not possible and it has to be pushed."""
        ...

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        """Store a blob. Raises DigestInvalid when the bytes do not match; nothing is stored then. Idempotent.

        `chunks` that can be iterated anew (an object whose `__aiter__` starts from the beginning, not a generator) are
        sent again after a failure that may pass; a generator is sent once. `Resumable` ones go on where they broke off,
        where the registry can do that, and are sent once where it cannot.
        """
        ...

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        """Store a manifest under a tag or its digest, byte for byte; returns its digest.

        A manifest with a subject becomes one of its referrers. Raises BlobUnknownToManifest when content is missing.
        """
        ...

    async def delete_tag(self, repository: str, tag: str) -> bool:
        """Remove a tag and nothing else; False when there was none. Raises Unsupported without `tag_delete`.

        Where `last_tag_takes_content` is declared, the last tag of a manifest takes it along.
        """
        ...

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        """DESTRUCTIVE: remove a manifest and every tag on it; False when there was none.

        Raises Unsupported without `content_delete`.
        """
        ...

    async def referrers(self, repository: str, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        """Everything that refers to a manifest, by API or fallback tag; empty when nothing does."""
        ...

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        ...


# ---- what is needed to open one


@dataclass(frozen=True)
class RegistrySettings:
    """One configured registry, as `open` needs it.

    Attributes:
        name: what people here call it.
        kind: a word of the index.
        url: http(s)://host[:port]; for the kind `folder` a path.
        secret: password or token; never shown.
        options: what the kind knows besides (`prefix`, `flat`, `insecure`, `allow_private`, `realm_hosts`, …).
        capabilities: what a probe found, None before the first one.
    """

    name: str
    kind: str
    url: str
    username: str | None = None
    secret: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] | None = None

    def text(self, option: str) -> str | None:
        """An option that is text. Raises InvalidInput for another type."""
        value = self.options.get(option)
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"The option '{option}' of registry '{self.name}' must be text.")
        return value or None

    def flag(self, option: str) -> bool:
        """An option that is true or false (default). Raises InvalidInput for another type."""
        value = self.options.get(option, False)
        if not isinstance(value, bool):
            raise InvalidInput(f"The option '{option}' of registry '{self.name}' must be true or false.")
        return value

    def number(self, option: str) -> int | None:
        """An option that is a whole number, 1 or more, written as number or text. Raises InvalidInput otherwise."""
        value = self.options.get(option)
        if value is None or value == "":
            return None
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise InvalidInput(f"The option '{option}' of registry '{self.name}' must be a whole number, 1 or more.")
        return int(text)

    def words(self, option: str) -> tuple[str, ...]:
        """An option that is a list of texts. Raises InvalidInput for another type."""
        value = self.options.get(option, ())
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise InvalidInput(f"The option '{option}' of registry '{self.name}' must be a list of texts.")
        return tuple(value)


@dataclass(frozen=True)
class Kind:
    """One kind of registry: what can be configured and what it is expected to do.

    Attributes:
        notifies: its webhooks are understood here (`Notifying`).
        proven_by: how its webhook shows our secret: header (`Authorization`) | address (`?token=`) | signature (as the
            key of an HMAC over the body).
    """

    name: str
    title: str
    capabilities: Capabilities
    options: Mapping[str, str] = field(default_factory=dict)
    needs_url: bool = True
    notifies: bool = False
    proven_by: str = "header"


@runtime_checkable
class Probing(Protocol):
    """It finds out by itself what it can do."""

    async def probe(self, repository: str | None = None) -> Capabilities:
        """As `RegistryFactory.probe`."""
        ...


class RegistryFactory(Protocol):
    """Opens configured registries; `wiring` hands it to those who must not know the concrete classes."""

    def kinds(self) -> Sequence[Kind]:
        """The kinds that can be configured, by name."""
        ...

    def check(self, settings: RegistrySettings) -> None:
        """Raises InvalidInput, with what to write instead, for settings that cannot work. Asks nobody."""
        ...

    def open(self, settings: RegistrySettings) -> Registry:
        """A registry; whoever opens it closes it. Raises InvalidInput, SetupError (an extra is not installed)."""
        ...

    def events(self, settings: RegistrySettings, delivery: Delivery) -> Sequence[RemoteEvent]:
        """What a delivery of its webhook says. Asks nobody, opens nothing.

        Raises Unsupported where a kind sends none that we read, InvalidInput for one that is unreadable.
        """
        ...

    async def health(self, settings: RegistrySettings) -> Health:
        """How it is; one that is away is an answer. Raises InvalidInput, SetupError as `open`."""
        ...

    async def probe(self, settings: RegistrySettings, *, repository: str | None = None) -> Capabilities:
        """Asks the registry what it can do. With `repository` (project/name) small content is pushed and removed there.

        Raises what `Registry` raises when it cannot be used at all.
        """
        ...
