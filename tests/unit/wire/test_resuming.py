"""A large blob whose upload breaks: it goes on where the registry says it is, in this process or in another one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from berth.errors import BerthError, Conflict, DigestInvalid, IntegrityError, RemoteError, Unavailable
from berth.wire import sessions, uploads
from berth.wire.client import RegistryClient
from berth.wire.retry import RetryPolicy
from berth.wire.sending import Upload
from berth.wire.uploads import Arrival
from tests.unit.wire.peer import Answer, Asked, Peer, running

IMPATIENT = RetryPolicy(attempts=4, base_seconds=0.0, cap_seconds=0.0)
CONTENT = bytes(range(256)) * 40
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
STEP = 3000
NOTHING: Callable[[Asked], Answer | None] = lambda _: None  # noqa: E731 - the twin of each trouble


@dataclass
class Store:
    """One registry with numbered sessions; `trouble` may answer instead."""

    trouble: Callable[[Asked], Answer | None] = NOTHING
    sessions: dict[str, bytes] = field(default_factory=dict)
    blob: bytes | None = None
    begun: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Answer:
        spoiled = self.trouble(asked)
        return self.answer(asked) if spoiled is None else spoiled

    def answer(self, asked: Asked) -> Answer:
        """As the specification says."""
        if asked.method == "HEAD":
            return Answer(404) if self.blob is None else Answer(200, self.blob)
        if asked.method == "POST":
            self.begun += 1
            self.sessions[str(self.begun)] = b""
            return Answer(202, headers={"Location": f"/v2/ml/demo/blobs/uploads/{self.begun}", **self.headers})
        name = asked.path.rpartition("/")[2]
        held = self.sessions.get(name)
        if held is None:
            return Answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        where = {"Location": asked.path, "Range": f"0-{max(0, len(held) - 1)}"}
        if asked.method == "GET":
            return Answer(204, headers=where)
        if asked.method == "DELETE":
            del self.sessions[name]
            return Answer(204)
        if asked.method == "PATCH":
            if not asked.headers["content-range"].startswith(f"{len(held)}-"):
                return Answer(416)
            self.sessions[name] = held + asked.body
            return Answer(202, headers=where)
        whole = self.sessions.pop(name) + asked.body
        if "sha256:" + hashlib.sha256(whole).hexdigest() != asked.query["digest"][0]:
            return Answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        self.blob = whole
        return Answer(201)


@dataclass
class Memory:
    """What a database would remember."""

    session: str | None = None
    offsets: list[int] = field(default_factory=list)
    let_pass: list[int] = field(default_factory=list)
    bytes_left: int = 0
    bytes_read_again: int = 0
    stop_after: int | None = None

    async def find(self) -> str | None:
        return self.session

    async def keep(self, session: str, offset: int) -> None:
        self.session = session
        self.offsets.append(offset)

    async def forget(self) -> None:
        self.session = None

    async def let(self, count: int) -> None:
        if self.stop_after is not None and len(self.let_pass) >= self.stop_after:
            raise Conflict("Somebody stopped it.")
        self.let_pass.append(count)

    def left(self, count: int) -> None:
        self.bytes_left += count

    async def reread(self, count: int) -> None:
        self.bytes_read_again += count


@dataclass
class Source:
    """Bytes that can be read from anywhere, and where they were."""

    content: bytes = CONTENT
    opened: list[int] = field(default_factory=list)

    async def at(self, offset: int) -> AsyncIterator[bytes]:
        self.opened.append(offset)
        for start in range(offset, len(self.content), 1000):
            yield self.content[start : start + 1000]


def client_of(peer: Peer) -> RegistryClient:
    return RegistryClient(peer.url, retry=IMPATIENT)


async def send(peer: Peer, memory: Memory | None, source: Source | None = None, *, or_whole: bool = True) -> list[int]:
    """One process that sends the blob; what it told of its progress."""
    told: list[int] = []
    upload = Upload(
        DIGEST,
        len(CONTENT),
        (source or Source()).at,
        chunk_bytes=STEP,
        sent=told.append,
        absent=True,
        keeper=memory,
        or_whole=or_whole,
    )
    async with client_of(peer) as client:
        assert await uploads.put(client, "ml/demo", upload) is Arrival.uploaded
    return told


def ranges(peer: Peer) -> list[str]:
    return [asked.headers["content-range"] for asked in peer.asked if asked.method == "PATCH"]


def methods(peer: Peer) -> str:
    return " ".join(asked.method for asked in peer.asked)


def begun_by_another(store: Store, memory: Memory, peer: Peer, sent: bytes) -> None:
    """As a process that was killed leaves it."""
    store.begun, store.sessions["1"] = 1, sent
    memory.session = f"{peer.url}/v2/ml/demo/blobs/uploads/1"


async def test_without_a_break_the_source_is_read_once_and_every_chunk_is_noted() -> None:
    store, memory, source = Store(), Memory(), Source()
    async with running(store) as peer:
        await send(peer, memory, source)
    assert store.blob == CONTENT
    assert methods(peer) == "POST PATCH PATCH PATCH PATCH PUT"
    assert (source.opened, memory.offsets, memory.session) == ([0], [3000, 6000, 9000, 10240], None)
    assert (memory.let_pass, memory.bytes_left) == ([3000, 3000, 3000, 1240], len(CONTENT))


@pytest.mark.parametrize("held", [1000, 3000, 7777])
async def test_another_process_sends_only_what_the_registry_lacks(held: int) -> None:
    store, memory, source = Store(), Memory(), Source()
    async with running(store) as peer:
        begun_by_another(store, memory, peer, CONTENT[:held])
        told = await send(peer, memory, source)
    assert store.blob == CONTENT
    assert ranges(peer)[0] == f"{held}-{min(held + STEP, len(CONTENT)) - 1}"
    assert (memory.bytes_left, memory.bytes_read_again) == (len(CONTENT) - held, held)
    # What is there is read once more, in one go with the rest, since its digest has to be known.
    assert (source.opened, sum(told), memory.session) == ([0], len(CONTENT), None)


async def test_a_session_with_everything_in_it_is_only_closed() -> None:
    store, memory = Store(), Memory()
    async with running(store) as peer:
        begun_by_another(store, memory, peer, CONTENT)
        await send(peer, memory)
    assert (store.blob, methods(peer), memory.bytes_left) == (CONTENT, "GET PUT", 0)


async def test_a_session_that_is_gone_is_forgotten_and_the_blob_starts_anew() -> None:
    store, memory = Store(), Memory()
    async with running(store) as peer:
        memory.session = f"{peer.url}/v2/ml/demo/blobs/uploads/9"
        await send(peer, memory)
    assert (store.blob, ranges(peer)[0], memory.bytes_read_again) == (CONTENT, "0-2999", 0)


async def test_a_session_at_a_host_that_no_longer_answers_does_not_keep_the_blob_from_arriving() -> None:
    """The registry has moved, or the storage behind it has."""
    store, memory = Store(), Memory("http://127.0.0.1:1/v2/ml/demo/blobs/uploads/1")
    async with running(store) as peer:
        await send(peer, memory)
    assert store.blob == CONTENT


async def test_wrong_bytes_in_an_old_session_are_refused_by_the_registry_and_the_next_try_is_whole() -> None:
    store, memory = Store(), Memory()
    async with running(store) as peer:
        begun_by_another(store, memory, peer, b"x" * 5000)
        with pytest.raises(DigestInvalid):
            await send(peer, memory)
        assert (store.blob, memory.session) == (None, None)
        await send(peer, memory)
    assert store.blob == CONTENT


@pytest.mark.parametrize("held", [5000, len(CONTENT)])
async def test_a_source_that_changed_before_the_break_never_becomes_a_blob(held: int) -> None:
    changed = Source(b"y" + CONTENT[1:])
    store, memory = Store(), Memory()
    async with running(store) as peer:
        begun_by_another(store, memory, peer, CONTENT[:held])
        with pytest.raises(IntegrityError, match="changed while it was sent"):
            await send(peer, memory, changed)
    # The registry would have taken it, and was never asked to: no PUT.
    assert (store.blob, store.sessions, memory.session) == (None, {}, None)
    assert "PUT" not in methods(peer)


async def test_in_one_process_a_broken_chunk_goes_on_at_the_byte_that_arrived() -> None:
    broken = 0

    def half(asked: Asked) -> Answer | None:
        nonlocal broken
        if asked.method == "PATCH" and asked.headers["content-range"].startswith("3000-") and not broken:
            broken = 1
            store.sessions["1"] += asked.body[:1234]
            return Answer(0)
        return None

    store, memory, source = Store(half), Memory(), Source()
    async with running(store) as peer:
        told = await send(peer, memory, source)
    assert store.blob == CONTENT
    assert ranges(peer) == ["0-2999", "3000-5999", "4234-7233", "7234-10233", "10234-10239"]
    assert (source.opened, memory.bytes_read_again, sum(told)) == ([0, 4234], 0, len(CONTENT))
    # What went in vain is counted too.
    assert memory.bytes_left == len(CONTENT) + 3000 - 1234


async def test_a_refusal_after_a_break_means_the_session_and_not_chunks() -> None:
    answers = [Answer(416), Answer(0)]

    def troubled(asked: Asked) -> Answer | None:
        return answers.pop() if answers and asked.method == "PATCH" and len(store.sessions["1"]) == 3000 else None

    store, memory = Store(troubled), Memory()
    async with running(store) as peer:
        await send(peer, memory)
    assert methods(peer) == "POST PATCH PATCH GET PATCH GET PATCH PATCH PATCH PUT"
    assert (store.blob, peer.asked[-1].body) == (CONTENT, b"")


async def test_a_session_that_was_lost_is_forgotten_even_if_none_follows() -> None:
    def away(asked: Asked) -> Answer | None:
        if asked.method == "PATCH" and len(store.sessions.get("1", b"")) == 6000:
            store.sessions.clear()
            return Answer(0)
        return Answer(403) if asked.method == "POST" and store.begun else None

    store, memory = Store(away), Memory()
    async with running(store) as peer:
        with pytest.raises(RemoteError):
            await send(peer, memory)
    assert memory.session is None


async def test_a_registry_that_loses_its_session_at_every_break_is_given_up_in_the_end() -> None:
    """Distribution before 3.0 answers 404 once a PATCH broke."""

    def losing(asked: Asked) -> Answer | None:
        if asked.method == "PATCH" and asked.headers["content-range"].startswith("6000-"):
            store.sessions.clear()
            return Answer(0)
        return None

    store, memory = Store(losing), Memory()
    async with running(store) as peer:
        with pytest.raises(Unavailable):
            await send(peer, memory)
        assert len([r for r in ranges(peer) if r.startswith("6000-")]) == IMPATIENT.attempts
        store.trouble = NOTHING
        await send(peer, memory)
    assert store.blob == CONTENT


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_session_outlives_a_registry_that_is_away_if_somebody_remembers_it(remembers: bool) -> None:
    def away(asked: Asked) -> Answer | None:
        return Answer(0) if asked.method in ("PATCH", "GET") and len(store.sessions["1"]) >= 6000 else None

    store, memory = Store(away), Memory() if remembers else None
    async with running(store) as peer:
        with pytest.raises(Unavailable):
            await send(peer, memory)
        assert memory is None or memory.session is not None
        assert "DELETE" not in methods(peer)
        store.trouble = NOTHING
        peer.asked.clear()
        await send(peer, memory)
    assert (store.blob, ranges(peer)[0]) == (CONTENT, "6000-8999" if remembers else "0-2999")


async def test_who_stops_an_upload_ends_its_session() -> None:
    store, memory = Store(), Memory(stop_after=2)
    async with running(store) as peer:
        with pytest.raises(Conflict):
            await send(peer, memory)
    assert (methods(peer), store.sessions, memory.session) == ("POST PATCH PATCH DELETE", {}, None)


@pytest.mark.parametrize("answer", [Answer(405), Answer(416), Answer(400), Answer(201), Answer(501)])
async def test_a_registry_that_refuses_chunks_gets_the_blob_in_one_request(answer: Answer) -> None:
    store, memory = Store(lambda asked: answer if asked.method == "PATCH" else None), Memory()
    async with running(store) as peer:
        await send(peer, memory)
        assert methods(peer) == "POST PATCH DELETE POST PUT"
        assert (store.blob, memory.session) == (CONTENT, None)
        # Where somebody chose chunks, a registry that does not take them is an error.
        store.blob = None
        with pytest.raises(BerthError):
            await send(peer, memory, or_whole=False)
    assert store.blob is None


@pytest.mark.parametrize(("status", "error"), [(403, RemoteError), (413, BerthError)])
async def test_a_refusal_for_another_reason_is_not_tried_in_one_request(status: int, error: type[BerthError]) -> None:
    store = Store(lambda asked: Answer(status) if asked.method == "PATCH" else None)
    async with running(store) as peer:
        with pytest.raises(error):
            await send(peer, Memory())
    assert "PUT" not in methods(peer)


async def test_the_fewest_bytes_that_a_registry_takes_in_a_chunk_are_kept() -> None:
    store = Store(headers={"OCI-Chunk-Min-Length": "5000"})
    async with running(store) as peer:
        await send(peer, Memory())
    assert (store.blob, ranges(peer)) == (CONTENT, ["0-4999", "5000-9999", "10000-10239"])


def silent_at(store: Store, *methods: str, reached: asyncio.Event) -> Callable[[Asked], Awaitable[Answer]]:
    """The store, which never answers these methods."""

    async def answer(asked: Asked) -> Answer:
        if asked.method in methods:
            reached.set()
            await asyncio.Event().wait()
        return store(asked)

    return answer


@pytest.mark.parametrize("chunk_bytes", [None, STEP])
async def test_an_upload_that_is_cancelled_and_that_nobody_remembers_ends_its_session(chunk_bytes: int | None) -> None:
    store, reached = Store(), asyncio.Event()
    async with running(silent_at(store, "PUT", "PATCH", reached=reached)) as peer, client_of(peer) as client:
        upload = Upload(DIGEST, len(CONTENT), Source().at, chunk_bytes=chunk_bytes, absent=True)
        sending = asyncio.create_task(uploads.put(client, "ml/demo", upload))
        await reached.wait()
        assert store.sessions
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert (store.sessions, store.blob) == ({}, None)


async def test_a_registry_that_says_nothing_does_not_keep_a_cancelled_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ABANDON_SECONDS", 0.05)
    store, reached = Store(), asyncio.Event()
    async with running(silent_at(store, "PUT", "DELETE", reached=reached)) as peer, client_of(peer) as client:
        upload = Upload(DIGEST, len(CONTENT), Source().at, absent=True)
        sending = asyncio.create_task(uploads.put(client, "ml/demo", upload))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sending, 10)
    assert peer.asked[-1].method == "DELETE"


async def test_a_process_that_ends_leaves_its_session_for_the_next_one() -> None:
    reached = asyncio.Event()

    async def slow(asked: Asked) -> Answer:
        if asked.method == "PATCH" and asked.headers["content-range"].startswith("6000-"):
            reached.set()
            await asyncio.Event().wait()
        return store(asked)

    store, memory = Store(), Memory()
    async with running(slow) as peer:
        first = asyncio.create_task(send(peer, memory))
        await reached.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert memory.session is not None
    async with running(store) as peer:
        memory.session = peer.url + memory.session[memory.session.index("/v2") :]
        await send(peer, memory)
    assert (store.blob, ranges(peer)[0]) == (CONTENT, "6000-8999")
