"""What does a registry hold that could be known here? Repositories, tags and digests, compared with ours."""

from __future__ import annotations

from berth.adapters.registries.contract import Registry
from berth.catalog import queries as catalog
from berth.db.engine import Database
from berth.errors import Unsupported
from berth.sync.importing import queries
from berth.sync.importing.decide import Scope, decide, is_of_interest, without_project
from berth.sync.listing import PAGE, all_tags
from berth.wire.parallel import each
from berth.wire.plan import Item


async def survey(db: Database, source: Registry, *, registry: str, scope: Scope) -> list[Item]:
    """Every tag in scope with what becomes of it.

    Raises:
        Unsupported: a glob over repositories at a registry that cannot list them.
        RemoteError, Unavailable, TooManyRequests: it failed; nothing is planned from half a list.
    """
    items: list[Item] = []
    for name in sorted(await _repositories(source, scope)):
        async with db.reading() as conn:
            project = await catalog.project_exists(conn, name.partition("/")[0])
            known = await queries.known_versions(conn, name, registry=registry)
            row = await catalog.repository(conn, name)
            aliases = frozenset() if row is None else await catalog.alias_names(conn, row.id)
        tags = [tag for tag in await all_tags(source, name) if is_of_interest(tag)]
        if not project:
            items += [without_project(name)] if tags else []
            continue

        async def look(tag: str, name: str = name) -> str | None:
            stat = await source.stat(name, tag)
            return None if stat is None else stat.digest

        digests = await each(tags, look)
        items += [decide(name, tag, digest, known, aliases) for tag, digest in zip(tags, digests, strict=True)]
    return items


async def _repositories(source: Registry, scope: Scope) -> set[str]:
    if not any(sign in scope.repository for sign in "*?["):
        return {scope.repository} if scope.holds(scope.repository) else set()
    if not source.capabilities.list_repositories:
        raise Unsupported(
            "This registry cannot say which repositories it has.", hint="Name one of them: --repository PROJECT/MODEL."
        )
    names: set[str] = set()
    after: str | None = None
    while True:
        page = await source.repositories(after=after, limit=PAGE)
        names |= {name for name in page.items if scope.holds(name)}
        after = page.after
        if after is None:
            return names
