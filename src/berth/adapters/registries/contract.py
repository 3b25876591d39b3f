"""What can a registry do? One small contract for every place that holds models, and optional powers beside it.

Repositories are `project/name` in Berth's own words; an adapter maps them to its registry's rules and back. Digests are
verified by whoever receives bytes: an adapter must raise IntegrityError rather than hand out bytes that do not match.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

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


# ---- large blobs

# Smaller blobs are sent in one request, and again from their beginning when that breaks: at 100 Mbit/s this is what
# five seconds bring, and one request is faster than several.
LARGE_BYTES: Final = 64 << 20


@runtime_checkable
class Resumable(Protocol):
    """A large blob's bytes, readable from anywhere, and what remembers how far an upload of them is.

    To be given to `Registry.push_blob`: a registry that cannot go on with a broken upload reads it like any iterable.
    The rest is `Keeper` of wire/sending.py.
    """

    @property
    def burst(self) -> int | None:
        """How many bytes may go at once because their rate is limited; None = as many as one likes."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def at(self, offset: int) -> AsyncIterator[bytes]:
        """The bytes from there on, as fast as the source gives them."""
        ...

    def passed(self, count: int) -> None:
        """So many more bytes are at the target, or on the way there for the first time."""
        ...

    async def find(self) -> str | None: ...

    async def keep(self, session: str, offset: int) -> None: ...

    async def forget(self) -> None: ...

    async def let(self, count: int) -> None: ...

    def left(self, count: int) -> None: ...

    async def reread(self, count: int) -> None: ...


# ---- optional powers


@runtime_checkable
class Resuming(Protocol):
    """It goes on with broken uploads, and can be told that one is given up."""

    async def give_up(self, repository: str, session: str) -> None:
        """Nobody will go on with this upload. A session that is gone is no failure."""
        ...


@runtime_checkable
class Limited(Protocol):
    """It refuses some names or sizes, and can say so before any byte moves."""

    def check_content(self, repository: str, tag: str | None, content: Iterable[Descriptor]) -> None:
        """Raises NameInvalid or TooLarge, naming what does not fit."""
        ...


@runtime_checkable
class Probing(Protocol):
    """It finds out by itself what it can do."""

    async def probe(self, repository: str | None = None) -> Capabilities:
        """As `RegistryFactory.probe`."""
        ...


@runtime_checkable
class Telling(Protocol):
    """It may say at the start of an upload whether it has the blob, so that it need not be asked before."""

    @property
    def tells_on_upload(self) -> bool:
        """Whether it is known to. Then `push_blob` reads nothing of a blob that is there."""
        ...


@runtime_checkable
class Tagging(Protocol):
    """It may keep its lists of referrers under tags only ("Referrers tag schema"): its tags tell where one is."""

    @property
    def referrers_in_tags(self) -> bool:
        """Whether it is known to. Then `referrers` has nothing to say of what has no such tag."""
        ...


@runtime_checkable
class Confirming(Protocol):
    """It says for less what a tag means, to those who have a guess."""

    async def tag_digest(self, repository: str, tag: str, *, likely: str) -> str | None:
        """The digest of what the tag names; None without such a tag. Errors as of `Registry.stat`."""
        ...


@runtime_checkable
class Redirecting(Protocol):
    """Readers can fetch its blobs themselves."""

    async def presigned(self, repository: str, digest: str, *, seconds: int) -> str | None:
        """A URL that hands out this blob for so long and needs no credentials; None where it cannot or may not."""
        ...


@dataclass(frozen=True)
class ImageChoice:
    """Which image of a version a container daemon runs; `bundle`: the one that holds its weights, if there is one."""

    os: str
    architecture: str
    bundle: bool = False


@dataclass(frozen=True)
class WholeImage:
    """A runnable image as daemons know it: the exact bytes of its config, and its layers, lowest first."""

    config: bytes
    layers: Sequence[Descriptor]


