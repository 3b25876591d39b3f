"""As whom do we ask a registry? Challenges, Basic, tokens of the GET endpoint (distribution spec/auth).

Credentials belong to one origin. They go to a token realm only when it is on the registry's own host or allow-listed,
over https unless the registry itself may be plain http. Tokens are cached by (realm, service, scope set), renewed
10 s before they end and once after a 401.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import httpx

from berth.errors import InvalidInput, RemoteAuthError
from berth.oci.challenge import Challenge, Scope
from berth.wire.addresses import normal_host

EARLY_SECONDS = 10.0
DEFAULT_LIFETIME_SECONDS = 60.0

# Asks a URL with headers; returns status and body. Guarded and bounded by the client that gives it.
Fetch = Callable[[httpx.URL, dict[str, str]], Awaitable[tuple[int, bytes]]]
ScopeSet = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class Credential:
    """What a registry is shown: user and password (Basic, or exchanged for a token), or a ready Bearer token."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def basic(self) -> str | None:
        if self.username is None or self.password is None:
            return None
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


ANONYMOUS = Credential()

# Gives the credential of this moment, for those that end by themselves (cloud registries). It is asked before every
# request and keeps what is still good; `refused` is the credential that a registry has just turned down.
CredentialSource = Callable[[Credential | None], Awaitable[Credential]]


@dataclass(frozen=True)
class _Token:
    header: str = field(repr=False)
    scopes: ScopeSet
    ends: float
    realm: httpx.URL
    service: str
    asked: tuple[str, ...]
    number: int = 0  # later ones are greater


