"""A version is copied while a registry misbehaves: it arrives whole, or not at all and with a reason."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from berth.adapters.registries.contract import RegistrySettings
from berth.adapters.registries.distribution import DistributionRegistry
from berth.errors import BerthError, IntegrityError, RemoteAuthError, RemoteError, StorageFull, TooLarge, Unavailable
from berth.sync.carrying import Copied
from berth.sync.copy import copy_version
from berth.sync.flow import Flow, Limits
from berth.wire.retry import RetryPolicy
from tests.unit.sync.made import Naps
from tests.unit.sync.peers import REPOSITORY, Shelf, Trouble, sha256
from tests.unit.wire.peer import Answer, Asked, running

LAYERS = [bytes([n]) * (40_000 + n) for n in range(1, 9)]
IMPATIENT = RetryPolicy(attempts=4, base_seconds=0.0, cap_seconds=0.0)


@asynccontextmanager
async def registry(shelf: Shelf, retry: RetryPolicy = IMPATIENT, **more: Any) -> AsyncIterator[DistributionRegistry]:
    async with running(shelf) as peer:
        settings = RegistrySettings("peer", "distribution", peer.url, capabilities={"referrers": False}, **more)
        opened = DistributionRegistry(settings, retry=retry)
        try:
            yield opened
        finally:
            await opened.close()


async def copied(source: Shelf, target: Shelf, digest: str, *, naps: Naps | None = None, **more: Any) -> Copied:
    async with registry(source, **more) as here, registry(target) as there:
        flow = Flow(Limits(blobs=3), sleep=naps or Naps())
        return await copy_version(
            here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", flow=flow, known_tags=frozenset()
        )


def is_whole(shelf: Shelf, digest: str) -> bool:
    return shelf.tags == {"1.0.0": digest} and all(shelf.blobs.get(sha256(data)) == data for data in LAYERS)


def prepared(trouble: Trouble = lambda _, __: None) -> tuple[Shelf, str]:
    source = Shelf(trouble)
    return source, source.add_image("1.0.0", LAYERS)


# -- flapping


# An upload takes three or four requests: a fault in step with that would hit the same one each time.
@pytest.mark.parametrize("every", [5, 7])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("fault", [Answer(0), Answer(503), Answer(429)], ids=["drop", "503", "429"])
async def test_where_every_nth_request_fails_the_version_still_arrives(side: str, every: int, fault: Answer) -> None:
    def flap(_: Asked, number: int) -> Answer | None:
        return fault if number % every == 0 else None

    source, digest = prepared(flap if side == "source" else lambda _, __: None)
    target = Shelf(flap if side == "target" else lambda _, __: None)
    await copied(source, target, digest)
    assert is_whole(target, digest)


async def test_a_blob_that_breaks_off_again_and_again_goes_on_from_where_it_was() -> None:
    def cut(asked: Asked, _: int) -> Answer | None:
        if asked.method != "GET" or "/blobs/" not in asked.path:
            return None
        answer = source.answer(asked)
        # Less than what is left, but always some.
        return Answer(answer.status, answer.body, answer.headers, cut=min(len(answer.body), 15_000))

    source, digest = prepared(cut)
    target = Shelf()
    await copied(source, target, digest, retry=RetryPolicy(attempts=8, base_seconds=0.0, cap_seconds=0.0))
    assert is_whole(target, digest)
    assert sorted(target.received) == sorted(set(target.received))


# -- rate limits


@pytest.mark.parametrize(
    ("header", "shortest"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}, 29.0),
        ({}, 0.0),
    ],
    ids=["seconds", "date", "nothing"],
)
async def test_a_registry_that_limits_us_is_waited_for_as_it_asks(header: dict[str, str], shortest: float) -> None:
    waits: list[float] = []

    def limit(asked: Asked, number: int) -> Answer | None:
        return Answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', header) if number in (2, 5) else None

    async def noted(seconds: float) -> None:
        waits.append(seconds)

    source, digest = prepared(limit)
    target = Shelf()
    patient = RetryPolicy(attempts=4, base_seconds=0.1, cap_seconds=30.0)
    async with registry(source, patient) as here, registry(target) as there:
        here.client.sleep = noted
        await copy_version(here, there, REPOSITORY, REPOSITORY, digest, "1.0.0", known_tags=frozenset())
    assert is_whole(target, digest)
    # Never more than the cap, whatever it asks.
    assert (len(waits), min(waits) >= shortest, max(waits) <= 30.0) == (2, True, True)


async def test_a_registry_that_never_stops_limiting_us_is_given_up() -> None:
    source, digest = prepared(lambda _, __: Answer(429))
    target, naps = Shelf(), Naps()
    with pytest.raises(BerthError, match="429"):
        await copied(source, target, digest, naps=naps)
    assert (target.tags, len(naps.taken)) == ({}, Limits.attempts - 1)


# -- full


@pytest.mark.parametrize(("status", "error"), [(507, StorageFull), (413, TooLarge), (500, RemoteError)])
async def test_a_full_registry_says_so_and_keeps_no_name(status: int, error: type[BerthError]) -> None:
    def full(asked: Asked, _: int) -> Answer | None:
        return Answer(status) if asked.method == "PUT" and len(target.blobs) >= 4 else None

    source, digest = prepared()
    target = Shelf(full)
    with pytest.raises(error):
        await copied(source, target, digest)
    assert (target.tags, len(target.blobs)) == ({}, 4)

    # Once there is room, only what is missing is sent.
    target.trouble = lambda _, __: None
    again = await copied(source, target, digest)
    assert is_whole(target, digest)
    assert (again.blobs_present, again.blobs_sent) == (4, len(LAYERS) + 1 - 4)


# -- lies


def _other(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def _spoiled_blob(answer: Answer) -> Answer:
    return Answer(answer.status, _other(answer.body), answer.headers)


def _short(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body[:-10], answer.headers)


def _long(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body + b"more", answer.headers)


def _wrong_length(answer: Answer) -> Answer:
    return Answer(
        answer.status, answer.body, {**answer.headers, "Content-Length": str(len(answer.body) + 5)}, cut=40_000
    )


@pytest.mark.parametrize("lie", [_spoiled_blob, _short, _long, _wrong_length])
async def test_a_source_that_lies_about_a_blob_leaves_nothing_of_it_at_the_target(lie: Any) -> None:
    def lying(asked: Asked, _: int) -> Answer | None:
        if asked.method == "GET" and asked.path.endswith(sha256(LAYERS[3])):
            return lie(source.answer(asked))  # type: ignore[no-any-return]
        return None

    source, digest = prepared(lying)
    target = Shelf()
    with pytest.raises(BerthError):
        await copied(source, target, digest)
    assert (target.tags, target.manifests) == ({}, {})
    assert sha256(LAYERS[3]) not in target.blobs
    assert all(sha256(data) == name for name, data in target.blobs.items())

    source.trouble = lambda _, __: None
    await copied(source, target, digest)
    assert is_whole(target, digest)


async def test_a_source_that_lies_about_a_manifest_is_refused() -> None:
    def lying(asked: Asked, _: int) -> Answer | None:
        if asked.method == "GET" and "/manifests/" in asked.path:
            answer = source.answer(asked)
            return Answer(200, answer.body.replace(b"layers", b"Layers"), answer.headers)
        return None

    source, digest = prepared(lying)
    target = Shelf()
    with pytest.raises(IntegrityError):
        await copied(source, target, digest)
    assert (target.tags, target.blobs) == ({}, {})


async def test_a_target_that_says_it_stored_another_blob_is_not_believed() -> None:
    def lying(asked: Asked, _: int) -> Answer | None:
        if asked.method != "PUT" or "/blobs/" not in asked.path:
            return None
        target.answer(asked)
        return Answer(201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})

    source, digest = prepared()
    target = Shelf(lying)
    # Asked once more, it turns out to have the right one: then that counts, and not its header.
    await copied(source, target, digest)
    assert is_whole(target, digest)


async def test_a_target_that_takes_everything_and_keeps_nothing_gets_no_tag() -> None:
    """A registry whose storage lies: it says 201 and has lost the blob."""

    def forgetful(asked: Asked, _: int) -> Answer | None:
        if asked.method == "PUT" and "/blobs/" in asked.path:
            return Answer(201, headers={"Docker-Content-Digest": asked.query["digest"][0]})
        return None

    source, digest = prepared()
    target = Shelf(forgetful)
    with pytest.raises(BerthError, match="MANIFEST_BLOB_UNKNOWN"):
        await copied(source, target, digest)
    assert target.tags == {}


# -- elsewhere


async def test_an_endless_redirect_of_a_blob_ends_the_copy() -> None:
    def around(asked: Asked, _: int) -> Answer | None:
        return Answer(307, headers={"Location": asked.target}) if asked.path.endswith(sha256(LAYERS[0])) else None

    source, digest = prepared(around)
    target = Shelf()
    with pytest.raises(RemoteError, match="redirects more than"):
        await copied(source, target, digest)
    assert target.tags == {}


async def test_storage_on_another_host_gets_the_request_and_not_our_password() -> None:
    storage = Shelf()
    storage.add_image("1.0.0", LAYERS)
    async with running(storage) as elsewhere:
        there = elsewhere.url.replace("127.0.0.1", "localhost")

        def sent_away(asked: Asked, _: int) -> Answer | None:
            if asked.method == "GET" and "/blobs/" in asked.path:
                return Answer(307, headers={"Location": there + asked.target})
            return None

        source, digest = prepared(sent_away)
        target = Shelf()
        await copied(source, target, digest, username="ada", secret="hunter2", options={"allow_private": True})
        assert is_whole(target, digest)
        assert len(elsewhere.asked) == len(LAYERS) + 1
        assert all("authorization" not in asked.headers for asked in elsewhere.asked)


async def test_a_target_that_sends_uploads_to_a_private_address_is_refused() -> None:
    inside = Shelf()
    async with running(inside) as private:
        there = private.url.replace("127.0.0.1", "localhost")

        def sent_away(asked: Asked, _: int) -> Answer | None:
            return Answer(202, headers={"Location": f"{there}/upload"}) if asked.method == "POST" else None

        source, digest = prepared()
        target = Shelf(sent_away)
        with pytest.raises(RemoteError, match="must not be reached"):
            await copied(source, target, digest)
        assert (private.asked, target.tags) == ([], {})


# -- rights that end


async def test_credentials_that_end_half_way_end_the_copy_and_a_renewed_one_goes_on() -> None:
    def expired(asked: Asked, _: int) -> Answer | None:
        if len(target.received) >= 5 and asked.method in ("POST", "PUT"):
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
        return None

    source, digest = prepared()
    target, naps = Shelf(expired), Naps()
    with pytest.raises(RemoteAuthError):
        await copied(source, target, digest, naps=naps)
    # Waiting does not cure it, so nobody waited.
    assert (target.tags, naps.taken) == ({}, [])
    target.trouble = lambda _, __: None
    again = await copied(source, target, digest)
    assert is_whole(target, digest)
    assert again.blobs_present >= 5


async def test_a_token_that_ends_half_way_is_renewed_and_nothing_is_lost() -> None:
    token, uses, given = "t1", 0, 0

    def guarded(asked: Asked, _: int) -> Answer | None:
        nonlocal token, uses, given
        if asked.path == "/token":
            given += 1
            token, uses = f"t{given}", 0
            return Answer(200, f'{{"token":"{token}","expires_in":300}}'.encode())
        uses += 1
        if asked.headers.get("authorization") != f"Bearer {token}" or uses > 5:
            realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="s"'
            return Answer(401, headers={"WWW-Authenticate": realm})
        return None

    source, digest = prepared(guarded)
    target = Shelf()
    await copied(source, target, digest, username="ada", secret="hunter2")
    assert is_whole(target, digest)
    assert given > 1


# -- a peer that dies


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_registry_that_dies_in_the_middle_of_a_blob_costs_that_blob(side: str) -> None:
    dead = False

    def dying(asked: Asked, _: int) -> Answer | None:
        nonlocal dead
        shelf = source if side == "source" else target
        if len(target.received) >= 4 and "/blobs/" in asked.path:
            dead = True
        if not dead:
            return None
        answer = shelf.answer(asked) if asked.method == "GET" else Answer(0)
        return Answer(answer.status, answer.body, answer.headers, cut=1000) if answer.body else Answer(0)

    quiet: Trouble = lambda _, __: None  # noqa: E731 - the twin of `dying`
    source, digest = prepared(dying if side == "source" else quiet)
    target = Shelf(dying if side == "target" else quiet)
    with pytest.raises((Unavailable, RemoteError)):
        await copied(source, target, digest)
    assert target.tags == {}
    before = list(target.received)
    source.trouble = target.trouble = quiet
    await copied(source, target, digest)
    assert is_whole(target, digest)
    # What was whole when it died was not sent again.
    assert len(target.received) == len(set(target.received))
    assert set(before) < set(target.received)


# -- memory


class Stream:
    """A registry's worth of bytes that are made as they are read, and counted and dropped as they come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the client has ended
            await self._talk(reader, writer)
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, length = head.split(b" ", 1)[0], 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if method == b"GET":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
                for _ in range(self.size >> 16):
                    writer.write(bytes(1 << 16))
                    await writer.drain()
            elif method == b"PUT":
                while length:
                    length -= (count := len(await reader.read(min(length, 1 << 16))))
                    self.received += count
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            elif method == b"HEAD":
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 202 Accepted\r\nLocation: /v2/u/1\r\nContent-Length: 0\r\n\r\n")


async def test_memory_does_not_grow_with_the_size_of_a_blob() -> None:
    async def peak(size: int) -> int:
        stream = Stream(size)
        hasher = hashlib.sha256()
        for _ in range(size >> 20):
            hasher.update(bytes(1 << 20))
        server = await asyncio.start_server(stream.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = RegistrySettings("peer", "distribution", url)
        one = DistributionRegistry(settings, retry=IMPATIENT)
        other = DistributionRegistry(settings, retry=IMPATIENT)
        tracemalloc.start()
        try:
            chunks = one.blob(REPOSITORY, digest := "sha256:" + hasher.hexdigest())
            await other.push_blob(REPOSITORY, digest, size=size, chunks=chunks)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await one.close()
            await other.close()
            server.close()
            assert stream.received == size

    small, large = await peak(16 << 20), await peak(256 << 20)
    # Sixteen times the bytes, the same memory.
    assert large < 1.5 * small
