"""Migrations: one transaction, safe to repeat and to run at once, and they make exactly the declared tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from berth.db import migrate
from berth.db.engine import DRIVER, parse_url
from berth.db.launch import wheel_binaries
from berth.db.tables import metadata
from berth.errors import SetupError, Unavailable
from tests.support.postgres import Databases
from tests.support.processes import ROOT


@pytest.fixture
def empty(databases: Databases) -> Iterator[str]:
    """Name of a database without tables."""
    name = databases.create(empty=True)
    yield name
    databases.drop(name)


def test_head_is_the_newest_revision_that_alembic_finds() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "src/berth/db/migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


def test_an_empty_database_has_no_revision_and_everything_to_do(databases: Databases, empty: str) -> None:
    assert migrate.current(databases.owner_url(empty)) is None
    assert len(migrate.pending(databases.owner_url(empty))) == 2


def test_an_upgrade_leaves_nothing_to_do_and_may_be_repeated(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    assert len(migrate.upgrade(url, "berth")) == 2
    assert migrate.current(url) == migrate.HEAD
    assert migrate.pending(url) == []
    assert migrate.upgrade(url, "berth") == []
    assert migrate.pending(databases.service_url(empty)) == [], "the service's role may ask too"


def test_upgrades_at_once_do_the_work_once(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: migrate.upgrade(url, "berth"), range(4)))
    assert sorted(len(steps) for steps in done) == [0, 0, 0, 2]


def test_a_failed_upgrade_leaves_nothing(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    with pytest.raises(SetupError, match="no role 'nobody_here'"):
        migrate.upgrade(url, "nobody_here")
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def schema(databases: Databases, name: str) -> list[str]:
    """What `pg_dump` says about the tables of Berth, sorted, since only their order may differ."""
    said = subprocess.run(
        [
            *(wheel_binaries() / "pg_dump", "--schema-only", "--no-owner", "--no-privileges"),
            *("--exclude-table=procrastinate_*", "--exclude-table=alembic_version", databases.owner_url(name)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(line.rstrip(",") for line in said.stdout.splitlines() if line and not line.startswith(("--", "\\")))


def test_the_migrated_schema_is_the_declared_one(databases: Databases, empty: str) -> None:
    migrate.upgrade(databases.owner_url(empty), "berth")
    declared = databases.create(empty=True)
    engine = create_engine(parse_url(databases.owner_url(declared)).set(drivername=DRIVER))
    metadata.create_all(engine)
    engine.dispose()
    queue = ("procrastinate", "CREATE FUNCTION", "CREATE TYPE")
    migrated = schema(databases, empty)
    assert [line for line in schema(databases, declared) if line not in migrated] == []
    tables = [line for line in migrated if line.startswith("CREATE TABLE") and not any(word in line for word in queue)]
    assert tables == [line for line in schema(databases, declared) if line.startswith("CREATE TABLE")]
    databases.drop(declared)


BEFORE_PROOF = """
insert into projects (name, policy, policy_hash) values ('lab', '{}', 'x');
insert into repositories (project_id, name) select id, 'lab/' || n from projects, unnest(array['found', 'ours']) n;
insert into blobs (digest, size, location) values ('away', 1, null), ('here', 1, 'somewhere');
insert into repository_blobs (repository_id, digest) select r.id, b.digest from repositories r, blobs b;
insert into versions (repository_id, version, digest, number, sort_key, prerelease, pushed_by)
    select id, '1.0.0', 'root', 1, '1', false, 'ada' from repositories;
insert into closure (repository_id, digest, root, is_manifest)
    select r.id, b.digest, 'root', false from repositories r, blobs b;
insert into placements (version_id, registry, repository, state, found)
    select v.id, 'hub', r.name, 'published', r.name = 'lab/found'
      from versions v join repositories r on r.id = v.repository_id;
"""


def test_what_an_import_only_saw_is_not_proven_after_the_upgrade_that_asks(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    with create_engine(parse_url(url).set(drivername=DRIVER)).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(ROOT / "src/berth/db/migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0008")
    with psycopg.connect(url) as raw:
        raw.execute(BEFORE_PROOF)
    assert migrate.upgrade(url, "berth")
    with psycopg.connect(url) as raw:
        rows = raw.execute(
            "select r.name, rb.digest, rb.proven from repository_blobs rb "
            "join repositories r on r.id = rb.repository_id order by 1, 2"
        ).fetchall()
    assert rows == [
        ("lab/found", "away", False),
        ("lab/found", "here", True),  # it has been fetched since
        ("lab/ours", "away", True),  # it was here, and left
        ("lab/ours", "here", True),
    ]


def test_a_database_of_a_newer_berth_is_refused(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    migrate.upgrade(url, "berth")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for ask in (migrate.pending, migrate.upgrade):
        with pytest.raises(SetupError, match="9999, newer"):
            ask(url)


def test_an_older_queue_gets_only_the_migrations_it_lacks(databases: Databases, empty: str) -> None:
    url = databases.owner_url(empty)
    migrate.upgrade(url, "berth")
    with psycopg.connect(url) as connection:
        # As procrastinate 3.3 left it: these functions came with 3.4.
        connection.execute("DROP FUNCTION procrastinate_retry_job_v2")
        connection.execute(
            "COMMENT ON TABLE procrastinate_jobs IS 'procrastinate 03.03.00_01_pre_priority_lock_fetch_job'"
        )
    assert migrate.pending(url) == [f"job queue: 03.03.00_01_pre_priority_lock_fetch_job → {migrate.queue_head()}"]


def test_the_service_role_may_use_what_later_upgrades_make(databases: Databases, empty: str) -> None:
    migrate.upgrade(databases.owner_url(empty), "berth")
    with psycopg.connect(databases.owner_url(empty)) as owner:
        owner.execute("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, n serial)")
    with psycopg.connect(databases.service_url(empty)) as service:
        service.execute("INSERT INTO later DEFAULT VALUES")


def test_a_role_without_rights_is_told_what_to_set(databases: Databases, empty: str) -> None:
    with pytest.raises(SetupError, match="may not") as refused:
        migrate.upgrade(databases.service_url(empty))
    assert "BERTH_MIGRATION_DATABASE_URL" in (refused.value.hint or "")


def test_a_server_that_is_away_and_a_wrong_password_are_told_apart(databases: Databases, empty: str) -> None:
    with pytest.raises(Unavailable):
        migrate.pending("postgresql://u:p@/d?host=/nowhere")
    with pytest.raises(SetupError) as refused:
        migrate.pending(databases.owner_url(empty).replace("berth_owner:", "berth_owner:no"))
    assert databases.owner_url(empty).split(":")[2].split("@")[0] not in str(refused.value)


def test_an_old_server_is_refused(databases: Databases, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "OLDEST_SERVER", 99)
    with pytest.raises(SetupError, match="Berth needs 99 or newer"):
        migrate.upgrade(databases.owner_url(empty), "berth")


def test_asking_imports_neither_alembic_nor_procrastinate(database_url: str) -> None:
    """A warm start asks at every start."""
    code = (
        "import sys; from berth.db import migrate; assert migrate.pending(sys.argv[1]) == [];"
        "print([m for m in ('alembic', 'procrastinate') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, database_url],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"
