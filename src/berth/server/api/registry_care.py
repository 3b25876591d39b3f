"""/registries/{name}: how a registry is, how full, what it knows and found out about a version, and its clean-up.

Built on the powers of adapters/registries/contract.py; what a kind has not is `unsupported`, with the next step.
What a registry says about content is shown and never counts as evidence here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.access import registries as access_registries
from berth.access.decide import Actor
from berth.adapters.registries.contract import (
    Housekeeping,
    Informed,
    Limited,
    Measured,
    Naming,
    Registry,
    ScanLogging,
    Scanning,
)
from berth.db.registries import RegistryRow
from berth.errors import InvalidInput, ManifestUnknown, NotFound, Unsupported
from berth.oci import digest as digests
from berth.oci.reference import Reference as ParsedReference
from berth.oci.reference import check_project
from berth.server.api.calls import acting
from berth.server.api.operations import Text, operation, resource
from berth.server.api.queries import content_of
from berth.server.api.registries import factory_of, sealer_of
from berth.server.services import Services
from berth.sync.events import queries as events

router = resource("registries")
ACTION = access_registries.ACTION
Reference = Annotated[
    str, Query(max_length=400, description="project/name:version or project/name@digest, by our names.")
]


@dataclass(frozen=True)
class Opened:
    """A registry that is asked; no transaction is open meanwhile."""

    row: RegistryRow
    registry: Registry
    services: Services
    actor: Actor

    def cannot(self, what: str, hint: str) -> Unsupported:
        """What to raise when it has not the power that is asked for."""
        return Unsupported(f"A registry of kind {self.row.kind} {what}.", hint=hint)

    @property
    def scanning(self) -> Scanning:
        if not isinstance(self.registry, Scanning):
            raise self.cannot("scans nothing", "Berth scans what is pushed to it: xumi scans.")
        return self.registry

    @property
    def keeping(self) -> Housekeeping:
        if not isinstance(self.registry, Housekeeping):
            raise self.cannot("is not cleaned up from here", "It cleans up by itself, or by its own tools.")
        return self.registry

    async def record(self, detail: dict[str, Any]) -> None:
        """Put into the audit log what was done there."""
        async with self.services.db.transaction() as conn:
            await audit.record(conn, actor=self.actor, action=ACTION, project=None, object=self.row.name, detail=detail)


@asynccontextmanager
async def opened(request: Request, name: str) -> AsyncIterator[Opened]:
    """The named registry, for callers who may manage registries."""
    async with acting(request) as call:
        services, actor = call.services, call.actor
        row = await access_registries.registry_named(call.conn, name)
    registry = factory_of(services).open(access_registries.settings_of(row, sealer_of(services)))
    try:
        yield Opened(row, registry, services, actor)
    finally:
        await registry.close()


class RegistryHealth(BaseModel):
    """`components`: "healthy", or what there is to say. Null: it does not tell."""

    healthy: bool
    components: dict[str, str]
    version: str | None
    read_only: bool | None
    free_bytes: int | None
    milliseconds: int | None


class UsedRepository(BaseModel):
    """`used` in bytes; null where the registry does not tell."""

    repository: str
    used: int | None
    images: int | None
    tags: int | None


class RegistryUsage(BaseModel):
    """Bytes; null where the registry does not tell, or sets no limit. `repositories`: where it tells of each."""

    project: str
    used: int | None
    limit: int | None
    repositories: list[UsedRepository]


class VersionThere(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reference: Text = Field(max_length=400, examples=["vision/net:1.2.0"])


class RemoteScanStarted(BaseModel):
    digest: str
    started: bool = Field(description="False: one is running, or ran just now.")


class RemoteScan(BaseModel):
    """A registry's own scan. Shown only: verdicts here never rest on it."""

    digest: str
    state: Literal["none", "running", "done", "failed", "unsupported"]
    severity: str | None
    counts: dict[str, int]
    report_id: str | None
    scanner: str | None


class RemoteReport(BaseModel):
    digest: str
    report: dict[str, Any] | None


class RemoteLog(BaseModel):
    log: str


