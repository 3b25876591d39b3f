"""How is one HTTP request carried out? HTTP/1.1 over kept connections, made for bodies of many gigabytes (RFC 9112).

httptools parses; bodies with a length go past it, and what the kernel gives is handed on as it is. An answer that comes
before the request's body was sent ends the sending: that is how a registry refuses what it has no room for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Final

import httptools
import httpx

from berth.wire.addresses import AddressGuard, connect
from berth.wire.messages import Answer, Headers
from berth.wire.streams import PlainStream, Stream, secured
from berth.wire.urls import Url

# What is read at once, at most, and what a reader is given at least, before the end: each piece costs it some work.
_READ_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024
# A body that brings less than this in a whole stall time-out is taken for one that stands still.
LEAST_BYTES: Final = 16 * 1024
STALL_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 15.0
# A registry may hash what it got before it answers; it is given a second more for so many bytes.
_CHECKED_PER_SECOND: Final = 50_000_000
# An answer that waits in the socket of a peer that has hung up is there at once or never.
_LAST_WORDS_SECONDS: Final = 2.0
# What has come of a slow body is handed out after so long, be it much or not.
_PATIENCE_SECONDS: Final = 0.25
_HEAD_BYTES: Final = 64 * 1024
# Requests of these carry a length, be it 0 (RFC 9110 section 8.6).
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
# What a request carries: nothing, bytes, or pieces whose sum is in the header Content-Length.
Content = bytes | AsyncIterable[bytes] | None
_Place = tuple[str, str, int]


class Connections:
    """Requests over connections that the guard has judged; no proxies, no cookies, nothing from the environment.

    Cookies would make a session of what asks each time, and bring rules against forged requests with it (Harbor).

    Args:
        keep: how many idle connections are kept; how many are open at once is for the callers to bound.
        stall: seconds that a peer may stand still, or only drip, in the middle of an exchange.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        keep: int = 20,
        tls: ssl.SSLContext | None = None,
        stall: float = STALL_SECONDS,
        wait: float = CONNECT_SECONDS,
    ) -> None:
        self._guard = guard
        self._keep = keep
        self._tls = tls
        self._stall = stall
        self._wait = wait
        self._idle: dict[_Place, list[_Connection]] = {}

    async def ask(self, method: str, url: Url, headers: Mapping[str, str], content: Content = None) -> Answer:
        """One request. `Host` is added, and the length of a body that is there.

        Raises: httpx.TransportError.
        """
        head = _request_head(method, url, headers, content)
        place = url.origin
        connection = self._kept(place) or await self._opened(place)
        try:
            if content is None or isinstance(content, bytes):
                answer = await connection.ask(head, content or b"")
            else:
                answer = await connection.ask_with(head, content, _announced(headers))
        except BaseException:
            connection.close()
            raise
        body = _Body(self, place, connection, answer, method)
        if body.is_empty:
            await body.aclose()
        return Answer(method, url, answer.status, Headers(answer.headers), body, signed_in="Authorization" in headers)

    async def aclose(self) -> None:
        for waiting in self._idle.values():
            while waiting:
                waiting.pop().close()

    def give_back(self, place: _Place, connection: _Connection) -> None:
        """A connection whose exchange is over can carry the next one."""
        waiting = self._idle.setdefault(place, [])
        connection.idle_since = asyncio.get_running_loop().time()
        waiting.append(connection)
        if sum(map(len, self._idle.values())) > self._keep:
            max(self._idle.values(), key=len).pop(0).close()

    def _kept(self, place: _Place) -> _Connection | None:
        waiting = self._idle.get(place, [])
        now = asyncio.get_running_loop().time()
        while waiting:
            connection = waiting.pop()
            if now - connection.idle_since < IDLE_SECONDS and connection.stream.is_quiet():
                return connection
            connection.close()
        return None

    async def _opened(self, place: _Place) -> _Connection:
        scheme, host, port = place
        if scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{scheme} is not a scheme for registries")
        try:
            connected = await connect(self._guard, host, port, seconds=self._wait)
            if scheme == "http":
                return _Connection(PlainStream(connected, stall=self._stall), self._stall)
            if self._tls is None:
                self._tls = httpx.create_ssl_context(trust_env=False)
            try:
                stream = await secured(
                    connected, context=self._tls, host=host.strip("[]"), stall=self._stall, handshake=self._wait
                )
            except BaseException:
                connected.close()
                raise
            return _Connection(stream, self._stall)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"{host} does not take the connection") from error
        except OSError as error:
            raise httpx.ConnectError(str(error) or type(error).__name__) from error


