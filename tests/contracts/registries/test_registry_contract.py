"""What every registry must do, run over the index: a new kind cannot skip it (adapters/registries/contract.py)."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from berth.access import projects
from berth.access.decide import Actor
from berth.adapters.registries import REGISTRIES
from berth.adapters.registries.acr import AcrRegistry
from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Confirming, Registry, RegistrySettings, Watched
from berth.adapters.registries.ecr import EcrRegistry
from berth.adapters.registries.folder import FolderRegistry
from berth.adapters.registries.google import GoogleRegistry
from berth.adapters.registries.health import health_of
from berth.adapters.registries.objects import ObjectRegistry
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.db.engine import Database
from berth.errors import BlobUnknown, BlobUnknownToManifest, DigestInvalid, ManifestUnknown, Unsupported
from berth.gates import policies
from berth.sync.depot import DepotRegistry
from tests.contracts.registries import harbor_double, peers
from tests.contracts.registries import vendor_doubles as vendors
from tests.contracts.registries.harbor_double import HarborDouble
from tests.contracts.registries.oci_double import OciDouble
from tests.contracts.registries.test_repacking_contract import DAEMONS
from tests.support import azurite as azurites
from tests.support.azurite import Azurite
from tests.support.seaweedfs import BUCKET, KEY, SECRET, Weed
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
REPOSITORY = "lab/demo"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@asynccontextmanager
async def folder(_: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    yield FolderRegistry(tmp_path / "registry")


@asynccontextmanager
async def objects(_: Database, tmp_path: Path, weed: Weed) -> AsyncIterator[Registry]:
    url = f"s3://{BUCKET}/{secrets.token_hex(8)}/models"
    yield opened("objects", url, username=KEY, secret=SECRET, options={"endpoint": weed.url})


@asynccontextmanager
async def objects_azure(_: Database, tmp_path: Path, azurite: Azurite) -> AsyncIterator[Registry]:
    url = f"az://{azurites.CONTAINER}/{secrets.token_hex(8)}/models"
    yield opened("objects", url, username=azurites.ACCOUNT, secret=azurite.key, options={"endpoint": azurite.url})


@asynccontextmanager
async def objects_memory(_: Database, __: Path) -> AsyncIterator[Registry]:
    yield ObjectRegistry(RegistrySettings("test", "objects", "s3://bucket"), store=MemoryStore())


@asynccontextmanager
async def depot(database: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    store = FileStore(tmp_path / "depot", budget=TransferBudget(16 << 20), threads=2)
    yield DepotRegistry(database, store, clock=lambda: datetime.now(UTC))


Opening = Callable[..., AbstractAsyncContextManager[Registry]]


def opened(kind: str, url: str, **more: Any) -> Registry:
    settings = RegistrySettings("test", kind, url, **more)
    return Registries(retry=IMPATIENT).open(settings)


@asynccontextmanager
async def distribution(_: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    with peers.open_registry(tmp_path) as url:
        yield opened("distribution", url, options={"prefix": "team/models"})


@asynccontextmanager
async def distribution_htpasswd(_: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    with peers.htpasswd_registry(tmp_path) as url:
        yield opened("distribution", url, username=peers.USER, secret=peers.PASSWORD)


@asynccontextmanager
async def distribution_token(_: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    async with peers.token_registry(tmp_path) as (url, _service):
        yield opened("distribution", url, username=peers.USER, secret=peers.PASSWORD, options={"flat": True})


@asynccontextmanager
async def berth(database: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    async with peers.another_berth(database, tmp_path) as (url, token):
        yield opened("berth", url, username="root", secret=token)


@asynccontextmanager
async def harbor(_: Database, __: Path) -> AsyncIterator[Registry]:
    double = HarborDouble("ml")
    async with running(double) as peer:
        settings = {"username": harbor_double.USER, "secret": harbor_double.PASSWORD, "options": {"prefix": "ml"}}
        yield opened("harbor", peer.url, **settings)
    assert double.mistakes == []


def scripted(kind: str, make: Callable[[], OciDouble], **options: Any) -> Opening:
    """A vendor's double; `{url}` in an option is its address."""

    @asynccontextmanager
    async def opening(_: Database, __: Path) -> AsyncIterator[Registry]:
        async with running(make()) as peer:
            filled = {k: v.replace("{url}", peer.url) if isinstance(v, str) else v for k, v in options.items()}
            yield opened(kind, peer.url, username=vendors.USER, secret=vendors.PASSWORD, options=filled)

    return opening


