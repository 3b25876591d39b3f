"""/registries: other registries that models are published to and taken from. Secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from berth.access import registries as access_registries
from berth.adapters.registries.contract import Kind, RegistryFactory
from berth.db import registries as stored
from berth.db.registries import RegistryRow
from berth.db.sealing import Sealer, sealer
from berth.errors import SetupError
from berth.oci.reference import ModelName
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource, storable
from berth.server.services import Services

router = resource("registries")
ACTION = access_registries.ACTION


class KnownRegistry(BaseModel):
    """`has_secret`: whether a password or token is stored; it is never shown. `has_hook`: whether it may tell us."""

    name: str
    kind: str
    url: str
    username: str | None
    has_secret: bool
    has_hook: bool
    options: dict[str, Any]
    capabilities: dict[str, Any] | None
    probed_at: datetime | None
    created_by: str
    created_at: datetime
    takes_open: bool


class RegistryPage(BaseModel):
    items: list[KnownRegistry]
    next: str | None


class RegistryKind(BaseModel):
    name: str
    title: str
    options: dict[str, str]
    capabilities: dict[str, Any]
    notifies: bool


class RegistryKinds(BaseModel):
    items: list[RegistryKind]
    next: str | None = None


class NewRegistry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Text = Field(max_length=128, examples=["harbor"])
    kind: Text = Field(max_length=40, examples=["harbor"], description="One of GET /registry-kinds.")
    url: Text = Field(max_length=1000, examples=["https://harbor.example"])
    username: Text | None = Field(None, max_length=1000)
    secret: SecretStr | None = Field(None, max_length=100_000, description="Password or token; stored sealed.")
    options: Annotated[dict[str, Any], AfterValidator(storable)] = Field(
        default_factory=dict, description="What the kind knows besides."
    )
    takes_open: bool = Field(False, description="Versions of open projects, which nothing is asked of, may go there.")


class RegistryChange(BaseModel):
    """What is left out stays; `options` replaces all of them."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: Text | None = Field(None, max_length=1000)
    username: Text | None = Field(None, max_length=1000)
    secret: SecretStr | None = Field(None, max_length=100_000)
    options: Annotated[dict[str, Any], AfterValidator(storable)] | None = None
    takes_open: bool | None = None


class Probe(BaseModel):
    model_config = ConfigDict(extra="forbid")

    repository: Text | None = Field(
        None,
        max_length=255,
        description="project/name; with it, small content is pushed there, looked at and removed.",
    )


@router.get("/registry-kinds", **operation(ACTION, "listRegistryKinds", "List the kinds of registries"))
async def kinds(request: Request) -> RegistryKinds:
    async with acting(request) as call:
        return RegistryKinds(items=[_kind(kind) for kind in factory_of(call.services).kinds()])


@router.get("/registries", **operation(ACTION, "listRegistries", "List the known registries"))
async def index(request: Request, limit: Limit = PAGE, after: After = None) -> RegistryPage:
    async with acting(request) as call:
        rows = await stored.list_registries(call.conn, after=after, limit=limit)
        return RegistryPage(items=[_shown(row) for row in rows], next=rows[-1].name if len(rows) == limit else None)


@router.post("/registries", status_code=201, **operation(ACTION, "addRegistry", "Add a registry", conflict=True))
async def add(request: Request, body: NewRegistry) -> KnownRegistry:
    async with acting(request) as call:
        row = await access_registries.add_registry(
            call.conn,
            call.actor,
            factory_of(call.services),
            sealer_of(call.services),
            name=body.name,
            kind=body.kind,
            url=body.url,
            username=body.username,
            secret=None if body.secret is None else body.secret.get_secret_value(),
            options=body.options,
            takes_open=body.takes_open,
        )
        return _shown(row)


@router.get("/registries/{name}", **operation(ACTION, "showRegistry", "Show a registry"))
async def show(request: Request, name: str) -> KnownRegistry:
    async with acting(request) as call:
        return _shown(await access_registries.registry_named(call.conn, name))


@router.patch("/registries/{name}", **operation(ACTION, "changeRegistry", "Change a registry", conflict=True))
async def change(request: Request, name: str, body: RegistryChange) -> KnownRegistry:
    """Its address, credentials or options. A new address needs the credentials again."""
    async with acting(request) as call:
        row = await access_registries.change_registry(
            call.conn,
            call.actor,
            factory_of(call.services),
            sealer_of(call.services),
            name=name,
            url=body.url,
            username=body.username,
            secret=None if body.secret is None else body.secret.get_secret_value(),
            options=body.options,
            takes_open=body.takes_open,
        )
        return _shown(row)


@router.delete(
    "/registries/{name}",
    status_code=204,
    **operation(ACTION, "removeRegistry", "Forget a registry", conflict=True),
)
async def remove(request: Request, name: str) -> Response:
    """What lives there stays there."""
    async with acting(request) as call:
        await access_registries.remove_registry(call.conn, call.actor, name)
    return Response(status_code=204)


@router.post(
    "/registries/{name}/probe", **operation(ACTION, "probeRegistry", "Ask a registry what it can do", conflict=True)
)
async def probe(request: Request, name: str, body: Probe) -> KnownRegistry:
    """No transaction is open while the registry is asked."""
    if body.repository is not None:
        ModelName.parse(body.repository)
    async with acting(request) as call:
        services, actor = call.services, call.actor
        row = await access_registries.registry_named(call.conn, name)
    settings = access_registries.settings_of(row, sealer_of(services))
    found = await factory_of(services).probe(settings, repository=body.repository)
    async with services.db.transaction() as conn:
        return _shown(await access_registries.record_probe(conn, actor, row, found, now=services.clock()))


def factory_of(services: Services) -> RegistryFactory:
    """What opens registries. Raises SetupError without."""
    if services.registries is None:
        raise SetupError("This server was started without registries.")
    return services.registries


def sealer_of(services: Services) -> Callable[[], Sealer]:
    """What opens their secrets, once it is needed."""
    return partial(sealer, services.settings)


def _kind(kind: Kind) -> RegistryKind:
    return RegistryKind(
        name=kind.name,
        title=kind.title,
        options=dict(kind.options),
        capabilities=kind.capabilities.to_json(),
        notifies=kind.notifies,
    )


def _shown(row: RegistryRow) -> KnownRegistry:
    return KnownRegistry(
        name=row.name,
        kind=row.kind,
        url=row.url,
        username=row.username,
        has_secret=row.secret is not None,
        has_hook=row.hook_secret is not None,
        options=dict(row.options),
        capabilities=None if row.capabilities is None else dict(row.capabilities),
        probed_at=row.probed_at,
        created_by=row.created_by,
        created_at=row.created_at,
        takes_open=row.takes_open,
    )
