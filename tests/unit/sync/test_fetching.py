"""Bytes that are at registries only: one fetch, verified, from the next registry when one fails."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest
from sqlalchemy import text

from berth.errors import BlobUnknown, IntegrityError, RemoteError, Unavailable
from berth.sync.cache import fetch
from berth.sync.cache.fetcher import UNATTENDED, Fetcher
from tests.unit.sync.cache_lab import MIB, Cache, make_cache
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import push_image, sha256


@pytest.fixture
async def cache(lab: Lab) -> Cache:
    made = await make_cache(lab)
    await made.forget()
    return made


async def read(fetcher: Fetcher, digest: str) -> bytes:
    return b"".join([piece async for piece in fetcher.stream(digest)])


async def test_twenty_readers_of_one_blob_cause_one_fetch(cache: Cache) -> None:
    fetcher = cache.fetcher()
    got = await asyncio.gather(*(read(fetcher, cache.digest) for _ in range(20)))
    assert all(body == cache.layer for body in got)
    assert [registry.asked for registry in cache.served.values()] == [[(cache.digest, 0)], []]
    assert await cache.location() is not None
    assert cache.files() == [], "the upload has become the blob"


async def test_a_reader_has_bytes_before_the_last_ones_have_come_and_a_second_one_catches_up(cache: Cache) -> None:
    go = asyncio.Event()

    async def slow(at: int, piece: bytes) -> bytes:
        if at >= 2 * MIB:
            await go.wait()
        return piece

    cache.served["hub"].tamper = slow
    fetcher = cache.fetcher()
    bodies = [bytearray(), bytearray()]
    for body in bodies:
        async with aclosing(fetcher.stream(cache.digest)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= MIB:
                    break
        assert cache.layer.startswith(bytes(body)), "and the second one reads what the first one's fetch brought"
    go.set()
    assert await read(fetcher, cache.digest) == cache.layer
    assert cache.served["hub"].asked == [(cache.digest, 0)], "a reader who leaves does not end the fetch for others"


async def test_the_end_is_held_back_until_the_digest_agrees_and_a_liar_is_a_broken_answer(cache: Cache) -> None:
    last = len(cache.layer) - 17
    cache.served["hub"].tamper = lambda at, piece: piece if at + len(piece) <= last else piece[:-1] + b"!"
    fetcher = cache.fetcher()
    seen = bytearray()
    with pytest.raises(IntegrityError):
        async for piece in fetcher.stream(cache.digest):
            seen += piece
    assert len(seen) <= len(cache.layer) - MIB
    # For the next reader the other registry is asked, at once and from the first byte on.
    assert await read(fetcher, cache.digest) == cache.layer
    assert cache.served["mirror"].asked == [(cache.digest, 0)]
    assert fetcher.health.order(["hub", "mirror"]) == ["mirror", "hub"]
    assert cache.files() == []


async def test_nothing_of_a_liar_is_kept_when_there_is_no_other(cache: Cache, lab: Lab) -> None:
    for registry in cache.served.values():
        registry.tamper = lambda _, piece: bytes(len(piece))
    fetcher = cache.fetcher()
    for _ in range(2):
        with pytest.raises((IntegrityError, Unavailable)):
            await read(fetcher, cache.digest)
    with pytest.raises((IntegrityError, Unavailable)):
        await fetcher.ensure(cache.digest)
    assert await cache.location() is None
    assert cache.files() == []
    assert [path for path in (lab.store.root / "blobs").rglob("*") if path.name == cache.digest.partition(":")[2]] == []


async def test_who_has_seen_nothing_goes_on_with_the_next_registry_unnoticed(lab: Lab) -> None:
    cache = await make_cache(lab, 1000)  # all of it is held back
    await cache.forget()
    cache.served["hub"].tamper = lambda _, piece: bytes(len(piece))
    assert await read(cache.fetcher(), cache.digest) == cache.layer
    assert [len(registry.asked) for registry in cache.served.values()] == [1, 1]


async def test_where_one_registry_breaks_off_the_next_goes_on_from_there(cache: Cache) -> None:
    def broken(at: int, piece: bytes) -> bytes:
        if at >= 2 * MIB:
            raise RemoteError("the line is dead")
        return piece

    cache.served["hub"].tamper = broken
    assert await read(cache.fetcher(), cache.digest) == cache.layer
    assert cache.served["mirror"].asked == [(cache.digest, 2 * MIB)]


async def test_a_registry_that_falls_silent_is_given_up_for_the_next(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(at: int, piece: bytes) -> bytes:
        if at >= 2 * MIB:
            await asyncio.Event().wait()
        return piece

    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.2)
    cache.served["hub"].tamper = silent
    assert await read(cache.fetcher(), cache.digest) == cache.layer
    assert cache.served["mirror"].asked == [(cache.digest, 2 * MIB)]


async def test_when_nobody_gives_it_the_answer_says_who_was_asked_and_when_to_come_back(cache: Cache) -> None:
    def dead(_: int, __: bytes) -> bytes:
        raise RemoteError("the line is dead")

    for registry in cache.served.values():
        registry.tamper = dead
    fetcher = cache.fetcher()
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await read(fetcher, cache.digest)
    told = refused.value.detail["registries"]
    assert [(entry["registry"], entry["reason"]) for entry in told] == [
        ("hub", "the line is dead"),
        ("mirror", "the line is dead"),
    ]
    assert 1 <= refused.value.detail["retry_after"] <= 5
    # Two failures in a row: from now on they are left alone for a while.
    asked = [len(registry.asked) for registry in cache.served.values()]
    with pytest.raises(Unavailable):
        await read(fetcher, cache.digest)
    assert [len(registry.asked) for registry in cache.served.values()] == asked


async def test_another_process_follows_the_same_fetch(cache: Cache) -> None:
    go = asyncio.Event()

    async def slow(at: int, piece: bytes) -> bytes:
        if at >= 2 * MIB:
            await go.wait()
        return piece

    cache.served["hub"].tamper = slow
    first, second = cache.fetcher(), cache.fetcher()
    one = asyncio.create_task(read(first, cache.digest))
    while not cache.served["hub"].asked:
        await asyncio.sleep(0.01)
    two = asyncio.create_task(read(second, cache.digest))
    three = asyncio.create_task(second.ensure(cache.digest))
    await asyncio.sleep(0.5)
    go.set()
    assert await one == await two == cache.layer
    assert await three == await cache.location()
    assert [registry.asked for registry in cache.served.values()] == [[(cache.digest, 0)], []]


async def test_what_a_dead_process_has_gathered_is_gone_on_with(cache: Cache, lab: Lab) -> None:
    upload = await lab.store.create_upload("fetch-of-the-dead")
    (lab.store.root / upload).write_bytes(cache.layer[: 2 * MIB] + b"and what was not written down")
    async with lab.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into fetches (digest, holder, location, received, until) "
                "values (:d, 'dead', :l, :n, clock_timestamp() + interval '1 second')"
            ),
            {"d": cache.digest, "l": upload, "n": 2 * MIB},
        )
    assert await read(cache.fetcher(), cache.digest) == cache.layer
    assert cache.served["hub"].asked == [(cache.digest, 2 * MIB)]
    assert cache.files() == []


async def test_what_a_dead_process_left_is_no_reason_to_blame_anybody_else(cache: Cache, lab: Lab) -> None:
    upload = await lab.store.create_upload("fetch-of-the-dead")
    (lab.store.root / upload).write_bytes(bytes(2 * MIB))
    async with lab.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into fetches (digest, holder, location, received, until) "
                "values (:d, 'dead', :l, :n, clock_timestamp())"
            ),
            {"d": cache.digest, "l": upload, "n": 2 * MIB},
        )
    fetcher = cache.fetcher()
    await fetcher.ensure(cache.digest)
    assert [registry.asked for registry in cache.served.values()] == [[(cache.digest, 2 * MIB)], [(cache.digest, 0)]]
    assert fetcher.health.state("hub").trusted


async def test_all_that_a_dead_process_lacked_was_the_last_step(cache: Cache, lab: Lab) -> None:
    upload = await lab.store.create_upload("fetch-of-the-dead")
    (lab.store.root / upload).write_bytes(cache.layer)
    async with lab.database.transaction() as conn:
        await conn.execute(
            text("insert into fetches values (:d, 'dead', :l, :n, clock_timestamp())"),
            {"d": cache.digest, "l": upload, "n": len(cache.layer)},
        )
    assert await read(cache.fetcher(), cache.digest) == cache.layer
    assert [registry.asked for registry in cache.served.values()] == [[], []]


async def test_of_fetches_without_readers_only_a_few_are_finished(lab: Lab) -> None:
    cache = await make_cache(lab, 100_000)
    blobs = [b"blob %d" % number * 1000 for number in range(UNATTENDED + 3)]
    root = await push_image(lab.depot, "lab/net", "2.0.0", layers=blobs)
    await push_image(cache.served["hub"], "lab/net", "2.0.0", layers=blobs)
    async with lab.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state) "
                "select id, 'hub', 'lab/net', 'published' from versions where digest = :d"
            ),
            {"d": root},
        )
    for blob in blobs:
        await cache.forget(sha256(blob))
    go = asyncio.Event()

    async def slow(_: int, piece: bytes) -> bytes:
        await go.wait()
        return piece

    cache.served["hub"].tamper = slow
    fetcher = cache.fetcher()
    readers = [asyncio.create_task(read(fetcher, sha256(blob))) for blob in blobs]
    while len(cache.served["hub"].asked) < len(blobs):
        await asyncio.sleep(0.01)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    go.set()
    names = {sha256(blob) for blob in blobs}
    for _ in range(500):
        rows = await lab.rows("select digest from blobs where location is not null")
        if len(names & {row.digest for row in rows}) == UNATTENDED and cache.files() == []:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("that many were finished, and nothing of the others is left")


async def test_a_scan_has_its_content_here_and_it_stays(cache: Cache, lab: Lab) -> None:
    places = await cache.fetcher().hold([cache.digest], for_=timedelta(minutes=20))
    assert places == {cache.digest: await cache.location()}
    lease = (await lab.rows(f"select lease_until from blobs where digest = '{cache.digest}'"))[0][0]
    assert lease >= lab.now + timedelta(minutes=20)


async def test_the_depot_as_a_source_gives_what_it_does_not_have_itself(cache: Cache, lab: Lab) -> None:
    lab.places.fetcher = cache.fetcher()
    depot = await lab.places.open("depot")
    assert b"".join([piece async for piece in depot.blob("lab/net", cache.digest)]) == cache.layer
    await cache.forget()
    assert b"".join([piece async for piece in depot.blob("lab/net", cache.digest, offset=MIB)]) == cache.layer[MIB:]


async def test_a_blob_that_nothing_needs_any_more_is_not_kept(cache: Cache, lab: Lab) -> None:
    async def removed(_: int, piece: bytes) -> bytes:
        async with lab.database.transaction() as conn:
            await conn.execute(text("update blobs set state = 'deleting' where digest = :d"), {"d": cache.digest})
        return piece

    cache.served["hub"].tamper = removed
    with pytest.raises(BlobUnknown):
        await cache.fetcher().ensure(cache.digest)
    assert await cache.location() is None
    assert cache.files() == []
