"""Uploads in several requests: where something refuses long ones, while a token ends, and what a probe finds."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from berth.access import projects
from berth.access.decide import Actor
from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.db.engine import Database
from berth.errors import InvalidInput, TooLarge, Unavailable, Unsupported
from berth.gates import policies
from tests.contracts.registries import peers
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import Answer, Asked, running

MIB = 1 << 20


@dataclass
class Narrow:
    """A registry behind something that takes no body over `limit` bytes. Its tokens are good for `uses` requests."""

    limit: int = MIB
    uses: int | None = None
    session: bytearray = field(default_factory=bytearray)
    blobs: dict[str, bytes] = field(default_factory=dict)
    tokens: int = 0
    used: int = 0
    refused: list[str] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            self.tokens, self.used = self.tokens + 1, 0
            document = {"token": f"token-{self.tokens}", "expires_in": 300}
            return Answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})
        if self.uses is not None:
            self.used += 1
            if asked.headers.get("authorization") != f"Bearer token-{self.tokens}" or self.used > self.uses:
                self.refused.append(f"{asked.method} {asked.path}")
                realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="s",scope="repository:lab/net:pull,push"'
                return Answer(401, b"", {"WWW-Authenticate": realm})
        if len(asked.body) > self.limit:
            return Answer(413, b"<html>too large</html>")
        return self._upload(asked)

    def _upload(self, asked: Asked) -> Answer:
        self.bodies.append(len(asked.body))
        if asked.method == "HEAD":
            held = self.blobs.get(asked.path.rpartition("/")[2])
            return Answer(404) if held is None else Answer(200, held)
        if asked.method == "POST":
            self.session.clear()
            return Answer(202, b"", {"Location": "/v2/lab/net/blobs/uploads/one"})
        if asked.method == "DELETE":
            return Answer(204)
        if asked.method == "PATCH":
            first = int(asked.headers["content-range"].partition("-")[0])
            if first != len(self.session):
                return Answer(416)
        self.session += asked.body
        if asked.method == "PATCH":
            return Answer(202, b"", {"Location": "/v2/lab/net/blobs/uploads/one"})
        digest = asked.query["digest"][0]
        if "sha256:" + hashlib.sha256(self.session).hexdigest() != digest:
            return Answer(400)
        self.blobs[digest] = bytes(self.session)
        return Answer(201, b"", {"Docker-Content-Digest": digest})


class Twice:
    """Content that can be read again from the beginning."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 100_000):
            yield self.data[start : start + 100_000]


def opened(url: str, **options: object) -> Registry:
    return Registries(retry=IMPATIENT).open(RegistrySettings("narrow", "distribution", url, options=options))


