"""Which versions does a person mean who moves them? One, or with a range all admitted ones in it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import lookup
from berth.catalog.lookup import Admitted
from berth.catalog.queries import RepositoryRow, VersionRow
from berth.catalog.resolve import form_of
from berth.errors import NotFound
from berth.oci.version import from_tag, is_version_tag, is_virtual_tag


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
        rows = [row async for row in lookup.answering(conn, repository.id, wanted, admitted=admitted)]
        found = [Chosen(repository, row) for row in reversed(rows)]
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
