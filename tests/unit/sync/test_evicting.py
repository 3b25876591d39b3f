"""What leaves a full depot, and what never does: the bytes of a version are always somewhere."""

from __future__ import annotations

import asyncio
import os

import pytest
from sqlalchemy import text

from berth.access.decide import Actor
from berth.access.registries import remove_registry
from berth.adapters.registries.folder import FolderRegistry
from berth.errors import BerthError, Conflict, RemoteError
from berth.jobs import collect_garbage, evict_cache, withdraw_version
from berth.settings import ServiceSettings
from berth.sync import runs
from berth.sync.cache import evict as evicting
from berth.sync.cache.evict import Evicted, evict
from tests.unit.sync.cache_lab import Cache, make_cache
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import push_image, sha256

ADMIN = Actor(name="admin", principal_id=None, kind="user", global_role="admin")


@pytest.fixture
async def cache(lab: Lab) -> Cache:
    made = await make_cache(lab)
    lab.faults.update(made.served)  # type: ignore[arg-type]
    lab.forward(days=2)  # the leases of the push have run out
    return made


async def let_go(lab: Lab, bound: int = 1) -> Evicted:
    return await evict(lab.database, lab.store, lab.places.open, bound=bound, now=lab.now)


async def here(lab: Lab, *blobs: bytes) -> list[bool]:
    rows = await lab.rows("select digest from blobs where location is not null")
    held = {row.digest for row in rows}
    files = {path.name for path in (lab.store.root / "blobs").rglob("*") if path.is_file()}
    found = [sha256(blob) in held for blob in blobs]
    assert found == [sha256(blob).partition(":")[2] in files for blob in blobs], "rows and files say the same"
    return found


async def test_nothing_leaves_within_the_bound(cache: Cache, lab: Lab) -> None:
    assert await let_go(lab, 10 * len(cache.layer)) == Evicted()
    assert await here(lab, cache.layer) == [True]


async def test_of_a_copy_that_was_found_there_the_bytes_are_compared(cache: Cache, lab: Lab) -> None:
    """Nobody here has seen what a registry calls so: its size alone proves nothing."""
    async with lab.database.transaction() as conn:
        await conn.execute(text("update placements set found = true"))
    files = [lab.folder / name / "lab/net/blobs/sha256" / cache.digest.partition(":")[2] for name in ("hub", "mirror")]
    for file in files:
        file.write_bytes(b"z" * len(cache.layer))
    await let_go(lab)
    assert await here(lab, cache.layer) == [True]
    files[1].write_bytes(cache.layer)
    await let_go(lab)
    assert await here(lab, cache.layer) == [False]


async def test_what_was_not_read_for_longest_leaves_first_and_comes_back_whole(cache: Cache, lab: Lab) -> None:
    second = b"second" * 100_000
    newer = await push_image(lab.depot, "lab/net", "1.1.0", layers=[second])
    await push_image(cache.served["hub"], "lab/net", "1.1.0", layers=[second])
    lab.forward(days=2)
    async with lab.database.transaction() as conn:
        await conn.execute(
            text(
                "insert into placements (version_id, registry, repository, state) "
                "select id, 'hub', 'lab/net', 'published' from versions where digest = :d"
            ),
            {"d": newer},
        )
        await conn.execute(text("update blobs set read_at = :t"), {"t": lab.now})
        await conn.execute(
            text("update blobs set read_at = read_at - interval '1 hour' where digest = :d"), {"d": cache.digest}
        )
    # The configs of both are small; one layer is enough.
    done = await let_go(lab, len(second) + 1000)
    assert (done.blobs, done.bytes) == (1, len(cache.layer))
    assert await here(lab, cache.layer, second) == [False, True]
    assert b"".join([p async for p in cache.fetcher().stream(cache.digest)]) == cache.layer


async def test_a_blob_stays_unless_a_registry_shows_its_copy_now(cache: Cache, lab: Lab) -> None:
    def dead(*_: object, **__: object) -> None:
        raise RemoteError("the line is dead")

    hidden = cache.served["hub"].root / "lab/net/blobs/sha256" / cache.digest.partition(":")[2]
    hidden.rename(hidden.with_suffix(".hidden"))
    cache.served["mirror"].blob_size = dead  # type: ignore[assignment]
    done = await let_go(lab)
    assert done.kept >= 1
    assert await here(lab, cache.layer) == [True]
    hidden.with_suffix(".hidden").rename(hidden)
    await let_go(lab)
    assert await here(lab, cache.layer) == [False]


@pytest.mark.parametrize(
    ("why", "statement"),
    [
        ("leased", "update blobs set lease_until = 'infinity'"),
        ("not published", "update placements set state = 'failed'"),
        ("registry forgotten", "delete from registries"),
        ("quarantined", "update verdicts set admitted = false"),
        ("verdict has run out", "update verdicts set valid_until = '2000-01-01'"),
        ("verdict of another policy", "update projects set policy_hash = 'other'"),
        (
            "another version, not published",
            """insert into versions (repository_id, version, digest, number, sort_key, prerelease, pushed_by)
            select repository_id, '9.0.0', digest, 9, 'x', false, 'dana' from versions""",
        ),
        (
            "held by a manifest of no version",
            """insert into closure (repository_id, digest, root, is_manifest)
            select repository_id, digest, 'sha256:child', false from closure where not is_manifest""",
        ),
        (
            "a report",
            """insert into evidence (digest, kind, status, tool, report, started_at, finished_at)
            select 'sha256:x', 'weights', 'ok', 't', digest, now(), now() from blobs""",
        ),
    ],
)
async def test_what_has_to_stay_stays(cache: Cache, lab: Lab, why: str, statement: str) -> None:
    async with lab.database.transaction() as conn:
        await conn.execute(text(statement))
    assert (await let_go(lab)).blobs == 0, why
    assert await here(lab, cache.layer) == [True]


