"""What can be looked after at a registry from here? Its health, what it knows of content, and its projects.

Names of these powers are seen by others through contract.py. What they read is shown and never counts as evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Health:
    """Whether a registry works. None: it does not tell.

    Attributes:
        components: "healthy", or what there is to say.
        read_only: nothing can be published there.
        free_bytes: space that is left.
        milliseconds: how long it took to answer.
    """

    healthy: bool
    components: Mapping[str, str]
    version: str | None = None
    read_only: bool | None = None
    free_bytes: int | None = None
    milliseconds: int | None = None


@runtime_checkable
class Watched(Protocol):
    """It says how it is."""

    async def health(self) -> Health: ...


@dataclass(frozen=True)
class Accessory:
    """Content that hangs on other content: a signature, an SBOM."""

    type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """What a registry knows of content.

    Attributes:
        type: as the registry calls it (Harbor: CNAI for a model).
        pulled_at: None for never, as far as it counts.
        repository_pulls: of the whole repository, since nobody counts by content.
        tabs: documents that it shows.
    """

    digest: str
    type: str
    size: int
    tags: Sequence[str]
    pushed_at: datetime | None
    pulled_at: datetime | None
    repository_pulls: int | None
    accessories: Sequence[Accessory]
    tabs: Sequence[str]


@runtime_checkable
class Informed(Protocol):
    """It keeps facts about content beyond its bytes."""

    async def artifact(self, repository: str, reference: str) -> Artifact:
        """Raises NotFound."""
        ...


@runtime_checkable
class ScanLogging(Protocol):
    """It keeps what its scanner wrote."""

    async def scan_log(self, repository: str, digest: str, report_id: str) -> str:
        """Raises NotFound."""
        ...


@dataclass(frozen=True)
class ProjectPlan:
    """What a project there is to be like; None = as it is (for a new one: the registry's default).

    Attributes:
        prevent_vulnerable: refuse pulls of content with findings of `severity` or worse.
        severity: none | low | medium | high | critical
        cosign_trust: refuse pulls of content without a cosign signature.
        storage_limit: bytes, -1 = none.
    """

    public: bool | None = None
    auto_scan: bool | None = None
    auto_sbom: bool | None = None
    prevent_vulnerable: bool | None = None
    severity: str | None = None
    cosign_trust: bool | None = None
    storage_limit: int | None = None


@dataclass(frozen=True)
class Rule:
    """Tags that cannot be moved or removed, as glob patterns."""

    id: int
    tags: str
    repositories: str
    enabled: bool


@dataclass(frozen=True)
class Retention:
    """How many of the newest of each repository are kept, and when the others go; None: another kind of policy."""

    id: int
    keep_newest: int | None
    schedule: str | None


@dataclass(frozen=True)
class Retained:
    """What is kept at one place there: a project, or a single repository.

    Attributes:
        keep_newest: how many of the newest; None: everything, or by other rules.
        schedule: when the others go, in the registry's own words.
        rules: all that decides, as the registry says it.
    """

    place: str
    keep_newest: int | None
    schedule: str | None
    rules: Sequence[str] = ()


@dataclass(frozen=True)
class Expiring:
    """How much of a place would go, and the first tags of it; None: not known yet."""

    place: str
    count: int | None
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class RetentionChange:
    """What was changed, or would be; `expiring` what goes with it, None where a registry does not tell."""

    changes: Sequence[str]
    expiring: Sequence[Expiring] | None = None


@runtime_checkable
class Retaining(Protocol):
    """What it keeps can be set from here. The others are removed by itself, later, or by a run that is started."""

    async def retained(self, project: str) -> Sequence[Retained]:
        """What is kept of one of our projects."""
        ...

    async def retain(self, project: str, count: int, *, schedule: str | None, dry_run: bool) -> RetentionChange:
        """Keep the newest `count`; `schedule` None: the registry's usual one. Raises InvalidInput for what it lacks."""
        ...


@dataclass(frozen=True)
class ManagedProject:
    """A project there; `name` is its own, `settings` its words for them."""

    name: str
    settings: Mapping[str, str]
    used: int | None
    limit: int | None
    rules: Sequence[Rule]
    retention: Retention | None


@dataclass(frozen=True)
class Robot:
    """An account for programs; `secret` only when it was made just now, and never shown by us otherwise."""

    id: int
    name: str
    rights: Sequence[str] = ()
    expires_at: datetime | None = None
    disabled: bool = False
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RetentionRun:
    """How far a run is; `repositories`: name → (found, kept)."""

    id: int
    state: str  # running | done | failed
    dry_run: bool
    repositories: Mapping[str, tuple[int, int]]


class Administration(Protocol):
    """Looks after projects of a registry. `project` is ours; the one there follows from the names.

    Every method raises RemoteAuthError when our account may not do it, NotFound without the project. With `dry_run`
    nothing is changed; the answer is what would be.
    """

    async def show(self, project: str) -> ManagedProject: ...

    async def ensure(self, project: str, plan: ProjectPlan, *, dry_run: bool) -> Sequence[str]:
        """Make the project, or bring it in line; what was changed, as `name: before → after`."""
        ...

    async def robots(self, project: str) -> Sequence[Robot]: ...

    async def add_robot(self, project: str, name: str, *, publishes: bool, days: int) -> Robot:
        """With the least rights to publish and withdraw, or else to read. Raises Conflict when the name is taken."""
        ...

    async def renew_robot(self, project: str, robot_id: int) -> Robot:
        """Give it another secret; the old one ends."""
        ...

    async def remove_robot(self, project: str, robot_id: int) -> bool: ...

    async def protect(self, project: str, *, tags: str, repositories: str, dry_run: bool) -> bool:
        """Tags that match cannot be moved or removed any more; False when that is so already."""
        ...

    async def unprotect(self, project: str, rule_id: int) -> bool: ...

    async def start_retention(self, project: str, *, dry_run: bool) -> int:
        """Have it deleted what is not kept; the run. Raises NotFound without a policy."""
        ...

    async def retention_run(self, project: str, run: int) -> RetentionRun: ...


@runtime_checkable
class Administered(Protocol):
    """Its projects can be looked after from here."""

    @property
    def administration(self) -> Administration: ...
