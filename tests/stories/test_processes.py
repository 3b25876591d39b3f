"""Stories of `berth up`: it starts from nothing, ends in order, and comes back clean after every kind of kill."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from berth.db.embedded import EmbeddedPostgres
from berth.db.launch import is_alive
from tests.support.postgres import DEBIAN_15
from tests.support.processes import ROOT, BerthFactory, BerthProcess, needs, note_peer, poll


def call(
    berth: BerthProcess, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = 30
) -> tuple[int, Any]:
    """Status and JSON of one request as the admin. Raises OSError when there is no answer."""
    credentials = base64.b64encode(f"admin:{berth.admin_token}".encode()).decode()
    request = urllib.request.Request(
        f"{berth.url}{path}",
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def create_project(berth: BerthProcess, name: str) -> int:
    return call(berth, "POST", "/api/v1/projects", {"name": name})[0]


def has_project(berth: BerthProcess, name: str) -> bool:
    return call(berth, "GET", f"/api/v1/projects/{name}")[0] == 200


def is_running(pid: int) -> bool:
    """Whether that process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def all_gone(pids: Mapping[str, int]) -> bool:
    return not any(is_running(pid) for pid in pids.values())


def has_new(berth: BerthProcess, child: str, old: int) -> bool:
    """Whether that child runs again, in another process."""
    return berth.children.get(child) not in (None, old)


def up_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "berth.cli.berth.up", *options]


def up_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("BERTH_")} | {
        "PYTHONPATH": str(ROOT / "src")
    }


def test_from_nothing_to_ready_and_warm_again(berth_factory: BerthFactory) -> None:
    berth = berth_factory().start()
    cold = berth.seconds_to_ready
    assert berth.admin_token
    assert set(berth.children) == {"server", "worker", "database"}
    assert create_project(berth, "kept") == 201
    token = berth.admin_token
    assert berth.stop() == 0
    berth.start()
    print(f"to /readyz 200: {cold:.2f} s cold, {berth.seconds_to_ready:.2f} s warm")
    assert berth.admin_token == token
    assert has_project(berth, "kept")
    note_peer("PostgreSQL (embedded)", "18")


def test_the_banner_names_address_token_file_and_next_command(berth_factory: BerthFactory) -> None:
    berth = berth_factory().start()
    said = poll(lambda: berth.log if "ready at" in berth.log else "", what="the banner")
    for words in (f"Berth is ready at {berth.url}", str(berth.data / "admin.token"), "berth project create"):
        assert words in said
    assert berth.admin_token not in said


def test_files_of_the_data_folder_are_private(berth: BerthProcess) -> None:
    assert (berth.data / "admin.token").stat().st_mode & 0o077 == 0
    assert (berth.data / "postgres").stat().st_mode & 0o077 == 0


