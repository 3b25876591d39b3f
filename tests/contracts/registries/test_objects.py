"""What an object store has to stand besides the contract: other writers, a killed server, refused keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import AzureStore, S3Store

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Limited, Redirecting, Registry, RegistrySettings
from berth.adapters.registries.objects_store import Door, place_of
from berth.adapters.registries.objects_store import opened as store_of
from berth.errors import (
    DigestInvalid,
    InvalidInput,
    NameInvalid,
    RemoteAuthError,
    RemoteError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from berth.oci.descriptor import Descriptor
from tests.support import azurite
from tests.support.azurite import Azurite
from tests.support.processes import needs
from tests.support.seaweedfs import BUCKET, KEY, SECRET, Weed, running_weed
from tests.unit.wire.peer import Answer, Asked, running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MIB = 1 << 20


def settings(url: str, endpoint: str, **options: Any) -> RegistrySettings:
    return RegistrySettings("store", "objects", url, KEY, SECRET, {"endpoint": endpoint, **options})


def opened(weed: Weed, prefix: str, **options: Any) -> Registry:
    return Bucket.of_weed(weed).opened(prefix, **options)


@dataclass(frozen=True)
class Bucket:
    """One of a store that really runs, and how Berth is told of it."""

    url: str
    endpoint: str
    username: str
    secret: str
    store: S3Store | AzureStore
    weed: Weed | None = None

    @classmethod
    def of_weed(cls, weed: Weed) -> Bucket:
        return cls(f"s3://{BUCKET}", weed.url, KEY, SECRET, weed.store(), weed)

    @classmethod
    def of_azurite(cls, running: Azurite) -> Bucket:
        return cls(f"az://{azurite.CONTAINER}", running.url, azurite.ACCOUNT, running.key, running.store())

    def settings(self, prefix: str, **options: Any) -> RegistrySettings:
        given = {"endpoint": self.endpoint, **options}
        return RegistrySettings("store", "objects", f"{self.url}/{prefix}", self.username, self.secret, given)

    def opened(self, prefix: str, **options: Any) -> Registry:
        return Registries().open(self.settings(prefix, **options))

    def leftovers(self, prefix: str) -> list[str]:
        """Objects below the prefix, and parts that wait for the rest of theirs (Azure shows those to nobody)."""
        parts = [str(upload["Key"]) for upload in unfinished(self.weed)] if self.weed else []
        found = [str(item["path"]) for item in obstore.list(self.store, prefix).collect()]
        return [key for key in (*parts, *found) if key.startswith(prefix)]


@pytest.fixture(params=["weed", "azurite"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """SeaweedFS speaks S3, Azurite speaks Azure's protocol."""
    running = request.getfixturevalue(request.param)
    return Bucket.of_weed(running) if isinstance(running, Weed) else Bucket.of_azurite(running)


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(8)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def pieces(data: bytes, size: int = MIB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def image(registry: Registry, tag: str, *, repository: str = "lab/net") -> str:
    config = json.dumps({"salt": tag}).encode()
    await registry.push_blob(repository, sha256(config), size=len(config), chunks=pieces(config))
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [],
        }
    ).encode()
    return await registry.push_manifest(repository, tag, media_type=MANIFEST, body=body)


