"""/registries/{name}/projects: a registry's own projects, where it lets them be looked after from here (Harbor).

`managed` is a project of ours; which one it is there follows from the registry's names. Whatever changes or deletes can
be tried first (`dry_run`), and runs that delete are dry unless they are told otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import registries as access_registries
from berth.adapters.registries.contract import Administered, Administration, ProjectPlan, Retaining, Robot
from berth.errors import NotFound
from berth.oci.reference import check_project
from berth.server.api.operations import Text, operation, resource
from berth.server.api.registries import factory_of, sealer_of
from berth.server.api.registry_care import Opened, opened

router = resource("registries")
ACTION = access_registries.ACTION
_PROJECT = "/registries/{name}/projects/{managed}"


class ProtectedTags(BaseModel):
    """Patterns with `**`, `*`, `{a,b}`."""

    id: int
    tags: str
    repositories: str
    enabled: bool


class Retained(BaseModel):
    """`keep_newest` is null for a policy of another kind, made elsewhere."""

    id: int
    keep_newest: int | None
    schedule: str | None


class RemoteProject(BaseModel):
    """A project there; `settings` in the registry's own words, `used` and `limit` in bytes."""

    name: str
    settings: dict[str, str]
    used: int | None
    limit: int | None
    rules: list[ProtectedTags]
    retention: Retained | None


class RemoteProjectPlan(BaseModel):
    """What is left out stays; a new project is private."""

    model_config = ConfigDict(extra="forbid")

    public: bool | None = None
    auto_scan: bool | None = Field(None, description="Scan what is pushed.")
    auto_sbom: bool | None = Field(None, description="Make an SBOM of what is pushed.")
    prevent_vulnerable: bool | None = Field(None, description="Refuse pulls of content with findings of `severity`.")
    severity: Literal["none", "low", "medium", "high", "critical"] | None = None
    cosign_trust: bool | None = Field(None, description="Refuse pulls of content without a cosign signature.")
    storage_limit: int | None = Field(None, ge=-1, description="Bytes; -1 = none.")
    dry_run: bool = False


class Changes(BaseModel):
    """What was changed, or with `dry_run` would be."""

    changes: list[str]
    dry_run: bool


class RemoteRobot(BaseModel):
    """`secret` is shown once, when it is made, and not at all when this registry's entry here has taken it over."""

    id: int
    name: str
    rights: list[str]
    expires_at: datetime | None
    disabled: bool
    secret: str | None = None


class RemoteRobots(BaseModel):
    items: list[RemoteRobot]
    next: str | None = None