def test_a_second_start_on_the_same_folder_is_refused(berth: BerthProcess) -> None:
    second = subprocess.run(
        up_command("--data", str(berth.data), "--port", "0"),
        env=up_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "runs already on the data folder" in second.stderr
    assert berth.url in second.stderr, "and it says where"
    assert berth.is_ready(), "the first one does not mind"


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run(
            up_command("--data", str(tmp_path / "data"), "--port", str(port)),
            env=up_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in refused.stderr
    assert "--port" in refused.stderr
    assert not (tmp_path / "data/postgres").exists()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    refused = subprocess.run(
        up_command("--data", str(tmp_path / "data")),
        env=up_environment() | {"BERTH_LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "BERTH_LOG_LEVEL" in refused.stderr


def slow_upload(berth: BerthProcess) -> tuple[socket.socket, bytes]:
    """A request that is being read: headers and a part of its body are sent. Returns the socket and what is missing."""
    host, port = berth.host.rsplit(":", 1)
    credentials = base64.b64encode(f"admin:{berth.admin_token}".encode()).decode()
    body = json.dumps({"name": "drained"}).encode()
    head = (
        f"POST /api/v1/projects HTTP/1.1\r\nHost: {berth.host}\r\nAuthorization: Basic {credentials}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.encode() + body[:5])
    return connection, body[5:]


def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(berth_factory: BerthFactory) -> None:
    berth = berth_factory().start()
    host, port = berth.host.rsplit(":", 1)
    pids = berth.children
    connection, rest = slow_upload(berth)
    assert has_project(berth, "drained") is False  # a later request was answered: the slow one is being read
    berth.kill(signal.SIGTERM)

    def refused() -> bool:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    poll(refused, what="new connections are refused")
    assert is_running(pids["database"]), "it is needed until the last request has been answered"
    connection.sendall(rest)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    connection.close()
    assert answer.startswith(b"HTTP/1.1 201")
    assert berth.wait() == 0
    assert all_gone(pids)
    berth.start()
    assert has_project(berth, "drained")


@pytest.mark.parametrize("victim", ["supervisor", "server", "worker", "database"])
def test_after_a_kill_everything_acknowledged_is_there(berth_factory: BerthFactory, victim: str) -> None:
    berth = berth_factory().start()
    for number in range(5):
        assert create_project(berth, f"before{number}") == 201
    before = berth.children
    if victim == "supervisor":
        berth.kill(signal.SIGKILL)
        berth.wait()
        poll(lambda: all_gone(before), what="nothing outlives the supervisor")
        berth.start()
    else:
        os.kill(before[victim], signal.SIGKILL)
        poll(partial(has_new, berth, victim, before[victim]), what=f"a new {victim}")
        poll(berth.is_ready, what="/readyz answers 200 again")
    assert all(has_project(berth, f"before{number}") for number in range(5))
    assert create_project(berth, "after") == 201
    others = set(berth.children) - {victim}
    if victim != "supervisor":
        assert {name: berth.children[name] for name in others} == {name: before[name] for name in others}
    assert berth.stop() == 0


class Load:
    """Creates projects one after the other in threads; remembers which were acknowledged and what went wrong."""

    def __init__(self, berth: BerthProcess) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._berth = berth
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]

    def _run(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"load-{thread}-{number}"
            try:
                status = create_project(self._berth, name)
            except OSError:
                continue  # a connection that broke; nothing was acknowledged
            if status == 201:
                self.acknowledged.append(name)
            else:
                self.refused.append(status)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Returns when so many more have been acknowledged."""
        wanted = len(self.acknowledged) + count
        poll(lambda: len(self.acknowledged) >= wanted, what=f"{count} more acknowledged requests")


def test_a_database_that_restarts_under_load_costs_moments_and_no_acknowledged_row(
    berth_factory: BerthFactory,
) -> None:
    berth = berth_factory().start()
    server = berth.children["server"]
    with Load(berth) as load:
        load.more(20)
        for sent in (signal.SIGINT, signal.SIGKILL):
            database = berth.children["database"]
            os.kill(database, sent)
            poll(partial(has_new, berth, "database", database), what="a new database")
            load.more(20)
    assert berth.children["server"] == server, "the server itself went on"
    assert set(load.refused) <= {503}
    assert [name for name in load.acknowledged if not has_project(berth, name)] == []


def test_a_killed_server_under_load_loses_no_acknowledged_row(berth_factory: BerthFactory) -> None:
    berth = berth_factory().start()
    with Load(berth) as load:
        load.more(20)
        os.kill(berth.children["server"], signal.SIGKILL)
        load.more(20)
    assert load.refused == []
    assert [name for name in load.acknowledged if not has_project(berth, name)] == []


def test_the_job_of_a_killed_worker_runs_again(berth_factory: BerthFactory) -> None:
    berth = berth_factory().start()
    database = EmbeddedPostgres(berth.data / "postgres")
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        # As a worker leaves it that was killed long ago: taken, and nobody is there who took it.
        row = connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status)"
            " VALUES ('short', 'delete_old_jobs', '{}', 'doing') RETURNING id"
        ).fetchone()
        assert row is not None

        def status() -> bool:
            found = connection.execute("SELECT status, attempts FROM procrastinate_jobs WHERE id = %s", row).fetchone()
            return found is not None and found[0] == "succeeded"

        poll(status, what="the lost job has run")


@pytest.fixture
def debian_15(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Debian's PostgreSQL 15, the oldest version Berth promises to run on."""
    needs(str(DEBIAN_15 / "postgres"), peer="PostgreSQL (Debian)")
    with EmbeddedPostgres(tmp_path / "debian", binaries=DEBIAN_15, options={"fsync": "off"}) as server:
        yield server


def test_berth_runs_on_a_database_of_others_with_two_roles(
    berth_factory: BerthFactory, debian_15: EmbeddedPostgres
) -> None:
    berth = berth_factory(
        env={
            "BERTH_DATABASE_URL": debian_15.service_url,
            "BERTH_MIGRATION_DATABASE_URL": debian_15.owner_url,
        }
    ).start()
    assert set(berth.children) == {"server", "worker"}
    assert not (berth.data / "postgres").exists()
    assert create_project(berth, "kept") == 201
    with psycopg.connect(debian_15.superuser_url.replace("/postgres?", "/berth?")) as connection:
        assert connection.info.server_version // 10000 == 15
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [("berth_owner",)]
    debian_15.stop()
    poll(lambda: not berth.is_ready(), what="not ready without the database")
    debian_15.start()
    poll(berth.is_ready, what="ready again by itself")
    assert has_project(berth, "kept")
    assert berth.stop() == 0


def test_migrate_alone_says_what_is_to_be_done_and_does_it(debian_15: EmbeddedPostgres) -> None:
    environment = up_environment() | {
        "BERTH_DATABASE_URL": debian_15.service_url,
        "BERTH_MIGRATION_DATABASE_URL": debian_15.owner_url,
    }

    def migrate(*options: str) -> subprocess.CompletedProcess[str]:
        code = "from berth.cli.main import berth; berth()"
        return subprocess.run(
            [sys.executable, "-c", code, "migrate", *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert [
        (ran.returncode, ran.stdout.splitlines()[0]) for ran in (migrate("--check"), migrate(), migrate("--check"))
    ] == [
        (1, "The database needs an upgrade:"),
        (0, "The database is up to date now:"),
        (0, "The database is up to date."),
    ]


def test_without_a_database_the_parts_say_what_to_do(tmp_path: Path) -> None:
    for command in ("serve", "worker", "migrate"):
        ran = subprocess.run(
            [sys.executable, "-c", "from berth.cli.main import berth; berth()", command],
            env=up_environment() | {"BERTH_DATA": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 1
        assert "BERTH_DATABASE_URL" in ran.stderr
        assert "berth up" in ran.stderr


def test_warm_starts_are_quick_enough_to_print(berth_factory: BerthFactory) -> None:
    """No timed assertion: machines differ. The figure is in the output of `pytest -rP`."""
    berth = berth_factory().start()
    assert berth.stop() == 0
    figures = []
    for _ in range(3):
        berth.start()
        figures.append(berth.seconds_to_ready)
        began = time.monotonic()
        assert berth.stop() == 0
        figures.append(time.monotonic() - began)
    print("warm start and stop, seconds:", " ".join(f"{figure:.2f}" for figure in figures))
    assert not is_alive(berth.pid) or not is_running(berth.pid)
