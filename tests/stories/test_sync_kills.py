"""Story of a copy that is killed again and again: two real registries, a real journal, a reader who looks all the time.

First the process that carries the run out is killed at ten points that the target's own traffic chooses, and whatever
starts next has to go on; then the real worker of `berth up`, whose supervisor and queue take the run up by themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings
from berth.db.engine import Database
from berth.oci import manifest as manifests
from berth.sync import rules, runs
from berth.sync.journal import queries
from tests.stories.test_sync import registry, run
from tests.support.processes import ROOT, BerthFactory
from tests.unit.sync.made import push_image

LAYERS = 44
PARALLEL = 3
KILLS = 10
REPOSITORY = "lab/net"
# What the target is asked to keep, as it stands in the requests: a blob's digest ends the address of its PUT.
_STORED = re.compile(rb"PUT /v2/\S+/blobs/uploads/\S*?digest=(sha256(?::|%3A)[0-9a-f]{64})")


class Tap:
    """A TCP relay in front of the target that counts the blobs and bytes sent to it."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.sent: Counter[str] = Counter()
        self.bytes = 0
        self.changed = asyncio.Condition()
        self.url = ""

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, back))
                group.create_task(_pass(there, writer))
        except* OSError:
            pass
        finally:
            writer.close()
            back.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while data := await reader.read(65536):
            seen += data
            self.bytes += len(data)
            found = list(_STORED.finditer(seen))
            for match in found:
                self.sent[match.group(1).decode().replace("%3A", ":")] += 1
            seen = (seen[found[-1].end() :] if found else seen)[-400:]
            writer.write(data)
            await writer.drain()
            if found:
                async with self.changed:
                    self.changed.notify_all()
        writer.write_eof()

    async def until(self, blobs: int) -> None:
        """So many different blobs have begun to arrive."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.sent) >= blobs)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()


@asynccontextmanager
async def tapped(address: str) -> AsyncIterator[Tap]:
    host, _, port = address.partition(":")
    tap = Tap(host, int(port))
    server = await asyncio.start_server(tap.relay, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()


def opened(url: str) -> Registry:
    return Registries().open(RegistrySettings("peer", "distribution", url))


async def look(address: str, stop: asyncio.Event, tap: Tap) -> tuple[int, list[str]]:
    """Reads the target as anybody would; how often it looked, and what it found that was not whole."""
    looks, broken = 0, []
    while not stop.is_set():
        looks += 1
        if await asyncio.to_thread(_status, f"http://{address}/v2/{REPOSITORY}/manifests/1.0.0") == 200:
            for digest in list(tap.sent):
                if await asyncio.to_thread(_status, f"http://{address}/v2/{REPOSITORY}/blobs/{digest}") != 200:
                    broken.append(digest)
    return looks, broken


def _status(url: str) -> int:
    accept = "application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def start_run(database: Database, *, bytes_per_second: int = 12_000_000) -> int:
    terms = {"parallel_blobs": PARALLEL, "bytes_per_second": bytes_per_second}
    async with database.transaction() as conn:
        values = {
            "name": "over",
            "project": "lab",
            "project_id": None,
            "source": "hub",
            "target": "harbour",
            "terms": rules.normal_terms({**terms, "model": "net"}, source="hub", target="harbour"),
            "schedule": None,
            "next_run_at": None,
            "on_admission": False,
            "created_by": "admin",
        }
        assert await queries.insert_rule(conn, values)
        rule = await queries.rule_by_name(conn, "over")
        assert rule is not None
        return await runs.start(conn, rule, kind="run", by="admin")


@pytest.mark.slow
async def test_killed_ten_times_it_sends_again_only_what_was_in_flight_and_never_shows_a_part(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    with registry(tmp_path / "a") as hub, registry(tmp_path / "b") as harbour:
        source = opened(f"http://{hub}")
        layers = [os.urandom(200_000 + number) for number in range(LAYERS)]
        digest = await push_image(source, REPOSITORY, "1.0.0", layers=layers)
        await source.close()
        blobs = LAYERS + 1
        run_id = await start_run(database)
        async with tapped(harbour) as tap:
            command = [sys.executable, "-m", "tests.stories.sync_process", database_url, str(run_id)]
            command += [f"http://{hub}", tap.url]
            env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
            stop = asyncio.Event()
            reader = asyncio.create_task(look(harbour, stop, tap))
            for kill in range(KILLS):
                process = subprocess.Popen(command, env=env, cwd=ROOT)
                # From the very first blob to nearly the last one.
                await asyncio.wait_for(tap.until(1 + kill * (blobs - 2) // KILLS), 120)
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                assert _status(f"http://{harbour}/v2/{REPOSITORY}/manifests/1.0.0") == 404
            process = subprocess.Popen(command, env=env, cwd=ROOT)
            assert await asyncio.wait_for(asyncio.to_thread(process.wait), 180) == 0
            stop.set()
            looks, broken = await reader
        target = opened(f"http://{harbour}")
        found = await target.stat(REPOSITORY, "1.0.0")
        await target.close()
    async with database.reading() as conn:
        row = await queries.run_by_id(conn, run_id)
    assert row is not None
    assert (row.state, found and found.digest) == ("succeeded", digest)
    assert len(tap.sent) == blobs
    # Each kill costs at most the blobs that were on their way.
    assert blobs <= sum(tap.sent.values()) <= blobs + KILLS * PARALLEL
    assert (looks > KILLS, broken) == (True, [])


# The queue takes half a minute to notice each.
WORKER_KILLS = 3


@pytest.mark.slow
async def test_the_worker_of_berth_up_is_killed_at_random_and_each_time_the_queue_takes_the_run_up(
    berth_factory: BerthFactory, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    chance = random.Random(seed)
    with registry(tmp_path / "a") as hub, registry(tmp_path / "b") as harbour:
        source = opened(f"http://{hub}")
        layers = [os.urandom(200_000 + number) for number in range(LAYERS)]
        digest = await push_image(source, REPOSITORY, "1.0.0", layers=layers)
        await source.close()
        blobs = LAYERS + 1
        async with tapped(harbour) as tap:
            berth = await asyncio.to_thread(berth_factory().start)

            async def ask(*words: str) -> Any:
                return await asyncio.to_thread(run, berth, "berth", *words)

            await ask("registry", "add", "hub", "--kind", "distribution", "--url", f"http://{hub}")
            await ask("registry", "add", "harbour", "--kind", "distribution", "--url", tap.url)
            limits = ("--bandwidth", "3000000", "--parallel", str(PARALLEL))
            places = ("--source", "hub", "--target", "harbour", "--project", "lab")
            await ask("sync", "rule", "add", "over", *places, *limits)
            number = str((await ask("sync", "run", "over"))["id"])
            stop = asyncio.Event()
            reader = asyncio.create_task(look(harbour, stop, tap))
            killed: set[int] = set()
            for kill in range(WORKER_KILLS):
                # Somewhere in what is left, so that something is left for the kills after this one.
                room = (blobs - len(tap.sent) - 2 * PARALLEL) // (WORKER_KILLS - kill)
                await asyncio.wait_for(tap.until(len(tap.sent) + chance.randint(1, max(1, room))), 120)
                worker = berth.children["worker"]
                assert worker not in killed
                killed.add(worker)
                os.kill(worker, signal.SIGKILL)
                assert _status(f"http://{harbour}/v2/{REPOSITORY}/manifests/1.0.0") == 404

            async def ended() -> Any:
                while (now := await ask("sync", "status", "--run", number))["state"] in ("queued", "running"):
                    await asyncio.sleep(0.2)
                return now

            done = await asyncio.wait_for(ended(), 120)
            stop.set()
            looks, broken = await reader
        target = opened(f"http://{harbour}")
        found = await target.stat(REPOSITORY, "1.0.0")
        await target.close()
    assert (done["state"], found and found.digest) == ("succeeded", digest)
    assert len(tap.sent) == blobs
    assert blobs <= sum(tap.sent.values()) <= blobs + WORKER_KILLS * PARALLEL
    assert (looks > WORKER_KILLS, broken) == (True, [])
    # What was in flight at a kill is not written down, and nothing is counted twice.
    size = sum(map(len, layers)) + 200
    assert size - WORKER_KILLS * PARALLEL * len(layers[-1]) - 200 <= done["bytes_transferred"] <= size


LARGE = 64 << 20


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_large_blob_the_next_process_sends_only_the_rest(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """Distribution 2.8 keeps a session that breaks between two chunks, so it is killed there, where the limit waits."""
    with registry(tmp_path / "a") as hub, registry(tmp_path / "b") as harbour:
        source = opened(f"http://{hub}")
        content = os.urandom(LARGE)
        digest = await push_image(source, REPOSITORY, "1.0.0", layers=[content])
        await source.close()
        run_id = await start_run(database)
        env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}

        async def begin(tap: Tap) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "tests.stories.sync_process", database_url, str(run_id)]
            return subprocess.Popen([*command, f"http://{hub}", tap.url], env=env, cwd=ROOT)

        async with tapped(harbour) as tap:
            process = await begin(tap)
            offset = await asyncio.wait_for(remembered(database, at_least=LARGE * 2 // 5), 120)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            assert offset <= tap.bytes <= offset + 100_000
            assert _status(f"http://{harbour}/v2/{REPOSITORY}/manifests/1.0.0") == 404
            before = tap.bytes
            process = await begin(tap)
            assert await asyncio.wait_for(asyncio.to_thread(process.wait), 180) == 0
            rest = tap.bytes - before
        # Requests and the manifest add a little, and no chunk is sent twice.
        assert LARGE - offset <= rest <= LARGE - offset + 100_000
        target = opened(f"http://{harbour}")
        assert await found_there(target) == (digest, content)
        await target.close()
    async with database.reading() as conn:
        row = await queries.run_by_id(conn, run_id)
        left = await conn.scalar(text("select count(*) from sync_uploads"))
    assert row is not None
    assert (row.state, left) == ("succeeded", 0)


async def remembered(database: Database, *, at_least: int) -> int:
    """How far the upload is, once it is so far."""
    while True:
        async with database.reading() as conn:
            offset = await conn.scalar(text("select max(offset_bytes) from sync_uploads"))
        if offset is not None and offset >= at_least:
            return int(offset)
        await asyncio.sleep(0.01)


async def found_there(target: Registry) -> tuple[str, bytes]:
    """What the tag means at the target, and its one layer."""
    stat = await target.stat(REPOSITORY, "1.0.0")
    assert stat is not None
    manifest = manifests.parse(await target.manifest(REPOSITORY, stat.digest))
    (layer,) = manifest.layers
    return stat.digest, b"".join([piece async for piece in target.blob(REPOSITORY, layer.digest)])
