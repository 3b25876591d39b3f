"""What every container daemon must do: one suite for Docker and Podman (adapters/registries/contract.py, Repacking)."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Registry, RegistrySettings, Repacking, WholeImage
from berth.adapters.registries.daemon import DaemonRegistry, same_image
from berth.errors import Conflict, IntegrityError, InvalidInput, NotFound, RemoteError, Unavailable, Unsupported
from berth.oci.descriptor import Descriptor
from tests.support.certificates import authority
from tests.support.daemons import Dockerd, container_of, images, packed, program, runs, sha256

# By kind and program; test_registry_contract.py holds them against the index.
DAEMONS = {
    "daemon-docker": "dockerd",
    "daemon-docker-https": "dockerd",
    "daemon-podman": "podman",
    "daemon-podman-tcp": "podman_tcp",
}
TAR = "application/vnd.oci.image.layer.v1.tar"
REPOSITORY = "lab/says"


@pytest.fixture(params=sorted(DAEMONS))
def called(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, called: str) -> str:
    """Where the test itself asks the daemon."""
    return str(request.getfixturevalue(DAEMONS[called]))


def over_https(docker: Dockerd, **options: object) -> RegistrySettings:
    mine = docker.authority.client
    files = {"ca_file": docker.authority.certificate, "cert_file": mine.certificate, "key_file": mine.key}
    given = {name: str(file) for name, file in files.items()}
    return RegistrySettings("test", "daemon", docker.https, options={**given, **options})


@pytest.fixture
def settings(request: pytest.FixtureRequest, called: str, url: str) -> RegistrySettings:
    """How Berth is told to reach it."""
    if called.endswith("-https"):
        return over_https(request.getfixturevalue("docker_daemon"))
    return RegistrySettings("test", "daemon", url)


@pytest.fixture(params=["", "berth.example:8443/models"])
def prefix(request: pytest.FixtureRequest) -> str:
    """With and without something before the name; always another one, since the daemon is shared."""
    return f"{request.param}/{secrets.token_hex(4)}" if request.param else ""


@pytest.fixture
async def daemon(settings: RegistrySettings, prefix: str) -> AsyncIterator[DaemonRegistry]:
    options = {**settings.options, "prefix": prefix} if prefix else settings.options
    registry = Registries().open(replace(settings, options=options))
    assert isinstance(registry, DaemonRegistry)
    yield registry
    for tag in (await registry.tags(REPOSITORY)).items:
        await registry.delete_tag(REPOSITORY, tag)
    await registry.close()
    await registry.close()


def image(says: str, *, filler: bytes = b"x") -> tuple[WholeImage, dict[str, bytes]]:
    layers = [packed({"says": program(says)}), packed({"filler": filler})]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/says"], "Labels": {"made": "by hand"}},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        }
    ).encode()
    described = [Descriptor(TAR, sha256(layer), len(layer)) for layer in layers]
    return WholeImage(config, described), {sha256(layer): layer for layer in layers}


async def load(daemon: Repacking, tag: str, says: str, *, filler: bytes = b"x") -> WholeImage:
    whole, content = image(says, filler=filler)

    async def read(layer: Descriptor) -> AsyncIterator[bytes]:
        data = content[layer.digest]
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    await daemon.load(REPOSITORY, tag, whole, read=read)
    return whole


async def test_what_is_loaded_is_named_listed_and_runs(daemon: DaemonRegistry, url: str, prefix: str) -> None:
    whole = await load(daemon, "1.0.0", "it runs")
    found = await daemon.stat(REPOSITORY, "1.0.0")
    assert found is not None
    assert found.digest == sha256(whole.config)
    assert await daemon.stat(REPOSITORY, sha256(whole.config)) == found
    assert list((await daemon.tags(REPOSITORY)).items) == ["1.0.0"]
    assert REPOSITORY in (await daemon.repositories()).items
    assert await daemon.holds(REPOSITORY, "1.0.0", whole.config)
    assert not await daemon.holds(REPOSITORY, "1.0.0", whole.config + b" ")
    assert not await daemon.holds(REPOSITORY, "2.0.0", whole.config)
    name = f"{prefix}/{REPOSITORY}:1.0.0" if prefix else f"{REPOSITORY}:1.0.0"
    assert runs(url, name) == "it runs"


async def test_what_comes_out_has_the_same_config_and_layers(daemon: DaemonRegistry) -> None:
    whole = await load(daemon, "1.0.0", "twice", filler=secrets.token_bytes(3 << 20))
    kept: dict[str, bytes] = {}

    async def keep(size: int, chunks: AsyncIterator[bytes]) -> str:
        data = b"".join([piece async for piece in chunks])
        assert len(data) == size
        kept[sha256(data)] = data
        return sha256(data)

    saved = await daemon.save(REPOSITORY, "1.0.0", keep=keep)
    assert saved.config == whole.config
    assert [(layer.digest, layer.size, layer.media_type) for layer in saved.layers] == [
        (layer.digest, layer.size, TAR) for layer in whole.layers
    ]
    assert set(kept) == {layer.digest for layer in whole.layers}
    with pytest.raises(NotFound):
        await daemon.save(REPOSITORY, "9.0.0", keep=keep)


async def test_a_layer_that_arrives_with_other_bytes_is_not_loaded(daemon: DaemonRegistry) -> None:
    whole, content = image("broken")

    async def read(layer: Descriptor) -> AsyncIterator[bytes]:
        data = bytearray(content[layer.digest])
        if layer == whole.layers[-1]:
            data[600] ^= 1
        yield bytes(data)

    with pytest.raises(IntegrityError):
        await daemon.load(REPOSITORY, "1.0.0", whole, read=read)
    assert await daemon.stat(REPOSITORY, "1.0.0") is None
    await load(daemon, "1.0.0", "broken")
    assert await daemon.stat(REPOSITORY, "1.0.0") is not None


async def test_an_image_that_the_daemon_does_not_take_is_an_error_with_its_words(daemon: DaemonRegistry) -> None:
    whole, content = image("no")
    lying = json.loads(whole.config)
    lying["rootfs"]["diff_ids"].reverse()

    async def read(layer: Descriptor) -> AsyncIterator[bytes]:
        yield content[layer.digest]

    with pytest.raises(Unsupported, match="does not take"):
        await daemon.load(REPOSITORY, "1.0.0", WholeImage(json.dumps(lying).encode(), whole.layers), read=read)
    assert await daemon.stat(REPOSITORY, "1.0.0") is None


async def test_names_go_one_by_one_and_the_last_takes_the_image(daemon: DaemonRegistry, url: str) -> None:
    says = f"names {secrets.token_hex(4)}"
    whole = await load(daemon, "1.0.0", says)
    await load(daemon, "1.0.1", says)
    assert daemon.capabilities.last_tag_takes_content
    assert await daemon.delete_tag(REPOSITORY, "1.0.0")
    assert not await daemon.delete_tag(REPOSITORY, "1.0.0")
    assert await daemon.stat(REPOSITORY, "1.0.0") is None
    assert await daemon.stat(REPOSITORY, "1.0.1") is not None
    assert await daemon.delete_manifest(REPOSITORY, sha256(whole.config))
    assert not await daemon.delete_manifest(REPOSITORY, sha256(whole.config))
    assert sha256(whole.config) not in {found["Id"] for found in images(url)}


async def test_a_name_that_a_container_uses_is_not_taken_away(daemon: DaemonRegistry, url: str, prefix: str) -> None:
    await load(daemon, "1.0.0", f"used {secrets.token_hex(4)}")
    name = f"{prefix}/{REPOSITORY}:1.0.0" if prefix else f"{REPOSITORY}:1.0.0"
    with container_of(url, name):
        with pytest.raises(Conflict, match="container"):
            await daemon.delete_tag(REPOSITORY, "1.0.0")
        assert await daemon.stat(REPOSITORY, "1.0.0") is not None
    assert await daemon.delete_tag(REPOSITORY, "1.0.0")


async def test_lists_page_without_loss_or_repetition(daemon: DaemonRegistry) -> None:
    for number in range(3):
        await load(daemon, f"1.0.{number}", f"page {number}")
    first = await daemon.tags(REPOSITORY, limit=2)
    rest = await daemon.tags(REPOSITORY, after=first.after, limit=2)
    assert [*first.items, *rest.items] == ["1.0.0", "1.0.1", "1.0.2"]
    assert rest.after is None


async def test_what_a_daemon_has_not_is_refused_with_the_next_step(daemon: DaemonRegistry) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    digest = sha256(b"")
    calls = [
        lambda: daemon.manifest(REPOSITORY, digest),
        lambda: daemon.blob_size(REPOSITORY, digest),
        lambda: daemon.push_blob(REPOSITORY, digest, size=0, chunks=nothing()),
        lambda: daemon.push_manifest(REPOSITORY, "1.0.0", media_type="x/y", body=b"{}"),
        lambda: anext(daemon.blob(REPOSITORY, digest)),
    ]
    for call in calls:
        with pytest.raises(Unsupported) as refused:
            await call()
        assert refused.value.hint
    assert not await daemon.mount_blob(REPOSITORY, digest, source="lab/other")
    assert await daemon.referrers(REPOSITORY, digest) == []
    assert daemon.capabilities.repacks
    assert not daemon.capabilities.referrers


async def test_a_probe_names_the_engine(settings: RegistrySettings) -> None:
    found = await Registries().probe(settings)
    assert any("linux/amd64" in note for note in found.notes)
    assert found.repacks


async def test_a_name_is_only_called_at_addresses_that_were_judged(
    podman_tcp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def leads_inside(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", leads_inside)
    url = f"tcp://docker.example:{urlsplit(podman_tcp).port}"
    refused = Registries().open(RegistrySettings("test", "daemon", url, options={"insecure": True}))
    with pytest.raises(RemoteError, match="docker.example"):
        await refused.repositories()
    await refused.close()
    options = {"insecure": True, "allow_private": True}
    allowed = Registries().open(RegistrySettings("test", "daemon", url, options=options))
    await allowed.repositories()
    await allowed.close()
    assert set(asked) == {"docker.example"}


async def test_a_certificate_that_the_daemon_does_not_know_is_named_as_the_reason(
    docker_daemon: Dockerd, tmp_path: Path
) -> None:
    stranger = authority(tmp_path).client
    none: dict[str, object] = {"cert_file": None, "key_file": None}
    other: dict[str, object] = {"cert_file": str(stranger.certificate), "key_file": str(stranger.key)}
    for options in (none, other):
        registry = Registries().open(over_https(docker_daemon, **options))
        with pytest.raises(RemoteError, match="refuses our certificate") as refused:
            await registry.repositories()
        assert "cert_file and key_file" in str(refused.value.hint)
        await registry.close()


async def test_a_daemon_whose_certificate_proves_nothing_is_told_nothing(
    docker_daemon: Dockerd, tmp_path: Path
) -> None:
    for options in ({"ca_file": str(authority(tmp_path).certificate)}, {"ca_file": None}):
        registry = Registries().open(over_https(docker_daemon, **options))
        with pytest.raises(RemoteError, match=r"certificate of .* is not to be trusted") as refused:
            await registry.repositories()
        assert "ca_file" in str(refused.value.hint)
        await registry.close()


# ---- without a daemon


async def test_no_daemon_is_said_with_the_next_step(tmp_path: Path) -> None:
    registry: Registry = Registries().open(RegistrySettings("test", "daemon", f"unix://{tmp_path / 'none.sock'}"))
    with pytest.raises(Unavailable, match="Is it running"):
        await registry.repositories()
    await registry.close()


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("unix://relative.sock", {}),
        ("http://127.0.0.1:2375", {}),
        ("tcp://docker.example:2375", {}),
        ("https://docker.example:2376/path", {}),
        ("unix:///run/docker.sock", {"secret": "x"}),
        ("unix:///run/docker.sock", {"options": {"prefix": "Upper"}}),
        ("unix:///run/docker.sock", {"options": {"cert_file": "/c.pem"}}),
        ("https://docker.example:2376", {"options": {"ca_file": "/no/such/file"}}),
        ("unix:///run/docker.sock", {"options": {"flat": True}}),
    ],
)
def test_what_cannot_work_is_refused(url: str, more: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Registries().open(RegistrySettings("test", "daemon", url, **more))  # type: ignore[arg-type]


def test_tcp_without_tls_needs_the_option() -> None:
    Registries().check(RegistrySettings("test", "daemon", "tcp://docker.example:2375", options={"insecure": True}))


def inspected(config: dict[str, object], **changed: object) -> dict[str, object]:
    """As Docker's containerd store answers: an id of its own, and a descriptor."""
    return {
        "Id": sha256(b"a manifest that Docker wrote"),
        "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json"},
        "Architecture": "amd64",
        "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},  # type: ignore[index]
        "Config": {"Cmd": ["/says"], "Labels": {"made": "by hand"}, "Env": None, "User": ""},
        **changed,
    }


def test_an_image_of_the_containerd_store_is_known_by_layers_and_settings() -> None:
    whole, _ = image("known")
    config = json.loads(whole.config)
    assert same_image(inspected(config), whole.config)
    for changed in (
        {"RootFS": {"Layers": config["rootfs"]["diff_ids"][:1]}},
        {"Architecture": "arm64"},
        {"Config": {"Cmd": ["/other"], "Labels": {"made": "by hand"}}},
        {"Descriptor": None},  # the classic store, where the id alone counts
    ):
        assert not same_image(inspected(config, **changed), whole.config)
