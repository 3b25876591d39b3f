"""Which versions does a person mean who moves them? One, or with a range all admitted ones in it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import lookup
from berth.catalog import queries as catalog
from berth.catalog.lookup import Admitted
from berth.catalog.queries import RepositoryRow, VersionRow
from berth.catalog.resolve import Candidate, answers, form_of
from berth.errors import NotFound
from berth.oci.version import from_tag, is_version_tag, is_virtual_tag

PAGE = 200


@dataclass(frozen=True)
class Chosen:
    """A version of the depot that somebody named, and may have."""

    repository: RepositoryRow
    version: VersionRow

    @property
    def name(self) -> str:
        return f"{self.repository.name}:{self.version.version}"


async def chosen(
    conn: AsyncConnection, repository: RepositoryRow, reference: str, *, admitted: Admitted
) -> list[Chosen]:
    """The versions that `reference` means, lowest first: exactly one, unless it is a range such as `^1` or `*`.

    Raises:
        NotFound: there is none.
    """
    wanted = from_tag(reference) if is_version_tag(reference) else reference
    if form_of(wanted) == "range" and not is_virtual_tag(wanted):
        found = [Chosen(repository, row) for row in await _in_range(conn, repository.id, wanted, admitted=admitted)]
        if not found:
            raise NotFound(
                f"{repository.name} has no admitted version in {wanted[:100]}.",
                hint="xumi explain shows what a version of it still needs.",
            )
        return found
    row = await lookup.resolve_version(conn, repository.id, wanted, admitted=admitted)
    if row is None or row.state == "deleted":
        raise NotFound(
            f"{repository.name} has no version '{reference[:128]}'.",
            hint="Aliases, `latest` and ranges mean admitted versions only; berth version ls lists all.",
        )
    return [Chosen(repository, row)]


async def _in_range(conn: AsyncConnection, repository_id: int, wanted: str, *, admitted: Admitted) -> list[VersionRow]:
    found: list[VersionRow] = []
    before: tuple[str, int] | None = None
    while True:
        page = await catalog.versions_below(conn, repository_id, before=before, limit=PAGE)
        for _, row in page:
            candidate = Candidate(
                version_id=row.id,
                version=row.version,
                digest=row.digest,
                admitted=True,
                deprecated=row.deprecated,
                prerelease=row.prerelease,
                exists=row.state != "deleted",
            )
            if answers(wanted, candidate) and await admitted(repository_id, row.digest):
                found.append(row)
        if len(page) < PAGE:
            return found[::-1]
        before = page[-1][0]
