"""What does the token endpoint hand out? A bearer token of at most five minutes, signed by this installation.

It carries names, never rights: role, epoch, revocation and verdict are read again at every request (design §6
"Tokens"). HS256 is the only algorithm, named on both sides, so neither `none` nor a public-key trick can pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from berth.errors import SetupError, Unauthenticated

AUDIENCE: Final = "berth"
LIFETIME: Final = timedelta(minutes=5)
SECRET_BYTES: Final = 32
_ALGORITHM: Final = "HS256"
# The wire protocol bounds a header at a few KiB in most servers; a longer token is nobody's honest one.
_MAX_CHARACTERS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class BearerClaims:
    """What a verified bearer token says.

    `repositories` maps repository names to wire actions (`pull`, `push`, `delete`); `catalog` allows listing
    repositories. `token_id` is the API token it was exchanged for. `expires_at` is at most five minutes after
    `issued_at`.
    """

    name: str
    principal_id: int
    epoch: int
    token_id: int | None
    repositories: Mapping[str, tuple[str, ...]]
    catalog: bool
    issued_at: datetime
    expires_at: datetime


def issue(
    secret: bytes,
    *,
    name: str,
    principal_id: int,
    epoch: int,
    token_id: int | None,
    repositories: Mapping[str, Sequence[str]],
    now: datetime,
    catalog: bool = False,
    audience: str = AUDIENCE,
    lifetime: timedelta = LIFETIME,
) -> str:
    """A signed bearer token for `name`, limited to `repositories` (name → wire actions).

    `lifetime` is cut to five minutes. `now` must carry a time zone.

    Raises:
        SetupError: the secret is shorter than 32 bytes.
    """
    issued = int(now.timestamp())
    seconds = int(min(lifetime, LIFETIME).total_seconds())
    claims: dict[str, Any] = {
        "iss": audience,
        "aud": audience,
        "sub": name,
        "pid": principal_id,
        "epoch": epoch,
        "tid": token_id,
        "repositories": {repository: sorted(set(actions)) for repository, actions in repositories.items()},
        "catalog": catalog,
        "iat": issued,
        "nbf": issued,
        "exp": issued + seconds,
    }
    return jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, claims, _key(secret), algorithms=[_ALGORITHM])


def verify(text: str, secret: bytes, now: datetime, *, audience: str = AUDIENCE) -> BearerClaims:
    """The claims of a bearer token that this installation issued and that is valid at `now`.

    Raises:
        Unauthenticated: it is forged, expired, not yet valid, meant for another service, or malformed.
    """
    if len(text) > _MAX_CHARACTERS:
        raise _refused()
    try:
        token = jwt.decode(text, _key(secret), algorithms=[_ALGORITHM])
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _refused() from error
    claims = token.claims
    try:
        issued, expires = claims["iat"], claims["exp"]
        if not (_is_int(issued) and _is_int(expires) and claims["aud"] == audience):
            raise _refused()
        # The same clock wrote and reads these; replicas may differ by a second or two, never by more than this.
        if expires - issued > LIFETIME.total_seconds() or issued > now.timestamp() + 30:
            raise _refused()
        if now.timestamp() >= expires:
            raise Unauthenticated("The bearer token has expired.", hint="Ask the token endpoint for a new one.")
        return BearerClaims(
            name=_text(claims["sub"]),
            principal_id=_int(claims["pid"]),
            epoch=_int(claims["epoch"]),
            token_id=None if claims["tid"] is None else _int(claims["tid"]),
            repositories=_repositories(claims["repositories"]),
            catalog=claims["catalog"] is True,
            issued_at=datetime.fromtimestamp(issued, tz=now.tzinfo),
            expires_at=datetime.fromtimestamp(expires, tz=now.tzinfo),
        )
    except (KeyError, OverflowError) as error:
        raise _refused() from error


def _key(secret: bytes) -> OctKey:
    if len(secret) < SECRET_BYTES:
        raise SetupError(f"The secret that signs bearer tokens must have at least {SECRET_BYTES} bytes.")
    return OctKey.import_key(secret)


def _refused() -> Unauthenticated:
    return Unauthenticated("The bearer token is not valid here.", hint="Sign in again.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refused()
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _refused()
    return value


def _repositories(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _refused()
    table: dict[str, tuple[str, ...]] = {}
    for repository, actions in value.items():
        if not isinstance(actions, list):
            raise _refused()
        table[repository] = tuple(_text(action) for action in actions)
    return table
