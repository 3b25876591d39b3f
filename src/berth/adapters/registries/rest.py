"""How are vendors' own interfaces asked? JSON over the guarded client, beside the registry's `/v2/`.

Paths go out exactly as they are given here: Harbor wants repository names encoded twice, and an HTTP library that
normalises would ask for something else. No cookies, no redirects, bounded answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from berth.adapters.registries.contract import RegistrySettings
from berth.errors import InvalidInput, RemoteError
from berth.wire.addresses import AddressGuard, is_local_literal
from berth.wire.answers import classify, transport_failure
from berth.wire.client import registry_origin
from berth.wire.messages import Answer, Headers
from berth.wire.retry import RETRYABLE_STATUS, RetryPolicy, retry_after
from berth.wire.transport import Connections
from berth.wire.urls import Url

_ANSWER_LIMIT = 64 * 1024 * 1024
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})

# The headers that sign a request in, asked before each one.
SignIn = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True)
class RestAnswer:
    """One answer, read whole."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    host: str

    def json(self) -> Any:
        """Raises RemoteError when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise RemoteError(f"{self.host} answered something that is not JSON.") from error

    def object(self) -> dict[str, Any]:
        """Raises RemoteError when it is not a JSON object."""
        found = self.json()
        if not isinstance(found, dict):
            raise RemoteError(f"{self.host} answered something that is not a JSON object.")
        return found

    def objects(self) -> list[dict[str, Any]]:
        """Raises RemoteError when it is not a list of JSON objects."""
        found = self.json()
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise RemoteError(f"{self.host} answered something that is not a list.")
        return found


class Rest:
    """A vendor's interface below one URL.

    Args:
        base: http(s)://host[:port][/path].
        sign_in: gives the headers that sign a request in.
    """

    def __init__(
        self,
        base: str,
        settings: RegistrySettings,
        *,
        sign_in: SignIn,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._origin, self._path = place_of(base, settings)
        self._sign_in = sign_in
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        host = self._origin.host
        self._http = Connections(
            AddressGuard(
                allow_private=settings.flag("allow_private"), private_hosts={host} if is_local_literal(host) else set()
            )
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        expect: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
    ) -> RestAnswer:
        """One request; `path` is sent as it is (see `segment`), with `body` as JSON or `form` url-encoded.

        Raises what the status stands for (RemoteAuthError, NotFound, Conflict, Unsupported, …) when it is not in
        `expect`, and Unavailable when nobody answers.
        """
        text = f"{self._path}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        url = self._origin._replace(target=text.encode("ascii"))
        content, kind = _content(body, form)
        failures = 0
        while True:
            last = method not in _REPEATABLE or failures + 1 >= self._retry.attempts
            wait: float | None = None
            try:
                sent = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "berth", **kind}
                sent |= {**await self._sign_in(), **(headers or {})}
                response = await self._http.ask(method, url, sent, content)
                try:
                    answer = await _whole(response)
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                if last:
                    raise transport_failure(error, url) from error
            else:
                if response.status in expect:
                    return RestAnswer(response.status, response.headers, answer, self._origin.host)
                # 429 was not carried out, whatever it was.
                over = failures + 1 >= self._retry.attempts if response.status == 429 else last
                if over or response.status not in RETRYABLE_STATUS:
                    raise classify(method, url, response.status, response.headers, answer)
                wait = retry_after(response.headers.get("retry-after"))
            failures += 1
            await self._sleep(self._retry.wait(failures, wait))

    async def close(self) -> None:
        await self._http.aclose()


def place_of(base: str, settings: RegistrySettings) -> tuple[Url, str]:
    """(origin, leading path) of an interface's address. Raises InvalidInput as for a registry's own."""
    try:
        parts = urlsplit(base)
    except ValueError as error:
        raise InvalidInput(
            "This is not the address of an interface.", hint="Write https://host[:port][/path]."
        ) from error
    if parts.query or parts.fragment:
        raise InvalidInput(f"{base!r} is not the address of an interface.", hint="Write https://host[:port][/path].")
    origin = registry_origin(f"{parts.scheme}://{parts.netloc}", insecure=settings.flag("insecure"))
    return origin, parts.path.rstrip("/")


def segment(text: str) -> str:
    """One part of a path, encoded once."""
    return quote(text, safe="")


def _content(body: Any, form: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    """What is sent, and the header that says what it is."""
    if form is not None:
        return urlencode(form).encode("ascii"), {"Content-Type": "application/x-www-form-urlencoded"}
    if body is not None:
        return json.dumps(body, separators=(",", ":")).encode("utf-8"), {"Content-Type": "application/json"}
    return None, {}


async def _whole(response: Answer) -> bytes:
    host = response.url.host
    try:
        return await response.whole(_ANSWER_LIMIT, too_long=lambda: RemoteError(f"{host} answers without an end."))
    except httpx.DecodingError as error:
        raise RemoteError(f"{host} answered something unreadable: {error}.") from error
