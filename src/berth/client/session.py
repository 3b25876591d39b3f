"""How does the SDK talk to `/api/v1`? One httpx client, JSON in and out, errors as members of `berth.errors`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from berth.client.problems import from_response
from berth.errors import RemoteError, Unavailable

API = "/api/v1"
PAGE = 500
# Reading is repeated when the service is restarting; writing only when it never arrived.
_ATTEMPTS = 3

Json = dict[str, Any]
# A list is sent as one parameter for each of its items.
Query = str | int | Sequence[str] | None


class Session:
    """Requests to one service; `base` has no trailing slash."""

    def __init__(
        self,
        base: str,
        token: str | None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Accept": "application/json", "User-Agent": "berth-client"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.base = base
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=base + API,
            headers=headers,
            timeout=httpx.Timeout(60, connect=10),
            follow_redirects=False,
            transport=transport,
        )

    @property
    def host(self) -> str:
        """`host[:port]`, the first part of references that stock clients use."""
        return self.base.partition("://")[2]

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Query) -> Json:
        return _body(self.request("GET", path, query=query))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        return _body(self.request("POST", path, body=body or {}))

    def put(self, path: str, body: Mapping[str, Any]) -> Json:
        return _body(self.request("PUT", path, body=body))

    def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        return _body(self.request("PATCH", path, body=body))

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def read(self, path: str) -> tuple[bytes, str]:
        """The bytes at `path` and their media type."""
        response = self.request("GET", path, accept="*/*")
        return response.content, response.headers.get("content-type", "application/octet-stream")

    def items(self, path: str, *, limit: int | None = None, **query: Query) -> Iterator[Json]:
        """Every item of a list, page after page; at most `limit` of them."""
        left = limit
        after: str | None = None
        while True:
            size = PAGE if left is None else min(PAGE, left)
            page = self.get(path, limit=size, after=after, **query)
            if not isinstance(page.get("items"), list):
                raise RemoteError(f"GET {path} answered something that is not a list.")
            rows = page["items"] if left is None else page["items"][:left]
            yield from rows
            if left is not None:
                left -= len(rows)
            after = page.get("next")
            if not after or left == 0:
                return

    @contextmanager
    def streaming(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | list[str] | None] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Iterator[bytes] | None = None,
    ) -> Iterator[httpx.Response]:
        """One request whose body or answer is too large for memory; it is not repeated here.

        Raises a member of `berth.errors` for statuses from 400. Broken connections are Unavailable, also while the
        caller reads the answer.
        """
        parameters = {k: v for k, v in (query or {}).items() if v is not None}
        try:
            # The answer to an upload may take as long as recording it does.
            with self._http.stream(
                method,
                path,
                params=parameters,
                headers=dict(headers or {}),
                content=content,
                timeout=httpx.Timeout(60, connect=10, read=600 if content is not None else 60),
            ) as response:
                if response.status_code >= 300:
                    response.read()
                if response.status_code >= 400:
                    raise from_response(response)
                if response.status_code >= 300:
                    raise RemoteError(f"{self.base} answered a redirect.", hint="Use the service's own address.")
                yield response
        except httpx.TransportError as error:
            raise Unavailable(
                f"The connection to {self.base} broke: {error or type(error).__name__}.",
                hint="Is the service running? Its address is BERTH_URL (or the one of `xumi login`).",
            ) from error

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Query] | None = None,
        accept: str | None = None,
    ) -> httpx.Response:
        """One request; raises a member of `berth.errors` for every status from 400 and when nobody answers."""
        parameters = {k: v for k, v in (query or {}).items() if v is not None}
        headers = {"Accept": accept} if accept else None
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            try:
                response = self._http.request(method, path, json=body, params=parameters, headers=headers)
            except httpx.TransportError as error:
                retry = method == "GET" or isinstance(error, httpx.ConnectError)
                if retry and not last and not isinstance(error, httpx.UnsupportedProtocol):
                    self._sleep(0.2 * attempt)
                    continue
                raise Unavailable(
                    f"No answer from {self.base}: {error or type(error).__name__}.",
                    hint="Is the service running? Its address is BERTH_URL (or the one of `xumi login`).",
                ) from error
            if response.status_code == 503 and method == "GET" and not last:
                self._sleep(0.2 * attempt)
                continue
            break
        if response.status_code >= 400:
            raise from_response(response)
        if response.status_code >= 300:
            raise RemoteError(
                f"{self.base} answered {response.status_code}, a redirect to {response.headers.get('location', '?')}.",
                hint="Use the service's own address as BERTH_URL.",
            )
        return response


def _body(response: httpx.Response) -> Json:
    if not response.content:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RemoteError(f"{response.request.url.copy_with(query=None)} answered something that is not a JSON object.")
    return body