@runtime_checkable
class Repacking(Protocol):
    """A container daemon: it takes and gives whole images, and keeps neither manifests nor their digests.

    Its `stat` answers with the image's own id; `capabilities.repacks` is true.
    """

    async def choice(self) -> ImageChoice:
        """Which image of a version it is to be given."""
        ...

    async def holds(self, repository: str, tag: str, config: bytes) -> bool:
        """Whether this name means the image with this config there."""
        ...

    async def load(
        self,
        repository: str,
        tag: str,
        image: WholeImage,
        *,
        read: Callable[[Descriptor], AsyncIterator[bytes]],
    ) -> None:
        """Hand it an image under a name that means nothing yet.

        Raises Unsupported when it does not take it, IntegrityError when it would hold something else.
        """
        ...

    async def save(
        self, repository: str, tag: str, *, keep: Callable[[int, AsyncIterator[bytes]], Awaitable[str]]
    ) -> WholeImage:
        """Take an image out. `keep` gets size and bytes of one layer after another, and answers its digest."""
        ...


@runtime_checkable
class Naming(Protocol):
    """It calls repositories otherwise than we do."""

    def called(self, repository: str) -> str:
        """The name there of `project/name`. Raises NameInvalid when it cannot have one."""
        ...


@dataclass(frozen=True)
class ScanState:
    """How far a registry's own scan of a manifest is.

    Attributes:
        state: none | running | done | failed | unsupported.
        severity: worst severity found, in the registry's word.
        counts: findings by severity, in lower case.
    """

    state: str
    severity: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    report_id: str | None = None
    scanner: str | None = None


@runtime_checkable
class Scanning(Protocol):
    """It scans what it holds. Its results are shown, and never count as evidence here."""

    async def start_scan(self, repository: str, digest: str) -> bool:
        """Ask for a scan; False when one is running. Raises Unsupported for content it does not scan."""
        ...

    async def scan_state(self, repository: str, digest: str) -> ScanState: ...

    async def scan_report(self, repository: str, digest: str) -> Mapping[str, Any] | None:
        """The report as the registry gives it, None without one."""
        ...


@dataclass(frozen=True)
class RepositoryUsage:
    """What one repository of ours holds there; None when the registry does not tell."""

    repository: str
    used: int | None
    images: int | None = None
    tags: int | None = None


@dataclass(frozen=True)
class Usage:
    """Bytes that are used and may be used; None when the registry does not tell or sets no limit."""

    used: int | None
    limit: int | None
    repositories: Sequence[RepositoryUsage] = ()


@runtime_checkable
class Measured(Protocol):
    """It tells how full it is."""

    async def usage(self, project: str) -> Usage: ...


@runtime_checkable
class Housekeeping(Protocol):
    """Its clean-up can be started from here."""

    async def collect_garbage(self, *, dry_run: bool = False) -> str:
        """Start it; what identifies the run. Raises Conflict while one runs, or too soon after the last one."""
        ...

    async def garbage_state(self, run: str) -> str:
        """running | done | failed. Raises NotFound."""
        ...

    async def garbage_log(self, run: str) -> str:
        """What the run wrote. Raises NotFound."""
        ...


@dataclass(frozen=True)
class RemoteEvent:
    """Something that happened at a registry, from its webhook. Deliveries repeat and overtake each other.

    Attributes:
        action: pushed | pulled | deleted | scanned | other
        repository: by our own name; None for one that is none of ours.
        at: when it happened there, seconds since the epoch.
        id: the registry's own name of the event, where it gives one.
    """

    action: str
    repository: str | None
    digest: str | None
    tag: str | None
    at: float | None
    id: str | None = None

    @property
    def key(self) -> str | None:
        """What makes two deliveries the same event; None where a registry says nothing that would tell them apart."""
        if self.id is not None:
            return f"id {self.id}"
        if self.at is None:
            return None
        return " ".join(str(part) for part in (self.action, self.repository, self.digest, self.tag, self.at))


@dataclass(frozen=True)
class Delivery:
    """What came to a hook.

    Attributes:
        headers: by name in lower case; some registries say there what happened.
        host: host[:port] of the registry that it is about.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str = ""


# The `project/name` that a repository of the registry stands for here; None when it is none of ours.
Inward = Callable[[str], str | None]


@runtime_checkable
class Notifying(Protocol):
    """It sends webhooks. Who sent a delivery is checked before anything of it is read."""

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """The events of a delivery. Raises InvalidInput when it is unreadable."""
        ...


@runtime_checkable
class Hooking(Protocol):
    """Its webhooks can be set up from here."""

    async def ensure_hook(self, project: str, *, address: str, authorization: str, pulls: bool) -> bool:
        """Have it tell `address` what happens to one of our projects there; whether the hook is new.

        `authorization` comes back with every delivery. With `pulls` also each pull is told.
        """
        ...
