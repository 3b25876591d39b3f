"""Who asks, and may they? Basic, our own tokens and short-lived bearer tokens; rights are read at every request.

Rules of design §6 "Answers": no right on the project is 401 for nobody in particular and 404 NAME_UNKNOWN for
somebody, byte-equal to a missing name; a right to see it but not to do that is 403.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.access import audit
from berth.access.authenticate import Lookup, lookup_of_header, refused
from berth.access.decide import ANONYMOUS, Actor, decide
from berth.access.queries import actor_by_question
from berth.errors import Forbidden, NameUnknown, Unauthenticated
from berth.server.gateway.exchange import Exchange

Wire = Literal["pull", "push", "delete"]
ACTIONS: dict[str, str] = {"pull": "version.pull", "push": "version.push", "delete": "version.delete"}


def lookup_of(exchange: Exchange) -> Lookup | None:
    """What to ask the database about the sender; None for ANONYMOUS. Raises Unauthenticated for bad credentials."""
    try:
        return lookup_of_header(
            exchange.headers.get("authorization"),
            secret=exchange.services.bearer_secret,
            now=exchange.services.clock(),
        )
    except Unauthenticated as error:
        error.detail["error"] = "invalid_token"
        raise


def known(actor: Actor | None) -> Actor:
    """The actor that a lookup found. Raises Unauthenticated when it found nobody."""
    if actor is None:
        error = refused()
        error.detail["error"] = "invalid_token"
        raise error
    return actor


async def actor_of(exchange: Exchange, conn: AsyncConnection) -> Actor:
    """The actor behind the Authorization header, ANONYMOUS without one.

    Raises Unauthenticated when the header is there but no good.
    """
    lookup = lookup_of(exchange)
    if lookup is None:
        return ANONYMOUS
    return known(await actor_by_question(conn, lookup.question, lookup.repositories))


def unknown_name(repository: str) -> NameUnknown:
    """The one answer for a name that is missing and for a name the caller may not know."""
    return NameUnknown(f"{repository} does not exist, or you have no access to it.")


async def require(exchange: Exchange, actor: Actor, repository: str, action: Wire) -> None:
    """Raise unless the actor may `action` in `repository`; a refused try leaves an audit row."""
    project = repository.partition("/")[0]
    scope = f"repository:{repository}:{_scope_actions(action)}"
    if actor.anonymous:
        raise Unauthenticated("Sign in first.", hint="docker login, or xumi login.", detail={"scope": scope})
    decision = decide(actor, ACTIONS[action], project)
    if not decision.allowed:
        async with exchange.services.db.transaction() as conn:
            await audit.record(
                conn,
                actor=actor,
                action=ACTIONS[action],
                project=project,
                object=repository,
                outcome="denied",
                detail={"reason": decision.reason},
            )
        if not decision.visible:
            raise unknown_name(repository)
        raise Forbidden(decision.reason, hint="Ask a maintainer of the project for the role you need.")
    if actor.repositories is not None and action not in actor.repositories.get(repository, ()):
        # The role allows it, the short-lived token was issued for less: the client asks for a wider one.
        raise Unauthenticated(
            f"The bearer token was not issued to {action} {repository}.",
            detail={"scope": scope, "error": "insufficient_scope"},
        )


def covers(actor: Actor, repository: str, action: Wire) -> bool:
    """The same question as `require`, for an optional extra (the source of a mount): no error, no audit row."""
    if actor.anonymous or not decide(actor, ACTIONS[action], repository.partition("/")[0]).allowed:
        return False
    return actor.repositories is None or action in actor.repositories.get(repository, ())


def _scope_actions(action: Wire) -> str:
    return "pull,push" if action == "push" else action