async def test_a_crash_between_forgetting_and_removing_leaves_a_file_that_clean_up_finds(
    cache: Cache, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    async with lab.database.transaction() as conn:
        await conn.execute(text("update blobs set read_at = 'epoch' where digest = :d"), {"d": cache.digest})
    monkeypatch.setattr(evicting.queries, "is_away", killed)
    with pytest.raises(KeyboardInterrupt):
        await let_go(lab)
    assert await cache.location() is None
    # A reader is served from a registry, and its copy takes the place of the left one.
    monkeypatch.undo()
    path = lab.store.root / "blobs" / "sha256" / cache.digest[7:9] / cache.digest[7:]
    assert path.is_file()
    os.utime(path, (0, 0))
    await collect_garbage.run(lab.context)
    assert not path.exists()
    assert b"".join([p async for p in cache.fetcher().stream(cache.digest)]) == cache.layer


async def test_readers_never_notice_that_bytes_leave(cache: Cache, lab: Lab) -> None:
    fetcher = cache.fetcher()
    done = asyncio.Event()

    async def evictor() -> int:
        count = 0
        while not done.is_set():
            count += (await let_go(lab)).blobs
            await asyncio.sleep(0.01)
        return count

    async def reader() -> None:
        for _ in range(5):
            assert b"".join([p async for p in fetcher.stream(cache.digest)]) == cache.layer

    evictions = asyncio.create_task(evictor())
    await asyncio.gather(*(reader() for _ in range(4)))
    done.set()
    assert await evictions >= 2, "it did leave meanwhile"


async def test_the_job_obeys_the_setting(cache: Cache, lab: Lab) -> None:
    await evict_cache.run(lab.context)
    assert await here(lab, cache.layer) == [True], "0 keeps everything"
    object.__setattr__(lab.context, "settings", ServiceSettings(cache_bytes=1))
    await evict_cache.run(lab.context)
    assert await here(lab, cache.layer) == [False]


async def test_a_denied_version_comes_back_before_its_copies_go(cache: Cache, lab: Lab) -> None:
    await let_go(lab)
    assert await here(lab, cache.layer) == [False]
    await lab.decide("lab/net", cache.root, "revoked")
    [args] = await lab.jobs("withdraw_version")
    object.__setattr__(lab.context, "fetcher", cache.fetcher())
    await withdraw_version.run(lab.context, **args)
    assert await lab.rows("select state from placements") == [("withdrawn",), ("withdrawn",)]
    assert await here(lab, cache.layer) == [True]
    assert await cache.served["hub"].stat("lab/net", "1.0.0") is None


async def test_while_its_bytes_cannot_come_back_a_denied_version_is_not_taken_away(cache: Cache, lab: Lab) -> None:
    await let_go(lab)
    await lab.decide("lab/net", cache.root, "revoked")
    [args] = await lab.jobs("withdraw_version")

    def dead(_: int, __: bytes) -> bytes:
        raise RemoteError("the line is dead")

    for registry in cache.served.values():
        registry.tamper = dead
    object.__setattr__(lab.context, "fetcher", cache.fetcher())
    with pytest.raises(BerthError):
        await withdraw_version.run(lab.context, **args)
    rows = await lab.rows("select state, error from placements")
    assert [row.state for row in rows] == ["exposed", "exposed"]
    assert "only copy" in rows[0].error
    assert await cache.served["hub"].stat("lab/net", "1.0.0") is not None


async def test_a_registry_that_holds_the_only_copy_is_not_forgotten(cache: Cache, lab: Lab) -> None:
    await let_go(lab)
    async with lab.database.transaction() as conn:
        await remove_registry(conn, ADMIN, "mirror")
    async with lab.database.transaction() as conn:
        with pytest.raises(Conflict, match="only copy") as refused:
            await remove_registry(conn, ADMIN, "hub")
    assert refused.value.detail["bytes"] >= len(cache.layer)
    await cache.fetcher().ensure(cache.digest)
    for row in await lab.rows("select digest from blobs where location is null"):
        await cache.fetcher().ensure(row.digest)
    async with lab.database.transaction() as conn:
        await remove_registry(conn, ADMIN, "hub")


async def test_a_rule_that_removes_a_copy_brings_back_first_what_it_alone_holds(cache: Cache, lab: Lab) -> None:
    await let_go(lab)
    async with lab.database.transaction() as conn:
        await conn.execute(text("delete from placements where registry = 'hub'"))
    lab.faults["hub"] = FolderRegistry(lab.folder / "empty")  # type: ignore[assignment]
    await push_image(lab.faults["hub"], "lab/net", "2.0.0", layers=[b"other"])
    object.__setattr__(lab.places, "fetcher", cache.fetcher())
    rule = await lab.rule("clean", "hub", "mirror", delete="delete")
    async with lab.database.transaction() as conn:
        number = await runs.start(conn, rule, kind="run", by="admin")
    await runs.carry_out(lab.database, lab.places, number, now=lab.clock)
    assert await cache.served["mirror"].stat("lab/net", "1.0.0") is None
    assert await here(lab, cache.layer) == [True]
    assert await lab.rows("select registry, state from placements") == [("mirror", "withdrawn")]
