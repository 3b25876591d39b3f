"""Did a registry send this delivery? A secret per registry, which its webhook carries or signs with.

Harbor, Distribution, GitLab, Azure and zot send a header verbatim; Quay and EventBridge make Basic of user and
password; Docker Hub and Pub/Sub know nothing but the hook's address, so it stands there; GitHub signs the body. All
these forms of one secret are taken from everybody.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from berth.access import audit
from berth.access.decide import Actor
from berth.access.queries import AsyncConnection
from berth.access.registries import ACTION
from berth.db import registries as stored
from berth.db.registries import RegistryRow
from berth.db.sealing import Sealer
from berth.errors import NotFound

# Opened and compared with when there is nothing else, so that the answer takes about as long.
_NOBODY: Final = Sealer(secrets.token_bytes(32))
_NOTHING: Final = _NOBODY.seal(secrets.token_urlsafe(32), purpose="nobody")


async def set_hook(
    conn: AsyncConnection, actor: Actor, sealer: Callable[[], Sealer], *, name: str, anew: bool
) -> tuple[RegistryRow, str, bool]:
    """The registry, its hook's secret, and whether that was made now: when there was none, or `anew`.

    Raises NotFound, and SetupError when the stored one was sealed with another key.
    """
    row = await stored.registry_named(conn, name, lock=True)
    if row is None:
        raise NotFound(f"There is no registry '{name}'.", hint="berth registry ls shows those that are known.")
    if row.hook_secret is not None and not anew:
        return row, sealer().open(row.hook_secret, purpose=_purpose(name)), False
    secret = secrets.token_urlsafe(32)
    await stored.set_hook_secret(conn, row.id, sealer().seal(secret, purpose=_purpose(name)))
    detail = {"hook": "given a new secret" if row.hook_secret is not None else "made"}
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=name, detail=detail)
    return row, secret, True


async def remove_hook(conn: AsyncConnection, actor: Actor, name: str) -> bool:
    """Take no more deliveries of a registry; whether any were taken. Raises NotFound."""
    row = await stored.registry_named(conn, name, lock=True)
    if row is None:
        raise NotFound(f"There is no registry '{name}'.", hint="berth registry ls shows those that are known.")
    if row.hook_secret is None:
        return False
    await stored.set_hook_secret(conn, row.id, None)
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=name, detail={"hook": "removed"})
    return True


@dataclass(frozen=True)
class Proof:
    """What a delivery shows of who sent it.

    Attributes:
        authorization: the header.
        token: from the hook's address.
        signature: `X-Hub-Signature-256`, and the `body` that it is of.
    """

    authorization: str | None = None
    token: str | None = None
    signature: str | None = None
    body: bytes = field(default=b"", repr=False)


def is_authentic(row: RegistryRow | None, proof: Proof, sealer: Callable[[], Sealer]) -> bool:
    """Whether a delivery carries the secret; never for a registry that is not known or has no hook."""
    known = row is not None and row.hook_secret is not None
    if row is not None and row.hook_secret is not None:
        secret = sealer().open(row.hook_secret, purpose=_purpose(row.name))
    else:
        secret = _NOBODY.open(_NOTHING, purpose="nobody")
    forms = [*_forms(proof.authorization or ""), proof.token or ""]
    given = [hmac.compare_digest(form.encode(), secret.encode()) for form in forms]
    if proof.signature is not None:
        # docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
        signed = hmac.new(secret.encode(), proof.body, "sha256").hexdigest()
        given.append(hmac.compare_digest(proof.signature.encode(), f"sha256={signed}".encode()))
    return known and any(given)


def address_with(address: str, secret: str) -> str:
    """The hook's address for registries that can carry the secret nowhere else."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode({'token': secret})}"


def authorization(secret: str) -> str:
    """The header that a webhook is to carry."""
    return f"Bearer {secret}"


def _forms(header: str) -> Iterator[str]:
    """What the secret may be: the header itself, a Bearer token, the password of Basic."""
    yield header
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        yield rest.strip()
    elif scheme.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            yield base64.b64decode(rest, validate=True).decode().partition(":")[2]


def _purpose(name: str) -> str:
    return f"hook of registry {name}"
