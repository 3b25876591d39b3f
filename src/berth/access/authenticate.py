"""Who sends this request? Reads an `Authorization` header: Basic `user:token`, or Bearer with either kind of token."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime

from berth.access import bearer, queries
from berth.access.decide import ANONYMOUS, Actor
from berth.access.queries import AsyncConnection
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


async def actor_of_header(conn: AsyncConnection, header: str | None, *, secret: bytes, now: datetime) -> Actor:
    """Who sends a request with this `Authorization` header? ANONYMOUS without one.

    Args:
        secret: signs this installation's bearer tokens.

    Raises:
        Unauthenticated: credentials were sent but are not valid now. Which part is wrong is not told.
    """
    credentials = parse_authorization(header)
    if credentials is None:
        return ANONYMOUS
    if credentials.user is not None or is_token(credentials.secret):
        actor = await queries.actor_by_token(conn, credentials.secret, credentials.user, now)
    else:
        claims = bearer.verify(credentials.secret, secret, now)
        actor = await queries.actor_by_claims(conn, claims, now)
    if actor is None:
        raise Unauthenticated(
            "These credentials are not valid.",
            hint="The token may have expired or been revoked. Ask for a new one, or log in again.",
        )
    return actor
