"""How does a name find its digest? Alias, `latest`, range, version or digest → a version, with its verdict in mind.

The gate's answer per version comes in as a function, because this room lies below `gates` on the ladder.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import queries
from berth.catalog.queries import VersionRow
from berth.catalog.resolve import Candidate, answers, form_of

# (repository id, root digest) → admitted now?
Admitted = Callable[[int, str], Awaitable[bool]]

PAGE = 50


async def resolve_version(
    conn: AsyncConnection, repository_id: int, reference: str, *, admitted: Admitted
) -> VersionRow | None:
    """The version that `reference` means, or None.

    Exact versions and digests resolve whatever the verdict (readers are gated elsewhere); aliases, virtual tags and
    ranges resolve only to admitted versions, so everybody gets the same answer.
    """
    form = form_of(reference)
    if form == "version":
        return await queries.version_by_number(conn, repository_id, reference)
    if form == "digest":
        rows = await queries.versions_with_digest(conn, repository_id, reference)
        return next((row for row in rows if row.state != "deleted"), rows[0] if rows else None)
    if form == "range":
        return await highest(conn, repository_id, reference, admitted=admitted)
    version = await queries.alias_target(conn, repository_id, reference)
    if version is None or version.state == "deleted":
        return None
    return version if await admitted(repository_id, version.digest) else None


async def highest(
    conn: AsyncConnection, repository_id: int, reference: str, *, admitted: Admitted
) -> VersionRow | None:
    """The highest admitted, not deprecated release that a virtual tag or range allows."""
    async with aclosing(answering(conn, repository_id, reference, admitted=admitted)) as rows:
        return await anext(rows, None)


async def answering(
    conn: AsyncConnection, repository_id: int, reference: str, *, admitted: Admitted
) -> AsyncGenerator[VersionRow, None]:
    """Every version that `highest` could answer with, highest first; only as many are read as are taken."""
    before: tuple[str, int] | None = None
    while True:
        page = await queries.versions_below(conn, repository_id, before=before, limit=PAGE)
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
            if answers(reference, candidate) and await admitted(repository_id, row.digest):
                yield row
        if len(page) < PAGE:
            return
        before = page[-1][0]
