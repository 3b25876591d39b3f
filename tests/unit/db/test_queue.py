"""Jobs exist when the change that asked for them does; none is lost and none waits twice."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from berth.db import queue
from berth.db.engine import Database
from berth.db.locks import hold, hold_shared, lock_key, try_hold


async def jobs(database: Database) -> list[tuple[Any, ...]]:
    async with database.reading() as conn:
        rows = await conn.execute(
            text("SELECT task_name, queue_name, queueing_lock, args, status::text FROM procrastinate_jobs ORDER BY id")
        )
        return [tuple(row) for row in rows]


async def fetch(database: Database, *queues: str) -> int | None:
    """What a worker of these queues, or of all, does to get its next job (procrastinate's own function)."""
    async with database.transaction() as conn:
        worker = (await conn.execute(text("SELECT * FROM procrastinate_register_worker_v1()"))).scalar_one()
        query = text("SELECT id FROM procrastinate_fetch_job_v2(CAST(:queues AS varchar[]), :worker)")
        return (await conn.execute(query, {"queues": list(queues) or None, "worker": worker})).scalar_one()  # type: ignore[no-any-return]


async def test_a_job_is_written_with_the_change(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "scan_weights", queue="scan", digest="sha256:0", input_version="1")
        assert await jobs(database) == [], "nobody sees it before the commit"
    assert await jobs(database) == [
        ("scan_weights", "scan", None, {"digest": "sha256:0", "input_version": "1"}, "todo")
    ]


async def test_a_rolled_back_change_leaves_no_job(database: Database) -> None:
    try:
        async with database.transaction() as conn:
            await queue.defer(conn, "collect_garbage")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert await jobs(database) == []


async def test_with_a_key_one_job_waits_and_the_transaction_goes_on(database: Database) -> None:
    for _ in range(3):
        async with database.transaction() as conn:
            await queue.defer(conn, "collect_garbage", key="collect_garbage")
            await queue.defer(conn, "collect_garbage", key="collect_garbage")
            await conn.execute(text("INSERT INTO installation VALUES (gen_random_uuid()::text, '1')"))
    assert len(await jobs(database)) == 1
    async with database.reading() as conn:
        assert (await conn.execute(text("SELECT count(*) FROM installation"))).scalar_one() == 3


async def test_a_running_job_does_not_stand_for_a_new_one(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    assert await fetch(database) is not None
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    assert [job[4] for job in await jobs(database)] == ["doing", "todo"]


async def test_a_job_that_is_to_run_alone_waits_for_the_one_with_its_key(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "publish_version", key="k", alone=True)
    first = await fetch(database)
    assert first is not None
    async with database.transaction() as conn:
        await queue.defer(conn, "publish_version", key="k", alone=True)
        await queue.defer(conn, "publish_version", key="other", alone=True)
    assert await fetch(database) is not None, "another version's"
    assert await fetch(database) is None
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE id = :id"), {"id": first})
    assert await fetch(database) is not None


async def test_a_waiting_job_does_not_start_before_the_change_that_relies_on_it_is_there(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
        assert await fetch(database) is None, "it would not see what this transaction writes"
    assert await fetch(database) is not None


async def test_changes_that_rely_on_the_same_job_do_not_wait_for_each_other(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    async with database.transaction() as one, database.transaction() as other:
        await queue.defer(one, "collect_garbage", key="k")
        await asyncio.wait_for(queue.defer(other, "collect_garbage", key="k"), timeout=10)


async def test_changes_at_once_ask_for_one_job_together(database: Database) -> None:
    async def change() -> None:
        async with database.transaction() as conn:
            await queue.defer(conn, "collect_garbage", key="k")

    await asyncio.gather(*(change() for _ in range(12)))
    assert len(await jobs(database)) == 1


async def test_a_delayed_job_waits_for_its_time(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", delay_seconds=3600)
    assert await fetch(database) is None
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now()"))
    assert await fetch(database) is not None


async def test_a_job_that_waits_for_its_next_try_is_brought_forward_for_who_asks_for_that(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k", delay_seconds=3600)
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    assert await fetch(database) is None, "an outage is not to be asked about again and again"
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k", forward=True)
        assert await fetch(database) is None, "it would not see what this transaction writes"
    assert await fetch(database) is not None
    assert len(await jobs(database)) == 1


async def test_the_job_of_a_silent_worker_is_put_back_and_of_a_living_one_not(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage")
    job = await fetch(database)
    async with database.transaction() as conn:
        assert await queue.retry_stalled(conn, silent_seconds=30, max_attempts=5) == queue.Stalled((), ())
        await conn.execute(text("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '31 seconds'"))
        assert await queue.retry_stalled(conn, silent_seconds=30, max_attempts=5) == queue.Stalled((job,), ())  # type: ignore[arg-type]
    assert await fetch(database) == job


async def test_a_job_whose_worker_is_no_longer_known_is_put_back(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage")
    job = await fetch(database)
    async with database.transaction() as conn:
        await conn.execute(text("DELETE FROM procrastinate_workers"))
        assert (await queue.retry_stalled(conn, silent_seconds=30, max_attempts=5)).retried == (job,)


async def test_a_job_that_always_takes_its_worker_down_is_given_up(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "scan_weights", queue="scan")
    outcomes = []
    for _ in range(3):
        await fetch(database)
        async with database.transaction() as conn:
            await conn.execute(text("DELETE FROM procrastinate_workers"))
            found = await queue.retry_stalled(conn, silent_seconds=30, max_attempts=3)
        outcomes.append((len(found.retried), len(found.given_up)))
    assert outcomes == [(1, 0), (1, 0), (0, 1)]
    assert (await jobs(database))[0][4] == "failed"


async def test_a_stalled_job_gives_way_to_its_waiting_twin(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
    await fetch(database)
    async with database.transaction() as conn:
        await queue.defer(conn, "collect_garbage", key="k")
        await conn.execute(text("DELETE FROM procrastinate_workers"))
    async with database.transaction() as conn:
        await queue.retry_stalled(conn, silent_seconds=30, max_attempts=5)
    assert [job[4] for job in await jobs(database)] == ["aborted", "todo"]


async def test_old_finished_jobs_are_removed_failed_ones_later(database: Database) -> None:
    async with database.transaction() as conn:
        for status, hours in (("succeeded", 25), ("succeeded", 23), ("failed", 25), ("failed", 400), ("todo", 900)):
            job = (
                await conn.execute(
                    text(
                        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status)"
                        " VALUES ('short', 'x', '{}', CAST(:status AS procrastinate_job_status)) RETURNING id"
                    ),
                    {"status": status},
                )
            ).scalar_one()
            await conn.execute(
                text(
                    "INSERT INTO procrastinate_events (job_id, type, at)"
                    " VALUES (:job, 'succeeded', now() - make_interval(hours => :hours))"
                ),
                {"job": job, "hours": hours},
            )
            await conn.execute(
                text("DELETE FROM procrastinate_events WHERE job_id = :job AND type <> 'succeeded'"), {"job": job}
            )
    async with database.transaction() as conn:
        assert await queue.delete_finished(conn, older_than_hours=24, failed_older_than_hours=336) == 2
    assert [job[4] for job in await jobs(database)] == ["succeeded", "failed", "todo"]


async def test_the_state_of_the_queue_counts_what_waits_runs_and_failed(database: Database) -> None:
    async with database.transaction() as conn:
        await queue.defer(conn, "scan_weights", queue="scan")
        await queue.defer(conn, "scan_weights", queue="scan")
    await fetch(database)
    async with database.reading() as conn:
        state = await queue.state(conn)
    assert [(entry.queue, entry.status, entry.jobs) for entry in state] == [("scan", "doing", 1), ("scan", "todo", 1)]
    assert all(0 <= entry.oldest_seconds < 60 for entry in state)


async def test_a_named_lock_is_held_until_the_transaction_ends(database: Database) -> None:
    async with database.transaction() as one, database.transaction() as other:
        await hold(one, "blob:a")
        assert not await try_hold(other, "blob:a")
        assert await try_hold(other, "blob:b")
    async with database.transaction() as conn:
        assert await try_hold(conn, "blob:a")


async def test_shared_locks_stand_side_by_side_and_keep_an_exclusive_one_out(database: Database) -> None:
    async with database.transaction() as one, database.transaction() as other, database.transaction() as third:
        await hold_shared(one, "blob:a")
        await asyncio.wait_for(hold_shared(other, "blob:a"), timeout=10)
        assert not await try_hold(third, "blob:a")


def test_lock_keys_fit_postgresql_and_never_change() -> None:
    # python3 -c "import hashlib; print(int.from_bytes(hashlib.sha256(b'a').digest()[:8], 'big', signed=True))"
    assert lock_key("a") == -3848465438864589366
