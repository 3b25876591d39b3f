"""How do bytes go through one connection? As few copies as Python allows, and never waiting for ever.

What is received is the very bytes object that the kernel filled, and what is sent goes out of the caller's, without
asyncio's own buffers between; a TLS connection goes through asyncio's TLS. Neither side may stand still for longer than
a stall time-out.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Final, Protocol, cast

# So much of a TLS connection is kept before the peer is held up.
_HELD_BYTES: Final = 1024 * 1024
Data = bytes | bytearray | memoryview


class Stream(Protocol):
    """One open connection. A peer that stands still raises TimeoutError, a broken connection OSError."""

    async def receive(self, most: int, *, patient: bool = False) -> bytes:
        """What has come, 1 to `most` bytes of it; empty when the peer has ended. `patient`: waits without end."""
        ...

    async def send(self, data: Data) -> None:
        """All of it has left this process."""
        ...

    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing has come that nobody asked for."""
        ...

    def close(self) -> None:
        """End it now; safe to call twice."""
        ...


class PlainStream:
    """A TCP connection.

    The loop keeps looking at the socket from one wait to the next, and one timer serves all waits: beginning and ending
    both anew each time cost more than reading what had come.
    """

    def __init__(self, connection: socket.socket, *, stall: float) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        # A loop that doesn't know a socket object yet puts all about it into an error first, and throws that away.
        self._number = connection.fileno()
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        # Who waits for bytes, how many they take, and when that is too long.
        self._reader: asyncio.Future[bytes] | None = None
        self._most = 0
        self._until: float | None = None
        self._looked_at = False
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, most: int, *, patient: bool = False) -> bytes:
        try:
            return self._socket.recv(most)
        except (BlockingIOError, InterruptedError):
            pass
        reader: asyncio.Future[bytes] = self._loop.create_future()
        self._reader, self._most = reader, most
        if not self._looked_at:
            self._loop.add_reader(self._number, self._readable)
            self._looked_at = True
        if not patient:
            self._until = self._loop.time() + self._stall
            if self._timer is None:
                self._timer = self._loop.call_at(self._until, self._late)
        try:
            return await reader
        finally:
            # Nothing is read for somebody who has gone.
            self._reader = self._until = None

    def _readable(self) -> None:
        reader = self._reader
        if reader is None or reader.done():
            self._look_away()
            return
        try:
            reader.set_result(self._socket.recv(self._most))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            reader.set_exception(error)

    def _late(self) -> None:
        self._timer = None
        if self._until is None or self._reader is None or self._reader.done():
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._late)
        else:
            self._reader.set_exception(TimeoutError())

    def _look_away(self) -> None:
        if self._looked_at:
            self._looked_at = False
            self._loop.remove_reader(self._number)

    async def send(self, data: Data) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(self._stall):
                    await self._writable()

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._number, _wake, ready)
        try:
            await ready
        finally:
            # Once it is closed, the number may be another connection's.
            if self._socket.fileno() >= 0:
                self._loop.remove_writer(self._number)

    def is_quiet(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(ConnectionAbortedError("the connection was closed on this side"))
        if self._socket.fileno() >= 0:
            self._look_away()
            self._loop.remove_writer(self._number)
            self._socket.close()


class TlsStream(asyncio.Protocol):
    """A TLS connection; made by `secured`."""

    def __init__(self, *, stall: float) -> None:
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._full = False

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _HELD_BYTES and self._transport is not None:
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._ended = True
        _wake(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._failure = exc
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    # -- Stream

    async def receive(self, most: int, *, patient: bool = False) -> bytes:
        while not self._parts and not self._ended:
            self._reader = self._loop.create_future()
            async with asyncio.timeout(None if patient else self._stall):
                await self._reader
        if not self._parts:
            if self._failure is not None:
                raise ConnectionError(str(self._failure))
            return b""
        part = self._parts.popleft()
        if len(part) > most:
            part, rest = part[:most], part[most:]
            self._parts.appendleft(rest)
        left = self._held - len(part)
        if self._held >= _HELD_BYTES > left and self._transport is not None and not self._ended:
            self._transport.resume_reading()
        self._held = left
        return part

    async def send(self, data: Data) -> None:
        if self._ended or self._transport is None:
            raise BrokenPipeError(str(self._failure or "the peer has ended the connection"))
        self._transport.write(data)
        while self._full and not self._ended:
            self._writer = self._loop.create_future()
            async with asyncio.timeout(self._stall):
                await self._writer

    def is_quiet(self) -> bool:
        return not self._parts and not self._ended

    def close(self) -> None:
        self._ended = True
        if self._transport is not None:
            self._transport.abort()


async def secured(
    connection: socket.socket, *, context: ssl.SSLContext, host: str, stall: float, handshake: float
) -> TlsStream:
    """TLS over a connected socket, checked against `host`. Raises OSError, TimeoutError."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _, stream = await asyncio.get_running_loop().create_connection(
        lambda: TlsStream(stall=stall),
        sock=connection,
        ssl=context,
        server_hostname=host,
        ssl_handshake_timeout=handshake,
    )
    return stream


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
