"""Stories of bytes that are elsewhere: two real registries behind proxies, a real service, readers from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from berth import wiring
from berth.client import Berth
from berth.jobs import evict_cache, run_sync
from berth.jobs.context import JobContext
from berth.oci.layout import Layout
from berth.settings import ServiceSettings
from tests.stories.images import DEBIAN, layout
from tests.stories.test_sync import make_version, registry, run, skopeo
from tests.support.advisories import AdvisoryRegistry, advisory_registry
from tests.support.postgres import Databases
from tests.support.processes import BerthFactory, BerthProcess, factory, needs, poll
from tests.support.proxy import Proxy, proxied

__all__ = ["advisory_registry"]

SIZE = 6_000_000


@dataclass
class House:
    """A service and two registries, shared by these stories; each has a model and proxies of its own.

    The worker stands still, so that no scan fetches what the readers of these stories are to fetch.
    """

    berth: BerthProcess
    registries: tuple[str, str]
    url: str
    models: int = 0


@dataclass
class World:
    """Version 1.0.0 of a model lives in `near` and `far`; the service knows it, and holds none of its layers."""

    berth: BerthProcess
    model: str
    names: tuple[str, str]
    near: Proxy
    far: Proxy
    url: str
    layer: bytes
    layer_digest: str

    @property
    def path(self) -> str:
        return f"/v2/{self.model}/blobs/{self.layer_digest}"

    def ask(self, method: str = "GET", path: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request; raises what a broken connection raises."""
        conn = http.client.HTTPConnection(self.berth.host, timeout=60)
        sent = {"Authorization": f"Bearer {self.berth.admin_token}", **headers}
        conn.request(method, path or self.path, headers=sent)
        answer = conn.getresponse()
        body = answer.read()
        conn.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body

    def where(self) -> Any:
        return run(self.berth, "xumi", "where", f"{self.model}:1.0.0")

    def stored(self) -> bool:
        name = self.layer_digest.partition(":")[2]
        return any(path.name == name for path in (self.berth.data / "depot" / "blobs").rglob("*"))

    def uploads(self) -> list[str]:
        return [path.name for path in (self.berth.data / "depot" / "uploads").iterdir()]

    def job(self, work: Any, **settings: Any) -> None:
        """What the worker would do, now."""

        async def go() -> None:
            context = wiring.job_context(
                ServiceSettings(data=self.berth.data, database_url=SecretStr(self.url), **settings)
            )
            try:
                await work(context)
            finally:
                await context.cache.close()
                await context.db.close()

        asyncio.run(go())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("cache")
    url = databases.service_url(databases.create())
    with registry(folder / "n") as near, registry(folder / "f") as far, factory(folder) as make:
        berth = make(env={"BERTH_DATABASE_URL": url}).start()
        worker = berth.children["worker"]
        os.kill(worker, signal.SIGSTOP)
        try:
            run(berth, "berth", "project", "create", "lab", "--policy", "open")
            yield House(berth, (near, far), url)
        finally:
            os.kill(worker, signal.SIGCONT)


@pytest.fixture
def world(house: House, tmp_path: Path) -> Iterator[World]:
    house.models += 1
    model = f"lab/net{house.models}"
    make_version(tmp_path / "layout", "1.0.0", size=SIZE)
    layout = Layout(tmp_path / "layout")
    document = json.loads((tmp_path / "layout" / "index.json").read_text())
    digest = json.loads(layout.read(document["manifests"][0]["digest"]))["layers"][0]["digest"]
    with proxied(house.registries[0]) as near, proxied(house.registries[1]) as far:
        names = (f"near{house.models}", f"outer{house.models}")
        made = World(house.berth, model, names, near, far, house.url, layout.read(digest), digest)
        with Berth(house.berth.url, token=house.berth.admin_token) as client:
            for name, proxy, real in zip(names, (near, far), house.registries, strict=True):
                copy_in(tmp_path / "layout", real, f"{model}:1.0.0")
                client.registries.add(name, kind="distribution", url=f"http://{proxy.address}")
                number = int(client.registries.import_(name, repository=model)["id"])
                made.job(lambda context, number=number: run_sync.run(context, run_id=number))
                found = client.sync.status(number)
                assert (found["state"], found["counts"]) == ("succeeded", {"done": 1})
        yield made


def copy_in(folder: Path, host: str, name: str) -> None:
    tag = name.partition(":")[2]
    skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{folder}:{tag}", f"docker://{host}/{name}")


def add(berth: BerthProcess, name: str, proxy: Proxy) -> None:
    run(berth, "berth", "registry", "add", name, "--kind", "distribution", "--url", f"http://{proxy.address}")


def test_an_import_moves_no_layer_and_twenty_readers_at_once_move_it_once(world: World) -> None:
    assert world.near.blobs + world.far.blobs != [], "the config was read"
    assert world.layer_digest not in world.near.blobs + world.far.blobs
    assert world.near.answered + world.far.answered < 100_000
    where = world.where()
    assert where["depot"]["state"] == "partly"
    assert where["depot"]["bytes"] - where["depot"]["bytes_here"] == len(world.layer)
    assert [(place["registry"], place["found"]) for place in where["registries"]] == [
        (name, True) for name in world.names
    ]
    assert where["next"] == world.names[0]

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: world.ask(), range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert all(body == world.layer for _, _, body in answers)
    assert (world.near.blobs + world.far.blobs).count(world.layer_digest) == 1
    assert world.where()["depot"]["state"] == "cached"
    assert world.uploads() == []


def test_when_the_nearest_dies_in_mid_blob_the_reader_gets_the_right_bytes_from_the_next(world: World) -> None:
    world.near.break_after = 3_000_000
    status, _, body = world.ask()
    assert (status, body == world.layer) == (200, True)
    assert world.layer_digest in world.near.blobs
    assert world.layer_digest in world.far.blobs
    assert world.far.answered < 4_000_000, "it went on where the other stopped"


