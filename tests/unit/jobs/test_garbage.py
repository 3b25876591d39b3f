"""Clean-up beside pushes: what is needed stays, what nobody needs goes, and a crash in between is mended."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from berth.adapters.stores.files import FileStore
from berth.jobs import collect_garbage, remove_stale_uploads
from berth.jobs.context import JobContext
from tests.unit.server.gateway.conftest import installation as installation
from tests.unit.server.gateway.registry import CONFIG, MANIFEST, Client, Installation, sha256

LATER = timedelta(days=8)


def context(on: Installation, ahead: timedelta = timedelta()) -> JobContext:
    """A job's context whose clock is `ahead` of the wall clock."""
    return JobContext(
        db=on.services.db,
        store=on.services.store,
        vulnerability_scanner=None,  # type: ignore[arg-type]
        weight_scanner=None,  # type: ignore[arg-type]
        settings=on.services.settings,
        now=lambda: on.services.clock() + ahead,
    )


async def age(on: Installation) -> None:
    """Make everything in the database and the depot look eight days old."""
    async with on.services.db.transaction() as conn:
        for statement in (
            "update blobs set lease_until = lease_until - interval '8 days' where lease_until < '9000-01-01'",
            "update repository_blobs set linked_at = linked_at - interval '8 days'",
            "update repository_manifests set pushed_at = pushed_at - interval '8 days'",
            "update uploads set updated_at = updated_at - interval '8 days'",
        ):
            await conn.execute(text(statement))
    for folder, _, names in os.walk(on.services.settings.data_dir / "depot"):
        for name in names:
            path = os.path.join(folder, name)
            moment = os.stat(path).st_mtime - LATER.total_seconds()
            os.utime(path, (moment, moment))


def stored(on: Installation) -> set[str]:
    blobs = on.services.settings.data_dir / "depot" / "blobs"
    return {"sha256:" + path.name for path in blobs.rglob("*") if path.is_file()}


@pytest.fixture
async def developer(installation: Installation) -> Client:
    await installation.project("lab", "open")
    return await installation.user("dev", "lab", "maintainer")


async def test_tagged_content_stays_however_old(installation: Installation, developer: Client) -> None:
    image = await developer.image("lab/demo", "1.0.0")
    await age(installation)
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/blobs/{image.layer}")).content == image.layer_bytes
    assert {image.layer, image.config} <= stored(installation)


async def test_untagged_content_goes_only_after_the_grace_period(installation: Installation, developer: Client) -> None:
    image = await developer.image("lab/demo", None)
    loose = await developer.blob("lab/demo", b"loose")
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/manifests/{image.digest}")).status_code == 200
    await age(installation)
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/manifests/{image.digest}")).status_code == 404
    assert stored(installation).isdisjoint({image.layer, image.config, loose})


async def test_a_blob_shared_with_another_repository_stays(installation: Installation, developer: Client) -> None:
    image = await developer.image("lab/demo", None)
    await developer.image("lab/twin", "kept")
    await age(installation)
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/twin/blobs/{image.layer}")).status_code == 200
    assert (await developer("GET", f"/v2/lab/demo/blobs/{image.layer}")).status_code == 404


async def test_evidence_goes_with_its_subject(installation: Installation, developer: Client) -> None:
    image = await developer.image("lab/demo", "1.0.0")
    empty = await developer.blob("lab/demo", b"{}")
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/spdx+json",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [],
            "subject": image.descriptor(),
        }
    ).encode()
    assert (await developer.manifest("lab/demo", sha256(body), body)).status_code == 201
    await age(installation)
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/manifests/{sha256(body)}")).status_code == 200
    await developer("DELETE", "/v2/lab/demo/manifests/1.0.0")
    for _ in range(2):
        await age(installation)
        await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/manifests/{sha256(body)}")).status_code == 404


async def test_the_pinned_empty_config_is_never_collected(installation: Installation) -> None:
    await age(installation)
    await collect_garbage.run(context(installation, timedelta(days=3650)))
    assert sha256(b"{}") in stored(installation)