async def push(registry: Registry, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    await registry.push_blob("lab/net", digest, size=len(data), chunks=Twice(data))
    return digest


async def test_with_chunks_a_blob_passes_where_long_requests_are_refused() -> None:
    data = os.urandom(3 * MIB + 5)
    narrow = Narrow()
    async with running(narrow) as peer:
        whole = opened(peer.url)
        with pytest.raises(TooLarge):
            await push(whole, data)
        await whole.close()
        assert narrow.blobs == {}
        chunked = opened(peer.url, chunk=1)
        digest = await push(chunked, data)
        await chunked.close()
    assert narrow.blobs == {digest: data}
    assert [size for size in narrow.bodies if size] == [MIB, MIB, MIB, 5]


async def test_a_token_that_ends_during_an_upload_is_renewed_and_nothing_is_sent_anew() -> None:
    data = os.urandom(6 * MIB)
    narrow = Narrow(uses=3)
    async with running(narrow) as peer:
        registry = opened(peer.url, chunk="1")
        digest = await push(registry, data)
        await registry.close()
    assert narrow.blobs == {digest: data}
    assert narrow.tokens > 2
    # Some chunk was refused in the middle, and went out again with a new token; the session was one and the same.
    assert any(request.startswith("PATCH") for request in narrow.refused)
    assert [size for size in narrow.bodies if size] == [MIB] * 6


async def test_a_token_that_ends_before_a_whole_body_is_renewed_and_the_body_sent_again() -> None:
    data = os.urandom(2 * MIB)
    narrow = Narrow(limit=8 * MIB, uses=2)  # HEAD and POST use it up; the PUT meets an ended one
    async with running(narrow) as peer:
        registry = opened(peer.url)
        digest = await push(registry, data)
        await registry.close()
    assert narrow.blobs == {digest: data}
    assert any(request.startswith("PUT") for request in narrow.refused)


@pytest.mark.parametrize("chunk", [0, -1, "x", True, 1.5, "1e3"])
def test_a_chunk_is_a_whole_number_of_mebibytes(chunk: object) -> None:
    with pytest.raises(InvalidInput, match="chunk"):
        opened("https://registry.example", chunk=chunk)


async def test_a_registry_that_takes_no_chunks_says_so_before_a_byte_moves() -> None:
    narrow = Narrow()
    async with running(narrow) as peer:
        registry = opened(peer.url, chunk=1, capabilities={"chunked_upload": False})
        with pytest.raises(Unsupported, match="chunk"):
            await push(registry, b"x" * 2 * MIB)
        await registry.close()
    assert narrow.bodies == []


async def test_a_probe_finds_chunks_and_manifest_size_at_a_real_registry(tmp_path: Path) -> None:
    with peers.open_registry(tmp_path) as url:
        settings = RegistrySettings("real", "distribution", url)
        found = await Registries(retry=IMPATIENT).probe(settings, repository="lab/probe")
        registry = Registries().open(settings)
        assert found.chunked_upload
        assert found.largest_manifest is None  # 4 MiB are taken
        assert found.rate_limit is None
        assert (await registry.tags("lab/probe")).items == []
        await registry.close()
    assert not [note for note in found.notes if re.match("left behind|chunks", note)]


class Breaking:
    """A large blob's bytes over a source that fails once, and what remembers its upload (`Resumable`)."""

    burst = None

    def __init__(self, data: bytes, breaks_at: int) -> None:
        self.data = data
        self.breaks_at: int | None = breaks_at
        self.session: str | None = None
        self.bytes_left = 0

    async def at(self, offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(self.data), 100_000):
            if self.breaks_at is not None and start >= self.breaks_at:
                self.breaks_at = None
                raise Unavailable("The source went away.")
            yield self.data[start : start + 100_000]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.at(0)

    def passed(self, count: int) -> None: ...

    async def find(self) -> str | None:
        return self.session

    async def keep(self, session: str, offset: int) -> None:
        self.session = session

    async def forget(self) -> None:
        self.session = None

    async def let(self, count: int) -> None: ...

    def left(self, count: int) -> None:
        self.bytes_left += count

    async def reread(self, count: int) -> None: ...


@pytest.mark.parametrize("keeps", [False, True], ids=["distribution 2.8", "berth"])
async def test_a_chunk_that_breaks_at_a_real_registry_costs_what_that_registry_forgets(
    keeps: bool, database: Database, tmp_path: Path
) -> None:
    """Berth answers with the bytes that it has; Distribution before 3.0 ends a session whose request broke."""
    data = os.urandom(6 * MIB)
    source = Breaking(data, breaks_at=3 * MIB + MIB // 2)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    async with AsyncExitStack() as stack:
        if keeps:
            url, token = await stack.enter_async_context(peers.another_berth(database, tmp_path))
            settings = RegistrySettings("real", "berth", url, username="root", secret=token, options={"chunk": 1})
            policy = policies.from_json({"preset": "open"})
            async with database.transaction() as conn:
                await projects.create_project(
                    conn,
                    Actor(name="admin", principal_id=None, kind="user", global_role="admin"),
                    name="lab",
                    policy=policies.to_json(policy),
                    policy_hash=policies.policy_hash(policy),
                    trust_hash=policies.trust_hash([]),
                )
        else:
            url = stack.enter_context(peers.open_registry(tmp_path))
            settings = RegistrySettings("real", "distribution", url, options={"chunk": 1})
        registry = Registries(retry=IMPATIENT).open(settings)
        await registry.push_blob("lab/net", digest, size=len(data), chunks=source)
        assert b"".join([piece async for piece in registry.blob("lab/net", digest)]) == data
        await registry.close()
    assert source.session is None
    again = source.bytes_left - len(data)
    # At most the pieces that had not arrived yet, or everything up to the break.
    assert (again <= MIB) if keeps else (again >= 3 * MIB)
