"""How a registry is: away, refusing us, full or read-only are answers, never errors (adapters/registries/health.py)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Health, RegistrySettings
from berth.adapters.registries.health import health_of
from berth.errors import InvalidInput, SetupError
from tests.contracts.registries import harbor_double, peers
from tests.contracts.registries import vendor_doubles as vendors
from tests.contracts.registries.harbor_double import HarborDouble
from tests.contracts.registries.oci_double import OciDouble, Quirks, error
from tests.support.seaweedfs import BUCKET, KEY, SECRET, Weed
from tests.unit.wire.peer import Answer, Asked, running


async def ask(kind: str, url: str, user: str | None = None, secret: str | None = None, **options: Any) -> Health:
    return await Registries().health(RegistrySettings("r", kind, url, user, secret, options))


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nothing listens, and nothing else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_a_real_registry_takes_our_credentials_or_says_that_it_does_not(tmp_path: Path) -> None:
    with peers.htpasswd_registry(tmp_path) as url:
        good = await ask("distribution", url, peers.USER, peers.PASSWORD)
        assert (good.healthy, good.components) == (True, {"reachable": "healthy", "credentials": "healthy"})
        assert good.milliseconds is not None
        bad = await ask("distribution", url, peers.USER, "wrong")
        assert (bad.healthy, list(bad.components)) == (False, ["credentials"])
        nameless = await ask("distribution", url)
        assert (nameless.healthy, list(nameless.components)) == (False, ["credentials"])


async def test_a_real_registry_that_asks_nobody_does_not_vouch_for_our_password(tmp_path: Path) -> None:
    with peers.open_registry(tmp_path) as url:
        assert (await ask("distribution", url)).components["credentials"] == "none are given"
        assert (await ask("distribution", url, "somebody", "any")).components["credentials"] == "not asked for"


async def test_a_real_token_service_is_asked_too(tmp_path: Path) -> None:
    async with peers.token_registry(tmp_path) as (url, _service):
        assert (await ask("distribution", url, peers.USER, peers.PASSWORD)).components["credentials"] == "healthy"
        assert not (await ask("distribution", url, peers.USER, "wrong")).healthy


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("distribution", {}),
        ("berth", {}),
        ("harbor", {}),
        ("acr", {}),
        ("gitlab", {"prefix": "group/project", "api_url": "http://127.0.0.1:1"}),
        ("ghcr", {}),
        ("hub", {}),
        ("quay", {}),
        ("zot", {}),
        ("google", {"prefix": "acme/models"}),
    ],
)
async def test_one_that_is_away_is_not_healthy(kind: str, options: dict[str, Any], nobody: str) -> None:
    found = await ask(kind, f"http://{nobody}", "somebody", "secret", **options)
    assert (found.healthy, list(found.components)) == (False, ["reachable"]), found
    assert found.milliseconds is not None
    assert found.milliseconds < 5_000, "it is asked once"


async def test_other_kinds_that_are_away(nobody: str, tmp_path: Path) -> None:
    away = [
        await ask("daemon", f"unix://{tmp_path}/no.sock"),
        await ask("daemon", f"tcp://{nobody}"),
        await ask("objects", "s3://models", "key", "secret", endpoint=f"http://{nobody}", insecure=True),
    ]
    assert [(found.healthy, list(found.components)) for found in away] == [(False, ["reachable"])] * 3


async def test_one_that_answers_nonsense_or_too_much_is_told_apart() -> None:
    def busy(asked: Asked) -> Answer:
        return error(429, "TOOMANYREQUESTS")

    def another(asked: Asked) -> Answer:
        return error(404, "NOT_FOUND")

    for peer_answers, part in ((busy, "requests"), (another, "answer")):
        async with running(peer_answers) as peer:
            found = await ask("distribution", peer.url)
        assert (found.healthy, list(found.components)) == (False, [part])


async def test_one_that_never_answers_is_given_up() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        registry = Registries().open(RegistrySettings("r", "distribution", f"http://127.0.0.1:{port}"))
        found = await health_of(registry, patience=0.05)
        await registry.close()
    assert (found.healthy, found.components) == (False, {"reachable": "No answer within 0.05 seconds."})


async def test_harbor_tells_of_its_parts_and_is_away_like_any_other() -> None:
    double = HarborDouble("ml")
    async with running(double) as peer:
        found = await ask("harbor", peer.url, harbor_double.USER, harbor_double.PASSWORD)
    assert (found.healthy, found.components, found.version) == (True, {"core": "healthy"}, "v2.15.2")
    assert double.mistakes == []


async def test_vendors_that_want_a_token_get_one() -> None:
    for double in (OciDouble(Quirks(bearer=vendors.PAIR)), vendors.quay(), vendors.Ghcr()):
        async with running(double) as peer:
            kind = "ghcr" if isinstance(double, vendors.Ghcr) else "quay"
            assert (await ask(kind, peer.url, vendors.USER, vendors.PASSWORD)).components["credentials"] == "healthy"
            assert list((await ask(kind, peer.url, vendors.USER, "wrong")).components) == ["credentials"]


# ---- folder, object store, daemon


async def test_a_folder_is_there_takes_files_and_has_room(tmp_path: Path) -> None:
    found = await ask("folder", f"file://{tmp_path}")
    assert (found.healthy, found.read_only) == (True, False)
    free = os.statvfs(tmp_path)
    assert found.free_bytes is not None
    assert abs(found.free_bytes - free.f_bavail * free.f_frsize) < 2**30
    assert list(tmp_path.iterdir()) == [], "what was tried left nothing"
    gone = await ask("folder", f"file://{tmp_path}/never")
    assert (gone.healthy, gone.free_bytes) == (False, None)
    assert "does not exist" in gone.components["folder"]
    assert not (tmp_path / "never").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is let into /proc/sys")
async def test_a_folder_that_takes_no_files_can_still_be_read() -> None:
    """/proc takes a new file from nobody, whoever asks."""
    found = await ask("folder", "file:///proc/sys")
    assert found.components["writing"] != "healthy"
    assert found.components["folder"] == "healthy"


async def test_an_object_store_is_asked_and_written_to(weed: Weed) -> None:
    options = {"endpoint": weed.url, "insecure": True}
    found = await ask("objects", f"s3://{BUCKET}/health", KEY, SECRET, **options)
    assert (found.healthy, found.read_only) == (True, False), found
    assert (await ask("objects", f"s3://{BUCKET}", KEY, "wrong", **options)).components.keys() == {"credentials"}
    none = await ask("objects", "s3://no-such-bucket", KEY, SECRET, **options)
    assert none.healthy is False
    assert "no such bucket" in none.components["answer"]


async def test_an_object_store_that_takes_nothing_is_read_only() -> None:
    listing = (
        b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Name>models</Name><Prefix/><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
        b"</ListBucketResult>"
    )
    refused = b"<Error><Code>AccessDenied</Code></Error>"

    def reads_only(asked: Asked) -> Answer:
        return Answer(200, listing) if asked.method == "GET" else Answer(403, refused)

    async with running(reads_only) as peer:
        found = await ask("objects", "s3://models", "key", "secret", endpoint=peer.url, insecure=True)
    assert (found.healthy, found.read_only) == (True, True), found
    assert "AccessDenied" in found.components["writing"]


@pytest.mark.parametrize("program", ["dockerd", "podman"])
async def test_a_daemon_says_what_it_is(program: str, request: pytest.FixtureRequest) -> None:
    found = await ask("daemon", str(request.getfixturevalue(program)))
    assert (found.healthy, found.components) == (True, {"daemon": "healthy"})
    assert found.version is not None
    assert "API 1." in found.version


# ---- what is wrong here, and not there


async def test_what_is_missing_here_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    with pytest.raises(InvalidInput):
        await ask("gitlab", "https://registry.example")
    monkeypatch.setattr("berth.adapters.registries.sdk.import_module", absent)
    with pytest.raises(SetupError, match=r"berth\[google\]"):
        await ask("google", "https://europe-docker.pkg.dev", prefix="acme/models")
