"""…/models/{model}/promotions: versions go from project to project by digest, without a byte being copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from berth.access import audit
from berth.catalog import queries as catalog
from berth.errors import Conflict, InvalidInput, NameUnknown
from berth.gates import verdicts as gates
from berth.oci.reference import ModelName
from berth.oci.version import SemVer
from berth.server.api.addressed import reasons_of
from berth.server.api.archives import versions_meant
from berth.server.api.calls import Call, acting
from berth.server.api.operations import Text, operation, resource
from berth.sync.moving import promoting
from berth.sync.moving.promoting import Promotion

router = resource("promotions")
MAX_VERSIONS = 200


class NewPromotion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    versions: Text = Field(max_length=200, examples=["1.2.0", "^1"], description="A version, alias, digest or range.")
    to: Text = Field(max_length=300, examples=["prod/detector"], description="Model that they go to.")
    version: Text | None = Field(None, max_length=128, description="Its number there, if it is to be another.")
    dry_run: bool = Field(False, description="Only say what would happen.")


class PromotedVersion(BaseModel):
    """`action`: promote, evidence (signatures were added), present, conflict, refused (a reviewer said no to it).

    `verdict`: of the target's policy.
    """

    source: str
    repository: str
    version: str
    digest: str
    action: str
    reason: str
    evidence: int
    notes: list[str]
    verdict: str | None
    reasons: list[dict[str, Any]]


class PromotionResult(BaseModel):
    items: list[PromotedVersion]
    dry_run: bool


@router.post(
    "/projects/{project}/models/{model}/promotions",
    **operation("version.pull", "promoteVersions", "Copy versions with their signatures to another project"),
)
async def promote(request: Request, project: str, model: str, body: NewPromotion) -> PromotionResult:
    """Needs the right to pull here (and to read quarantine for what is in it) and to push there.

    Signatures and attestations go along, scans are known by digest; approvals stay behind, for the policy of the target
    decides anew. Promoting again changes nothing; another digest under the number there is a conflict, and stays.
    What a reviewer here rejected or revoked is refused.
    """
    target = str(ModelName.parse(body.to))
    if body.version is not None:
        SemVer.parse(body.version)
    elif target == f"{project}/{model}":
        raise InvalidInput("Source and target are the same model.", hint="Name another project, or another version.")
    async with acting(request) as call:
        plans = await _planned(call, f"{project}/{model}", body.versions, target, body.version)
    if body.dry_run:
        return PromotionResult(items=[_shown(one, [], None, []) for one in plans], dry_run=True)
    return PromotionResult(items=[await _carry_out(request, one) for one in plans], dry_run=False)


async def _planned(call: Call, source: str, versions: str, target: str, version: str | None) -> Sequence[Promotion]:
    sign = "@" if versions.startswith(("sha256:", "sha512:")) else ":"
    found = await versions_meant(call, f"{source}{sign}{versions}")
    if len(found) > MAX_VERSIONS:
        raise InvalidInput(f"{len(found)} versions at once are too many.", hint="Use a narrower range.")
    if version is not None and len(found) != 1:
        raise InvalidInput(f"{versions} means {len(found)} versions; they cannot all be {version}.")
    await call.enter(target.partition("/")[0], "version.push")
    return [await promoting.plan(call.conn, one, target, version or one.version.version, now=call.now) for one in found]


async def _carry_out(request: Request, planned: Promotion) -> PromotedVersion:
    """One version in one transaction, with the rights and the verdict of that moment."""
    if planned.action in ("present", "conflict", "refused"):
        return _shown(planned, [], None, [])
    async with acting(request) as call:
        places = await promoting.places_of(call.conn, planned)
        unproven = await promoting.unproven_of(call.conn, planned)
    for digest in sorted(unproven):
        await call.services.cache.ensure(digest, repository_id=planned.source.repository.id)
    documents = await promoting.documents_at(
        call.services.store, call.services.cache, places, repository_id=planned.source.repository.id
    )
    try:
        async with acting(request) as call:
            source = planned.source.repository.name
            (again,) = await _planned(call, source, planned.digest, planned.repository, planned.version)
            if again.action == "refused":
                return _shown(again, [], None, [])
            notes = await promoting.promote(call.conn, again, documents=documents, by=call.who, now=call.now)
            await _record(call, planned)
            target = await catalog.repository(call.conn, planned.repository)
            if target is None:
                raise NameUnknown(f"There is no model '{planned.repository}'.")
            verdict = await gates.verdict_of(call.conn, target.id, planned.digest, call.now)
            return _shown(planned, notes, "allow" if verdict.admitted else "deny", reasons_of(verdict))
    except Conflict as error:
        return _shown(planned, [], None, [], action="conflict", reason=str(error))


async def _record(call: Call, planned: Promotion) -> None:
    """In both projects: who looks at one of them sees where it went, or where it came from."""
    there = f"{planned.repository}:{planned.version}"
    for action, name, other, detail in (
        ("version.pull", planned.source.name, planned.source.repository.project, {"promoted_to": there}),
        ("version.push", there, planned.repository.partition("/")[0], {"promoted_from": planned.source.name}),
    ):
        await audit.record(
            call.conn,
            actor=call.actor,
            action=action,
            project=other,
            object=name,
            detail={"digest": planned.digest, **detail},
        )


def _shown(
    one: Promotion,
    notes: list[str],
    verdict: str | None,
    reasons: list[dict[str, Any]],
    **changed: str,
) -> PromotedVersion:
    facts = promoting.shown(one) | changed
    return PromotedVersion(**facts, notes=notes, verdict=verdict, reasons=reasons)
