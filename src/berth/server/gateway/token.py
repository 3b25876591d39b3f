"""`/v2/token`: credentials in, a bearer token for named repositories out (distribution token and OAuth2 flows)."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from berth.access import bearer
from berth.access.decide import Actor, decide
from berth.access.queries import actor_by_token
from berth.errors import InvalidInput, ManifestInvalid, Unauthenticated, Unsupported
from berth.oci.challenge import Scope
from berth.server.gateway.authenticate import ACTIONS, actor_of
from berth.server.gateway.exchange import Exchange

MAX_SCOPES = 100


async def handle(exchange: Exchange) -> None:
    """GET with Basic credentials, or POST of an OAuth2 form with `grant_type=password`."""
    if exchange.method == "GET":
        async with exchange.services.db.reading() as conn:
            actor = await actor_of(exchange, conn)
        scopes = exchange.all("scope")
    elif exchange.method == "POST":
        form = parse_qs((await exchange.body(65536, "The form")).decode("utf-8", "replace"))
        if form.get("grant_type") != ["password"]:
            raise InvalidInput("Only grant_type=password is supported.", hint="Use GET with Basic credentials.")
        async with exchange.services.db.reading() as conn:
            found = await actor_by_token(
                conn, form.get("password", [""])[0], form.get("username", [""])[0], exchange.services.clock()
            )
        if found is None:
            raise Unauthenticated("The user name or token is wrong, expired or revoked.")
        actor, scopes = found, form.get("scope", [])
    else:
        raise Unsupported(f"{exchange.method} is not possible here.")
    if actor.repositories is not None:
        # Otherwise a five-minute token could renew itself for ever and widen what it was issued for.
        raise Unauthenticated("A bearer token cannot be exchanged for another one; send your API token.")
    if actor.anonymous or actor.name is None or actor.principal_id is None:
        raise Unauthenticated("Nothing here is open to everybody; sign in first.")
    granted, catalog = _grant(actor, " ".join(scopes).split())
    now = exchange.services.clock()
    token = bearer.issue(
        exchange.services.bearer_secret,
        name=actor.name,
        principal_id=actor.principal_id,
        epoch=actor.epoch,
        token_id=actor.token_id,
        repositories=granted,
        catalog=catalog,
        now=now,
    )
    answer = {
        "token": token,
        "access_token": token,
        "expires_in": int(bearer.LIFETIME.total_seconds()),
        "issued_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    await exchange.answer(200, headers, json.dumps(answer).encode())


def _grant(actor: Actor, scopes: list[str]) -> tuple[dict[str, list[str]], bool]:
    """What of the asked scopes the actor holds now; asking for more is no error (distribution auth spec)."""
    granted: dict[str, list[str]] = {}
    catalog = False
    for text in scopes[:MAX_SCOPES]:
        try:
            scope = Scope.parse(text)
        except (InvalidInput, ManifestInvalid):
            continue
        if scope.type == "registry":
            catalog = catalog or scope.name == "catalog"
            continue
        if scope.type != "repository":
            continue
        asked = set(ACTIONS) if "*" in scope.actions else set(scope.actions) & set(ACTIONS)
        project = scope.name.partition("/")[0]
        held = {action for action in asked if decide(actor, ACTIONS[action], project).allowed}
        granted[scope.name] = sorted(held | set(granted.get(scope.name, ())))
    return granted, catalog
