"""A scripted HTTP/1.1 peer: it answers what a test tells it to, faults included, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass(frozen=True)
class Answer:
    """What to send. `cut`: close the connection after so many bytes of the body; `status` 0: close at once."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


Handler = Callable[[Asked], Answer | Awaitable[Answer]]


class Peer:
    """Answers by `handler`; `asked` has every request in order."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.url = ""

    def methods(self) -> list[str]:
        return [f"{a.method} {a.path}" for a in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await _read(reader)
                if asked is None:
                    return
                self.asked.append(asked)
                answer = self.handler(asked)
                if not isinstance(answer, Answer):
                    answer = await answer
                if answer.status == 0:
                    return
                await _write(writer, asked, answer)
                if answer.cut is not None:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    """A peer on a free port of `host`, for the time of the block."""
    peer = Peer(handler)
    server = await asyncio.start_server(peer.serve, host, 0)
    peer.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("ascii").split(" ", 2)
    headers: dict[str, str] = {}
    while (raw := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = raw.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).strip() or b"0", 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


async def _write(writer: asyncio.StreamWriter, asked: Asked, answer: Answer) -> None:
    head = {"content-length": str(len(answer.body)), **{k.lower(): v for k, v in answer.headers.items()}}
    lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{k}: {v}" for k, v in head.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    if asked.method != "HEAD":
        writer.write(answer.body if answer.cut is None else answer.body[: answer.cut])
    await writer.drain()
