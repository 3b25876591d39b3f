"""Transactions commit or vanish; a database that leaves costs moments, never a wedged pool."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from berth.db.embedded import EmbeddedPostgres
from berth.db.engine import Database
from berth.errors import SetupError, Unavailable
from tests.support.postgres import FAST


async def note(database: Database, key: str) -> None:
    async with database.transaction() as conn:
        await conn.execute(text("INSERT INTO installation (key, value) VALUES (:key, '1')"), {"key": key})


async def keys(database: Database) -> list[str]:
    async with database.reading() as conn:
        return list((await conn.execute(text("SELECT key FROM installation ORDER BY key"))).scalars())


async def test_a_block_that_ends_is_committed(database: Database) -> None:
    await note(database, "a")
    assert await keys(database) == ["a"]


async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    async def broken() -> None:
        async with database.transaction() as conn:
            await conn.execute(text("INSERT INTO installation (key, value) VALUES ('a', '1')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert await keys(database) == []


async def test_the_service_runs_as_the_role_that_owns_nothing(database: Database) -> None:
    async with database.reading() as conn:
        assert (await conn.execute(text("SELECT current_user"))).scalar_one() == "berth"
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.transaction() as conn:
            await conn.execute(text("CREATE TABLE mine ()"))


async def test_the_audit_log_cannot_be_rewritten(database: Database) -> None:
    async with database.transaction() as conn:
        await conn.execute(text("INSERT INTO audit (action, outcome) VALUES ('version.delete', 'done')"))
    for rewrite in ("UPDATE audit SET action = 'nothing'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.transaction() as conn:
                await conn.execute(text(rewrite))


async def test_a_mistake_of_ours_is_no_unavailability(database: Database) -> None:
    with pytest.raises(ProgrammingError):
        async with database.reading() as conn:
            await conn.execute(text("SELECT * FROM no_such_table"))


async def test_statements_have_a_time_limit(database_url: str) -> None:
    impatient = Database(database_url, statement_timeout_ms=50)
    with pytest.raises(Unavailable, match="too long"):
        async with impatient.transaction() as conn:
            await conn.execute(text("SELECT pg_sleep(60)"))
    await impatient.close()


async def test_options_of_the_url_are_kept(database_url: str) -> None:
    custom = Database(f"{database_url}&options=-c%20work_mem%3D7MB", statement_timeout_ms=1234)
    async with custom.reading() as conn:
        assert (await conn.execute(text("SHOW work_mem"))).scalar_one() == "7MB"
        assert (await conn.execute(text("SHOW statement_timeout"))).scalar_one() == "1234ms"
    await custom.close()


async def test_deadlocked_transactions_end_with_unavailable_and_one_wins(database: Database) -> None:
    for key in ("a", "b"):
        await note(database, key)
    both_hold_one = asyncio.Barrier(2)

    async def take(first: str, second: str) -> None:
        update = text("UPDATE installation SET value = '2' WHERE key = :key")
        async with database.transaction() as conn:
            await conn.execute(update, {"key": first})
            await both_hold_one.wait()
            await conn.execute(update, {"key": second})

    outcomes = await asyncio.gather(take("a", "b"), take("b", "a"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "Unavailable"]


async def test_a_connection_closed_by_the_server_is_replaced_unnoticed(
    database: Database, postgres: EmbeddedPostgres
) -> None:
    async with database.reading() as conn:
        backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    with psycopg.connect(postgres.superuser_url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
    for _ in range(3):
        assert await keys(database) == []


async def test_a_transaction_in_flight_when_the_server_goes_ends_with_unavailable(
    database: Database, postgres: EmbeddedPostgres
) -> None:
    async def interrupted() -> None:
        async with database.transaction() as conn:
            backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await conn.execute(text("INSERT INTO installation (key, value) VALUES ('a', '1')"))
            with psycopg.connect(postgres.superuser_url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
            await conn.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await interrupted()
    assert await keys(database) == []


async def test_a_restarted_database_is_used_again_without_a_failed_request(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", options=FAST) as server:
        database = Database(server.service_url)

        async def answer() -> int:
            async with database.reading() as conn:
                return int((await conn.execute(text("SELECT 42"))).scalar_one())

        assert [await answer(), *await asyncio.gather(*(answer() for _ in range(5)))] == [42] * 6
        server.stop()
        with pytest.raises(Unavailable, match="not there"):
            await answer()
        server.start()
        assert await asyncio.gather(*(answer() for _ in range(10))) == [42] * 10
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        while server.poll() is None:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await answer()
        server.start()
        assert await answer() == 42
        await database.close()


async def test_when_all_connections_are_busy_the_answer_is_unavailable(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("berth.db.engine.POOL_TIMEOUT_SECONDS", 0.05)
    narrow = Database(database_url, pool_size=1)
    async with narrow.reading():
        with pytest.raises(Unavailable, match="busy"):
            async with narrow.reading():
                pass
    await narrow.close()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "no url with secret"])
def test_an_unusable_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SetupError) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


async def test_who_is_cancelled_while_a_connection_is_opened_leaves_none_at_the_server(
    database_url: str, postgres: EmbeddedPostgres
) -> None:
    def clients() -> int:
        with psycopg.connect(postgres.superuser_url, autocommit=True) as admin:
            row = admin.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    before = clients()
    left = []
    for steps in range(1, 40):
        database = Database(database_url, pool_size=1)
        asking = asyncio.ensure_future(keys(database))
        for _ in range(steps):
            # A turn of the loop that looks at its sockets too.
            await asyncio.sleep(0.0005)
        asking.cancel()
        # What was raised is kept, as a task that is waited for later would.
        left.append((await asyncio.gather(asking, return_exceptions=True))[0])
        await database.close()
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in left)
    for _ in range(100):
        if clients() <= before:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{clients() - before} connections are left at the server")
