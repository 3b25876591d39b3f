"""/sync/drift: where two places differ that should not, per model and registry, and since when."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Request
from pydantic import BaseModel, Field

from berth.errors import PaginationInvalid
from berth.server.api.calls import acting
from berth.server.api.operations import PAGE, After, Limit, Text, operation, resource
from berth.server.api.sync import readable, rule_of
from berth.sync.drift import queries

router = resource("drift")
MAX_RULES = 500
_SEPARATOR = " "


class RuleDrift(BaseModel):
    """`state`: unknown until a plan of the rule has succeeded. `checked_at`: when its places were last compared."""

    rule: str
    source: str
    target: str
    project: str
    enabled: bool
    schedule: str | None
    state: Literal["in_step", "drifting", "unknown"]
    checked_at: datetime | None
    last_error: str | None
    versions: int = Field(description="How many versions differ.")
    since: datetime | None = Field(description="Since when the oldest of them differs.")


class ModelDrift(BaseModel):
    """One model that is not in step at one registry. `surplus`: the target has what the source lost."""

    rule: str
    source: str
    target: str
    source_model: str
    model: str = Field(description="Its name at the target.")
    missing: int
    evidence_missing: int
    conflicts: int
    surplus: int
    failing: int = Field(description="How many of them could not be copied at the last try.")
    since: datetime
    versions: list[str] = Field(description="Ten of them at most.")


class PlaceDrift(BaseModel):
    """Published versions of a model that are not where, or as, they belong: home and replicas."""

    registry: str
    model: str
    pending: int
    failed: int
    exposed: int
    since: datetime
    error: str | None


class DriftReport(BaseModel):
    """`rules` and `published` are on the first page only."""

    rules: list[RuleDrift]
    models: list[ModelDrift]
    published: list[PlaceDrift]
    next: str | None


class DriftedVersion(BaseModel):
    model: str
    tag: str
    source_model: str
    action: str
    code: str
    reason: str
    digest: str | None
    target_digest: str | None
    error: str | None
    since: datetime


class DriftedVersionPage(BaseModel):
    items: list[DriftedVersion]
    next: str | None


@router.get("/sync/drift", **operation("self.browse", "driftReport", "What differs, per model and registry"))
async def report(
    request: Request,
    rule: Annotated[Text | None, Query(max_length=128)] = None,
    registry: Annotated[Text | None, Query(max_length=128, description="Only what differs there.")] = None,
    limit: Limit = PAGE,
    after: After = None,
) -> DriftReport:
    """As the newest plan of each rule found it, less what has been copied since; `planSync` looks again."""
    place = _place(after)
    async with acting(request) as call:
        owners = readable(call)
        if rule is not None:
            await rule_of(call, rule, "model.read")
        models = await queries.models(call.conn, owners=owners, rule=rule, target=registry, after=place, limit=limit)
        rules, places = [], []
        if after is None:
            rules = await queries.rules(call.conn, owners=owners, rule=rule, limit=MAX_RULES)
            places = [] if rule else await queries.places(call.conn, projects=owners, limit=MAX_RULES)
    return DriftReport(
        rules=[_rule(row) for row in rules if registry in (None, row.target)],
        models=[ModelDrift(**asdict(row)) for row in models],
        published=[PlaceDrift(**asdict(row)) for row in places if registry in (None, row.registry)],
        next=f"{models[-1].rule}{_SEPARATOR}{models[-1].model}" if len(models) == limit else None,
    )


@router.get(
    "/sync/rules/{rule}/drift", **operation("self.browse", "listDrift", "The versions that differ, of one rule")
)
async def versions(
    request: Request,
    rule: str,
    model: Annotated[Text | None, Query(max_length=300, description="By its name at the target.")] = None,
    limit: Limit = PAGE,
    after: After = None,
) -> DriftedVersionPage:
    place = _place(after)
    async with acting(request) as call:
        row = await rule_of(call, rule, "model.read")
        rows = await queries.versions(call.conn, row.id, model=model, after=place, limit=limit)
    return DriftedVersionPage(
        items=[DriftedVersion(**asdict(found)) for found in rows],
        next=f"{rows[-1].model}{_SEPARATOR}{rows[-1].tag}" if len(rows) == limit else None,
    )


def _rule(row: queries.RuleRow) -> RuleDrift:
    state: Literal["in_step", "drifting", "unknown"] = "drifting" if row.versions else "in_step"
    return RuleDrift(**asdict(row), state="unknown" if row.checked_at is None else state)


def _place(after: str | None) -> tuple[str, str]:
    if after is None:
        return "", ""
    first, separator, second = after.partition(_SEPARATOR)
    if not separator:
        raise PaginationInvalid("The cursor `after` is not one that a list answered.", hint="Start without `after`.")
    return first, second
