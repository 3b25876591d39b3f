"""What can a registry do? One small contract for every place that holds models, and optional powers beside it.

Repositories are `project/name` in Berth's own words; an adapter maps them to its registry's rules and back. Digests are
verified by whoever receives bytes: an adapter must raise IntegrityError rather than hand out bytes that do not match.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

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
    """

    referrers: bool = True
    mount: bool = True
    tag_delete: bool = True
    content_delete: bool = True
    list_repositories: bool = True
    repacks: bool = False
    largest_blob: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)


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
        """Store a blob. Raises DigestInvalid when the bytes do not match; nothing is stored then. Idempotent."""
        ...

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        """Store a manifest under a tag or its digest, byte for byte; returns its digest.

        A manifest with a subject becomes one of its referrers. Raises BlobUnknownToManifest when content is missing.
        """
        ...

    async def delete_tag(self, repository: str, tag: str) -> bool:
        """Remove a tag and nothing else; False when there was none. Raises Unsupported without `tag_delete`."""
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
