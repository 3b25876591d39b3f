"""Which version does the `{ref}` of a path mean, and what does the gate say about it now?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berth.catalog import lookup
from berth.catalog.queries import RepositoryRow, VersionRow
from berth.catalog.resolve import form_of
from berth.errors import Denied, InvalidInput, ManifestUnknown, NotFound
from berth.gates import verdicts as gates
from berth.gates.facts import FIRST_ADMISSION
from berth.gates.queries import VerdictRow
from berth.oci.version import from_tag, is_version_tag
from berth.server.api.calls import Call


@dataclass(frozen=True, slots=True)
class Addressed:
    """The model and version that a path names."""

    repository: RepositoryRow
    version: VersionRow

    @property
    def name(self) -> str:
        """`project/model:version`, for people and audit rows."""
        return f"{self.repository.name}:{self.version.version}"


async def addressed(call: Call, ref: str, *, exact: bool = False) -> Addressed:
    """The version that `ref` means in the model of the path: semver, digest, alias, `latest` or a range.

    Exact versions and digests are found whatever the verdict; other names mean admitted versions only. `exact`
    refuses those: what is deleted or approved must be named for certain.

    Raises:
        NameUnknown: no such model. NotFound: no such version. InvalidInput: a movable name where `exact` is asked.
    """
    repository = await call.repository()
    wanted = from_tag(ref) if is_version_tag(ref) else ref
    movable = form_of(wanted) in ("range", "name")
    if exact and movable:
        raise InvalidInput(
            f"'{ref[:128]}' can mean another version tomorrow.", hint="Name the exact version or its digest here."
        )
    version = await lookup.resolve_version(
        call.conn, repository.id, wanted, admitted=lambda place, digest: admitted(call, place, digest)
    )
    if version is None:
        raise NotFound(
            f"{repository.name} has no version '{ref[:128]}'.",
            hint=(
                "Aliases, `latest` and ranges mean admitted versions only; ask for the exact version to see why not."
                if movable
                else f"berth version ls {repository.name} shows what there is."
            ),
        )
    if version.state == "deleted":
        raise NotFound(
            f"{repository.name}:{version.version} has been deleted.",
            hint="Its number stays taken: push the same bytes again, or use a new number.",
        )
    return Addressed(repository, version)


async def admitted(call: Call, repository_id: int, digest: str) -> bool:
    """Does the gate let this version out now? A digest that the repository no longer holds is not let out."""
    try:
        return (await gates.verdict_of(call.conn, repository_id, digest, call.now)).admitted
    except ManifestUnknown:
        return False


def reasons_of(verdict: VerdictRow) -> list[dict[str, Any]]:
    """The reasons as callers see them, worst first; bookkeeping of the gate is left out."""
    return [_plain(reason) for reason in verdict.reasons if reason.get("code") != FIRST_ADMISSION]


async def require_admitted(call: Call, place: Addressed) -> None:
    """Refuse a version that the gate does not let out.

    Raises:
        Denied: with the reasons of the verdict.
    """
    verdict = await gates.verdict_of(call.conn, place.repository.id, place.version.digest, call.now)
    if not verdict.admitted:
        raise Denied(
            f"{place.name} is not admitted.",
            reasons=reasons_of(verdict),
            hint=f"xumi explain {place.name} shows what is missing.",
            digest=place.version.digest,
        )


def _plain(reason: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reason.items() if value is not None}
