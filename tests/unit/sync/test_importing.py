"""What lives in a registry becomes known here: verified, without its layers, and never over what is known already."""

from __future__ import annotations

from typing import Any

import pytest

from berth.errors import ManifestUnknown
from berth.gates.verdicts import verdict_of
from berth.jobs import publish_version, schedule_sync, withdraw_version
from berth.sync.importing import run as imports
from berth.sync.importing.decide import Known, Scope, decide
from berth.sync.journal import queries
from berth.sync.journal.queries import ItemRow, Run
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import Faulty, push_image, push_version, sha256

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
async def hub(lab: Lab) -> Faulty:
    """The registry `hub`, known here, counting what it is asked."""
    lab.faults["hub"] = Faulty(lab.hub)
    return lab.faults["hub"]


async def import_(lab: Lab, scope: Scope = Scope(), *, dry_run: bool = False) -> tuple[Run, list[ItemRow]]:  # noqa: B008
    async with lab.database.transaction() as conn:
        number = await imports.start(conn, registry="hub", project_id=None, scope=scope, dry_run=dry_run, by="admin")
    await imports.carry_out(lab.database, lab.store, lab.places, number, now=lab.clock)
    async with lab.database.reading() as conn:
        run = await queries.run_by_id(conn, number)
        assert run is not None
        return run, await queries.items_of(conn, number, limit=100)


def told(items: list[ItemRow]) -> list[tuple[Any, ...]]:
    return [(item.source_repository, item.tag, item.action, item.code, item.state) for item in items]


@pytest.mark.parametrize(
    ("tag", "digest", "expected"),
    [
        ("1.0.0", A, ("import", "new")),
        ("1.1.0", A, ("import", "also_there")),
        ("1.2.0", A, ("skip", "known")),
        ("1.2.0", B, ("conflict", "other_digest")),
        ("1.3.0", A, ("skip", "deleted")),
        ("1.4.0_cpu", A, ("skip", "known")),
        ("latest", A, ("skip", "not_a_version")),
        ("1.2", A, ("skip", "not_a_version")),
        ("2.0.0", None, ("skip", "gone")),
        ("3.0.0", A, ("skip", "alias")),
    ],
)
def test_each_tag_has_one_outcome(tag: str, digest: str | None, expected: tuple[str, str]) -> None:
    known = {
        "1.1.0": Known(A, deleted=False, placed=False),
        "1.2.0": Known(A, deleted=False, placed=True),
        "1.3.0": Known(A, deleted=True, placed=False),
        "1.4.0+cpu": Known(A, deleted=False, placed=True),
    }
    item = decide("lab/net", tag, digest, known, frozenset({"3.0.0"}))
    assert (item.action, item.code) == expected


