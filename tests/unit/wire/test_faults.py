"""What the client does when a registry, or something on the way, misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from berth.errors import (
    BerthError,
    BlobUnknown,
    Denied,
    IntegrityError,
    RemoteAuthError,
    RemoteError,
    StorageFull,
    TooLarge,
    Unavailable,
    VersionTaken,
)
from berth.oci.descriptor import Descriptor
from berth.wire import blobs, manifests, referrers, tags, transfer, uploads
from berth.wire.auth import Credential
from berth.wire.client import RegistryClient
from berth.wire.retry import RetryPolicy
from berth.wire.sending import Sending, Upload
from berth.wire.uploads import Arrival
from tests.unit.wire.peer import Answer, Asked, Peer, running

IMPATIENT = RetryPolicy(attempts=4, base_seconds=0.0, cap_seconds=0.0)
CONTENT = bytes(range(256)) * 40
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
MANIFEST_DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
INDEX = {"Content-Type": "application/vnd.oci.image.index.v1+json"}


def client_of(peer: Peer, **more: object) -> RegistryClient:
    return RegistryClient(peer.url, **{"retry": IMPATIENT, **more})  # type: ignore[arg-type]


async def read(client: RegistryClient, size: int | None = None) -> bytes:
    return await blobs.read_all(client, "ml/demo", DIGEST, limit=100_000, size=size)


def ranged(asked: Asked, *, cut_first: int | None = None) -> Answer:
    start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if start == 0:
        return Answer(200, CONTENT, cut=cut_first)
    return Answer(206, CONTENT[start:], {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"})


async def test_a_dropped_download_goes_on_with_a_range() -> None:
    async with running(lambda a: ranged(a, cut_first=4000)) as peer, client_of(peer) as client:
        assert await read(client) == CONTENT
        assert [a.headers.get("range") for a in peer.asked] == [None, "bytes=4000-"]


async def test_a_registry_without_ranges_is_read_from_the_start_and_the_known_part_skipped() -> None:
    def answer(_: Asked) -> Answer:
        return Answer(200, CONTENT, cut=4000 if len(peer.asked) == 1 else None)

    async with running(answer) as peer, client_of(peer) as client:
        assert await read(client) == CONTENT
        assert len(peer.asked) == 2


async def test_a_body_that_never_gets_whole_is_given_up() -> None:
    async with running(lambda _: Answer(200, CONTENT, cut=0)) as peer, client_of(peer) as client:
        with pytest.raises(Unavailable):
            await read(client)
        assert len(peer.asked) == IMPATIENT.attempts


async def test_a_range_from_elsewhere_is_refused() -> None:
    def answer(asked: Asked) -> Answer:
        if "range" in asked.headers:
            return Answer(206, CONTENT[5000:], {"Content-Range": f"bytes 5000-{len(CONTENT) - 1}/{len(CONTENT)}"})
        return Answer(200, CONTENT, cut=4000)

    async with running(answer) as peer, client_of(peer) as client:
        with pytest.raises(RemoteError, match="range"):
            await read(client)


async def test_a_resumed_tail_of_another_blob_is_noticed() -> None:
    def answer(asked: Asked) -> Answer:
        found = ranged(asked, cut_first=4000)
        return found if found.status == 200 else Answer(206, b"x" * len(found.body), found.headers)

    async with running(answer) as peer, client_of(peer) as client:
        with pytest.raises(IntegrityError):
            await read(client)


async def test_wrong_bytes_are_never_handed_out_whole(tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    async with running(lambda _: Answer(200, wrong)) as peer, client_of(peer) as client:
        received = b""
        with pytest.raises(IntegrityError, match="other bytes"):
            async for chunk in blobs.read(client, "ml/demo", DIGEST):
                received += chunk
        assert received != wrong
        with pytest.raises(IntegrityError):
            blob = Descriptor("application/octet-stream", DIGEST, len(CONTENT))
            await transfer.save_blob(client, "ml/demo", blob, tmp_path / "weights")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
async def test_another_length_than_the_manifest_says_is_refused(size: int) -> None:
    async with running(lambda _: Answer(200, CONTENT)) as peer, client_of(peer) as client:
        with pytest.raises(IntegrityError):
            await read(client, size=size)


async def test_a_manifest_with_other_bytes_is_refused() -> None:
    async with running(lambda _: Answer(200, MANIFEST + b" ", INDEX)) as peer, client_of(peer) as client:
        with pytest.raises(IntegrityError):
            await manifests.get(client, "ml/demo", MANIFEST_DIGEST)


async def test_a_wrong_digest_header_is_refused() -> None:
    lie = {**INDEX, "Docker-Content-Digest": DIGEST}
    async with running(lambda _: Answer(200, MANIFEST, lie)) as peer, client_of(peer) as client:
        with pytest.raises(IntegrityError):
            await manifests.get(client, "ml/demo", "1.0.0")


async def test_the_digest_of_a_tag_is_our_own_hash() -> None:
    async with running(lambda _: Answer(200, MANIFEST, INDEX)) as peer, client_of(peer) as client:
        assert (await manifests.get(client, "ml/demo", "1.0.0")).digest == MANIFEST_DIGEST


async def test_a_manifest_without_end_is_not_read_to_its_end() -> None:
    async with running(lambda _: Answer(200, b" " * 200_000, INDEX)) as peer, client_of(peer) as client:
        with pytest.raises(IntegrityError, match="more than 100000 bytes"):
            await manifests.get(client, "ml/demo", "1.0.0", max_bytes=100_000)


async def test_a_registry_that_stores_another_digest_is_not_believed() -> None:
    async with (
        running(lambda _: Answer(201, headers={"Docker-Content-Digest": DIGEST})) as peer,
        client_of(peer) as client,
    ):
        with pytest.raises(RemoteError, match="stored"):
            await manifests.put(client, "ml/demo", "1.0.0", MANIFEST)


async def test_an_endless_redirect_ends() -> None:
    async with running(lambda a: Answer(307, headers={"Location": a.target})) as peer, client_of(peer) as client:
        with pytest.raises(RemoteError, match="redirects more than 5 times"):
            await read(client)
        assert len(peer.asked) == 6


async def test_a_redirect_to_another_host_carries_no_credentials() -> None:
    async with running(lambda a: ranged(a)) as storage:
        there = storage.url.replace("127.0.0.1", "localhost") + "/bucket/blob?X-Signature=abc"
        async with (
            running(lambda _: Answer(307, headers={"Location": there})) as peer,
            client_of(peer, credential=Credential(token="secret"), allow_private=True) as client,
        ):
            assert await read(client) == CONTENT
            assert peer.asked[0].headers["authorization"] == "Bearer secret"
            assert storage.asked[0].target == "/bucket/blob?X-Signature=abc"
            assert "authorization" not in storage.asked[0].headers


async def test_a_redirect_to_another_port_carries_no_credentials() -> None:
    async with (
        running(lambda a: ranged(a)) as storage,
        running(lambda _: Answer(302, headers={"Location": f"{storage.url}/blob"})) as peer,
        client_of(peer, credential=Credential(token="secret")) as client,
    ):
        assert await read(client) == CONTENT
        assert "authorization" not in storage.asked[0].headers


async def test_a_redirect_to_a_private_host_is_refused() -> None:
    async with running(lambda _: Answer(200, CONTENT)) as inside:
        there = inside.url.replace("127.0.0.1", "localhost")
        async with (
            running(lambda _: Answer(307, headers={"Location": f"{there}/latest/meta-data"})) as peer,
            client_of(peer) as client,
        ):
            with pytest.raises(RemoteError, match="must not be reached"):
                await read(client)
        assert inside.asked == []


async def test_a_redirect_that_leaves_https_is_refused() -> None:
    async with RegistryClient("https://registry.example") as client:
        with pytest.raises(RemoteError, match="not https"):
            client.resolve(client.url("ml/demo", "blobs", DIGEST), "http://registry.example/blob")


async def test_a_busy_registry_is_asked_again_after_the_time_it_names() -> None:
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)

    def answer(asked: Asked) -> Answer:
        return Answer(429, headers={"Retry-After": "7"}) if len(peer.asked) < 3 else ranged(asked)

    patient = RetryPolicy(attempts=5, base_seconds=0.0, cap_seconds=60.0)
    async with running(answer) as peer, client_of(peer, retry=patient, sleep=noted) as client:
        assert await read(client) == CONTENT
        assert waits == [7.0, 7.0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_tried_again(status: int) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(status, headers={"Retry-After": "0"}) if len(peer.asked) == 1 else ranged(asked)

    async with running(answer) as peer, client_of(peer) as client:
        assert await read(client) == CONTENT
        assert len(peer.asked) == 2


async def test_a_reset_connection_is_tried_again() -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(0) if len(peer.asked) == 1 else ranged(asked)

    async with running(answer) as peer, client_of(peer) as client:
        assert await read(client) == CONTENT


async def test_failures_without_end_are_given_up() -> None:
    async with running(lambda _: Answer(503)) as peer, client_of(peer) as client:
        with pytest.raises(Unavailable):
            await read(client)
        assert len(peer.asked) == IMPATIENT.attempts


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "BLOB_UNKNOWN", BlobUnknown),
        (403, "DENIED", RemoteAuthError),
        (409, "TAG_IMMUTABLE", VersionTaken),
        (413, "SIZE_INVALID", TooLarge),
        (418, "", RemoteError),
    ],
)
async def test_a_refusal_is_not_tried_again_and_keeps_its_meaning(
    status: int, code: str, expected: type[Exception]
) -> None:
    body = b'{"errors":[{"code":"%s","message":"no"}]}' % code.encode() if code else b"<html>teapot</html>"
    async with running(lambda _: Answer(status, body)) as peer, client_of(peer) as client:
        with pytest.raises(expected):
            await read(client)
        assert len(peer.asked) == 1


# As docker-registry 2.8.2 answers when its disk is full, and when it may not write.
_STORAGE = (
    b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"filesystem","Enclosed":%s}}]}'
)


@pytest.mark.parametrize(
    ("inner", "full"),
    [
        (b'{"Op":"write","Path":"/data/x/startedat","Err":28}', True),
        (b'{"Op":"write","Path":"/data/x/startedat","Err":122}', True),
        (b'"write /data/x: no space left on device"', True),
        (b'{"Op":"open","Path":"/data/x/startedat","Err":13}', False),
        (b'{"Op":"open","Path":"/data/x/startedat","Err":281}', False),
    ],
)
async def test_a_full_disk_behind_a_500_is_called_so_with_the_next_step(inner: bytes, full: bool) -> None:
    async with running(lambda _: Answer(500, _STORAGE % inner)) as peer, client_of(peer) as client:
        with pytest.raises(BerthError) as caught:
            await read(client)
    assert isinstance(caught.value, StorageFull) is full
    assert ("Free some space" in str(caught.value)) is full


async def test_the_gates_reasons_arrive() -> None:
    body = (
        b'{"errors":[{"code":"DENIED","message":"ml/demo is not admitted. [unsigned] No signature.",'
        b'"detail":{"digest":"' + DIGEST.encode() + b'","hint":"Sign it.",'
        b'"reasons":[{"code":"unsigned","message":"No signature."}]}}]}'
    )
    async with running(lambda _: Answer(403, body)) as peer, client_of(peer) as client:
        with pytest.raises(Denied) as caught:
            await manifests.get(client, "ml/demo", "1.0.0")
    assert caught.value.reasons == [{"code": "unsigned", "message": "No signature."}]
    assert (caught.value.message, caught.value.hint) == ("ml/demo is not admitted.", "Sign it.")
    assert caught.value.detail["digest"] == DIGEST


# --- uploads ---------------------------------------------------------------------------------------------------------


class Store:
    """Takes uploads in sessions, as Distribution does; `trouble` may answer first."""

    def __init__(self, trouble: dict[tuple[str, int], Answer] | None = None) -> None:
        self.trouble = trouble or {}
        self.counts: dict[str, int] = {}
        self.session = b""
        self.blob: bytes | None = None

    def __call__(self, asked: Asked) -> Answer:
        number = self.counts[asked.method] = self.counts.get(asked.method, 0) + 1
        broken = self.trouble.get((asked.method, number))
        where = {"Location": "/v2/ml/demo/blobs/uploads/1?_state=a%2Fb"}
        match asked.method:
            case "HEAD":
                return Answer(404) if self.blob is None else Answer(200, self.blob)
            case "POST":
                self.session = b""
                return broken or Answer(202, headers=where)
            case "PATCH":
                start = int(asked.headers["content-range"].partition("-")[0])
                if start != len(self.session):
                    return Answer(416)
                self.session += asked.body
                return broken or Answer(202, headers=where)
            case "GET":
                return Answer(204, headers={**where, "Range": f"0-{len(self.session) - 1}"})
            case "PUT":
                self.session += asked.body
                if broken is not None:
                    return broken
                if "sha256:" + hashlib.sha256(self.session).hexdigest() != asked.query["digest"][0]:
                    return Answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
                self.blob = self.session
                return Answer(201, headers={"Location": "/v2/ml/demo/blobs/x"})
        return Answer(204)


async def content_from(offset: int) -> AsyncIterator[bytes]:
    for start in range(offset, len(CONTENT), 1000):
        yield CONTENT[start : start + 1000]


async def send(store: Store, chunk: int | None = None) -> tuple[Peer, Arrival, list[int]]:
    told: list[int] = []
    async with running(store) as peer, client_of(peer) as client:
        upload = Upload(DIGEST, len(CONTENT), content_from, chunk_bytes=chunk, sent=told.append)
        return peer, await uploads.put(client, "ml/demo", upload), told


async def test_the_location_is_used_as_it_came() -> None:
    peer, arrival, _ = await send(Store())
    assert arrival is Arrival.uploaded
    assert [a.method for a in peer.asked] == ["HEAD", "POST", "PUT"]
    assert peer.asked[-1].target == f"/v2/ml/demo/blobs/uploads/1?_state=a%2Fb&digest={DIGEST}"
    assert peer.asked[-1].headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize("answer", [Answer(0), Answer(500), Answer(503, headers={"Retry-After": "0"})])
async def test_a_broken_upload_starts_a_new_session(answer: Answer) -> None:
    store = Store({("PUT", 1): answer})
    peer, _, told = await send(store)
    assert store.blob == CONTENT
    assert [a.method for a in peer.asked] == ["HEAD", "POST", "PUT", "HEAD", "POST", "PUT"]
    assert sum(told) == len(CONTENT)


async def test_an_upload_whose_answer_was_lost_is_found_to_be_there() -> None:
    class Lossy(Store):
        def __call__(self, asked: Asked) -> Answer:
            answer = super().__call__(asked)
            return Answer(0) if asked.method == "PUT" else answer

    store = Lossy()
    peer, _, _ = await send(store)
    assert [a.method for a in peer.asked] == ["HEAD", "POST", "PUT", "HEAD"]


@pytest.mark.parametrize("answer", [Answer(0), Answer(502), Answer(416)])
async def test_a_lost_chunk_is_not_sent_blindly_again_but_asked_for(answer: Answer) -> None:
    # The registry kept the second chunk although its answer was lost.
    store = Store({("PATCH", 2): answer})
    peer, _, told = await send(store, chunk=3000)
    assert store.blob == CONTENT
    ranges = [a.headers["content-range"] for a in peer.asked if a.method == "PATCH"]
    assert ranges == ["0-2999", "3000-5999", "6000-8999", "9000-10239"]
    assert [a.method for a in peer.asked].count("GET") == 1
    assert sum(told) == len(CONTENT)


async def test_a_session_that_is_gone_starts_anew() -> None:
    class Forgetful(Store):
        def __call__(self, asked: Asked) -> Answer:
            if asked.method == "GET":
                return Answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
            return super().__call__(asked)

    store = Forgetful({("PATCH", 2): Answer(0)})
    peer, _, _ = await send(store, chunk=3000)
    assert store.blob == CONTENT
    assert [a.method for a in peer.asked].count("POST") == 2


async def test_a_refused_upload_is_not_repeated_and_its_session_is_cancelled() -> None:
    async with running(Store({("PUT", 1): Answer(413)})) as peer, client_of(peer) as client:
        with pytest.raises(TooLarge):
            await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), content_from))
    assert [a.method for a in peer.asked] == ["HEAD", "POST", "PUT", "DELETE"]


async def test_who_may_not_push_is_told_why_although_head_has_no_body() -> None:
    why = b'{"errors":[{"code":"DENIED","message":"Your role is reader."}]}'
    async with running(lambda a: Answer(403, b"" if a.method == "HEAD" else why)) as peer, client_of(peer) as client:
        with pytest.raises(RemoteAuthError, match="Your role is reader"):
            await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), content_from))
    assert [a.method for a in peer.asked] == ["HEAD", "POST"]


async def test_an_upload_is_not_sent_to_another_host_with_credentials() -> None:
    store = Store()
    async with running(store) as elsewhere:
        there = elsewhere.url.replace("127.0.0.1", "localhost") + "/upload/1"

        def answer(asked: Asked) -> Answer:
            return Answer(404) if asked.method == "HEAD" else Answer(202, headers={"Location": there})

        async with (
            running(answer) as peer,
            client_of(peer, credential=Credential(token="secret"), allow_private=True) as client,
        ):
            await uploads.put(client, "ml/demo", Upload(DIGEST, len(CONTENT), content_from))
    assert [a.method for a in elsewhere.asked] == ["PUT"]
    assert "authorization" not in elsewhere.asked[0].headers
    assert {a.headers["authorization"] for a in peer.asked} == {"Bearer secret"}


async def test_a_transfer_reads_no_more_than_a_few_pieces_ahead() -> None:
    opened = 0
    passed = 0

    async def endless(offset: int) -> AsyncIterator[bytes]:
        nonlocal opened
        for _ in range(4000):
            opened += 1
            yield b"\0" * 65536

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal passed
        await reader.readuntil(b"\r\n\r\n")
        passed = len(await reader.read(65536))
        gate.set()
        await closed.wait()
        writer.close()

    gate, closed = asyncio.Event(), asyncio.Event()
    size = 4000 * 65536
    server = await asyncio.start_server(slow, "127.0.0.1", 0, limit=65536)
    port = server.sockets[0].getsockname()[1]
    async with RegistryClient(f"http://127.0.0.1:{port}", retry=RetryPolicy(attempts=1)) as client:
        source = Sending(Upload(DIGEST, size, endless))

        async def put() -> None:
            url = client.url("ml/demo", "blobs", "uploads/1")
            headers = {"Content-Length": str(size)}
            async with client.exchange(
                "PUT", url, expect=(201,), scopes=(), headers=headers, body=lambda: source.pieces(0, size), repeat=False
            ):
                pass

        task = asyncio.create_task(put())
        await gate.wait()
        # The peer reads no further, so the sender stands still after what socket buffers take (a few MiB).
        before = -1
        while before != opened:
            before = opened
            for _ in range(50):
                await asyncio.sleep(0)
        assert opened < 400
        closed.set()
        with pytest.raises(Unavailable):
            await task
    server.close()


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_that_goes_on_elsewhere_is_refused() -> None:
    def answer(_: Asked) -> Answer:
        return Answer(200, b'{"tags":["a"]}', {"Link": '<http://localhost:1/v2/x/tags/list?last=a>; rel="next"'})

    async with running(answer) as peer, client_of(peer) as client:
        with pytest.raises(RemoteError, match="another host"):
            _ = [t async for t in tags.ls(client, "ml/demo")]


async def test_a_list_that_repeats_itself_ends() -> None:
    def answer(_: Asked) -> Answer:
        return Answer(200, b'{"tags":["a","b"]}', {"Link": '</v2/ml/demo/tags/list?last=b>; rel="next"'})

    async with running(answer) as peer, client_of(peer) as client:
        assert [t async for t in tags.ls(client, "ml/demo")] == ["a", "b"]


async def test_a_list_without_links_is_continued_by_its_last_tag() -> None:
    def answer(asked: Asked) -> Answer:
        last = asked.query.get("last", [""])[0]
        return Answer(200, {"": b'{"tags":["a","b"]}', "b": b'{"tags":["c"]}'}[last])

    async with running(answer) as peer, client_of(peer) as client:
        assert [t async for t in tags.ls(client, "ml/demo", page=2)] == ["a", "b", "c"]


async def test_no_tags_can_be_null() -> None:
    async with running(lambda _: Answer(200, b'{"tags":null}')) as peer, client_of(peer) as client:
        assert [t async for t in tags.ls(client, "ml/demo")] == []


async def test_referrers_come_from_the_api_where_there_is_one() -> None:
    def answer(asked: Asked) -> Answer:
        number = asked.query.get("page", ["1"])[0]
        digest = f"sha256:{number * 64}"
        body = (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":'
            b'"application/vnd.oci.image.manifest.v1+json","digest":"' + digest.encode() + b'","size":2,'
            b'"artifactType":"application/vnd.t' + number.encode() + b'"}]}'
        )
        more = {"Link": f'<{asked.path}?page=2>; rel="next"'} if number == "1" else {}
        return Answer(200, body, {**INDEX, **more})

    async with running(answer) as peer, client_of(peer) as client:
        found = await referrers.ls(client, "ml/demo", DIGEST)
        assert [d.digest for d in found] == [f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"]
        # The registry ignored the filter, so the client filters.
        chosen = await referrers.ls(client, "ml/demo", DIGEST, artifact_type="application/vnd.t2")
        assert [d.artifact_type for d in chosen] == ["application/vnd.t2"]


async def test_a_fallback_tag_with_something_else_under_it_is_not_overwritten() -> None:
    image = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}'

    def answer(asked: Asked) -> Answer:
        return Answer(200, image, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"})

    entry = Descriptor("application/vnd.oci.image.manifest.v1+json", DIGEST, 2)
    async with running(answer) as peer, client_of(peer) as client:
        with pytest.raises(RemoteError, match="not a list of referrers"):
            await referrers.add_to_tag(client, "ml/demo", DIGEST, entry)
        assert "PUT" not in {a.method for a in peer.asked}


async def test_a_referrer_that_another_client_overwrote_is_added_again() -> None:
    entry = Descriptor("application/vnd.oci.image.manifest.v1+json", DIGEST, 2)
    stored = b""
    lost = False

    def answer(asked: Asked) -> Answer:
        nonlocal stored, lost
        if asked.method == "PUT":
            stored, lost = (asked.body if lost else b""), True
            return Answer(201)
        return Answer(200, stored, INDEX) if stored else Answer(404)

    async with running(answer) as peer, client_of(peer) as client:
        await referrers.add_to_tag(client, "ml/demo", DIGEST, entry)
    assert [a.method for a in peer.asked] == ["GET", "PUT", "GET", "GET", "PUT", "GET"]
    assert DIGEST.encode() in stored
