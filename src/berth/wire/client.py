"""Which requests reach a registry, and how? One origin, its credentials, retries, redirects, guarded addresses.

Everything else in this room goes through `RegistryClient.exchange`. Rules (design §5, registries §1-§2, §7):
credentials are sent to the registry's own origin only; every hop is judged by the address guard; a request is repeated
after 408, 429, 5xx and broken connections, except where the caller says it must not be (PATCH).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from urllib.parse import urlsplit

import httpx

from berth.errors import InvalidInput, RemoteAuthError, RemoteError
from berth.oci import challenge
from berth.wire.addresses import AddressGuard, is_local_literal, is_loopback
from berth.wire.answers import error_of, transport_failure
from berth.wire.auth import ANONYMOUS, Authenticator, Credential, CredentialSource
from berth.wire.messages import Answer
from berth.wire.pace import Pace, RateLimit
from berth.wire.retry import RETRYABLE_STATUS, RetryPolicy, retry_after
from berth.wire.transport import STALL_SECONDS, Connections
from berth.wire.urls import Url, of, parse

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHORT = 64 * 1024
_TOKEN_ANSWER_LIMIT = 1024 * 1024
# A body that can be sent again: each call starts it from the beginning.
BodyFactory = Callable[[], AsyncIterator[bytes]]
Body = bytes | BodyFactory | None


class RegistryClient:
    """A connection to one registry; use it with `async with`.

    Args:
        url: http(s)://host[:port], or a bare host (https).
        credential: who we are there.
        credential_source: gives that anew, for credentials that end by themselves.
        insecure: plain http is allowed; without it only towards loopback.
        allow_private: any private or loopback address may be reached, by redirects too.
        private_hosts: host names that may be at private addresses (those a person chose on this machine).
        realm_hosts: hosts, besides the registry's own, whose token endpoint may be shown the credential.
        retry: how patiently requests are repeated.
        scope: rewrites the scopes that are asked for, where a registry does not know one.
        connections: how many idle connections are kept.
        stall: seconds that the registry may stand still in the middle of an exchange.
        sleep: how waiting is done (for tests).
    """

    def __init__(
        self,
        url: str,
        *,
        credential: Credential = ANONYMOUS,
        insecure: bool = False,
        allow_private: bool = False,
        private_hosts: Collection[str] = (),
        realm_hosts: Collection[str] = (),
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        connections: int = 20,
        stall: float = STALL_SECONDS,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        credential_source: CredentialSource | None = None,
        scope: Callable[[str], str] | None = None,
    ) -> None:
        self._scope = scope
        self.origin = registry_origin(url, insecure=insecure)
        self.retry = retry
        self.sleep = sleep
        self._pace = Pace(longest=retry.cap_seconds)
        self._plain_http = self.origin.scheme == "http" or insecure
        host = self.origin.host
        chosen = {host} if is_local_literal(host) else set()
        guard = AddressGuard(allow_private=allow_private, private_hosts={*private_hosts, *chosen})
        self._http = Connections(guard, keep=connections, tls=tls, stall=stall)
        self._auth = Authenticator(
            host,
            credential,
            fetch=self._fetch_token,
            realm_hosts=realm_hosts,
            plain_http=self._plain_http,
            source=credential_source,
        )

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    @property
    def host(self) -> str:
        """`host[:port]`, as references name this registry."""
        return self.origin.netloc

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the registry said last about how often we may ask."""
        return self._pace.latest

    def url(self, repository: str, *rest: str, query: str = "") -> Url:
        """The URL of something in a repository, `/v2/<repository>/<rest…>`."""
        path = "/".join(("/v2", repository, *rest))
        return self.origin.at(f"{path}?{query}" if query else path)

    async def ping(self) -> None:
        """Asks `/v2/`, logging in where needed. Raises when this is not a registry we may talk to."""
        async with self.exchange("GET", self.origin.at("/v2/"), expect=(200,), scopes=()):
            pass

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: Url,
        *,
        expect: Collection[int],
        scopes: Collection[str],
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        repeat: bool = True,
    ) -> AsyncIterator[Answer]:
        """One request with all it takes; yields the answer with its body still unread.

        Args:
            expect: statuses to hand back; any other raises the error it stands for.
            scopes: what a token must cover, e.g. {"repository:ml/demo:pull"}.
            body: bytes, or a factory that starts the stream anew for each try.
            repeat: whether trying again after a failure is harmless.
        """
        if self._scope is not None:
            scopes = frozenset(self._scope(scope) for scope in scopes)
        response = await self._settled(method, url, expect, scopes, dict(headers or {}), body, repeat)
        try:
            yield response
            await _read_out(response)
        finally:
            await response.aclose()

    async def _settled(
        self,
        method: str,
        url: Url,
        expect: Collection[int],
        scopes: Collection[str],
        headers: dict[str, str],
        body: Body,
        repeat: bool,
    ) -> Answer:
        failures = 0
        while True:
            wait: float | None = None
            last = not repeat or failures + 1 >= self.retry.attempts
            try:
                response = await self._authorized(method, url, scopes, headers, body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    raise transport_failure(error, url) from error
            else:
                if response.status in expect:
                    return response
                try:
                    if last or response.status not in RETRYABLE_STATUS:
                        raise await error_of(response)
                    wait = retry_after(response.headers.get("retry-after"))
                finally:
                    await response.aclose()
            failures += 1
            await self.sleep(self.retry.wait(failures, wait))

    async def _authorized(
        self, method: str, url: Url, scopes: Collection[str], headers: dict[str, str], body: Body
    ) -> Answer:
        """Sends; after one 401 of our own registry logs in (or renews) and sends once more."""
        if not self.is_own(url):
            return await self._followed(method, url, headers, body, None)
        shown = await self._auth.header(scopes)
        response = await self._followed(method, url, headers, body, shown)
        if response.status != 401 or not self.is_own(response.url):
            return response
        await response.aclose()
        challenges = challenge.parse(response.headers.get_list("www-authenticate"))
        try:
            fresh = await self._auth.answer(challenges, scopes, refused=shown)
        except RemoteAuthError as error:
            error.detail.setdefault("host", self.host)
            error.detail.setdefault("status", 401)
            raise
        return await self._followed(method, url, headers, body, fresh)

    async def _followed(
        self, method: str, url: Url, headers: dict[str, str], body: Body, authorization: str | None
    ) -> Answer:
        """Sends and follows redirects of reads; `authorization` stays with the registry's origin."""
        for _ in range(MAX_REDIRECTS + 1):
            self._check_scheme(url)
            sent = {"User-Agent": "berth", "Accept-Encoding": "identity", **headers}
            own = self.is_own(url)
            if authorization is not None and own:
                sent["Authorization"] = authorization
            if own and (wait := self._pace.delay()) > 0:
                await self.sleep(wait)
            response = await self._http.ask(method, url, sent, body() if callable(body) else body)
            if own:
                self._pace.seen(response.headers)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            location = response.headers.get("location")
            await response.aclose()
            if not location:
                raise RemoteError(f"{url.host} redirects without saying where to.")
            url = self.resolve(url, location)
        raise RemoteError(f"{self.host} redirects more than {MAX_REDIRECTS} times.", detail={"host": self.host})

    def resolve(self, base: Url, location: str) -> Url:
        """`Location` may be absolute, relative or on another host, and is otherwise kept as it is."""
        try:
            found = base.join(location)
        except httpx.InvalidURL as error:
            raise RemoteError(f"{base.host} answered with a Location that is not a URL.") from error
        self._check_scheme(found)
        return found

    def is_own(self, url: Url) -> bool:
        """Whether `url` is on the registry's origin: same scheme, host and port."""
        return url.origin == self.origin.origin

    def _check_scheme(self, url: Url) -> None:
        if url.scheme == "https" or (url.scheme == "http" and self._plain_http):
            return
        raise RemoteError(
            f"{self.host} sends us to {url.scheme}://{url.host}, which is not https.", detail={"host": url.host}
        )

    async def _fetch_token(self, url: httpx.URL, headers: dict[str, str]) -> tuple[int, bytes]:
        place = of(url)

        def endless() -> RemoteAuthError:
            return RemoteAuthError(f"The token service {place.host} answers without an end.")

        failures = 0
        while True:
            last = failures + 1 >= self.retry.attempts
            wait: float | None = None
            try:
                response = await self._http.ask("GET", place, {"User-Agent": "berth", **headers})
                try:
                    if response.status not in RETRYABLE_STATUS or last:
                        return response.status, await response.whole(_TOKEN_ANSWER_LIMIT, too_long=endless)
                    wait = retry_after(response.headers.get("retry-after"))
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                if last:
                    raise transport_failure(error, place) from error
            failures += 1
            await self.sleep(self.retry.wait(failures, wait))


def registry_origin(url: str, *, insecure: bool = False) -> Url:
    """The origin of a registry. Raises InvalidInput for anything but http(s)://host[:port], and for unsafe http."""
    text = url if "://" in url else f"https://{url}"
    if "@" in text:
        raise InvalidInput("A registry's address must not hold credentials.", hint="Give them separately.")
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not parts.query
        origin = parse(f"{parts.scheme}://{parts.netloc.lower()}")
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable or parts.scheme not in ("http", "https"):
        raise InvalidInput(f"{url!r} is not the address of a registry.", hint="Write https://host[:port].")
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
        raise InvalidInput(
            f"{url} is plain http, which anyone on the way can read and change.",
            hint="Use https, or say with --insecure that plain http is meant.",
        )
    return origin._replace(target=b"")


async def _read_out(response: Answer) -> None:
    """Reads what nobody wanted of a short answer: a connection is used again only when its answer was read."""
    if response.is_read:
        return
    length = response.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length) <= _SHORT):
        return
    with suppress(httpx.TransportError):  # what matters has been read
        async for _ in response.raw():
            pass