async def test_versions_become_known_without_their_layers_and_are_refused_until_scanned(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab", {"preset": "scanned"})
    root = await push_version(lab.hub, "lab/net", "1.0.0", size=50_000)
    await push_image(lab.hub, "lab/net", "latest", layers=[b"x"])
    await push_image(lab.hub, "lab/other", "0.1.0", layers=[b"y"])
    await push_image(lab.hub, "strangers/net", "1.0.0", layers=[b"z"])
    run, items = await import_(lab)
    assert run.state == "succeeded"
    assert told(items) == [
        ("lab/net", "latest", "skip", "not_a_version", "done"),
        ("lab/net", "1.0.0", "import", "new", "done"),
        ("lab/other", "0.1.0", "import", "new", "done"),
        ("strangers/net", "*", "skip", "no_project", "done"),
    ]
    # Layers stay; configs and what was attached (a listing of parts, a signature) have come.
    layers = await lab.rows("select size, location from blobs where size > 50000")
    assert len(layers) == 6
    assert {row.location for row in layers} == {None}
    assert run.bytes_transferred < 2_000
    assert await lab.rows("select registry, repository, state, found from placements order by id") == [
        ("hub", "lab/net", "published", True),
        ("hub", "lab/other", "published", True),
    ]
    assert [d.artifact_type for d in await lab.depot.referrers("lab/net", root)] == ["text/spdx"]
    assert {job["digest"] for job in await lab.jobs("scan_weights")}, "their scans wait"
    row = (await lab.rows("select repository_id from versions where digest = '" + root + "'"))[0]
    async with lab.database.transaction() as conn:
        assert not (await verdict_of(conn, row.repository_id, root, lab.now)).admitted
    # Nothing that was found is taken away there, although it is denied here.
    lab.forward(days=1)
    await schedule_sync.run(lab.context)
    assert await lab.jobs("withdraw_version") == []
    await withdraw_version.run(lab.context, repository_id=row.repository_id, root=root)
    assert await lab.hub.stat("lab/net", "1.0.0") is not None


async def test_a_second_import_has_nothing_to_do(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    await push_version(lab.hub, "lab/net", "1.0.0")
    await import_(lab)
    run, items = await import_(lab)
    assert told(items) == [("lab/net", "1.0.0", "skip", "known", "done")]
    assert run.bytes_transferred == 0


async def test_a_dry_run_says_the_same_and_changes_nothing(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    await push_version(lab.hub, "lab/net", "1.0.0")
    run, items = await import_(lab, dry_run=True)
    assert (run.state, told(items)) == ("succeeded", [("lab/net", "1.0.0", "import", "new", "planned")])
    assert await lab.rows("select 1 from versions") == []
    assert "blob" not in hub.calls


async def test_other_content_under_a_known_number_is_a_conflict_and_left_alone(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    ours = await push_image(lab.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"theirs"])
    _, items = await import_(lab)
    assert told(items) == [("lab/net", "1.0.0", "conflict", "other_digest", "conflict")]
    assert await lab.rows("select digest from versions") == [(ours,)]


async def test_what_is_here_is_known_to_be_there_too(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    for registry in (lab.depot, lab.hub):
        await push_image(registry, "lab/net", "1.0.0", layers=[b"same"], salt="s")
    _, items = await import_(lab)
    assert told(items) == [("lab/net", "1.0.0", "import", "also_there", "done")]
    assert await lab.rows("select state, found from placements") == [("published", True)]
    assert await lab.rows("select 1 from blobs where location is null") == [], "what was here stays here"


async def test_a_missing_layer_fails_its_version_and_leaves_the_others_alone(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"whole"])
    broken = await push_image(lab.hub, "lab/net", "1.1.0", layers=[b"will be lost"])
    next((lab.folder / "hub/lab/net/blobs").rglob("*" + sha256(b"will be lost").partition(":")[2])).unlink()
    run, items = await import_(lab)
    assert [(item.tag, item.state) for item in items] == [("1.0.0", "done"), ("1.1.0", "failed")]
    assert run.state == "failed"
    assert await lab.depot.stat("lab/net", "1.1.0") is None
    with pytest.raises(ManifestUnknown):
        await lab.depot.manifest("lab/net", broken)


async def test_a_manifest_that_is_not_its_digest_is_refused(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab")
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"x"])
    hub.lies = lambda body: body + b" "
    run, items = await import_(lab)
    assert (run.state, items[0].state) == ("failed", "failed")
    assert "other bytes" in (items[0].error or "")
    assert await lab.rows("select 1 from versions") == []


async def test_what_is_published_to_the_place_where_it_was_found_is_ours_to_take_back(lab: Lab, hub: Faulty) -> None:
    await lab.project("lab", {"preset": "open"}, home="hub")
    root = await push_image(lab.hub, "lab/net", "1.0.0", layers=[b"x" * 100_000])
    await import_(lab)
    for args in await lab.jobs("publish_version"):
        await publish_version.run(lab.context, **args)
    assert await lab.rows("select state, found, bytes from placements") == [("published", False, 0)]
    await lab.decide("lab/net", root, "revoked")
    [args] = await lab.jobs("withdraw_version")
    object.__setattr__(lab.context, "fetcher", lab.places.fetcher)
    await withdraw_version.run(lab.context, **args)
    assert await lab.hub.stat("lab/net", "1.0.0") is None
    assert await lab.rows("select 1 from blobs where location is null") == [], "its layer is here instead"
