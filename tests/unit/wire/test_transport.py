"""What one HTTP exchange does when its peer is slow, early, or does not speak HTTP (RFC 9112)."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvloop

from berth.errors import StorageFull, TooLarge, Unavailable
from berth.wire import blobs, transport, uploads
from berth.wire.addresses import AddressGuard
from berth.wire.client import RegistryClient
from berth.wire.messages import Answer
from berth.wire.retry import RetryPolicy
from berth.wire.sending import Upload
from berth.wire.streams import PlainStream
from berth.wire.transport import Connections
from berth.wire.urls import parse
from tests.support.certificates import Authority, authority

CONTENT = bytes(range(256)) * 8192  # two MiB
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
ONCE = RetryPolicy(attempts=1)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(
    scope="module", params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The client runs on asyncio's loop, the worker on uvloop's."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@asynccontextmanager
async def peer(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """`host:port` of a server that does as told with each connection, and is left to itself when the test ends."""
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a peer has no manners
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def says(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return talk


async def get(place: str, connections: Connections, *, method: str = "GET") -> tuple[int, bytes]:
    answer = await connections.ask(method, parse(f"http://{place}/v2/"), {})
    return answer.status, await whole(answer)


async def whole(answer: Answer) -> bytes:
    try:
        return b"".join([piece async for piece in answer.decoded()])
    finally:
        await answer.aclose()


def connections(**more: object) -> Connections:
    return Connections(AddressGuard(allow_private=True), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    ],
)
async def test_each_form_of_a_body_ends_where_it_ends_and_the_connection_goes_on(
    answer: bytes, expected: bytes
) -> None:
    accepted = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await says(answer)(reader, writer)

    async with peer(talk) as place:
        client = connections()
        for _ in range(3):
            assert (await get(place, client))[1] == expected
        await client.aclose()
    assert accepted == 1


async def test_a_head_has_no_body_whatever_its_length_says() -> None:
    async with peer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")) as place:
        client = connections()
        assert [await get(place, client, method="HEAD") for _ in range(2)] == [(200, b"")] * 2
        await client.aclose()


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")

    async with peer(talk) as place:
        client = connections()
        assert await get(place, client) == (200, b"hello")
        await client.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
    ],
)
async def test_what_is_not_http_is_refused(answer: bytes) -> None:
    async with peer(says(answer)) as place:
        client = connections()
        with pytest.raises(httpx.RemoteProtocolError):
            await get(place, client)
        await client.aclose()


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    first = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Both at once: the second is there before the next question.
        more = b"" if first.is_set() else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies"
        first.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" + more)
        await reader.read()

    async with peer(talk) as place:
        client = connections()
        assert [await get(place, client) for _ in range(2)] == [(200, b"hello")] * 2
        await client.aclose()


async def test_a_header_that_would_split_a_request_is_not_sent() -> None:
    async with peer(says(b"HTTP/1.1 204 No Content\r\n\r\n")) as place:
        client = connections()
        for text in ("a\r\nX-More: b", "a\nX-More: b", "a\rb", "a\0b", "é"):
            with pytest.raises(httpx.LocalProtocolError):
                await client.ask("GET", parse(f"http://{place}/"), {"X-Name": text})
        for target in (b"/a b", b"/a\r\nX-More: b", b"/a HTTP/1.1\r\n\r\n"):
            with pytest.raises(httpx.LocalProtocolError):
                await client.ask("GET", parse(f"http://{place}/")._replace(target=target), {})
        await client.aclose()


async def test_who_stops_at_the_announced_end_leaves_the_connection_to_the_next_one() -> None:
    opened = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")(reader, writer)

    async with peer(talk) as place:
        client = connections()
        for _ in range(3):
            answer = await client.ask("GET", parse(f"http://{place}/"), {})
            # One who counts the bytes does not ask whether there are more.
            assert await anext(aiter(answer.raw())) == b"hello"
            await answer.aclose()
        await client.aclose()
    assert opened == 1


async def test_who_stops_before_the_end_costs_a_connection_and_mixes_nothing_up() -> None:
    opened = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)
        await says(head + CONTENT)(reader, writer)

    async with peer(talk) as place:
        client = connections()
        for _ in range(2):
            answer = await client.ask("GET", parse(f"http://{place}/"), {})
            assert CONTENT.startswith(await anext(aiter(answer.raw())))
            await answer.aclose()
        await client.aclose()
    assert opened == 2


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", gzip.compress(CONTENT)), ("deflate", zlib.compress(CONTENT)), ("identity", CONTENT), ("", CONTENT)],
)
async def test_a_content_coding_that_nobody_asked_for_is_undone(coding: str, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with peer(says(head + body)) as place:
        client = connections()
        assert await get(place, client) == (200, CONTENT)
        await client.aclose()


@pytest.mark.parametrize(("coding", "body"), [("br", b"x"), ("gzip", b"this is no gzip")])
async def test_a_content_coding_that_cannot_be_undone_is_an_error(coding: str, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with peer(says(head + body)) as place:
        client = connections()
        with pytest.raises(httpx.DecodingError):
            await get(place, client)
        await client.aclose()


async def test_a_small_answer_that_unpacks_to_much_comes_in_bounded_pieces() -> None:
    body = gzip.compress(bytes(64 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with peer(says(head + body)) as place:
        client = connections()
        answer = await client.ask("GET", parse(f"http://{place}/"), {})
        sizes = [len(piece) async for piece in answer.decoded()]
        await answer.aclose()
        await client.aclose()
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 1 << 20


async def test_headers_are_found_in_any_case_and_joined() -> None:
    said = b"HTTP/1.1 200 OK\r\nLink: <a>\r\nlink: <b>\r\nX-Name: \xe9\r\nContent-Length: 0\r\n\r\n"
    async with peer(says(said)) as place:
        client = connections()
        answer = await client.ask("GET", parse(f"http://{place}/"), {})
        await client.aclose()
    assert answer.headers["LINK"] == "<a>, <b>"
    assert answer.headers.get_list("Link") == ["<a>", "<b>"]
    assert (answer.headers.get("x-name"), answer.headers.get("x-none")) == ("\u00e9", None)
    assert "link" in answer.headers
    assert list(answer.headers) == ["link", "x-name", "content-length"]


async def test_closing_wakes_who_waits_for_an_answer() -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with peer(talk) as place:
        host, _, port = place.partition(":")
        connected = socket.create_connection((host, int(port)))
        stream = PlainStream(connected, stall=60)
        await stream.send(b"GET / HTTP/1.1\r\n\r\n")
        waiting = asyncio.ensure_future(stream.receive(10))
        await asked.wait()
        stream.close()
        with pytest.raises(OSError, match="closed"):
            await waiting
        stream.close()


async def test_nothing_is_read_for_one_who_has_gone() -> None:
    ready = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ready.wait()
        writer.write(b"late")
        await reader.read()

    async with peer(talk) as place:
        host, _, port = place.partition(":")
        stream = PlainStream(socket.create_connection((host, int(port))), stall=60)
        waiting = asyncio.ensure_future(stream.receive(4))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        ready.set()
        assert await stream.receive(4) == b"late"
        stream.close()


# -- slow peers


async def test_a_peer_that_stands_still_is_given_up_after_the_stall_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n" + CONTENT[:1000])
        await reader.read()

    async with peer(talk) as place, RegistryClient(f"http://{place}", retry=ONCE, stall=0.2) as client:
        with pytest.raises(Unavailable, match="stands still"):
            [piece async for piece in blobs.stream(client, "ml/demo", DIGEST)]


async def test_a_peer_that_only_drips_is_given_up_too() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n")
        while True:  # always in time for a limit on single reads
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    dripping = RetryPolicy(attempts=3, base_seconds=0.0, cap_seconds=0.0)
    async with peer(talk) as place, RegistryClient(f"http://{place}", retry=dripping, stall=0.6) as client:
        # Without the rule it would go on for half a day.
        with pytest.raises(Unavailable, match="bytes in 0.6 seconds"):
            async with asyncio.timeout(45):
                [piece async for piece in blobs.stream(client, "ml/demo", DIGEST)]


async def test_a_slow_peer_that_goes_on_may_take_longer_than_the_stall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LEAST_BYTES", 1000)
    begun = asyncio.get_running_loop().time()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16000\r\n\r\n")
        for number in range(16):
            writer.write(CONTENT[number * 1000 : (number + 1) * 1000])
            await writer.drain()
            await asyncio.sleep(0.08)

    async with peer(talk) as place, RegistryClient(f"http://{place}", retry=ONCE, stall=1.0) as client:
        pieces = [piece async for piece in blobs.stream(client, "ml/demo", DIGEST)]
    assert b"".join(pieces) == CONTENT[:16000]
    assert asyncio.get_running_loop().time() - begun > 1.0


async def test_a_peer_that_takes_nothing_is_given_up() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.Event().wait()

    async def zeros(_: int) -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    async with peer(talk) as place, RegistryClient(f"http://{place}", retry=ONCE, stall=0.3) as client:
        with pytest.raises(Unavailable, match="takes nothing"):
            async with client.exchange(
                "PUT",
                client.url("ml/demo", "blobs", "uploads/1"),
                expect=(201,),
                scopes=(),
                headers={"Content-Length": str(64 << 20)},
                body=lambda: zeros(0),
                repeat=False,
            ):
                pass


# -- answers before their time


@pytest.mark.parametrize(("status", "error"), [(507, StorageFull), (413, TooLarge)])
@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_full_peer_is_heard_before_everything_is_sent(
    status: int, error: type[Exception], hangs_up: bool
) -> None:
    """RFC 9110 section 15: a server may answer before it has the whole request."""
    given = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HEAD"):
                writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
            elif head.startswith(b"POST"):
                writer.write(b"HTTP/1.1 202 Accepted\r\nLocation: /v2/u/1\r\nContent-Length: 0\r\n\r\n")
            elif head.startswith(b"PUT"):
                await reader.readexactly(1000)
                writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                if hangs_up:
                    writer.write_eof()
                await asyncio.Event().wait()
            else:
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def much(_: int) -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(1024):
            given += 1
            yield CONTENT

    upload = Upload(DIGEST, 1024 * len(CONTENT), much)
    async with peer(talk) as place, RegistryClient(f"http://{place}", retry=ONCE) as client:
        with pytest.raises(error):
            async with asyncio.timeout(45):
                await uploads.put(client, "ml/demo", upload)
    # What socket buffers take, and no more: the two GiB stay here.
    assert given < 64


# -- TLS


@pytest.fixture(scope="module")
def vouching(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Its server is localhost, and nothing else."""
    return authority(tmp_path_factory.mktemp("tls"), address=None)