def test_a_liar_is_a_broken_connection_leaves_nothing_and_the_next_reader_gets_the_right_bytes(world: World) -> None:
    world.near.lie_after = 2_000_000
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        world.ask()
    # What the next reader gets was verified as a whole; what the liar sent is not even in the way.
    status, _, body = world.ask()
    assert (status, body == world.layer) == (200, True)
    assert world.uploads() == []
    where = world.where()
    assert [(p["registry"], p["trusted"]) for p in where["registries"]] == [
        (world.names[0], False),
        (world.names[1], True),
    ]
    assert where["next"] == world.names[1]


@pytest.mark.slow
def test_a_range_of_a_cold_blob_is_of_the_verified_copy(world: World) -> None:
    status, headers, body = world.ask(Range="bytes=5000000-5000009")
    assert (status, body) == (206, world.layer[5_000_000:5_000_010])
    assert headers["content-range"] == f"bytes 5000000-5000009/{len(world.layer)}"
    assert world.stored()


@pytest.mark.slow
def test_with_both_registries_down_the_cached_is_served_and_the_rest_is_503_with_reasons(world: World) -> None:
    world.near.down = world.far.down = True
    status, headers, body = world.ask()
    assert (status, int(headers["retry-after"]) >= 1) == (503, True)
    [problem] = json.loads(body)["errors"]
    assert [place["registry"] for place in problem["detail"]["registries"]] == list(world.names)
    assert world.ask(path=f"/v2/{world.model}/manifests/1.0.0")[0] == 200
    world.near.down = world.far.down = False
    poll(lambda: world.ask()[0] == 200, what="it is served once they are back", seconds=90)
    world.near.down = world.far.down = True
    assert world.ask()[2] == world.layer


def test_a_server_killed_in_mid_fetch_leaves_nothing_half_and_its_work_is_taken_over(world: World) -> None:
    world.near.pause = world.far.pause = 0.05

    def reading() -> None:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            world.ask()

    reader = threading.Thread(target=reading)
    reader.start()
    poll(lambda: world.near.answered > 2_500_000, what="some of it has come")
    server = world.berth.children["server"]
    os.kill(server, signal.SIGKILL)
    reader.join()
    assert not world.stored()
    world.near.pause = world.far.pause = 0.0
    poll(lambda: world.berth.children.get("server") not in (None, server) and world.berth.is_ready(), what="a new one")
    before = world.near.answered + world.far.answered
    status, _, body = world.ask()
    assert (status, body == world.layer) == (200, True)
    assert world.near.answered + world.far.answered - before < len(world.layer) - 1_000_000, "most was there already"
    assert world.uploads() == []


@pytest.mark.slow
def test_skopeo_pulls_a_version_whole_that_has_left_the_depot(world: World, tmp_path: Path) -> None:
    world.ask()
    assert world.stored()

    async def let_go(context: JobContext) -> None:
        async with context.db.transaction() as conn:
            await conn.execute(text("update blobs set lease_until = 'epoch' where size > 2"))
        await evict_cache.run(context)

    world.job(let_go, cache_bytes=1)
    assert not world.stored()
    assert world.where()["depot"]["state"] == "remote"
    source = f"docker://{world.berth.host}/{world.model}:1.0.0"
    skopeo(
        "copy", "--quiet", "--src-tls-verify=false", "--src-creds", f"admin:{world.berth.admin_token}",
        source, f"oci:{tmp_path / 'out'}:1.0.0",
    )  # fmt: skip
    assert Layout(tmp_path / "out").read(world.layer_digest) == world.layer


def test_what_was_imported_is_scanned_admitted_and_pulled(
    berth_factory: BerthFactory, advisory_registry: AdvisoryRegistry, tmp_path: Path
) -> None:
    needs("skopeo")
    berth = berth_factory(env={"BERTH_TRIVY_DB_REPOSITORY": advisory_registry.reference}).start()
    run(berth, "berth", "project", "create", "lab", "--policy", "scanned")
    with registry(tmp_path / "r") as url, proxied(url) as proxy:
        for model, tag in (("net", "1.0.0"), ("net", "1.1.0"), ("ear", "0.3.0"), ("ear", "nightly")):
            folder = tmp_path / f"{model}-{tag}"
            layout(folder, {**DEBIAN, "opt/weights.bin": os.urandom(200_000)}, tag=tag)
            copy_in(folder, url, f"lab/{model}:{tag}")
        add(berth, "hub", proxy)
        planned = run(berth, "berth", "registry", "import", "hub", "--project", "lab", "--dry-run")
        assert [(item["tag"], item["action"], item["code"]) for item in planned["items"]] == [
            ("nightly", "skip", "not_a_version"),
            ("0.3.0", "import", "new"),
            ("1.0.0", "import", "new"),
            ("1.1.0", "import", "new"),
        ]
        assert run(berth, "berth", "version", "ls", "lab/net", expect=None) is None
        done = run(berth, "berth", "registry", "import", "hub", "--project", "lab", "--wait")
        assert (done["state"], done["counts"]) == ("succeeded", {"done": 4})
        poll(
            lambda: all(
                run(berth, "xumi", "explain", f"lab/{name}", expect=None) is not None
                for name in ("net:1.0.0", "net:1.1.0", "ear:0.3.0")
            ),
            what="all are admitted",
            seconds=120,
        )
        skopeo(
            "copy", "--quiet", "--src-tls-verify=false", "--src-creds", f"admin:{berth.admin_token}",
            f"docker://{berth.host}/lab/net:1.1.0", f"oci:{tmp_path / 'out'}:1.1.0",
        )  # fmt: skip
