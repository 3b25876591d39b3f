"""/registries/{name}/hook and /events: by which secret a registry tells us what happens there, and what it told.

Deliveries themselves come to `POST /hooks/NAME` (server/hooks.py), which knows no users.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import hooks as access_hooks
from berth.access import registries as access_registries
from berth.adapters.registries.contract import Hooking
from berth.errors import InvalidInput, Unsupported
from berth.oci.reference import check_project
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, after_id, operation, resource
from berth.server.api.registries import factory_of, sealer_of
from berth.sync.events import queries

router = resource("registries")
ACTION = access_registries.ACTION


class NewHook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anew: bool = Field(False, description="Make another secret; what carries the old one is refused from then on.")
    projects: list[Text] = Field(
        default_factory=list, max_length=100, description="Our projects whose hook is set up at the registry, too."
    )
    address: Text | None = Field(
        None, max_length=1000, description="Where the registry reaches this service; default: as this request did."
    )
    pulls: bool = Field(False, description="Also be told of every pull; only for hooks that are set up from here.")


class InstalledHook(BaseModel):
    project: str
    added: bool


class Hook(BaseModel):
    """`secret` and `authorization` are shown once, when the secret is made, and then `address` may hold it, too."""

    address: str = Field(description="Where deliveries come to; with the secret for registries that send no header.")
    secret: str | None
    authorization: str | None = Field(
        description="The header `Authorization` that deliveries are to carry; null where a kind cannot send one."
    )
    installed: list[InstalledHook]


class RegistryEvent(BaseModel):
    """`deliveries`: how often it was told. `outcome`: what followed, null while it waits."""

    id: int
    action: Literal["pushed", "pulled", "deleted", "scanned", "other"]
    repository: str
    digest: str | None
    tag: str | None
    happened_at: datetime | None
    received_at: datetime
    deliveries: int
    state: Literal["new", "done"]
    outcome: str | None


class RegistryEventPage(BaseModel):
    items: list[RegistryEvent]
    next: str | None


@router.post("/registries/{name}/hook", **operation(ACTION, "hookRegistry", "Take a registry's webhook", conflict=True))
async def hook(request: Request, name: str, body: NewHook) -> Hook:
    """Makes the secret when there is none, and sets the webhook up at the registry for the named projects."""
    for project in body.projects:
        check_project(project)
    async with acting(request) as call:
        services = call.services
        row = await access_registries.registry_named(call.conn, name)
        kind = next(k for k in factory_of(services).kinds() if k.name == row.kind)
        if not kind.notifies:
            raise Unsupported(
                f"The kind {row.kind} tells us nothing by webhook.", hint="Give its sync rules a schedule."
            )
        address = body.address or f"{_origin(request)}/hooks/{name}"
        if not address.startswith(("http://", "https://")):
            raise InvalidInput(f"{address[:100]!r} is not an address.", hint=f"Write https://HOST/hooks/{name}.")
        row, secret, made = await access_hooks.set_hook(
            call.conn, call.actor, sealer_of(services), name=name, anew=body.anew
        )
    # No transaction is open while the registry is asked.
    header = access_hooks.authorization(secret)
    installed = []
    if body.projects:
        registry = factory_of(services).open(access_registries.settings_of(row, sealer_of(services)))
        try:
            if not isinstance(registry, Hooking):
                raise Unsupported(
                    f"The webhook of a {row.kind} registry cannot be set up from here.",
                    hint=f"Configure it there: POST to {address} with the header Authorization.",
                )
            for project in body.projects:
                added = await registry.ensure_hook(project, address=address, authorization=header, pulls=body.pulls)
                installed.append(InstalledHook(project=project, added=added))
        finally:
            await registry.close()
    return Hook(
        address=access_hooks.address_with(address, secret) if made and kind.proven_by == "address" else address,
        secret=secret if made else None,
        authorization=header if made and kind.proven_by == "header" else None,
        installed=installed,
    )


@router.delete(
    "/registries/{name}/hook",
    status_code=204,
    **operation(ACTION, "unhookRegistry", "Take no more deliveries of a registry"),
)
async def unhook(request: Request, name: str) -> Response:
    """What sends them there is not changed; its deliveries are refused from now on."""
    async with acting(request) as call:
        await access_hooks.remove_hook(call.conn, call.actor, name)
    return Response(status_code=204)


@router.get("/registries/{name}/events", **operation(ACTION, "listRegistryEvents", "List what a registry told us"))
async def events(request: Request, name: str, limit: Limit = PAGE, after: After = None) -> RegistryEventPage:
    """Newest first; events are kept for two weeks."""
    async with acting(request) as call:
        row = await access_registries.registry_named(call.conn, name)
        found = await queries.list_events(call.conn, row.id, before=after_id(after), limit=limit)
        return RegistryEventPage(
            items=[
                RegistryEvent(
                    id=e.id,
                    action=e.action,  # type: ignore[arg-type]
                    repository=e.repository,
                    digest=e.digest,
                    tag=e.tag,
                    happened_at=e.happened_at,
                    received_at=e.received_at,
                    deliveries=e.deliveries,
                    state=e.state,  # type: ignore[arg-type]
                    outcome=e.outcome,
                )
                for e in found
            ],
            next=str(found[-1].id) if len(found) == limit else None,
        )


def _origin(request: Request) -> str:
    configured = request.app.state.services.settings.external_url
    return str(configured or request.base_url).rstrip("/")
