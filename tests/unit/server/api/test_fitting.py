"""Which models fit a machine, over the API: what is listed, for whom, and in which form it is asked."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from berth.authoring.fit import Device, Machine
from berth.authoring.fit_described import written
from berth.jobs import record_needs
from berth.jobs.context import JobContext
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World

FITTING = "/models/fitting"


def manifest(name: str, version: str, **minimum: Any) -> str:
    needs = "".join(f"    {key}: {value}\n" for key, value in minimum.items())
    return (
        f"xumi: 1\nname: {name}\nversion: {version}\ndescription: A model.\nlicense: MIT\n"
        "interface: {inputs: [{name: text, type: text}], outputs: [{name: label, type: text}]}\n"
        "entry: {python: 'model:Model'}\nruntime: {base: 'docker.io/library/python:3.11-slim'}\n"
        "hardware:\n  architectures: [amd64]\n" + (f"  minimum:\n{needs}" if needs else "")
    )


async def push(world: World, name: str, version: str, **minimum: Any) -> str:
    return await world.version(name, version, content=f"{name}{version}", xumi=manifest(name, version, **minimum))


async def ask(staffed: Staffed, query: str, who: str = "guest") -> list[str]:
    """`model:version` of every page, three items a page."""
    seen, after = [], ""
    while True:
        answer = await staffed.world.ask("GET", f"{FITTING}?limit=3&{query}{after}", token=staffed.tokens[who])
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= 3
        seen += [f"{item['model']}:{item['version']}" for item in page["items"]]
        if page["next"] is None:
            return seen
        after = f"&after={page['next']}"


@pytest.fixture
async def filled(staffed: Staffed) -> Staffed:
    world = staffed.world
    await push(world, "vision/small", "1.0.0")
    await push(world, "vision/chat", "1.0.0", memory="8GiB")
    await push(world, "vision/chat", "1.1.0", memory="16GiB")
    await push(world, "vision/chat", "2.0.0", memory="64GiB", gpu="{vendor: nvidia, memory: 24GiB, models: [A10]}")
    await push(world, "vision/chat", "1.2.0-rc.1", memory="8GiB")
    await push(world, "secret/hidden", "1.0.0")
    return staffed


async def test_the_highest_release_that_fits_is_listed_of_each_model(filled: Staffed) -> None:
    assert await ask(filled, "memory=4GiB") == ["vision/small:1.0.0"]
    assert await ask(filled, "memory=8GiB") == ["vision/chat:1.0.0", "vision/small:1.0.0"]
    assert await ask(filled, "memory=17179869184") == ["vision/chat:1.1.0", "vision/small:1.0.0"]
    gpu = "memory=64GiB&gpu=nvidia:24GiB:8.6:NVIDIA%20A10"
    assert await ask(filled, gpu) == ["vision/chat:2.0.0", "vision/small:1.0.0"]
    assert await ask(filled, "memory=64GiB&gpu=nvidia:24GiB:8.0:NVIDIA%20A100") == [
        "vision/chat:1.1.0",
        "vision/small:1.0.0",
    ]
    assert await ask(filled, "architecture=arm64") == []


async def test_every_version_that_fits_is_listed_on_demand(filled: Staffed) -> None:
    assert await ask(filled, "memory=16GiB&every=true") == [
        "vision/chat:1.2.0-rc.1",
        "vision/chat:1.1.0",
        "vision/chat:1.0.0",
        "vision/small:1.0.0",
    ]


async def test_what_nearly_fits_says_what_is_missing(filled: Staffed) -> None:
    answer = await filled.world.ask("GET", f"{FITTING}?memory=8GiB&nearly=true", token=filled.tokens["guest"])
    items = answer.json()["items"]
    assert [(i["version"], i["fits"], i["missing"]) for i in items] == [
        ("1.1.0", False, ["memory: needs 16 GiB, has 8 GiB"])
    ]


async def test_models_of_projects_without_a_role_are_not_shown(filled: Staffed) -> None:
    """The twin that sees them: an auditor, who may read all projects."""
    assert await ask(filled, "project=secret") == []
    assert await ask(filled, "", "stranger") == []
    assert "secret/hidden:1.0.0" in await ask(filled, "", "auditor")
    assert await ask(filled, "project=secret", "root") == ["secret/hidden:1.0.0"]
    token = await filled.world.token("root", project="vision", role="guest")
    answer = await filled.world.ask("GET", FITTING, token=token)
    assert {item["model"] for item in answer.json()["items"]} == {"vision/chat", "vision/small"}
    assert (await filled.world.ask("GET", FITTING)).status_code == 401


async def test_only_admitted_versions_are_listed_unless_refused_ones_are_asked_for(staffed: Staffed) -> None:
    world = staffed.world
    await world.project("strict", "strict")
    await world.member("strict", "the-guest", "guest")
    await push(world, "strict/net", "1.0.0")
    assert await ask(staffed, "") == []
    assert await ask(staffed, "refused=true") == ["strict/net:1.0.0"]
    answer = await world.ask("GET", f"{FITTING}?refused=true", token=staffed.tokens["guest"])
    assert [item["verdict"] for item in answer.json()["items"]] == ["deny"]


async def test_a_lower_version_stands_in_for_one_that_is_refused_now(staffed: Staffed) -> None:
    """The stored verdicts say allow, but no longer count: each is decided when the list is read."""
    world = staffed.world
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        await push(world, "vision/net", version)
    approval = "/projects/vision/models/net/versions/{}/approval"
    for version in ("1.2.0", "1.3.0"):
        path = approval.format(version)
        said = await world.ask("POST", path, token=staffed.tokens["reviewer"], json={"decision": "rejected"})
        assert said.status_code in (200, 201), said.text
    async with world.database.transaction() as conn:
        await conn.execute(text("update verdicts set admitted = true, valid_until = '-infinity'"))
    listed = await ask(staffed, "")
    verdicts = {
        version: (
            await world.ask("GET", f"/projects/vision/models/net/versions/{version}", token=staffed.tokens["guest"])
        ).json()["verdict"]
        for version in ("1.1.0", "1.2.0", "1.3.0")
    }
    highest = max(version for version, verdict in verdicts.items() if verdict == "allow")
    assert listed == [f"vision/net:{highest}"]


async def test_deleted_and_deprecated_versions_are_not_listed(filled: Staffed) -> None:
    path, token = "/projects/vision/models/chat/versions/1.1.0", filled.tokens["maintainer"]
    await filled.world.ask("PATCH", path, token=token, json={"deprecated": True})
    assert await ask(filled, "memory=16GiB&project=vision") == ["vision/chat:1.0.0", "vision/small:1.0.0"]
    await filled.world.ask("DELETE", path.replace("1.1.0", "1.0.0"), token=token)
    assert await ask(filled, "memory=16GiB") == ["vision/small:1.0.0"]


async def test_versions_of_the_previous_release_are_recorded_by_a_job(filled: Staffed) -> None:
    """As a server before this release leaves them: a row in `versions`, nothing in `version_needs`."""
    world = filled.world
    before = await ask(filled, "memory=16GiB&every=true")
    await world.version("vision/plain", "1.0.0")
    async with world.database.transaction() as conn:
        await conn.execute(text("delete from version_needs"))
        await conn.execute(text("update versions set needs_recorded = false"))
    assert await ask(filled, "memory=16GiB&every=true") == []
    context = JobContext(
        db=world.database,
        store=world.store,
        vulnerability_scanner=None,  # type: ignore[arg-type]
        weight_scanner=None,  # type: ignore[arg-type]
        settings=world.services.settings,
    )
    for _ in range(2):
        await record_needs.run(context)
        assert await ask(filled, "memory=16GiB&every=true") == before
    async with world.database.reading() as conn:
        assert await conn.scalar(text("select count(*) from versions where not needs_recorded")) == 0


async def test_a_description_that_makes_no_sense_is_refused_with_what_to_write(filled: Staffed) -> None:
    for query, status, word in (
        ("memory=lots", 400, "8GiB"),
        ("memory=99999999TiB", 400, "too much"),
        ("architecture=z80", 400, "amd64"),
        ("cpus=0", 422, "cpus"),
        ("cpus=nan", 422, "cpus"),
        ("gpu=NVIDIA", 422, "gpu"),
        ("gpu=nvidia:much", 400, "device memory"),
        ("cuda=new", 400, "12.4"),
        ("cpu_features=a%20b", 400, "avx2"),
        ("after=%20", 400, "after"),
        ("&".join(["gpu=nvidia"] * 65), 422, "gpu"),
    ):
        answer = await filled.world.ask("GET", f"{FITTING}?{query}", token=filled.tokens["guest"])
        assert answer.status_code == status, (query, answer.text)
        assert word in answer.text, query


async def test_a_machine_travels_to_the_service_as_it_was_read(filled: Staffed) -> None:
    """What `xumi fit --models` sends: a machine that was looked at and has no CUDA differs from an unknown one."""
    await push(
        filled.world, "vision/gpu", "1.0.0", gpu="{memory: 24GiB, compute_capability: '8.6', runtime: cuda 12.4}"
    )
    gib = 1024**3
    a10 = Device("nvidia", "NVIDIA A10", 24 * gib, 3 * gib, "8.6")
    for machine, fits in (
        (Machine("amd64", 3.5, gpus=(a10,), runtimes={"cuda": "12.4"}), True),
        (Machine("amd64", 3.5, gpus=(a10, a10), runtimes=None), True),
        (Machine("amd64", 3.5, gpus=(a10,), runtimes={}), False),
        (Machine("amd64", 3.5, gpus=(a10,), runtimes={"rocm": "12.4"}), False),
        (Machine("amd64", 3.5, gpus=(Device("nvidia", "odd: name"),), runtimes={"cuda": "13"}), True),
        (Machine("amd64", 3.5, cpu_features=frozenset({"avx2", "sse4_1"}), runtimes={}), False),
    ):
        query = {key: value for key, value in written(machine).items() if value is not None}
        answer = await filled.world.ask("GET", f"{FITTING}", token=filled.tokens["guest"], params=query)
        assert answer.status_code == 200, answer.text
        assert ("vision/gpu" in {item["model"] for item in answer.json()["items"]}) is fits, machine