def unfinished(weed: Weed) -> list[Any]:
    """Uploads in parts that are neither complete nor given up, as boto3 sees them."""
    client = boto3.client(
        "s3", endpoint_url=weed.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    return list(client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


# ---- who may


async def test_a_wrong_secret_is_refused_and_is_said_not_to_be_shown(bucket: Bucket, prefix: str) -> None:
    good = bucket.opened(prefix)
    digest = await image(good, "1.0.0")
    wrong = base64.b64encode(b"not it, and not theirs").decode()  # keys of Azure are base64
    bad = replace(bucket, secret=wrong).opened(prefix)
    for call in (bad.repositories(), bad.stat("lab/net", "1.0.0"), image(bad, "2.0.0")):
        with pytest.raises(RemoteAuthError) as refused:
            await call
        assert wrong not in str(refused.value)
    found = await good.stat("lab/net", "1.0.0")
    assert found is not None
    assert found.digest == digest
    assert await good.stat("lab/net", "2.0.0") is None
    await bad.close()
    await good.close()


async def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    scheme = bucket.url.partition(":")[0]
    registry = replace(bucket, url=f"{scheme}://no-such-bucket").opened("any")
    with pytest.raises(RemoteError, match="no such bucket"):
        await registry.repositories()
    await registry.close()


async def test_a_signed_url_hands_out_the_blob_without_credentials_and_ends(bucket: Bucket, prefix: str) -> None:
    curl = needs("curl")

    def fetch(url: str) -> tuple[str, bytes]:
        said = subprocess.run([curl, "-s", "-w", "\n%{http_code}", url], capture_output=True, check=True, timeout=60)
        body, _, status = said.stdout.rpartition(b"\n")
        return status.decode(), body

    registry = bucket.opened(prefix, redirect=True)
    assert isinstance(registry, Redirecting)
    data = b"weights" * 100
    await registry.push_blob("lab/net", sha256(data), size=len(data), chunks=pieces(data))
    url = await registry.presigned("lab/net", sha256(data), seconds=60)
    assert url is not None
    assert bucket.secret not in url
    assert fetch(url) == ("200", data)
    assert fetch(url.partition("?")[0])[0] == "403"
    short = await registry.presigned("lab/net", sha256(data), seconds=1)
    assert short is not None
    async with asyncio.timeout(30):
        while fetch(short)[0] == "200":
            await asyncio.sleep(0.2)
    assert fetch(short)[0] == "403"
    assert await registry.presigned("lab/net", sha256(b"absent"), seconds=60) is None
    await registry.close()
    # Only where the registry's option says so.
    silent = bucket.opened(prefix)
    assert isinstance(silent, Redirecting)
    assert await silent.presigned("lab/net", sha256(data), seconds=60) is None
    await silent.close()


# ---- large blobs


async def test_a_large_blob_goes_in_parts_and_comes_back(bucket: Bucket, prefix: str) -> None:
    registry = bucket.opened(prefix)
    data = os.urandom(MIB) * 72
    await registry.push_blob("lab/net", sha256(data), size=len(data), chunks=pieces(data))
    found = obstore.head(bucket.store, f"{prefix}/lab/net/blobs/sha256/{sha256(data)[7:]}")
    assert found["size"] == len(data)
    if bucket.weed is not None:
        assert found["e_tag"] is not None
        assert found["e_tag"].strip('"').endswith("-9")  # S3's mark of nine parts of 8 MiB
    read = hashlib.sha256()
    async for piece in registry.blob("lab/net", sha256(data)):
        read.update(piece)
    assert read.hexdigest() == sha256(data)[7:]
    await registry.close()


@pytest.mark.parametrize("wrong", ["digest", "short", "long", "broken"])
async def test_parts_of_a_blob_that_is_not_sound_are_thrown_away(bucket: Bucket, prefix: str, wrong: str) -> None:
    registry = bucket.opened(prefix)
    data = os.urandom(MIB) * 20
    digest = sha256(b"other") if wrong == "digest" else sha256(data)
    size = len(data) + {"short": MIB, "long": -MIB}.get(wrong, 0)

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(data):
            yield piece
        if wrong == "broken":
            raise Unavailable("The source went away.")

    with pytest.raises(Unavailable if wrong == "broken" else DigestInvalid):
        await registry.push_blob("lab/net", digest, size=size, chunks=source())
    assert await registry.blob_size("lab/net", digest) is None
    assert bucket.leftovers(prefix) == []
    await registry.close()


async def test_an_upload_that_is_cancelled_leaves_nothing(bucket: Bucket, prefix: str) -> None:
    registry = bucket.opened(prefix)
    data = os.urandom(MIB) * 40
    stalled = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        async for piece in pieces(data[: 30 * MIB]):
            yield piece
        stalled.set()
        await asyncio.Event().wait()

    pushing = asyncio.create_task(registry.push_blob("lab/net", sha256(data), size=len(data), chunks=source()))
    await stalled.wait()
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert await registry.blob_size("lab/net", sha256(data)) is None
    assert bucket.leftovers(prefix) == []
    await registry.close()


@pytest.mark.slow
async def test_a_store_killed_during_an_upload_shows_nothing_half_and_takes_it_again(tmp_path: Path) -> None:
    data = os.urandom(MIB) * 48
    with running_weed(tmp_path / "weed") as weed:
        registry = opened(weed, "p")
        before = await image(registry, "1.0.0")

        async def source() -> AsyncIterator[bytes]:
            for number in range(48):
                if number == 30:
                    weed.kill()
                yield data[number * MIB : (number + 1) * MIB]

        with pytest.raises((Unavailable, RemoteError)):
            await registry.push_blob("lab/net", sha256(data), size=len(data), chunks=source())
        await registry.close()
        weed.start()
        registry = opened(weed, "p")
        assert await registry.blob_size("lab/net", sha256(data)) is None
        found = await registry.stat("lab/net", "1.0.0")
        assert found is not None
        assert found.digest == before
        await registry.push_blob("lab/net", sha256(data), size=len(data), chunks=pieces(data))
        assert await registry.blob_size("lab/net", sha256(data)) == len(data)
        await registry.close()


# ---- other writers


async def test_two_writers_lose_none_of_each_others_tags(bucket: Bucket, prefix: str) -> None:
    one, two = bucket.opened(prefix), bucket.opened(prefix)
    await asyncio.gather(*(image(one if n % 2 else two, f"1.0.{n}") for n in range(16)))
    assert list((await one.tags("lab/net")).items) == sorted(f"1.0.{n}" for n in range(16))
    await asyncio.gather(*((one if n % 2 else two).delete_tag("lab/net", f"1.0.{n}") for n in range(0, 16, 2)))
    assert list((await two.tags("lab/net")).items) == sorted(f"1.0.{n}" for n in range(1, 16, 2))
    await one.close()
    await two.close()


class Careless:
    """A store that takes every write, whatever its condition."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def __call__(self, asked: Asked) -> Answer:
        held = self.objects.get(asked.path)
        if asked.method == "PUT":
            self.objects[asked.path] = asked.body
            return Answer(200, b"", {"ETag": f'"{hashlib.md5(asked.body).hexdigest()}"'})
        if asked.method == "DELETE":
            self.objects.pop(asked.path, None)
            return Answer(204)
        if held is None:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        stamp = "Thu, 26 Nov 2026 12:00:00 GMT"
        return Answer(200, held, {"ETag": f'"{hashlib.md5(held).hexdigest()}"', "Last-Modified": stamp})


async def test_a_store_without_conditional_writes_is_refused_unless_there_is_one_writer() -> None:
    store = Careless()
    async with running(store) as peer:
        registry = Registries().open(settings("s3://bucket", peer.url))
        with pytest.raises(Unsupported, match="single_writer"):
            await image(registry, "1.0.0")
        assert not [path for path in store.objects if path.endswith("index.json") or "/.berth" in path]
        await registry.close()
        alone = Registries().open(settings("s3://bucket", peer.url, single_writer=True))
        digest = await image(alone, "1.0.0")
        found = await alone.stat("lab/net", "1.0.0")
        assert found is not None
        assert found.digest == digest
        await alone.close()


async def test_a_probe_says_what_the_store_can_do(bucket: Bucket, prefix: str) -> None:
    known = bucket.settings(prefix)
    reading = await Registries().probe(known)
    assert "conditional writes: not tried; name a repository" in reading.notes
    writing = await Registries().probe(known, repository="lab/probe")
    assert "conditional writes: yes" in writing.notes
    assert "signed URLs: yes, not used without redirect" in writing.notes
    assert writing.largest_blob == (5 if bucket.weed else 190) * 2**40
    assert bucket.leftovers(prefix) == []


# ---- what others read


async def test_skopeo_reads_what_is_copied_to_a_disk(weed: Weed, prefix: str, tmp_path: Path) -> None:
    skopeo = needs("skopeo")
    registry = opened(weed, prefix)
    digest = await image(registry, "1.0.0")
    await registry.close()
    store = weed.store()
    for item in obstore.list(store, f"{prefix}/lab/net").collect():
        file = tmp_path / item["path"].removeprefix(f"{prefix}/lab/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(obstore.get(store, item["path"]).bytes()))
    said = subprocess.run(
        [skopeo, "inspect", "--raw", f"oci:{tmp_path / 'net'}:1.0.0"], capture_output=True, check=True
    )
    assert sha256(said.stdout) == digest


# ---- what is asked for


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://", {}),
        ("https://bucket", {}),
        ("s3://bucket/../other", {}),
        ("s3://bucket/a//b", {}),
        ("s3://bucket?x=1", {}),
        ("az://container", {}),
        ("s3://bucket", {"endpoint": "http://minio.example:9000"}),
        ("s3://bucket", {"endpoint": "https://user:secret@minio.example"}),
        ("s3://bucket", {"endpoint": "https://minio.example/account"}),
        ("az://box", {"account": "acme", "endpoint": "https://azure.example/acme/box"}),
        ("az://box", {"account": "acme", "endpoint": "https://azure.example/acme?sig=x"}),
        ("s3://bucket", {"ca_file": "/no/such/file"}),
        ("s3://bucket", {"redirect": "yes"}),
        ("s3://bucket", {"prefix": "x"}),
    ],
)
def test_what_names_no_place_is_refused(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Registries().open(RegistrySettings("store", "objects", url, options=options))


def google_key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    names = {"type": "service_account", "client_email": "berth@acme.example", "client_id": "1", "private_key_id": "1"}
    return json.dumps({**names, "private_key": private.decode(), "token_uri": "https://tokens.example"})


@pytest.mark.parametrize(
    ("url", "username", "secret", "begins", "carries"),
    [
        ("s3://box/p", KEY, SECRET, "https://s3.eu-west-1.amazonaws.com/box/p/x?", "X-Amz-Signature="),
        ("gs://box/p", None, "KEY FILE", "https://storage.googleapis.com/box/p/x?", "X-Goog-Signature="),
        ("az://box/p", "acme", "c2VjcmV0", "https://acme.blob.core.windows.net/box/p/x?", "sig="),
    ],
)
async def test_each_vendor_is_opened_and_signed_for_with_its_keys(
    url: str, username: str | None, secret: str, begins: str, carries: str
) -> None:
    """Signing needs no answer of the vendor: its URL shows that the store is theirs and the key is used."""
    options = {"region": "eu-west-1"} if url.startswith("s3") else {}
    secret = google_key() if secret == "KEY FILE" else secret
    known = RegistrySettings("store", "objects", url, username, secret, options)
    Registries().check(known)
    signed = obstore.sign(store_of(known), "GET", "p/x", timedelta(seconds=30))  # type: ignore[arg-type]
    assert signed.startswith(begins)
    assert carries in signed


@pytest.mark.parametrize("url", ["gs://box", "az://box"])
def test_a_key_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Registries().open(RegistrySettings("store", "objects", url, "acme", "no key at all!"))
    assert "no key at all" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", ("s3", "bucket", "")),
        ("s3://bucket/team/models/", ("s3", "bucket", "team/models")),
        ("gs://bucket/x", ("gs", "bucket", "x")),
    ],
)
def test_a_url_names_bucket_and_prefix(url: str, expected: tuple[str, str, str]) -> None:
    place = place_of(RegistrySettings("store", "objects", url))
    assert (place.scheme, place.bucket, place.prefix) == expected


def test_sizes_and_names_are_checked_before_a_byte_moves() -> None:
    registry = Registries().open(RegistrySettings("store", "objects", "s3://bucket", KEY, SECRET))
    assert isinstance(registry, Limited)
    layer = "application/vnd.oci.image.layer.v1.tar"
    registry.check_content("lab/net", "1.0.0", [Descriptor(layer, sha256(b""), 5 * 2**40)])
    with pytest.raises(TooLarge):
        registry.check_content("lab/net", "1.0.0", [Descriptor(layer, sha256(b""), 5 * 2**40 + 1)])
    with pytest.raises(NameInvalid):
        registry.check_content("Lab/net", "1.0.0", [])


@pytest.mark.parametrize(("size", "part"), [(9 * MIB, 8), (72_000 * MIB, 8), (5 * MIB * MIB, 528)])
def test_no_blob_needs_more_parts_than_the_store_takes(size: int, part: int) -> None:
    from berth.adapters.registries.objects_layout import part_size

    assert part_size(size, parts=10_000) == part * MIB
    assert -(-size // (part * MIB)) <= 10_000


async def test_an_endpoint_that_leads_to_a_private_address_needs_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup, raising=False)
    door: Callable[..., Door] = lambda **more: Door(settings("s3://b", "https://store.example", **more))  # noqa: E731
    with pytest.raises(RemoteError, match=r"10\.1\.2\.3"):
        await door().passed()
    await door(allow_private=True).passed()
