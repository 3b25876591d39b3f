"""One HTTP request and its answer on the hot path: plain ASGI, so that bytes pass without copies or buffering."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from berth.errors import TooLarge
from berth.oci import digest as digests
from berth.server.services import Services

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


_HOST = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")


class SenderGone(ConnectionError):
    """The client closed the connection before its body was complete."""


class Exchange:
    """A request and the way to answer it.

    Attributes:
        route: path parameters: name, digest, reference, upload.
        query: query parameters in order; `one()` gives the first of a name.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, services: Services) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.services = services
        self.route: dict[str, str] = {}
        self.query: list[tuple[str, str]] = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        self.headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            self.headers.setdefault(key.decode("latin-1"), value.decode("latin-1"))
        self.started = False
        self._scheme: str = scope.get("scheme", "http")
        self._receive = receive
        self._send = send

    def one(self, name: str) -> str | None:
        return next((value for key, value in self.query if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    @property
    def base_url(self) -> str:
        """Scheme and host as the client sees them, without a trailing slash."""
        if self.services.settings.external_url:
            return self.services.settings.external_url.rstrip("/")
        host = self.headers.get("host", "localhost")
        # It ends inside quotes in a header: nothing but a host and a port may.
        return f"{self._scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece. Raises SenderGone (a ConnectionError) when the client disappears mid-body."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise SenderGone("the client closed the connection")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def body(self, limit: int, what: str) -> bytes:
        """The whole body. Raises TooLarge beyond `limit` bytes."""
        announced = self.headers.get("content-length", "")
        pieces: list[bytes] = []
        size = 0
        if not (announced.isdigit() and int(announced) > limit):
            async for chunk in self.chunks():
                size += len(chunk)
                if size > limit:
                    break
                pieces.append(chunk)
            else:
                return b"".join(pieces)
        raise TooLarge(f"{what} is larger than {limit} bytes.", detail={"limit": limit})

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()]
        raw.append((b"docker-distribution-api-version", b"registry/2.0"))
        raw.append((b"x-content-type-options", b"nosniff"))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """A complete answer; a HEAD request gets the headers of the body but not the body."""
        sent = dict(headers or {})
        if status != 204:
            sent.setdefault("Content-Length", str(len(body)))
        await self.start(status, sent)
        await self.end(b"" if self.method == "HEAD" else body)

    def digest(self, name: str = "digest") -> str:
        """A digest from the path, checked. Raises DigestInvalid."""
        return str(digests.parse(self.route[name]))