class _Head:
    """What httptools tells about an answer; also takes the pieces of a chunked body."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.ended = False
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.ended = True

    def feed(self, data: bytes | memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {error}") from error

    @property
    def is_chunked(self) -> bool:
        return self.value(b"transfer-encoding") == b"chunked"

    def value(self, name: bytes) -> bytes:
        return b", ".join(value for key, value in self.headers if key.lower() == name).strip().lower()


class _Connection:
    """One connection and the exchange it carries."""

    def __init__(self, stream: Stream, stall: float) -> None:
        self.stream = stream
        self.idle_since = 0.0
        self.rest = b""
        self.broken = False
        self._stall = stall
        self._pace = _Pace(stall)
        self._clock = asyncio.get_running_loop().time

    def close(self) -> None:
        self.stream.close()

    async def ask(self, head: bytes, body: bytes) -> _Head:
        """Send a request, read the head of its answer."""
        self._pace.start()
        try:
            await self.stream.send(head + body if len(body) < _HEAD_BYTES else head)
            if len(body) >= _HEAD_BYTES:
                await self.stream.send(body)
        except TimeoutError as error:
            raise httpx.WriteTimeout("the peer takes nothing any more") from error
        except OSError as error:
            raise httpx.WriteError(str(error)) from error
        return await self._answer()

    async def ask_with(self, head: bytes, body: AsyncIterable[bytes], length: int) -> _Head:
        """The same with a body of `length` bytes in pieces; an answer that comes before its end ends the sending."""
        self._pace.start()
        answer = asyncio.ensure_future(self._answer(patient=True))
        try:
            try:
                complete = await self._send_body(head, body, length, answer)
            except TimeoutError as error:
                raise httpx.WriteTimeout("the peer takes nothing any more") from error
            except OSError as error:
                # It has hung up; perhaps it has said why.
                self.broken = True
                await asyncio.wait([answer], timeout=_LAST_WORDS_SECONDS)
                if answer.done() and answer.exception() is None:
                    return answer.result()
                raise httpx.WriteError(str(error) or type(error).__name__) from error
            self.broken |= not complete
            await asyncio.wait([answer], timeout=self._stall + length / _CHECKED_PER_SECOND)
            if not answer.done():
                raise httpx.ReadTimeout("the peer took everything and says nothing")
            return await answer
        finally:
            if not answer.done():
                answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    async def _send_body(
        self, head: bytes, body: AsyncIterable[bytes], length: int, answer: asyncio.Future[_Head]
    ) -> bool:
        """False when an answer came first."""
        sending = asyncio.ensure_future(self._send_all(head, body, length))
        either: list[asyncio.Future[Any]] = [sending, answer]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return False
            sending.result()
            return True
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send_all(self, head: bytes, body: AsyncIterable[bytes], length: int) -> None:
        await self.stream.send(head)
        sent = 0
        async for piece in body:
            sent += len(piece)
            if sent > length:
                raise httpx.LocalProtocolError(f"the body is longer than the {length} bytes that were announced")
            await self.stream.send(piece)
        if sent < length:
            raise httpx.LocalProtocolError(f"the body ended after {sent} of {length} bytes")

    async def _answer(self, *, patient: bool = False) -> _Head:
        data = self.rest
        self.rest = b""
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                if len(data) > _HEAD_BYTES:
                    raise httpx.RemoteProtocolError("the head of the answer has no end")
                came = await self._receive(_HEAD_BYTES, patient=patient)
                if not came:
                    raise httpx.RemoteProtocolError("the peer ended the connection without an answer")
                data += came
            head = _Head()
            head.feed(data[: end + 4])
            data = data[end + 4 :]
            if head.status >= 200:
                break
        connection = head.value(b"connection")
        head.keeps = b"close" not in connection and head.parser.get_http_version() != "1.0"
        self.rest = data
        return head

    async def _receive(self, most: int, *, patient: bool = False) -> bytes:
        since = self._clock()
        try:
            came = await self.stream.receive(most, patient=patient)
        except TimeoutError as error:
            raise httpx.ReadTimeout("the peer stands still") from error
        except OSError as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        self._pace.note(len(came), waited=self._clock() - since)
        return came

    async def body(self, head: _Head, length: int | None) -> AsyncIterator[bytes]:
        """The body, in pieces that are worth the work; what had come before the connection broke is handed out first.

        Args:
            length: bytes; None when the chunked coding or the connection's end tells (RFC 9112 section 6.3).
        """
        if length is not None:
            coming = self._counted(length)
        else:
            coming = self._chunks(head) if head.is_chunked else self._until_closed()
        parts: list[bytes] = []
        held = 0
        since = self._clock()
        try:
            async for part in coming:
                parts.append(part)
                held += len(part)
                if held >= _PIECE_BYTES or self._clock() - since > _PATIENCE_SECONDS:
                    # One part is not copied. Of a fast peer most are large enough by themselves.
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                    parts, held, since = [], 0, self._clock()
        except httpx.TransportError:
            if parts:
                yield b"".join(parts)
            raise
        if parts:
            yield b"".join(parts)

    async def _counted(self, length: int) -> AsyncIterator[bytes]:
        # More than was announced is nobody's; the connection is not used again then.
        first, self.rest = self.rest[:length], self.rest[length:]
        if first:
            yield first
        left = length - len(first)
        while left:
            came = await self._receive(min(left, _READ_BYTES))
            if not came:
                raise httpx.RemoteProtocolError(f"the peer ended {left} bytes before the {length} it announced")
            left -= len(came)
            yield came

    async def _chunks(self, head: _Head) -> AsyncIterator[bytes]:
        """A body in the chunked coding."""
        head.feed(self.rest)
        self.rest = b""
        while True:
            if head.pieces:
                pieces, head.pieces = head.pieces, []
                yield b"".join(pieces)
            if head.ended:
                return
            came = await self._receive(_PIECE_BYTES)
            if not came:
                raise httpx.RemoteProtocolError("the peer ended the connection in the middle of its answer")
            head.feed(came)

    async def _until_closed(self) -> AsyncIterator[bytes]:
        """A body that ends with its connection."""
        if self.rest:
            yield self.rest
            self.rest = b""
        while came := await self._receive(_PIECE_BYTES):
            yield came


class _Pace:
    """Notices a peer that drips: each byte comes in time, and the whole never does. Only waiting for it counts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waited: float | None = None
        self._count = 0

    def start(self) -> None:
        """A new exchange: how long the peer thinks before it answers is another matter."""
        self._waited = None
        self._count = 0

    def note(self, count: int, *, waited: float) -> None:
        """So many bytes have come, after so many seconds."""
        self._count += count
        if self._count >= LEAST_BYTES or self._waited is None:
            self._waited, self._count = 0.0, 0
            return
        self._waited += waited
        if self._waited > self._seconds:
            raise httpx.ReadTimeout(f"the peer sent {self._count} bytes in {self._seconds:g} seconds")


