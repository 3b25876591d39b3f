"""Blobs whose bytes are at registries only, as readers and pushers meet them on the wire."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from berth.adapters.registries.contract import Registry
from berth.adapters.registries.folder import FolderRegistry
from berth.errors import IntegrityError, RemoteError
from berth.sync.cache.fetcher import Fetcher
from berth.sync.copy import copy_version
from berth.sync.depot import DepotRegistry
from tests.unit.server.gateway.registry import CONFIG, LAYER, MANIFEST, Client, Installation, sha256

MODEL = "ml/net"
SETTINGS = b'{"rootfs": {}}'
LINK = "https://objects.example/blob?signature=x"


class Hub(FolderRegistry):
    """A folder that counts, breaks and lies as it is told, and may hand out links."""

    down = False
    lies = False
    asked = 0
    link: str | None = None

    async def blob(self, repository: str, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        self.asked += 1
        if self.down:
            raise RemoteError("the line is dead")
        async for piece in super().blob(repository, digest, offset=offset):
            yield piece[:-1] + b"?" if self.lies else piece

    async def presigned(self, repository: str, digest: str, *, seconds: int) -> str | None:
        assert (repository, seconds) == (MODEL, 60)
        return self.link

    async def close(self) -> None:
        """It belongs to the test."""


@dataclass
class Scene:
    installation: Installation
    developer: Client
    reader: Client
    hub: Hub
    layer: bytes
    root: str

    @property
    def path(self) -> str:
        return f"/v2/{MODEL}/blobs/{sha256(self.layer)}"

    async def run(self, statement: str) -> None:
        async with self.installation.services.db.transaction() as conn:
            await conn.execute(text(statement))

    async def value(self, query: str) -> object:
        async with self.installation.services.db.reading() as conn:
            return await conn.scalar(text(query))


@pytest.fixture
async def scene(installation: Installation, tmp_path: Path) -> Scene:
    """Version 1.0.0 of an open project, published to `hub`; the depot has let go of everything."""
    await installation.project("ml", "open")
    developer = await installation.user("dev", "ml", "developer")
    reader = await installation.user("rea", "ml", "reader")
    layer = os.urandom(2_500_000)
    root = await push(developer, "1.0.0", layer)
    hub = Hub(tmp_path / "hub")
    services = installation.services
    await copy_version(
        DepotRegistry(services.db, services.store, clock=services.clock), hub, MODEL, MODEL, root, "1.0.0"
    )

    async def remote(name: str) -> Registry | None:
        return hub if name == "hub" else None

    object.__setattr__(services, "fetcher", Fetcher(services.db, services.store, remote=remote, clock=services.clock))
    made = Scene(installation, developer, reader, hub, layer, root)
    await made.run("insert into registries (name, kind, url, created_by) values ('hub', 'folder', 'file:///h', 'a')")
    await made.run(
        "insert into placements (version_id, registry, repository, state) "
        f"select id, 'hub', '{MODEL}', 'published' from versions"
    )
    await made.run("update blobs set location = null where size > 2")
    return made


async def push(client: Client, tag: str, layer: bytes, *, send: bool = True) -> str:
    config = await client.blob(MODEL, SETTINGS)
    if send:
        await client.blob(MODEL, layer)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 14},
        "layers": [{"mediaType": LAYER, "digest": sha256(layer), "size": len(layer)}],
    }
    answer = await client.manifest(MODEL, tag, document)
    assert answer.status_code == 201, answer.text
    return answer.headers["docker-content-digest"]


async def test_a_reader_gets_the_blob_and_a_second_one_gets_it_from_the_depot(scene: Scene) -> None:
    for _ in range(2):
        answer = await scene.reader("GET", scene.path)
        assert (answer.status_code, answer.content) == (200, scene.layer)
        assert answer.headers["content-length"] == str(len(scene.layer))
    assert scene.hub.asked == 1


async def test_a_range_waits_for_the_verified_copy(scene: Scene) -> None:
    answer = await scene.reader("GET", scene.path, Range="bytes=100-199")
    assert (answer.status_code, answer.content) == (206, scene.layer[100:200])
    assert await scene.value(f"select location is not null from blobs where digest = '{sha256(scene.layer)}'")


async def test_a_liar_is_a_broken_connection_and_leaves_nothing(scene: Scene) -> None:
    scene.hub.lies = True
    with pytest.raises(IntegrityError):  # the server breaks the connection off: tests/stories see that from outside
        await scene.reader("GET", scene.path)
    assert await scene.value(f"select location is null from blobs where digest = '{sha256(scene.layer)}'")


async def test_head_says_what_there_is_and_fetches_nothing(scene: Scene) -> None:
    answer = await scene.reader("HEAD", scene.path)
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(scene.layer)))
    assert scene.hub.asked == 0


async def test_with_every_registry_down_the_answer_is_503_with_reasons_and_what_is_here_is_served(scene: Scene) -> None:
    config = f"/v2/{MODEL}/blobs/{sha256(SETTINGS)}"
    assert (await scene.reader("GET", config)).status_code == 200
    scene.hub.down = True
    answer = await scene.reader("GET", scene.path)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    [problem] = answer.json()["errors"]
    assert [place["registry"] for place in problem["detail"]["registries"]] == ["hub"]
    assert "hub: the line is dead" in problem["message"]
    assert (await scene.reader("GET", config)).status_code == 200
    assert (await scene.reader("GET", f"/v2/{MODEL}/manifests/1.0.0")).status_code == 200


async def test_readers_are_sent_to_where_the_bytes_lie_only_where_that_was_chosen(scene: Scene) -> None:
    scene.hub.link = LINK
    assert (await scene.reader("HEAD", scene.path)).status_code == 200
    await scene.run("update registries set options = '{\"redirect\": true}'")
    answer = await scene.reader("GET", scene.path)
    assert (answer.status_code, answer.headers["location"], answer.content) == (307, LINK, b"")
    await scene.run("update registries set options = '{}'")
    assert (await scene.reader("GET", scene.path)).content == scene.layer


async def test_who_may_not_read_is_not_sent_there_either(scene: Scene) -> None:
    scene.hub.link = LINK
    await scene.run("update registries set options = '{\"redirect\": true}'")
    await scene.run("update projects set policy = '{\"preset\": \"strict\"}', policy_hash = 'changed'")
    answer = await scene.reader("GET", scene.path)
    assert answer.status_code == 403
    assert scene.hub.asked == 0


async def share(scene: Scene) -> None:
    """Another project has the same layer, at the same registry and at one that this project does not use."""
    await scene.installation.project("abc", "open")
    other = await scene.installation.user("eve", "abc", "developer")
    layer, config = await other.blob("abc/secret", scene.layer), await other.blob("abc/secret", SETTINGS)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": len(SETTINGS)},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": len(scene.layer)}],
    }
    assert (await other.manifest("abc/secret", "1.0.0", document)).status_code == 201
    await scene.run("insert into registries (name, kind, url, created_by) values ('far', 'folder', 'file:///f', 'a')")
    for registry in ("hub", "far"):
        await scene.run(
            "insert into placements (version_id, registry, repository, state) "
            f"select v.id, '{registry}', 'abc/secret', 'published' from versions v "
            "join repositories r on r.id = v.repository_id where r.name = 'abc/secret'"
        )
    await scene.run("update blobs set location = null where size > 2")


@pytest.mark.parametrize("part", [False, True])
async def test_who_shares_a_blob_is_not_told_where_others_have_it(scene: Scene, part: bool) -> None:
    await share(scene)
    scene.hub.down = True
    answer = await scene.reader("GET", scene.path, **({"Range": "bytes=0-9"} if part else {}))
    assert answer.status_code == 503
    [problem] = answer.json()["errors"]
    assert [place["repository"] for place in problem["detail"]["registries"]] == [MODEL]
    assert "secret" not in answer.text
    assert "far" not in answer.text
    reasons = [scene.installation.services.cache.health.state(name).reason or "" for name in ("hub", "far")]
    assert all("secret" not in reason for reason in reasons)


async def test_who_shares_a_blob_is_sent_to_the_own_place_of_the_model(scene: Scene) -> None:
    await share(scene)
    scene.hub.link = LINK
    await scene.run("update registries set options = '{\"redirect\": true}'")
    answer = await scene.reader("GET", scene.path)  # `presigned` looks at whose place is asked for
    assert (answer.status_code, answer.headers["location"]) == (307, LINK)


async def test_a_pusher_need_not_send_what_a_registry_holds_but_must_where_none_does(scene: Scene) -> None:
    assert (await scene.developer("HEAD", scene.path)).status_code == 200
    await push(scene.developer, "1.1.0", scene.layer, send=False)
    assert scene.hub.asked == 0
    await scene.run("update placements set state = 'withdrawn'")
    assert (await scene.developer("HEAD", scene.path)).status_code == 404
    body = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": sha256(SETTINGS), "size": 14},
        "layers": [{"mediaType": LAYER, "digest": sha256(scene.layer), "size": len(scene.layer)}],
        "annotations": {"other": "version"},
    }
    refused = await scene.developer.manifest(MODEL, "1.2.0", body)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (404, "MANIFEST_BLOB_UNKNOWN")
    await scene.developer.blob(MODEL, scene.layer)
    assert (await scene.developer.manifest(MODEL, "1.2.0", body)).status_code == 201
    assert (await scene.reader("GET", scene.path)).content == scene.layer
    assert scene.hub.asked == 0


async def test_a_blob_that_leaves_between_the_question_and_the_read_is_fetched(scene: Scene) -> None:
    await scene.run(f"update blobs set location = 'blobs/sha256/00/gone' where digest = '{sha256(scene.layer)}'")
    store = scene.installation.services.store
    plain = store.read

    def leaving(location: str, *, start: int = 0, length: int) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            if location.endswith("gone"):
                await scene.run(f"update blobs set location = null where digest = '{sha256(scene.layer)}'")
            async for piece in plain(location, start=start, length=length):
                yield piece

        return pieces()

    store.read = leaving  # type: ignore[method-assign]
    answer = await scene.reader("GET", scene.path)
    assert (answer.status_code, answer.content) == (200, scene.layer)


async def test_that_a_blob_was_read_is_written_down_at_most_once_an_hour(scene: Scene) -> None:
    digest = sha256(scene.layer)
    await scene.reader("GET", scene.path)
    asked = f"select read_at from blobs where digest = '{digest}'"
    before = await scene.value(asked)
    await scene.reader("GET", scene.path)
    assert await scene.value(asked) == before
    await scene.run(f"update blobs set read_at = '2020-01-01' where digest = '{digest}'")
    await scene.reader("GET", scene.path)
    assert str(await scene.value(asked)) > "2026"
