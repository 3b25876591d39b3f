"""A registry that only says that it holds a blob opens it to nobody: its own bytes come first, then those of the depot.

Whoever knows the digest of another project's weights, and has a registry that claims to hold them, must not get them
out of our depot, whichever of the two was here first (decision 26).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from berth.errors import BerthError, IntegrityError, Unavailable
from berth.sync.cache.fetcher import Fetcher
from berth.sync.depot import DepotRegistry
from berth.sync.importing.decide import Scope
from berth.sync.journal.queries import ItemRow
from tests.unit.sync.conftest import Lab
from tests.unit.sync.made import CONFIG, LAYER, MANIFEST, Faulty, push_blob, push_image, sha256
from tests.unit.sync.test_importing import import_

WEIGHTS = b"their weights, which nobody else may read"
DIGEST = sha256(WEIGHTS)


@pytest.fixture
async def hub(lab: Lab) -> Faulty:
    """The registry `hub`, counting what it is asked, with `lab/net:1.0.0` whose layer has the digest of WEIGHTS."""
    await lab.project("lab")
    await lab.project("secret", {"preset": "strict"})
    await push_image(lab.hub, "lab/net", "1.0.0", layers=[WEIGHTS])
    lab.faults["hub"] = Faulty(lab.hub)
    return lab.faults["hub"]


@pytest.fixture
async def depot(lab: Lab) -> AsyncIterator[DepotRegistry]:
    """The depot as servers have it, which fetches from the hub."""
    fetcher = Fetcher(lab.database, lab.store, remote=lab.remote, clock=lab.clock)
    yield DepotRegistry(lab.database, lab.store, clock=lab.clock, fetcher=fetcher)
    await fetcher.close()


def lie(lab: Lab) -> None:
    """The hub still says that it has the blob, of the right size; its bytes are others."""
    found = next((lab.folder / "hub/lab/net/blobs").rglob("*" + DIGEST.partition(":")[2]))
    found.write_bytes(WEIGHTS[::-1])


async def states(lab: Lab) -> list[str]:
    _, items = await import_(lab)
    return [item.state for item in items]


async def read(depot: DepotRegistry, repository: str = "lab/net", offset: int = 0) -> bytes:
    return b"".join([piece async for piece in depot.blob(repository, DIGEST, offset=offset)])


async def proven(lab: Lab) -> dict[str, bool]:
    rows = await lab.rows(
        "select r.name, rb.proven from repository_blobs rb join repositories r on r.id = rb.repository_id "
        f"where rb.digest = '{DIGEST}'"
    )
    return {row.name: row.proven for row in rows}


@pytest.mark.parametrize("first", ["theirs", "the import"])
@pytest.mark.parametrize("honest", [False, True])
async def test_the_depots_bytes_are_given_only_after_the_registrys_own(
    lab: Lab, hub: Faulty, depot: DepotRegistry, honest: bool, first: str
) -> None:
    if not honest:
        lie(lab)
    if first == "theirs":
        await push_image(lab.depot, "secret/net", "1.0.0", layers=[WEIGHTS])
    assert await states(lab) == ["done"]
    assert DIGEST not in hub.read, "no layer moves at an import"
    if first == "the import":
        await push_image(lab.depot, "secret/net", "1.0.0", layers=[WEIGHTS])
    assert await proven(lab) == {"lab/net": False, "secret/net": True}
    assert await read(depot, "secret/net") == WEIGHTS
    assert DIGEST not in hub.read, "which asks nobody"
    if honest:
        assert await read(depot) == WEIGHTS
        assert await read(depot, offset=6) == WEIGHTS[6:]
        assert hub.read.count(DIGEST) == 1, "once it is proven the depot gives it"
        assert await proven(lab) == {"lab/net": True, "secret/net": True}
    else:
        for offset in (0, 6):
            with pytest.raises((IntegrityError, Unavailable)):
                await read(depot, offset=offset)
        with pytest.raises(BerthError):
            await depot.fetcher.hold([DIGEST], for_=timedelta(hours=1), repository_id=await number(lab, "lab/net"))
        assert await proven(lab) == {"lab/net": False, "secret/net": True}
    assert await read(depot, "secret/net") == WEIGHTS
    assert list((lab.store.root / "uploads").iterdir()) == []


async def test_who_waits_for_a_registry_does_not_get_what_others_push_meanwhile(
    lab: Lab, hub: Faulty, depot: DepotRegistry
) -> None:
    lie(lab)
    assert await states(lab) == ["done"]
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        asked.set()
        await go.wait()
        async for piece in lab.hub.blob(repository, digest, offset=offset):
            yield piece

    hub.blob = slow  # type: ignore[method-assign]
    waiting = asyncio.create_task(read(depot))
    await asked.wait()
    await push_image(lab.depot, "secret/net", "1.0.0", layers=[WEIGHTS])
    assert await read(depot, "secret/net") == WEIGHTS
    go.set()
    with pytest.raises((IntegrityError, Unavailable)):
        await waiting


async def test_what_is_not_proven_is_not_handed_on(lab: Lab, hub: Faulty, depot: DepotRegistry) -> None:
    assert await states(lab) == ["done"]
    await lab.project("other")
    assert not await depot.mount_blob("other/net", DIGEST, source="lab/net")
    assert await read(depot) == WEIGHTS
    assert await depot.mount_blob("other/net", DIGEST, source="lab/net")


async def test_one_place_proves_for_all_models_of_its_project_and_of_no_other(
    lab: Lab, hub: Faulty, depot: DepotRegistry
) -> None:
    await lab.project("other")
    await push_image(lab.hub, "lab/twin", "1.0.0", layers=[WEIGHTS])
    await push_image(lab.hub, "other/net", "1.0.0", layers=[WEIGHTS])
    assert await states(lab) == ["done"] * 3
    assert await read(depot, "lab/net") == WEIGHTS
    assert await proven(lab) == {"lab/net": True, "lab/twin": True, "other/net": False}
    assert await read(depot, "lab/twin") == WEIGHTS
    assert hub.read.count(DIGEST) == 1
    assert await read(depot, "other/net") == WEIGHTS
    assert hub.read.count(DIGEST) == 2
    # What comes in after that is the project's own.
    await push_image(lab.hub, "lab/late", "1.0.0", layers=[WEIGHTS])
    assert "done" in await states(lab)
    assert (await proven(lab))["lab/late"]


async def test_a_fetch_for_ourselves_proves_for_those_whose_place_gave_it_all(
    lab: Lab, hub: Faulty, depot: DepotRegistry
) -> None:
    """A scan reads content by its digest, not as anybody's."""
    await lab.project("other")
    await push_image(lab.hub, "other/net", "1.0.0", layers=[WEIGHTS])
    assert await states(lab) == ["done"] * 2
    await depot.fetcher.ensure(DIGEST)
    found = await proven(lab)
    assert sorted(found.values()) == [False, True]