class RemoteAccessory(BaseModel):
    type: str
    digest: str
    size: int


class RemoteArtifact(BaseModel):
    """What the registry knows of a version. `pulls_told`: of this content, as far as its webhook said."""

    digest: str
    type: str
    size: int
    tags: list[str]
    pushed_at: datetime | None
    pulled_at: datetime | None
    repository_pulls: int | None
    pulls_told: int
    accessories: list[RemoteAccessory]
    tabs: list[str]


class Fit(BaseModel):
    """How a version is called there, and whether it fits."""

    repository: str
    tag: str
    checked: int = Field(description="Manifests and blobs whose sizes were compared; 0: it is not in our depot.")


class CleanUp(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(True, description="False: really remove.")


class CleanUpRun(BaseModel):
    run: str
    state: Literal["running", "done", "failed"]


@router.get("/registries/{name}/health", **operation(ACTION, "registryHealth", "How is a registry?"))
async def health(request: Request, name: str) -> RegistryHealth:
    """It is asked once, for 20 seconds at most; one that is away, or refuses our credentials, is not healthy."""
    async with acting(request) as call:
        services = call.services
        row = await access_registries.registry_named(call.conn, name)
    found = await factory_of(services).health(access_registries.settings_of(row, sealer_of(services)))
    return RegistryHealth(**{**asdict(found), "components": dict(found.components)})


@router.get("/registries/{name}/usage", **operation(ACTION, "registryUsage", "How full is a registry?"))
async def usage(request: Request, name: str, project: Annotated[str, Query(max_length=128)]) -> RegistryUsage:
    """Of the place where a project of ours lives there."""
    check_project(project)
    async with opened(request, name) as there:
        if not isinstance(there.registry, Measured):
            raise there.cannot("does not tell how full it is", "Its own pages may.")
        found = await there.registry.usage(project)
        each = [UsedRepository(**asdict(one)) for one in found.repositories]
        return RegistryUsage(project=project, used=found.used, limit=found.limit, repositories=each)


@router.post(
    "/registries/{name}/scans",
    status_code=202,
    **operation(ACTION, "startRemoteScan", "Have a registry scan a version", conflict=True),
)
async def start_scan(request: Request, name: str, body: VersionThere) -> RemoteScanStarted:
    async with opened(request, name) as there:
        scanning = there.scanning
        repository, digest = await _found(there, body.reference)
        started = await scanning.start_scan(repository, digest)
        await there.record({"scan": body.reference, "digest": digest, "started": started})
        return RemoteScanStarted(digest=digest, started=started)


@router.get("/registries/{name}/scans", **operation(ACTION, "showRemoteScan", "How far is a registry's own scan?"))
async def scan(request: Request, name: str, reference: Reference) -> RemoteScan:
    async with opened(request, name) as there:
        scanning = there.scanning
        repository, digest = await _found(there, reference)
        found = await scanning.scan_state(repository, digest)
        return RemoteScan(digest=digest, **{**asdict(found), "counts": dict(found.counts)})


@router.get("/registries/{name}/scans/report", **operation(ACTION, "showRemoteReport", "What did a registry find?"))
async def report(request: Request, name: str, reference: Reference) -> RemoteReport:
    """As the registry gives it; null without one."""
    async with opened(request, name) as there:
        scanning = there.scanning
        repository, digest = await _found(there, reference)
        found = await scanning.scan_report(repository, digest)
        return RemoteReport(digest=digest, report=None if found is None else dict(found))


@router.get("/registries/{name}/scans/log", **operation(ACTION, "showRemoteScanLog", "What did its scanner write?"))
async def scan_log(request: Request, name: str, reference: Reference) -> RemoteLog:
    async with opened(request, name) as there:
        scanning = there.scanning
        if not isinstance(there.registry, ScanLogging):
            raise there.cannot("keeps no log of its scans", "berth registry report shows what was found.")
        repository, digest = await _found(there, reference)
        state = await scanning.scan_state(repository, digest)
        if state.report_id is None:
            raise NotFound(f"{name} has not scanned {reference}.", hint="berth registry scan starts one.")
        return RemoteLog(log=await there.registry.scan_log(repository, digest, state.report_id))


@router.get("/registries/{name}/artifact", **operation(ACTION, "showRemoteArtifact", "What does it know of a version?"))
async def artifact(request: Request, name: str, reference: Reference) -> RemoteArtifact:
    async with opened(request, name) as there:
        if not isinstance(there.registry, Informed):
            raise there.cannot("keeps no facts about content", "xumi where shows where a version lives.")
        repository, digest = await _found(there, reference)
        found = await there.registry.artifact(repository, digest)
        async with there.services.db.reading() as conn:
            told = await events.pulls_of(conn, there.row.id, repository, digest)
        return RemoteArtifact(
            digest=found.digest,
            type=found.type,
            size=found.size,
            tags=list(found.tags),
            pushed_at=found.pushed_at,
            pulled_at=found.pulled_at,
            repository_pulls=found.repository_pulls,
            pulls_told=0 if told is None else told.pulls,
            accessories=[RemoteAccessory(**asdict(a)) for a in found.accessories],
            tabs=list(found.tabs),
        )


@router.post("/registries/{name}/check", **operation(ACTION, "checkFit", "Would a version fit into a registry?"))
async def check(request: Request, name: str, body: VersionThere) -> Fit:
    """Name, tag and sizes by the registry's rules; it is not asked, and nothing is sent."""
    repository, reference = _parsed(body.reference)
    if digests.is_digest(reference):
        raise InvalidInput(f"{body.reference} names no version.", hint=f"Write {repository}:VERSION.")
    async with opened(request, name) as there:
        async with there.services.db.reading() as conn:
            content = await content_of(conn, repository, reference)
        if isinstance(there.registry, Limited):
            there.registry.check_content(repository, reference, content)
        name_there = there.registry.called(repository) if isinstance(there.registry, Naming) else repository
        return Fit(repository=name_there, tag=reference, checked=len(content))


@router.post(
    "/registries/{name}/gc",
    status_code=202,
    **operation(ACTION, "collectRemoteGarbage", "Start a registry's clean-up", conflict=True),
)
async def collect(request: Request, name: str, body: CleanUp) -> CleanUpRun:
    """A dry run unless the body says otherwise."""
    async with opened(request, name) as there:
        keeping = there.keeping
        run = await keeping.collect_garbage(dry_run=body.dry_run)
        await there.record({"clean_up": run, "dry_run": body.dry_run})
        return CleanUpRun(run=run, state=await keeping.garbage_state(run))  # type: ignore[arg-type]


@router.get("/registries/{name}/gc/{run}", **operation(ACTION, "showRemoteGarbage", "How far is its clean-up?"))
async def collected(request: Request, name: str, run: str) -> CleanUpRun:
    async with opened(request, name) as there:
        keeping = there.keeping
        return CleanUpRun(run=run, state=await keeping.garbage_state(run))  # type: ignore[arg-type]


@router.get("/registries/{name}/gc/{run}/log", **operation(ACTION, "showRemoteGarbageLog", "What did it clean up?"))
async def collected_log(request: Request, name: str, run: str) -> RemoteLog:
    async with opened(request, name) as there:
        keeping = there.keeping
        return RemoteLog(log=await keeping.garbage_log(run))


def _parsed(text: str) -> tuple[str, str]:
    """(repository, tag or digest). Raises InvalidInput."""
    found = ParsedReference.parse(text)
    reference = found.digest or found.tag
    if reference is None or found.registry is not None:
        raise InvalidInput(f"{text[:100]!r} names no version of ours.", hint="Write project/name:version.")
    return found.repository, reference


async def _found(there: Opened, text: str) -> tuple[str, str]:
    """(repository, digest) of what is meant at that registry. Raises ManifestUnknown."""
    repository, reference = _parsed(text)
    if digests.is_digest(reference):
        return repository, reference
    stat = await there.registry.stat(repository, reference)
    if stat is None:
        raise ManifestUnknown(
            f"{there.row.name} has no {repository}:{reference}.", hint="xumi where shows where a version lives."
        )
    return repository, stat.digest
