"""/projects/{project}/keys: whose signatures does a project trust? Signing adds no trust; this does."""

from __future__ import annotations

from datetime import datetime

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.catalog import queries as catalog_queries
from berth.errors import BlobUnknown, TooLarge
from berth.gates import signatures as gates
from berth.server.api import queries
from berth.server.api.calls import Call, acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource

router = resource("keys")
# Signature payloads are small; what is larger is not read into memory to be checked (design §6: evidence ≤ 16 MiB).
_PAYLOAD_LIMIT = 16 * 1024 * 1024


class Key(BaseModel):
    """A key the project trusts. `key_id` is the hex SHA-256 of the DER SubjectPublicKeyInfo."""

    name: str
    public_key: str
    key_id: str
    predicates: list[str]
    added_by: str
    added_at: datetime


class KeyPage(BaseModel):
    items: list[Key]
    next: str | None


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(max_length=128, examples=["release-2026"])
    public_key: Text = Field(max_length=20_000, description="SubjectPublicKeyInfo in PEM.")
    predicates: list[Text] = Field(
        default_factory=lambda: ["signature"],
        max_length=50,
        description="What its statements count for: `signature` and predicate type URIs.",
    )


@router.get("/projects/{project}/keys", **operation("project.read", "listKeys", "List the trusted keys"))
async def index(request: Request, project: str, limit: Limit = PAGE, after: After = None) -> KeyPage:
    async with acting(request) as call:
        rows = await queries.list_keys(call.conn, call.project.id, after=after, limit=limit)
        items = [
            Key(
                name=row.name,
                public_key=row.public_key,
                key_id=row.key_id,
                predicates=row.predicates,
                added_by=row.added_by,
                added_at=row.added_at,
            )
            for row in rows
        ]
        return KeyPage(items=items, next=rows[-1].name if len(rows) == limit else None)


@router.post(
    "/projects/{project}/keys", status_code=201, **operation("key.trust", "trustKey", "Trust a key", conflict=True)
)
async def trust(request: Request, project: str, body: NewKey) -> Key:
    """Signatures pushed before count from now on."""
    async with acting(request) as call:
        row = await gates.trust_key(
            call.conn,
            call.project.id,
            body.name,
            body.public_key,
            body.predicates,
            by=call.who,
            now=call.now,
        )
        await gates.recheck_signatures(
            call.conn,
            project_id=call.project.id,
            read_blob=lambda digest: _read_blob(call, digest),
            now=call.now,
        )
        await audit.record(
            call.conn,
            actor=call.actor,
            action="key.trust",
            project=call.project.name,
            object=body.name,
            detail={"trusted": True, "key_id": row.key_id, "predicates": list(row.predicates)},
        )
        return Key(
            name=row.name,
            public_key=row.public_key,
            key_id=row.key_id,
            predicates=list(row.predicates),
            added_by=row.added_by,
            added_at=row.added_at,
        )


@router.delete(
    "/projects/{project}/keys/{name}", status_code=204, **operation("key.trust", "untrustKey", "Stop trusting a key")
)
async def untrust(request: Request, project: str, name: str) -> Response:
    """Every signature by it is void at once."""
    async with acting(request) as call:
        await gates.untrust_key(call.conn, call.project.id, name, now=call.now)
        await audit.record(
            call.conn,
            actor=call.actor,
            action="key.trust",
            project=call.project.name,
            object=name,
            detail={"trusted": False},
        )
    return Response(status_code=204)


async def _read_blob(call: Call, digest: str) -> bytes | None:
    place = (await catalog_queries.blob_places(call.conn, [digest])).get(digest)
    if place is None or place[0] is None:
        return None
    try:
        return await call.services.store.read_all(place[0], limit=_PAYLOAD_LIMIT)
    except (BlobUnknown, TooLarge):
        return None