class Authenticator:
    """Authorization headers for one origin.

    Args:
        host: the registry's host name, the only one the credential is meant for.
        realm_hosts: other hosts whose token endpoints may be shown the credential.
        plain_http: the registry may be spoken to without TLS, so its realm may be too.
        source: gives the credential anew whenever it is needed; `credential` is not used then.
    """

    def __init__(
        self,
        host: str,
        credential: Credential,
        *,
        fetch: Fetch,
        realm_hosts: Collection[str] = (),
        plain_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
        source: CredentialSource | None = None,
    ) -> None:
        self._credential = credential
        self._source = source
        self._realm_hosts = {normal_host(h) for h in (host, *realm_hosts)}
        self._plain_http = plain_http
        self._fetch = fetch
        self._clock = clock
        self._basic = False
        self._tokens: dict[tuple[str, str, ScopeSet], _Token] = {}
        self._issued = 0
        self._lock = asyncio.Lock()

    async def header(self, scopes: Iterable[str]) -> str | None:
        """The header to send at once, from what is known so far; None means: ask without.

        A token about to end is renewed here, before a request whose body would have to be sent twice.
        """
        if self._source is not None:
            self._credential = await self._source(None)
        if self._credential.token is not None:
            return f"Bearer {self._credential.token}"
        if self._basic:
            return self._credential.basic()
        if not self._tokens:
            return None
        wanted = scope_set(scopes)
        fitting = [t for t in self._tokens.values() if wanted <= t.scopes]
        for token in reversed(fitting):
            if self._fresh(token):
                return token.header
        if fitting:
            return await self._renew(fitting[-1], refused=fitting[-1].header)
        return None

    async def answer(self, challenges: list[Challenge], scopes: Iterable[str], *, refused: str | None) -> str:
        """The header to send after a 401 to a request that carried `refused`.

        Raises RemoteAuthError when there is nothing (else) to show.
        """
        if self._source is not None and refused is not None and refused == self._shown():
            self._credential = await self._source(self._credential)
        if self._credential.token is not None:
            if refused not in (None, self._shown()):
                return f"Bearer {self._credential.token}"
            raise RemoteAuthError("The registry refused the token.", hint="Is it expired or revoked? Get a new one.")
        bearer = next((c for c in challenges if c.scheme == "bearer" and "realm" in c.params), None)
        if bearer is not None:
            return await self._bearer(bearer, list(scopes), refused)
        if any(c.scheme == "basic" for c in challenges):
            header = self._credential.basic()
            if header is None:
                raise RemoteAuthError("The registry wants a user name and a password.", hint="Configure both for it.")
            if header == refused:
                raise RemoteAuthError("The registry refused the user name or the password.")
            self._basic = True
            return header
        raise RemoteAuthError("The registry refused us and names no way to log in that we know (Basic, Bearer).")

    def _shown(self) -> str | None:
        """The header that the credential itself makes."""
        token = self._credential.token
        return f"Bearer {token}" if token is not None else self._credential.basic()

    async def _bearer(self, challenge: Challenge, scopes: list[str], refused: str | None) -> str:
        realm = self._realm(challenge.params["realm"])
        service = challenge.params.get("service", "")
        # What the registry asks for, plus what only we know: the right to read the repository mounted from.
        asked = [s for s in challenge.params.get("scope", "").split(" ") if s]
        covered = {s.partition(":")[2].rpartition(":")[0] for s in asked}
        asked += [s for s in scopes if s.partition(":")[2].rpartition(":")[0] not in covered]
        granted = scope_set([*asked, *scopes])
        return await self._renew(_Token("", granted, 0.0, realm, service, tuple(asked)), refused=refused)

    async def _renew(self, token: _Token, *, refused: str | None) -> str:
        key = (str(token.realm), token.service, scope_set(token.asked))
        async with self._lock:
            known = self._tokens.get(key)
            # One that is older than what was just refused has most likely ended with it, whatever it promised.
            oldest = max((t.number for t in self._tokens.values() if t.header == refused), default=0)
            if known is not None and known.header != refused and known.number > oldest and self._fresh(known):
                return known.header  # another request renewed it meanwhile
            header, lifetime = await self._exchange(token.realm, token.service, list(token.asked))
            self._tokens.pop(key, None)
            self._issued += 1
            self._tokens[key] = replace(token, header=header, ends=self._clock() + lifetime, number=self._issued)
            while len(self._tokens) > 256:
                self._tokens.pop(next(iter(self._tokens)))
            return header

    def _fresh(self, token: _Token) -> bool:
        return token.ends - EARLY_SECONDS > self._clock()

    def _realm(self, text: str) -> httpx.URL:
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise RemoteAuthError("The registry names a token realm that is not a URL.") from error
        schemes = ("https", "http") if self._plain_http else ("https",)
        if realm.scheme not in schemes or not realm.host:
            raise RemoteAuthError(
                f"The registry wants the token fetched from {realm.copy_with(query=None)}, which is not https."
            )
        if normal_host(realm.host) not in self._realm_hosts:
            raise RemoteAuthError(
                f"The registry wants the credentials sent to another host, {realm.host}.",
                hint=f"If that is right, allow {realm.host} as a token realm of this registry.",
                detail={"realm_host": realm.host},
            )
        return realm

    async def _exchange(self, realm: httpx.URL, service: str, scopes: list[str]) -> tuple[str, float]:
        pairs: list[tuple[str, str | int | float | bool | None]] = [
            *realm.params.multi_items(),
            *([("service", service)] if service else []),
        ]
        pairs += [("scope", s) for s in scopes]
        url = realm.copy_with(params=httpx.QueryParams(pairs))
        basic = self._credential.basic()
        status, body = await self._fetch(url, {"Authorization": basic} if basic else {})
        if status != 200:
            raise RemoteAuthError(
                f"The token service {realm.host} answered {status}.", hint="Check the user name and the password."
            )
        try:
            answer = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
            lifetime = float(answer.get("expires_in") or DEFAULT_LIFETIME_SECONDS)
        except (ValueError, TypeError, AttributeError) as error:
            raise RemoteAuthError(f"The token service {realm.host} answered something unreadable.") from error
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise RemoteAuthError(f"The token service {realm.host} answered without a token.")
        return f"Bearer {token}", max(lifetime, 0.0)


def scope_set(scopes: Iterable[str]) -> ScopeSet:
    """Scopes as a set of (type, name, action), so that a token for more is seen to serve a request for less."""
    found: set[tuple[str, str, str]] = set()
    for text in scopes:
        try:
            scope = Scope.parse(text)
        except InvalidInput:
            continue
        found.update((scope.type, scope.name, action) for action in scope.actions)
    return frozenset(found)
