"""What can some registries do that not all can? One protocol for each ability; who needs it asks with `isinstance`.

Names of this file are seen by others through contract.py. How registries are looked after: administration.py; what they
tell by themselves: events.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from berth.oci.descriptor import Descriptor

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