@asynccontextmanager
async def acr_entra(_: Database, __: Path) -> AsyncIterator[Registry]:
    async def entra() -> str:
        return "entra"

    async with running(vendors.Acr(refresh=vendors.jwt(exp=4_000_000_000))) as peer:
        yield AcrRegistry(RegistrySettings("test", "acr", peer.url), retry=IMPATIENT, entra=entra)


@asynccontextmanager
async def ecr(_: Database, __: Path) -> AsyncIterator[Registry]:
    pytest.importorskip("boto3")
    double = vendors.Ecr()
    async with running(double) as peer:
        options = {"account": "123456789012", "region": "eu-central-1", "prefix": "models"}
        settings = RegistrySettings("test", "ecr", peer.url, options=options)
        yield EcrRegistry(settings, retry=IMPATIENT, api=lambda _: double.client())


@asynccontextmanager
async def google(_: Database, __: Path) -> AsyncIterator[Registry]:
    async def token(refused: bool) -> str:
        return "ya29.token"

    async with running(vendors.Google()) as peer:
        options = {"prefix": "acme/models", "location": "europe", "api_url": peer.url}
        settings = RegistrySettings("test", "google", peer.url, options=options)
        yield GoogleRegistry(settings, retry=IMPATIENT, token=token)


# By kind; what follows a dash is another way to set it up.
KINDS: dict[str, Opening] = {
    "depot": depot,
    "objects": objects,
    "objects-azure": objects_azure,
    "objects-memory": objects_memory,
    "folder": folder,
    "distribution": distribution,
    "distribution-htpasswd": distribution_htpasswd,
    "distribution-token": distribution_token,
    "berth": berth,
    "harbor": harbor,
    "acr": scripted("acr", vendors.Acr),
    "acr-entra": acr_entra,
    "ecr": ecr,
    "google": google,
    "gitlab": scripted("gitlab", vendors.GitLab, prefix=vendors.GitLab.PROJECT, api_url="{url}"),
    "ghcr": scripted("ghcr", vendors.Ghcr, prefix="acme", api_url="{url}"),
    "hub": scripted("hub", vendors.Hub, prefix="acme", flat=True, api_url="{url}/hub"),
    "quay": scripted("quay", vendors.quay, prefix="acme"),
    "zot": scripted("zot", vendors.zot),
}
# One store for all tests of a process: it takes seconds to start.
SHARED = {"objects": "weed", "objects-azure": "azurite"}


def test_every_kind_of_the_index_is_under_this_suite() -> None:
    # What repacks cannot do most of this; its own suite is test_repacking_contract.py.
    assert {name.partition("-")[0] for name in (*KINDS, *DAEMONS)} == set(REGISTRIES)
    assert {kind.name for kind in Registries().kinds() if kind.capabilities.repacks} == {"daemon"}


def test_a_kind_that_is_only_in_the_index_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRIES, "fake", "berth.adapters.registries.folder:FolderRegistry")
    with pytest.raises(AssertionError):
        test_every_kind_of_the_index_is_under_this_suite()


@pytest.fixture(params=sorted(KINDS))
async def registry(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Registry]:
    policy = policies.from_json({"preset": "open"})
    admin = Actor(name="admin", principal_id=None, kind="user", global_role="admin")
    async with database.transaction() as conn:
        await projects.create_project(
            conn,
            admin,
            name="lab",
            policy=policies.to_json(policy),
            policy_hash=policies.policy_hash(policy),
            trust_hash=policies.trust_hash([]),
        )
    shared = [request.getfixturevalue(SHARED[request.param])] if request.param in SHARED else []
    async with KINDS[request.param](database, tmp_path, *shared) as made:
        yield made
        await made.close()
        await made.close()