async def test_an_interrupted_removal_is_finished(installation: Installation, developer: Client) -> None:
    digest = await developer.blob("lab/demo", b"half removed")
    async with installation.services.db.transaction() as conn:
        await conn.execute(text("delete from repository_blobs where digest = :d"), {"d": digest})
        await conn.execute(text("update blobs set state = 'deleting' where digest = :d"), {"d": digest})
    await collect_garbage.run(context(installation))
    assert digest not in stored(installation)
    async with installation.services.db.reading() as conn:
        assert await conn.scalar(text("select count(*) from blobs where digest = :d"), {"d": digest}) == 0


async def test_an_upload_brings_a_blob_back_that_was_being_removed(
    installation: Installation, developer: Client
) -> None:
    data = b"needed again"
    digest = await developer.blob("lab/demo", data)
    async with installation.services.db.transaction() as conn:
        await conn.execute(text("delete from repository_blobs where digest = :d"), {"d": digest})
        await conn.execute(text("update blobs set state = 'deleting' where digest = :d"), {"d": digest})
    assert await developer.blob("lab/demo", data) == digest
    await collect_garbage.run(context(installation))
    assert (await developer("GET", f"/v2/lab/demo/blobs/{digest}")).content == data


async def test_a_file_without_a_row_is_removed_when_it_is_old(installation: Installation, developer: Client) -> None:
    store = installation.services.store
    assert isinstance(store, FileStore)
    orphan = await store.put_bytes(b"renamed, never committed")
    await collect_garbage.run(context(installation))
    assert orphan.digest in stored(installation)
    await age(installation)
    await collect_garbage.run(context(installation))
    assert orphan.digest not in stored(installation)


async def test_stale_uploads_and_their_bytes_are_removed(installation: Installation, developer: Client) -> None:
    where = (await developer("POST", "/v2/lab/demo/blobs/uploads/", b"")).headers["location"]
    await developer("PATCH", where, b"abandoned")
    await remove_stale_uploads.run(context(installation))
    assert (await developer("GET", where)).status_code == 204
    await age(installation)
    await remove_stale_uploads.run(context(installation))
    assert (await developer("GET", where)).status_code == 404
    assert list((installation.services.settings.data_dir / "depot" / "uploads").iterdir()) == []


async def test_clean_up_beside_pushes_never_breaks_a_push(installation: Installation, developer: Client) -> None:
    """Pushers take the HEAD-says-it-is-there road while clean-up runs with leases already over."""
    stop = asyncio.Event()

    async def clean() -> None:
        while not stop.is_set():
            await collect_garbage.run(context(installation, timedelta(days=2)))

    async def push(number: int) -> dict[str, Any]:
        data = b"shared layer of everybody"
        digest = sha256(data)
        for _ in range(20):
            if (await developer("HEAD", f"/v2/lab/demo/blobs/{digest}")).status_code != 200:
                await developer.blob("lab/demo", data)
            config = await developer.blob("lab/demo", json.dumps({"n": number}).encode())
            document = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": config, "size": len(json.dumps({"n": number}))},
                "layers": [{"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}],
            }
            answer = await developer.manifest("lab/demo", f"t{number}", document)
            if answer.status_code == 201:
                return document
            # Clean-up two days ahead of the clock ignores leases: a refusal is allowed, a broken tag is not.
            assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        raise AssertionError("never got through")

    cleaner = asyncio.create_task(clean())
    try:
        await asyncio.gather(*(push(number) for number in range(6)))
    finally:
        stop.set()
        await cleaner
    for number in range(6):
        manifest = (await developer("GET", f"/v2/lab/demo/manifests/t{number}")).json()
        for blob in (manifest["config"], *manifest["layers"]):
            content = (await developer("GET", f"/v2/lab/demo/blobs/{blob['digest']}")).content
            assert sha256(content) == blob["digest"]
