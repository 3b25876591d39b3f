"""Uploads as the distribution spec describes them, and what happens when the client lies, leaves or races."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.stores import files
from berth.server.gateway.app import Gateway
from tests.unit.server.gateway.registry import Client, Installation, sha256

REPOSITORY = "ml/demo"


@pytest.fixture
async def developer(installation: Installation) -> Client:
    await installation.project("ml", "open")
    return await installation.user("dev", "ml", "developer")


async def begin(client: Client) -> str:
    answer = await client("POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"")
    assert answer.status_code == 202
    return str(answer.headers["location"])


async def test_post_then_put_stores_exactly_the_bytes(developer: Client) -> None:
    data = os.urandom(300_000)
    where = await begin(developer)
    answer = await developer("PUT", f"{where}?digest={sha256(data)}", data)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v2/{REPOSITORY}/blobs/{sha256(data)}"
    assert answer.headers["docker-content-digest"] == sha256(data)
    assert (await developer("GET", answer.headers["location"])).content == data


async def test_chunks_in_order_are_acknowledged_with_their_range(developer: Client) -> None:
    where = await begin(developer)
    first = await developer("PATCH", where, b"abc", Content_Range="0-2")
    assert (first.status_code, first.headers["range"]) == (202, "0-2")
    second = await developer("PATCH", first.headers["location"], b"defg", Content_Range="3-6")
    assert (second.status_code, second.headers["range"]) == (202, "0-6")
    status = await developer("GET", where)
    assert (status.status_code, status.headers["range"]) == (204, "0-6")
    closed = await developer("PUT", f"{where}?digest={sha256(b'abcdefg')}", b"")
    assert closed.status_code == 201


@pytest.mark.parametrize("header", ["1-3", "4-6", "0-2"])
async def test_a_chunk_out_of_order_is_416_with_the_place_to_go_on(developer: Client, header: str) -> None:
    where = await begin(developer)
    await developer("PATCH", where, b"ab", Content_Range="0-1")
    answer = await developer("PATCH", where, b"xyz", Content_Range=header)
    assert answer.status_code == 416
    assert (answer.headers["range"], answer.headers["location"]) == ("0-1", where)
    assert (await developer("PATCH", where, b"cde", Content_Range="2-4")).status_code == 202


async def test_a_content_range_that_does_not_fit_the_length_is_refused(developer: Client) -> None:
    where = await begin(developer)
    answer = await developer("PATCH", where, b"abc", Content_Range="0-9")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "SIZE_INVALID"


@pytest.mark.parametrize("form", ["single", "put"])
async def test_a_wrong_digest_stores_nothing(developer: Client, installation: Installation, form: str) -> None:
    wrong = sha256(b"something else")
    if form == "single":
        answer = await developer("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={wrong}", b"data")
    else:
        answer = await developer("PUT", f"{await begin(developer)}?digest={wrong}", b"data")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
    for digest in (wrong, sha256(b"data")):
        assert (await developer("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")).status_code == 404
    depot = installation.services.settings.data_dir / "depot"
    assert list((depot / "uploads").iterdir()) == []


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "0" * 32, "nonsense", "sha256:" + "G" * 64, "../../x"])
async def test_malformed_digests_are_refused(developer: Client, digest: str) -> None:
    where = await begin(developer)
    assert (await developer("PUT", f"{where}?digest={digest}", b"data")).status_code == 400


async def test_sha512_blobs_are_first_class(developer: Client) -> None:
    data = b"content"
    digest = "sha512:" + hashlib.sha512(data).hexdigest()
    assert (await developer("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest}", data)).status_code == 201
    answer = await developer("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (answer.content, answer.headers["docker-content-digest"]) == (data, digest)


async def test_a_cancelled_upload_is_gone(developer: Client) -> None:
    where = await begin(developer)
    assert (await developer("DELETE", where)).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        answer = await developer(method, where, b"x" if method == "PATCH" else None)
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"


async def test_an_upload_belongs_to_its_repository(developer: Client) -> None:
    where = await begin(developer)
    elsewhere = where.replace("ml/demo", "ml/other")
    assert (await developer("PATCH", elsewhere, b"x")).status_code == 404


class Wire:
    """Speaks ASGI to the gateway directly, so that a body can break off or stall where HTTP clients cannot."""

    def __init__(self, installation: Installation, client: Client) -> None:
        self.app = Gateway(installation.services)
        self.client = client

    async def send(self, method: str, where: str, pieces: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
        path, _, query = where.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(b"host", b"berth.test"), (b"authorization", (self.client.auth or "").encode())],
        }
        answers: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return await anext(pieces)

        async def collect(message: Any) -> None:
            answers.append(message)

        await self.app(scope, receive, collect)  # type: ignore[arg-type]
        return answers


async def body_then_gone(*pieces: bytes) -> AsyncIterator[dict[str, Any]]:
    for piece in pieces:
        yield {"type": "http.request", "body": piece, "more_body": True}
    while True:
        yield {"type": "http.disconnect"}


async def test_a_dropped_connection_keeps_what_arrived_and_resumes_from_there(
    installation: Installation, developer: Client
) -> None:
    where = await begin(developer)
    wire = Wire(installation, developer)
    assert await wire.send("PATCH", where, body_then_gone(b"hello ", b"wor")) == []
    status = await developer("GET", where)
    assert status.headers["range"] == "0-8"
    await developer("PATCH", where, b"ld", Content_Range="9-10")
    closed = await developer("PUT", f"{where}?digest={sha256(b'hello world')}", b"")
    assert closed.status_code == 201


async def test_an_upload_survives_a_restart_of_the_server(installation: Installation, developer: Client) -> None:
    """A new process has no running hash: the stored prefix is read again."""
    where = await begin(developer)
    await developer("PATCH", where, b"before ")
    store = installation.services.store
    assert isinstance(store, files.FileStore)
    store._hashes.clear()  # noqa: SLF001 - what a restart forgets
    await developer("PATCH", where, b"after")
    closed = await developer("PUT", f"{where}?digest={sha256(b'before after')}", b"")
    assert closed.status_code == 201


async def test_bytes_beyond_the_acknowledged_offset_are_cut_off(installation: Installation, developer: Client) -> None:
    """A killed server may have written more than it acknowledged."""
    where = await begin(developer)
    await developer("PATCH", where, b"acknowledged")
    store = installation.services.store
    assert isinstance(store, files.FileStore)
    store._hashes.clear()  # noqa: SLF001 - the other half of the crash
    path = next((store.root / "uploads").iterdir())
    with path.open("ab") as file:
        file.write(b"never acknowledged")
    closed = await developer("PUT", f"{where}?digest={sha256(b'acknowledged')}", b"")
    assert closed.status_code == 201
    answer = await developer("GET", f"/v2/{REPOSITORY}/blobs/{sha256(b'acknowledged')}")
    assert answer.content == b"acknowledged"


async def test_a_client_that_reconnects_takes_over_from_its_dead_connection(
    installation: Installation, developer: Client
) -> None:
    where = await begin(developer)
    stalled = asyncio.Event()

    async def half_open() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b"first", "more_body": True}
        stalled.set()
        await asyncio.Event().wait()

    wire = Wire(installation, developer)
    dead = asyncio.create_task(wire.send("PATCH", where, half_open()))
    await stalled.wait()
    answer = await asyncio.wait_for(developer("PUT", f"{where}?digest={sha256(b'firstsecond')}", b"second"), 20)
    assert answer.status_code == 201
    assert [message["status"] for message in await dead if "status" in message] == [409]


async def test_two_pushers_of_the_same_blob_both_succeed(installation: Installation, developer: Client) -> None:
    data = os.urandom(2_000_000)
    where = f"/v2/{REPOSITORY}/blobs/uploads/?digest={sha256(data)}"
    answers = await asyncio.gather(*(developer("POST", where, data) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [201] * 4
    async with installation.services.db.reading() as conn:
        count = await conn.scalar(text("select count(*) from blobs where digest = :d"), {"d": sha256(data)})
    assert count == 1
    assert (await developer("GET", f"/v2/{REPOSITORY}/blobs/{sha256(data)}")).content == data


async def test_a_full_disk_is_a_clear_error_and_leaves_nothing(
    installation: Installation, developer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await begin(developer)
    await developer("PATCH", where, b"kept")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "writev", full)
    answer = await developer("PATCH", where, b"more")
    assert answer.status_code == 507
    assert "full" in answer.json()["errors"][0]["message"]
    single = await developer("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={sha256(b'x')}", b"x")
    assert single.status_code == 507
    monkeypatch.undo()
    assert (await developer("GET", where)).headers["range"] == "0-3"
    assert (await developer("HEAD", f"/v2/{REPOSITORY}/blobs/{sha256(b'x')}")).status_code == 404
    assert (await developer("PUT", f"{where}?digest={sha256(b'kept')}", b"")).status_code == 201
    depot = installation.services.settings.data_dir / "depot"
    assert list((depot / "uploads").iterdir()) == []


async def test_only_pushers_learn_that_a_blob_is_here_and_only_where_it_is_linked(installation: Installation) -> None:
    await installation.project("ml")
    developer = await installation.user("dev", "ml", "developer")
    digest = await developer.blob("ml/one", b"weights")
    assert (await developer("HEAD", f"/v2/ml/one/blobs/{digest}")).status_code == 200
    assert (await developer("HEAD", f"/v2/ml/two/blobs/{digest}")).status_code == 404
    anonymous_mount = await developer("POST", f"/v2/ml/two/blobs/uploads/?mount={digest}", b"")
    assert anonymous_mount.status_code == 202


async def test_head_by_a_pusher_renews_the_lease(installation: Installation, developer: Client) -> None:
    digest = await developer.blob(REPOSITORY, b"data")
    async with installation.services.db.transaction() as conn:
        await conn.execute(text("update blobs set lease_until = now() where digest = :d"), {"d": digest})
    await developer("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")
    async with installation.services.db.reading() as conn:
        lease = await conn.scalar(text("select lease_until from blobs where digest = :d"), {"d": digest})
    assert lease is not None
    assert lease > installation.services.clock() + timedelta(hours=23)


@pytest.mark.parametrize(
    ("header", "status", "content_range", "expected"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=-99", 200, None, b"0123456789"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=0-0", 206, "bytes 0-0/10", b"0"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=5-2", 200, None, b"0123456789"),
        ("bytes=0-1,4-5", 200, None, b"0123456789"),
        ("lines=0-1", 200, None, b"0123456789"),
    ],
)
async def test_ranges_of_a_blob(
    developer: Client, header: str, status: int, content_range: str | None, expected: bytes | None
) -> None:
    digest = await developer.blob(REPOSITORY, b"0123456789")
    answer = await developer("GET", f"/v2/{REPOSITORY}/blobs/{digest}", Range=header)
    assert answer.status_code == status
    assert answer.headers.get("content-range") == content_range
    if expected is not None:
        assert answer.content == expected


async def test_an_empty_blob_is_served(developer: Client) -> None:
    digest = await developer.blob(REPOSITORY, b"")
    answer = await developer("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (answer.status_code, answer.content) == (200, b"")