async def chunks(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def push_blob(registry: Registry, data: bytes, repository: str = REPOSITORY) -> str:
    await registry.push_blob(repository, sha256(data), size=len(data), chunks=chunks(data))
    return sha256(data)


async def push_image(registry: Registry, tag: str | None, salt: str = "one", **extra: object) -> tuple[str, bytes]:
    layer = f"layer {salt}".encode()
    config = json.dumps({"salt": salt}).encode()
    await push_blob(registry, layer)
    await push_blob(registry, config)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": "application/octet-stream", "digest": sha256(layer), "size": len(layer)}],
            **extra,
        }
    ).encode()
    digest = await registry.push_manifest(REPOSITORY, tag or sha256(body), media_type=MANIFEST, body=body)
    assert digest == sha256(body)
    return digest, body


async def read(registry: Registry, digest: str, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in registry.blob(REPOSITORY, digest, offset=offset)])


async def test_what_is_pushed_comes_back_byte_for_byte(registry: Registry) -> None:
    digest, body = await push_image(registry, "v1")
    found = await registry.stat(REPOSITORY, "v1")
    assert found is not None
    assert (found.digest, found.media_type, found.size) == (digest, MANIFEST, len(body))
    assert await registry.manifest(REPOSITORY, digest) == body
    assert await read(registry, sha256(b"layer one")) == b"layer one"
    assert await registry.blob_size(REPOSITORY, sha256(b"layer one")) == 9


async def test_what_a_tag_means_is_said_whatever_the_guess(registry: Registry) -> None:
    async def meaning(tag: str, likely: str) -> str | None:
        if isinstance(registry, Confirming):
            return await registry.tag_digest(REPOSITORY, tag, likely=likely)
        found = await registry.stat(REPOSITORY, tag)
        return None if found is None else found.digest

    digest, _ = await push_image(registry, "v1")
    assert await meaning("v1", digest) == digest
    assert await meaning("v1", sha256(b"another")) == digest
    assert await meaning("v2", digest) is None


async def test_a_blob_is_read_from_an_offset(registry: Registry) -> None:
    digest = await push_blob(registry, b"0123456789")
    assert await read(registry, digest, 4) == b"456789"


async def test_what_is_not_there_is_none_or_unknown(registry: Registry) -> None:
    absent = sha256(b"absent")
    assert await registry.stat(REPOSITORY, "v1") is None
    assert await registry.stat(REPOSITORY, absent) is None
    assert await registry.blob_size(REPOSITORY, absent) is None
    assert (await registry.tags("lab/nothing")).items == []
    with pytest.raises(ManifestUnknown):
        await registry.manifest(REPOSITORY, absent)
    with pytest.raises(BlobUnknown):
        await read(registry, absent)


@pytest.mark.parametrize("claim", ["digest", "size"])
async def test_bytes_that_do_not_match_are_not_stored(registry: Registry, claim: str) -> None:
    digest = sha256(b"other") if claim == "digest" else sha256(b"data")
    size = 4 if claim == "digest" else 5
    with pytest.raises(DigestInvalid):
        await registry.push_blob(REPOSITORY, digest, size=size, chunks=chunks(b"data"))
    assert await registry.blob_size(REPOSITORY, digest) is None


async def test_pushing_again_changes_nothing(registry: Registry) -> None:
    first, _ = await push_image(registry, "v1")
    second, _ = await push_image(registry, "v1")
    assert first == second
    assert list((await registry.tags(REPOSITORY)).items) == ["v1"]


async def test_a_manifest_with_missing_content_is_refused(registry: Registry) -> None:
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"mediaType": MANIFEST, "digest": sha256(b"absent"), "size": 6}],
        }
    ).encode()
    with pytest.raises(BlobUnknownToManifest):
        await registry.push_manifest(REPOSITORY, "v1", media_type=INDEX, body=body)
    assert await registry.stat(REPOSITORY, "v1") is None