class _Body:
    """The body of an answer; a connection is used again when its answer was read to the end."""

    def __init__(
        self, connections: Connections, place: _Place, connection: _Connection, head: _Head, method: str
    ) -> None:
        self._connections = connections
        self._place = place
        self._connection: _Connection | None = connection
        self._head = head
        self._length = _length(head, method)
        self.is_empty = self._length == 0
        self._whole = self.is_empty

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        if connection is None:
            return
        left = self._length
        async for piece in connection.body(self._head, left):
            if left is not None:
                left -= len(piece)
                # Readers that know how much there is do not ask whether there is more.
                self._whole = left == 0
            yield piece
        self._whole = True

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        framed = self._length is not None or self._head.is_chunked
        if self._whole and framed and self._head.keeps and not connection.broken and not connection.rest:
            self._connections.give_back(self._place, connection)
        else:
            connection.close()


def _length(head: _Head, method: str) -> int | None:
    """Bytes of the body, None when its coding or the connection's end tells (RFC 9112 section 6.3)."""
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if head.value(b"transfer-encoding"):
        return None
    length = head.value(b"content-length")
    if not length:
        return None
    if not length.isdigit():
        raise httpx.RemoteProtocolError(f"{length[:40]!r} is not a length")
    return int(length)


def _request_head(method: str, url: Url, headers: Mapping[str, str], content: Content) -> bytes:
    lines = [f"{method} {url.target.decode('ascii') or '/'} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if isinstance(content, bytes) and (content or method in _WITH_BODY):
        lines.append(f"Content-Length: {len(content)}")
    elif content is None and method in _WITH_BODY and "Content-Length" not in headers:
        lines.append("Content-Length: 0")
    try:
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
    except UnicodeEncodeError as error:
        raise httpx.LocalProtocolError("a header has characters that a request must not have") from error
    # A line of ours that is two would be a header, or a whole request, that somebody else made.
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise httpx.LocalProtocolError("a header has characters that a request must not have")
    if lines[0].count(" ") != 2:
        raise httpx.LocalProtocolError("the address has characters that a request must not have")
    return head


def _announced(headers: Mapping[str, str]) -> int:
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        raise httpx.LocalProtocolError("a body that is streamed needs its Content-Length")
    return int(length)
