"""`GET /v2/` (API version and sign-in probe) and `GET /v2/_catalog` (only what the caller may pull)."""

from __future__ import annotations

import json

from berth.access.decide import decide
from berth.errors import PaginationInvalid, Unauthenticated, Unsupported
from berth.server.gateway import queries
from berth.server.gateway.authenticate import actor_of
from berth.server.gateway.exchange import Exchange

PAGE = 100
MAX_PAGE = 1000


async def handle(exchange: Exchange) -> None:
    """200 for anybody who is signed in, 401 with the way to sign in for everybody else."""
    if exchange.method not in ("GET", "HEAD"):
        raise Unsupported(f"{exchange.method} is not possible here.")
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
    if actor.anonymous:
        raise Unauthenticated("Sign in first.", hint="docker login, or xumi login.")
    await exchange.answer(200, {"Content-Type": "application/json"}, b"{}")


async def catalog(exchange: Exchange) -> None:
    """Repositories in name order, paged by `n` and `last`."""
    if exchange.method not in ("GET", "HEAD"):
        raise Unsupported(f"{exchange.method} is not possible here.")
    wanted = page_size(exchange, MAX_PAGE)
    limit = PAGE if wanted is None else wanted
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
        if actor.anonymous:
            raise Unauthenticated("Sign in first.", detail={"scope": "registry:catalog:*"})
        projects = [p for p in await queries.project_names(conn) if decide(actor, "version.pull", p).allowed]
        names = await queries.repository_names(conn, projects, after=exchange.one("last") or "", limit=limit + 1)
    headers = {"Content-Type": "application/json"}
    if len(names) > limit:
        names = names[:limit]
        if names:
            headers["Link"] = f'</v2/_catalog?n={limit}&last={names[-1]}>; rel="next"'
    await exchange.answer(200, headers, json.dumps({"repositories": names}).encode())


def page_size(exchange: Exchange, most: int) -> int | None:
    """The `n` parameter, cut to `most`; None when absent. Raises PaginationInvalid."""
    text = exchange.one("n")
    if text is None:
        return None
    if not text.isdigit():
        raise PaginationInvalid(f"n={text[:20]} is not a number of entries.")
    return min(int(text), most)
