"""Uploads in several requests: where something refuses long ones, while a token ends, and what a probe finds."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.errors import InvalidInput, TooLarge, Unsupported
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
