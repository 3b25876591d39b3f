"""What refers to an admitted version goes out with it, unless it is what the gate would not let a reader have.

Whoever may push can have anything refer to an admitted version. The gateway refuses it (test_disguises.py); neither a
home registry, nor a rule, nor a file, nor a promotion may be the way around.
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from berth.adapters.scanners.contract import ScanResult, Summary
from berth.catalog import queries as catalog
from berth.gates import evidence
from berth.jobs import publish_version
from berth.sync import runs
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import CONFIG, LAYER, MANIFEST, Naps, push_blob, push_image, sha256
from tests.unit.sync.test_moving import exported, promote

SPDX = "application/spdx+json"
SBOM = b'{"spdxVersion":"SPDX-2.3"}'
# Content of a version that nobody has scanned; JSON, so that it can pass for a document.
WEIGHTS = b'{"layers": [1, 2, 3]}'
STOWAWAY = b"\x80\x04 never scanned"


async def scanned(lab: Lab, digest: str) -> None:
    for kind in ("vulnerabilities", "weights"):
        result = ScanResult(
            kind=kind,  # type: ignore[arg-type]
            status="ok",
            summary=Summary(),
            tool="test",
            tool_version="1",
            database={"updated_at": lab.now.isoformat()} if kind == "vulnerabilities" else {},
            report=b"{}",
            report_media_type="application/json",
            log="",
            started_at=lab.now - timedelta(seconds=1),
            finished_at=lab.now,
        )
        async with lab.database.transaction() as conn:
            await evidence.record_scan(conn, digest=digest, result=result, report=None, now=lab.now)


async def refer(lab: Lab, subject: str, layer: bytes, *, media_type: str = SPDX) -> str:
    """Push something that says it is about `subject`."""
    for data in (b"{}", layer):
        await push_blob(lab.depot, "lab/net", data)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": media_type,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
            "layers": [{"mediaType": media_type, "digest": sha256(layer), "size": len(layer)}],
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
        }
    ).encode()
    return await lab.depot.push_manifest("lab/net", sha256(body), media_type=MANIFEST, body=body)


async def image(lab: Lab, tag: str, layer: bytes) -> str:
    config = json.dumps({"rootfs": {"for": tag}}).encode()
    for data in (config, layer):
        await push_blob(lab.depot, "lab/net", data)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": sha256(layer), "size": len(layer)}],
        }
    ).encode()
    return await lab.depot.push_manifest("lab/net", tag, media_type=MANIFEST, body=body)


@pytest.fixture
async def root(lab: Lab) -> str:
    """Version 1.0.0 is admitted, 2.0.0 is not. A document, 2.0.0's content and a stowaway say they are about 1.0.0."""
    await lab.project("lab", {"preset": "scanned"}, home="hub")
    good = await image(lab, "1.0.0", b"good")
    await image(lab, "2.0.0", WEIGHTS)
    await refer(lab, good, SBOM)
    await refer(lab, good, WEIGHTS)
    await refer(lab, good, STOWAWAY, media_type="application/x-anything")
    tag = good.replace(":", "-") + ".att"
    await push_image(lab.depot, "lab/net", tag, layers=[b"behind a signature's name"], salt="tagged")
    await scanned(lab, good)
    assert await lab.depot.admitted("lab/net", good) is True
    return good


async def at_hub(lab: Lab, data: bytes) -> bool:
    return await lab.hub.blob_size("lab/net", sha256(data)) is not None


async def check_hub(lab: Lab) -> None:
    assert await at_hub(lab, b"good")
    assert await at_hub(lab, SBOM)
    assert not await at_hub(lab, WEIGHTS)
    assert not await at_hub(lab, STOWAWAY)
    assert not await at_hub(lab, b"behind a signature's name")


async def test_a_home_registry_gets_documents_and_nothing_that_hides_among_them(lab: Lab, root: str) -> None:
    for args in await lab.jobs(publish_version.NAME):
        await publish_version.run(lab.context, **args)
    await check_hub(lab)


async def test_a_rule_brings_the_same_and_then_finds_nothing_missing(lab: Lab, root: str) -> None:
    rule = await lab.rule("out", "depot", "hub")
    for code in ("missing", "same"):
        async with lab.database.transaction() as conn:
            number = await runs.start(conn, rule, kind="run", by="admin")
        await runs.carry_out(lab.database, lab.places, number, now=lab.clock, sleep=Naps())
        assert await lab.rows(f"select code, state from sync_items where run_id = {number} and tag = '1.0.0'") == [
            (code, "done")
        ]
    await check_hub(lab)


async def test_a_file_holds_documents_and_nothing_that_hides_among_them(lab: Lab, root: str) -> None:
    data = await exported(lab, "lab/net:1.0.0")
    assert SBOM in data
    assert WEIGHTS not in data
    assert STOWAWAY not in data
    assert WEIGHTS in await exported(lab, "lab/net:2.0.0"), "with its own version it leaves for those who may read that"


async def test_a_promotion_takes_documents_along_and_nothing_that_hides_among_them(lab: Lab, root: str) -> None:
    await lab.project("prod", {"preset": "scanned"})
    assert await promote(lab, "lab/net:1.0.0", "prod/net") == []
    async with lab.database.reading() as conn:
        target = await catalog.repository(conn, "prod/net")
        assert target is not None
        there = await catalog.linked_places(conn, target.id, [sha256(SBOM), sha256(WEIGHTS), sha256(STOWAWAY)])
    assert set(there) == {sha256(SBOM)}


async def test_what_is_admitted_itself_may_be_named_by_a_document_too(lab: Lab, root: str) -> None:
    second = (await lab.rows("select digest from versions where version = '2.0.0'"))[0].digest
    await scanned(lab, second)
    assert await lab.depot.admitted("lab/net", second) is True
    assert WEIGHTS in await exported(lab, "lab/net:1.0.0")


async def test_in_an_open_project_everything_goes_but_what_is_denied(lab: Lab) -> None:
    await lab.project("lab", home="hub")
    good = await image(lab, "1.0.0", b"good")
    denied = await image(lab, "2.0.0", WEIGHTS)
    await lab.decide("lab/net", denied, "revoked")
    await refer(lab, good, STOWAWAY, media_type="application/x-anything")
    await refer(lab, good, WEIGHTS)
    for args in await lab.jobs(publish_version.NAME):
        await publish_version.run(lab.context, **args)
    assert await at_hub(lab, STOWAWAY)
    assert not await at_hub(lab, WEIGHTS)