async def test_a_false_size_does_not_stand_in_the_way_of_honest_imports(
    lab: Lab, hub: Faulty, depot: DepotRegistry
) -> None:
    await lab.project("good")
    config = await push_blob(lab.hub, "lab/lie", b"{}")
    await push_blob(lab.hub, "lab/lie", WEIGHTS)
    await lab.hub.push_manifest("lab/lie", "1.0.0", media_type=MANIFEST, body=image_of(config, size=5))

    async def silent(repository: str, digest: str) -> int | None:
        """As registries that do not say how large a blob is."""
        return None if await lab.hub.blob_size(repository, digest) is None else 0

    hub.blob_size = silent  # type: ignore[method-assign]
    assert await outcome(lab, "lab/lie") == ["done"]
    await push_image(lab.hub, "good/net", "1.0.0", layers=[WEIGHTS])
    assert await outcome(lab, "good/net") == ["done"]
    assert await read(depot, "good/net") == WEIGHTS
    # And a false size that comes later is found out.
    await lab.hub.push_manifest("lab/lie", "2.0.0", media_type=MANIFEST, body=image_of(config, size=6))
    assert await outcome(lab, "lab/lie") == ["failed"]


def image_of(config: str, *, size: int) -> bytes:
    """An image that says of its layer, WEIGHTS, that it has so many bytes."""
    layer = {"mediaType": LAYER, "digest": DIGEST, "size": size}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 2},
        "layers": [layer],
    }
    return json.dumps(document).encode()


async def outcome(lab: Lab, repository: str) -> list[str]:
    _, items = await import_(lab, Scope(repository=repository))
    return [item.state for item in items if is_about(item, repository)]


def is_about(item: ItemRow, repository: str) -> bool:
    return item.source_repository == repository and item.action == "import"


async def number(lab: Lab, repository: str) -> int:
    rows = await lab.rows(f"select id from repositories where name = '{repository}'")
    found: int = rows[0].id
    return found