class NewRobot(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(max_length=200, pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", examples=["berth"])
    publishes: bool = Field(True, description="Push and withdraw, too; else only read.")
    days: int = Field(-1, ge=-1, le=36500, description="-1 = for ever.")
    adopt: bool = Field(False, description="Use it from now on as this registry's own user here; not shown then.")


class RenewedRobot(BaseModel):
    model_config = ConfigDict(extra="forbid")

    adopt: bool = Field(False, description="Use it from now on as this registry's own user here; not shown then.")


class NewProtection(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tags: Text = Field("**", max_length=200, examples=["[0-9]*"])
    repositories: Text = Field("**", max_length=200)
    dry_run: bool = False


class NewRetention(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keep_newest: int = Field(ge=1, le=100_000, description="Of each repository, by time of push.")
    schedule: Text | None = Field(
        None, max_length=100, description="Harbor: cron of six fields; GitLab: 1d, 7d, 14d, 1month or 3month."
    )
    dry_run: bool = False


class RetainedPlace(BaseModel):
    """`keep_newest` is null where everything is kept, or other rules decide; `rules` in the registry's words."""

    place: str
    keep_newest: int | None
    schedule: str | None
    rules: list[str]


class RetainedPlaces(BaseModel):
    items: list[RetainedPlace]
    next: str | None = None


class ExpiringThere(BaseModel):
    """`count` is null while the registry is still looking; `tags` are the first of them."""

    place: str
    count: int | None
    tags: list[str]


class RetentionChanges(Changes):
    """`expiring`: what goes, by the registry's own preview; null where it has none."""

    expiring: list[ExpiringThere] | None


class NewRetentionRun(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(True, description="False: really delete what is not kept.")


class RetainedRepository(BaseModel):
    repository: str
    found: int
    kept: int


class RetentionRunState(BaseModel):
    id: int
    state: Literal["running", "done", "failed"]
    dry_run: bool
    repositories: list[RetainedRepository]


@asynccontextmanager
async def administered(request: Request, name: str, managed: str) -> AsyncIterator[tuple[Opened, Administration]]:
    check_project(managed)
    async with opened(request, name) as there:
        if not isinstance(there.registry, Administered):
            raise there.cannot("has no projects that are looked after from here", "Use its own pages.")
        yield there, there.registry.administration


@router.get(_PROJECT, **operation(ACTION, "showRemoteProject", "What is a project like at a registry?"))
async def show(request: Request, name: str, managed: str) -> RemoteProject:
    async with administered(request, name, managed) as (_, projects):
        found = await projects.show(managed)
        return RemoteProject(
            name=found.name,
            settings=dict(found.settings),
            used=found.used,
            limit=found.limit,
            rules=[ProtectedTags(**asdict(rule)) for rule in found.rules],
            retention=None if found.retention is None else Retained(**asdict(found.retention)),
        )


@router.put(_PROJECT, **operation(ACTION, "ensureRemoteProject", "Make a project at a registry, or bring it in line"))
async def ensure(request: Request, name: str, managed: str, body: RemoteProjectPlan) -> Changes:
    async with administered(request, name, managed) as (there, projects):
        plan = ProjectPlan(**body.model_dump(exclude={"dry_run"}))
        changes = await projects.ensure(managed, plan, dry_run=body.dry_run)
        return await _changed(there, managed, changes, dry_run=body.dry_run)


@router.get(_PROJECT + "/robots", **operation(ACTION, "listRemoteRobots", "List a project's robots at a registry"))
async def robots(request: Request, name: str, managed: str) -> RemoteRobots:
    async with administered(request, name, managed) as (_, projects):
        return RemoteRobots(items=[_robot(robot) for robot in await projects.robots(managed)])


@router.post(
    _PROJECT + "/robots",
    status_code=201,
    **operation(ACTION, "addRemoteRobot", "Add a robot with the least rights", conflict=True),
)
async def add_robot(request: Request, name: str, managed: str, body: NewRobot) -> RemoteRobot:
    async with administered(request, name, managed) as (there, projects):
        robot = await projects.add_robot(managed, body.name, publishes=body.publishes, days=body.days)
        await there.record({"project": managed, "robot": robot.name, "rights": list(robot.rights)})
        return await _shown_once(there, robot, adopt=body.adopt)


@router.post(
    _PROJECT + "/robots/{robot_id}/secret", **operation(ACTION, "renewRemoteRobot", "Give a robot another secret")
)
async def renew_robot(request: Request, name: str, managed: str, robot_id: int, body: RenewedRobot) -> RemoteRobot:
    """The old one ends at once."""
    async with administered(request, name, managed) as (there, projects):
        robot = await projects.renew_robot(managed, robot_id)
        await there.record({"project": managed, "robot": robot.name, "secret": "given anew"})
        return await _shown_once(there, robot, adopt=body.adopt)


@router.delete(
    _PROJECT + "/robots/{robot_id}", status_code=204, **operation(ACTION, "removeRemoteRobot", "Remove a robot")
)
async def remove_robot(request: Request, name: str, managed: str, robot_id: int) -> Response:
    async with administered(request, name, managed) as (there, projects):
        if not await projects.remove_robot(managed, robot_id):
            raise NotFound(f"{managed} has no robot {robot_id} there.", hint="berth registry robot ls lists them.")
        await there.record({"project": managed, "robot": robot_id, "removed": True})
    return Response(status_code=204)


@router.post(
    _PROJECT + "/protected-tags", **operation(ACTION, "protectRemoteTags", "Have tags neither moved nor removed")
)
async def protect(request: Request, name: str, managed: str, body: NewProtection) -> Changes:
    async with administered(request, name, managed) as (there, projects):
        new = await projects.protect(managed, tags=body.tags, repositories=body.repositories, dry_run=body.dry_run)
        changes = [f"protected: {body.tags} in {body.repositories}"] if new else []
        return await _changed(there, managed, changes, dry_run=body.dry_run)


@router.delete(
    _PROJECT + "/protected-tags/{rule_id}",
    status_code=204,
    **operation(ACTION, "unprotectRemoteTags", "Let tags be moved and removed again"),
)
async def unprotect(request: Request, name: str, managed: str, rule_id: int) -> Response:
    async with administered(request, name, managed) as (there, projects):
        if not await projects.unprotect(managed, rule_id):
            raise NotFound(f"{managed} has no rule {rule_id} there.", hint="berth registry project show lists them.")
        await there.record({"project": managed, "unprotected": rule_id})
    return Response(status_code=204)


@asynccontextmanager
async def retaining(request: Request, name: str, managed: str) -> AsyncIterator[tuple[Opened, Retaining]]:
    check_project(managed)
    async with opened(request, name) as there:
        if not isinstance(there.registry, Retaining):
            raise there.cannot("has no retention that is set from here", "A sync rule can prune what its source lost.")
        yield there, there.registry


@router.get(_PROJECT + "/retention", **operation(ACTION, "showRemoteRetentionPolicy", "What does a registry keep?"))
async def retained(request: Request, name: str, managed: str) -> RetainedPlaces:
    """One item for each place with rules of its own: a project, or at ECR a repository."""
    async with retaining(request, name, managed) as (_, keeping):
        found = await keeping.retained(managed)
        return RetainedPlaces(items=[RetainedPlace(**{**asdict(one), "rules": list(one.rules)}) for one in found])


@router.put(_PROJECT + "/retention", **operation(ACTION, "setRemoteRetention", "Set how many versions are kept"))
async def retain(request: Request, name: str, managed: str, body: NewRetention) -> RetentionChanges:
    """What is not kept goes by itself, at the registry's time. `dry_run` says what that would be, where it tells."""
    async with retaining(request, name, managed) as (there, keeping):
        found = await keeping.retain(managed, body.keep_newest, schedule=body.schedule, dry_run=body.dry_run)
        if found.changes and not body.dry_run:
            await there.record({"project": managed, "changes": list(found.changes)})
        expiring = found.expiring
        return RetentionChanges(
            changes=list(found.changes),
            dry_run=body.dry_run,
            expiring=None
            if expiring is None
            else [ExpiringThere(place=e.place, count=e.count, tags=list(e.tags)) for e in expiring],
        )


@router.post(
    _PROJECT + "/retention/runs",
    status_code=202,
    **operation(ACTION, "startRemoteRetention", "Have what is not kept deleted, or see what that would be"),
)
async def start_retention(request: Request, name: str, managed: str, body: NewRetentionRun) -> RetentionRunState:
    """A dry run unless the body says otherwise."""
    async with administered(request, name, managed) as (there, projects):
        run = await projects.start_retention(managed, dry_run=body.dry_run)
        await there.record({"project": managed, "retention_run": run, "dry_run": body.dry_run})
        return await _run(projects, managed, run)


@router.get(
    _PROJECT + "/retention/runs/{run}", **operation(ACTION, "showRemoteRetention", "How far is a retention run?")
)
async def retention(request: Request, name: str, managed: str, run: int) -> RetentionRunState:
    async with administered(request, name, managed) as (_, projects):
        return await _run(projects, managed, run)


async def _run(projects: Administration, managed: str, run: int) -> RetentionRunState:
    found = await projects.retention_run(managed, run)
    return RetentionRunState(
        id=found.id,
        state=found.state,  # type: ignore[arg-type]
        dry_run=found.dry_run,
        repositories=[
            RetainedRepository(repository=repository, found=total, kept=kept)
            for repository, (total, kept) in sorted(found.repositories.items())
        ],
    )


async def _changed(there: Opened, managed: str, changes: Sequence[str], *, dry_run: bool) -> Changes:
    if changes and not dry_run:
        await there.record({"project": managed, "changes": list(changes)})
    return Changes(changes=list(changes), dry_run=dry_run)


async def _shown_once(there: Opened, robot: Robot, *, adopt: bool) -> RemoteRobot:
    """With `adopt` the secret goes into our own entry, sealed, and to nobody else."""
    if not adopt:
        return _robot(robot)
    async with there.services.db.transaction() as conn:
        await access_registries.change_registry(
            conn,
            there.actor,
            factory_of(there.services),
            sealer_of(there.services),
            name=there.row.name,
            username=robot.name,
            secret=robot.secret,
        )
    return _robot(robot).model_copy(update={"secret": None})


def _robot(robot: Robot) -> RemoteRobot:
    return RemoteRobot(
        id=robot.id,
        name=robot.name,
        rights=list(robot.rights),
        expires_at=robot.expires_at,
        disabled=robot.disabled,
        secret=robot.secret,
    )
