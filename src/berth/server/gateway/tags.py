"""`/v2/<name>/tags/list`: stored tags in ASCII order, paged; aliases and virtual tags are not stored."""

from __future__ import annotations

import json

from berth.catalog import queries as catalog
from berth.errors import Unsupported
from berth.server.gateway.authenticate import actor_of, require, unknown_name
from berth.server.gateway.base import page_size
from berth.server.gateway.exchange import Exchange

MAX_PAGE = 10_000


async def handle(exchange: Exchange) -> None:
    """GET or HEAD of the tag list."""
    name = exchange.route["name"]
    if exchange.method not in ("GET", "HEAD"):
        raise Unsupported(f"{exchange.method} is not possible here.")
    limit = page_size(exchange, MAX_PAGE)
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
        repository = await catalog.repository(conn, name)
        tags: list[str] = []
        if repository is not None and limit != 0:
            tags = await catalog.tag_names(
                conn, repository.id, after=exchange.one("last") or "", limit=(limit or MAX_PAGE) + 1
            )
    await require(exchange, actor, name, "pull")
    if repository is None:
        raise unknown_name(name)
    headers = {"Content-Type": "application/json"}
    size = MAX_PAGE if limit is None else limit
    if len(tags) > size:
        tags = tags[:size]
        headers["Link"] = f'</v2/{name}/tags/list?n={size}&last={tags[-1]}>; rel="next"'
    await exchange.answer(200, headers, json.dumps({"name": name, "tags": tags}).encode())