async def test_a_tag_goes_without_its_content(registry: Registry) -> None:
    digest, body = await push_image(registry, "v1")
    if not registry.capabilities.tag_delete:
        with pytest.raises(Unsupported):
            await registry.delete_tag(REPOSITORY, "v1")
        return
    if registry.capabilities.last_tag_takes_content:
        await registry.push_manifest(REPOSITORY, "twin", media_type=MANIFEST, body=body)
    assert await registry.delete_tag(REPOSITORY, "v1")
    assert not await registry.delete_tag(REPOSITORY, "v1")
    assert await registry.stat(REPOSITORY, "v1") is None
    assert await registry.manifest(REPOSITORY, digest) == body


async def test_deleting_a_manifest_removes_its_tags(registry: Registry) -> None:
    digest, _ = await push_image(registry, "v1")
    if not registry.capabilities.content_delete:
        with pytest.raises(Unsupported):
            await registry.delete_manifest(REPOSITORY, digest)
        return
    await registry.push_manifest(
        REPOSITORY, "twin", media_type=MANIFEST, body=await registry.manifest(REPOSITORY, digest)
    )
    other, _ = await push_image(registry, "v2", salt="two")
    assert await registry.delete_manifest(REPOSITORY, digest)
    assert not await registry.delete_manifest(REPOSITORY, digest)
    assert list((await registry.tags(REPOSITORY)).items) == ["v2"]
    assert await registry.stat(REPOSITORY, digest) is None
    assert await registry.stat(REPOSITORY, other) is not None


async def test_lists_page_without_loss_or_repetition(registry: Registry) -> None:
    for number in range(5):
        await push_image(registry, f"t{number}", salt=str(number))
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await registry.tags(REPOSITORY, after=after, limit=2)
        assert len(page.items) <= 2
        seen += page.items
        after = page.after
        if after is None:
            break
    # The order is the registry's own.
    assert sorted(seen) == [f"t{number}" for number in range(5)]
    assert REPOSITORY in (await registry.repositories()).items


async def test_referrers_are_found_and_filtered(registry: Registry) -> None:
    digest, body = await push_image(registry, "v1")
    subject = {"mediaType": MANIFEST, "digest": digest, "size": len(body)}
    one, _ = await push_image(registry, None, salt="r1", subject=subject, artifactType="application/spdx+json")
    two, _ = await push_image(registry, None, salt="r2", subject=subject, artifactType="application/sarif+json")
    assert {d.digest for d in await registry.referrers(REPOSITORY, digest)} == {one, two}
    filtered = await registry.referrers(REPOSITORY, digest, artifact_type="application/spdx+json")
    assert [(d.digest, d.artifact_type) for d in filtered] == [(one, "application/spdx+json")]
    assert await registry.referrers(REPOSITORY, one) == []


async def test_it_says_how_it_is(registry: Registry) -> None:
    """Not our own depot: /readyz does."""
    await push_image(registry, "v1")
    if isinstance(registry, DepotRegistry):
        assert not isinstance(registry, Watched)
        return
    found = await health_of(registry)
    assert (found.healthy, found.read_only or False) == (True, False), found
    assert (await registry.tags(REPOSITORY)).items == ["v1"]
    assert (await registry.repositories()).items == [REPOSITORY], "asking left nothing behind"


async def test_a_blob_is_mounted_without_sending_it(registry: Registry) -> None:
    digest = await push_blob(registry, b"shared")
    if not registry.capabilities.mount:
        assert not await registry.mount_blob("lab/other", digest, source=REPOSITORY)
        return
    assert await registry.mount_blob("lab/other", digest, source=REPOSITORY)
    assert await registry.blob_size("lab/other", digest) == 6
    assert not await registry.mount_blob("lab/other", sha256(b"absent"), source=REPOSITORY)
