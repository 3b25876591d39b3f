"""Who sends this request? Reads an `Authorization` header: Basic `user:token`, or Bearer with either kind of token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from berth.access import bearer, queries
from berth.access.decide import ANONYMOUS, Actor
from berth.access.queries import ActorQuestion, AsyncConnection
from berth.access.tokens import is_token
from berth.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a header holds. `user` is set for Basic; `secret` is an API token's text or a signed bearer token."""

    user: str | None
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, secret=…)"


def parse_authorization(header: str | None) -> Credentials | None:
    """The credentials in a header value; None when there is no header.

    Raises:
        Unauthenticated: the scheme is unknown or the value malformed.
    """
    if header is None or not header.strip():
        return None
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return Credentials(None, value)
    if scheme.lower() == "basic" and value:
        try:
            text = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            text = ""
        user, colon, secret = text.partition(":")
        if colon and user and secret and "\0" not in text:
            return Credentials(user, secret)
    raise Unauthenticated(
        "The Authorization header cannot be read.", hint="Send `Bearer TOKEN`, or Basic with your name and a token."
    )


@dataclass(frozen=True, slots=True)
class Lookup:
    """The question that tells who sent a request, and the limits of a bearer token's claims."""

    question: ActorQuestion
    repositories: Mapping[str, tuple[str, ...]] | None


def lookup_of_header(header: str | None, *, secret: bytes, now: datetime) -> Lookup | None:
    """What to ask the database about this `Authorization` header; None without one (ANONYMOUS).

    Args:
        secret: signs this installation's bearer tokens.

    Raises:
        Unauthenticated: credentials were sent but cannot be valid.
    """
    credentials = parse_authorization(header)
    if credentials is None:
        return None
    if credentials.user is not None or is_token(credentials.secret):
        question = queries.question_by_token(credentials.secret, credentials.user, now)
        if question is None:
            raise refused()
        return Lookup(question, None)
    claims = bearer.verify(credentials.secret, secret, now)
    return Lookup(queries.question_by_claims(claims, now), claims.repositories)


async def actor_of_header(conn: AsyncConnection, header: str | None, *, secret: bytes, now: datetime) -> Actor:
    """Who sends a request with this `Authorization` header? ANONYMOUS without one.

    Raises:
        Unauthenticated: credentials were sent but are not valid now. Which part is wrong is not told.
    """
    lookup = lookup_of_header(header, secret=secret, now=now)
    if lookup is None:
        return ANONYMOUS
    actor = await queries.actor_by_question(conn, lookup.question, lookup.repositories)
    if actor is None:
        raise refused()
    return actor


def refused() -> Unauthenticated:
    """The one answer to credentials that are not valid now."""
    return Unauthenticated(
        "These credentials are not valid.",
        hint="The token may have expired or been revoked. Ask for a new one, or log in again.",
    )