def served(vouching: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(vouching.server.certificate, vouching.server.key)
    return context


async def test_over_tls_large_bodies_go_both_ways_on_one_connection(vouching: Authority) -> None:
    stored: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if head.startswith("put"):
                stored.append(await reader.readexactly(len(CONTENT)))
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT)
            await writer.drain()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), 300_000):
            yield CONTENT[start : start + 300_000]

    trusting = ssl.create_default_context(cafile=str(vouching.certificate))
    async with peer(talk, served(vouching)) as place:
        client = connections(tls=trusting)
        url = parse(f"https://localhost:{place.rpartition(':')[2]}/v2/")
        for _ in range(2):
            put = await client.ask("PUT", url, {"Content-Length": str(len(CONTENT))}, pieces())
            assert (put.status, await whole(put)) == (201, b"")
            assert await whole(await client.ask("GET", url, {})) == CONTENT
        await client.aclose()
    assert stored == [CONTENT, CONTENT]


@pytest.mark.parametrize("case", ["stranger", "other name"])
async def test_a_certificate_that_proves_nothing_ends_the_exchange(vouching: Authority, case: str) -> None:
    trusting = ssl.create_default_context(cafile=None if case == "stranger" else str(vouching.certificate))
    host = "localhost" if case == "stranger" else "127.0.0.1"
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        asked.set()

    async with peer(talk, served(vouching)) as place:
        client = connections(tls=trusting)
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await client.ask("GET", parse(f"https://{host}:{place.rpartition(':')[2]}/v2/"), {})
        await client.aclose()
    assert not asked.is_set()
