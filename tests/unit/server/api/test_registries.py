"""Registries over REST: secrets go in and never come out, probes are remembered, and everything is audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.access import registries as access_registries
from berth.adapters.registries.build import Registries
from berth.db import registries as stored
from berth.db.sealing import sealer
from tests.unit.server.api.conftest import Staffed
from tests.unit.wire.registry_process import running_registry

SECRET = "very-secret-word"
BODY = {"name": "quay", "kind": "distribution", "url": "https://registry.example", "username": "bot", "secret": SECRET}


@pytest.fixture
def peer_url(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "peer"
    folder.mkdir()
    with running_registry(folder) as url:
        yield url


async def add(staffed: Staffed, **change: Any) -> Any:
    return await staffed.world.ask("POST", "/registries", token=staffed.tokens["root"], json={**BODY, **change})


async def test_a_secret_never_comes_out_again(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    made = await add(staffed)
    assert made.status_code == 201, made.text
    answers = [made, await world.ask("GET", "/registries", token=root)]
    answers.append(await world.ask("GET", "/registries/quay", token=root))
    assert made.json()["has_secret"] is True
    for answer in answers:
        assert SECRET not in answer.text
    audited = await world.audited(action="registry.manage", object="quay")
    assert SECRET not in repr(audited)
    async with world.database.reading() as conn:
        row = await stored.registry_named(conn, "quay")
    assert row is not None
    assert row.secret is not None
    assert SECRET.encode() not in row.secret
    opened = access_registries.settings_of(row, lambda: sealer(world.services.settings))
    assert opened.secret == SECRET
    assert SECRET not in repr(opened)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "depot"},
        {"name": "A"},
        {"name": "folder:x"},
        {"kind": "depot"},
        {"kind": "nothing"},
        {"url": "http://registry.example"},
        {"url": "https://registry.example/path"},
        {"url": "https://user:pw@registry.example"},
        {"url": "ftp://registry.example"},
        {"options": {"colour": "red"}},
        {"options": {"insecure": "yes"}},
        {"options": {"realm_hosts": "auth.example"}},
        {"options": {"prefix": 5}},
        {"options": {"capabilities": {"mount": "no"}}},
        {"options": {"capabilities": {"colour": True}}},
        {"options": {"capabilities": {"largest_blob": True}}},
        {"kind": "ghcr", "options": {"api_url": "http://api.example"}},
        {"kind": "gitlab", "options": {"prefix": "group/project"}},
        {"kind": "google", "options": {}},
        {"kind": "ecr", "options": {}},
        {"options": {"prefix": "Not/A/Name"}},
        {"kind": "folder", "url": "relative/path"},
        {"secret": None},
    ],
    ids=str,
)
async def test_what_cannot_work_is_refused_with_a_hint_and_without_the_secret(
    staffed: Staffed, change: dict[str, Any]
) -> None:
    answer = await add(staffed, **change)
    assert answer.status_code == 400, answer.text
    assert SECRET not in answer.text


async def test_a_malformed_body_does_not_echo_the_secret(staffed: Staffed) -> None:
    answer = await add(staffed, secret=[SECRET], extra=SECRET)
    assert answer.status_code == 422
    assert SECRET not in answer.text


async def test_names_are_unique_and_removal_is_final(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await add(staffed)
    assert (await add(staffed)).status_code == 409
    assert (await world.ask("DELETE", "/registries/quay", token=root)).status_code == 204
    assert (await world.ask("DELETE", "/registries/quay", token=root)).status_code == 404
    assert len(await world.audited(action="registry.manage", outcome="done")) == 2


async def test_a_password_is_changed_in_place_and_never_follows_to_another_address(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await add(staffed)
    moved = await world.ask("PATCH", "/registries/quay", token=root, json={"url": "https://evil.example"})
    assert (moved.status_code, moved.json()["code"]) == (400, "invalid_input")
    body = {"url": "https://new.example", "secret": "the-next-one", "options": {"prefix": "team"}}
    changed = await world.ask("PATCH", "/registries/quay", token=root, json=body)
    assert changed.status_code == 200, changed.text
    shown = changed.json()
    assert (shown["url"], shown["username"], shown["options"]) == ("https://new.example", "bot", {"prefix": "team"})
    assert "the-next-one" not in changed.text + repr(await world.audited(action="registry.manage"))
    async with world.database.reading() as conn:
        row = await stored.registry_named(conn, "quay")
    assert row is not None
    assert access_registries.settings_of(row, lambda: sealer(world.services.settings)).secret == "the-next-one"
    for bad in ({"url": "http://plain.example", "secret": "x"}, {"options": {"colour": "red"}}):
        assert (await world.ask("PATCH", "/registries/quay", token=root, json=bad)).status_code == 400


async def test_a_password_follows_to_no_other_endpoint_either(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    here = {"endpoint": "https://store.example", "region": "eu"}
    await add(staffed, name="shelf", kind="objects", url="s3://models", options=here)
    for changed, status in (
        ({"options": {**here, "endpoint": "https://evil.example"}}, 400),
        ({"options": {"region": "eu"}}, 400),
        ({"options": {**here, "region": "us"}}, 200),
        ({"options": {**here, "endpoint": "https://new.example"}, "secret": "again"}, 200),
    ):
        answer = await world.ask("PATCH", "/registries/shelf", token=root, json=changed)
        assert answer.status_code == status, answer.text


async def test_a_container_daemon_is_nobodys_home(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    for name, kind, url in (("engine", "daemon", "unix:///run/docker.sock"), ("shelf", "folder", "file:///srv/x")):
        made = await add(staffed, name=name, kind=kind, url=url, username=None, secret=None, takes_open=True)
        assert made.status_code == 201, made.text
    refused = await world.ask("PATCH", "/projects/vision", token=root, json={"home": "engine"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
    assert "--on-admission" in refused.json()["hint"]
    taken = await world.ask("PATCH", "/projects/vision", token=root, json={"home": "shelf"})
    assert taken.status_code == 200, taken.text


async def test_a_change_forgets_what_a_probe_found(staffed: Staffed, peer_url: str) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await add(staffed, url=peer_url, username=None, secret=None)
    probed = await world.ask("POST", "/registries/quay/probe", token=root, json={})
    assert probed.json()["capabilities"] is not None
    same = await world.ask("PATCH", "/registries/quay", token=root, json={})
    assert same.json()["capabilities"] is not None
    changed = await world.ask("PATCH", "/registries/quay", token=root, json={"options": {"prefix": "team"}})
    assert (changed.json()["capabilities"], changed.json()["probed_at"]) == (None, None)


async def test_a_registry_that_is_somebodys_home_is_kept(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]
    await add(staffed, takes_open=True)
    moved = await world.ask("PATCH", "/projects/vision", token=root, json={"home": "quay"})
    assert moved.status_code == 200, moved.text
    kept = await world.ask("DELETE", "/registries/quay", token=root)
    assert (kept.status_code, kept.json()["used_by"]) == (409, ["project vision"])
    await world.ask("PATCH", "/projects/vision", token=root, json={"home": "depot"})
    assert (await world.ask("DELETE", "/registries/quay", token=root)).status_code == 204


async def test_an_open_project_takes_only_a_marked_registry_as_home(staffed: Staffed) -> None:
    world, root = staffed.world, staffed.tokens["root"]

    async def set_project(**change: Any) -> tuple[int, str]:
        answer = await world.ask("PATCH", "/projects/vision", token=root, json=change)
        return answer.status_code, answer.text

    await add(staffed)
    assert (await set_project(policy="strict", home="quay"))[0] == 200
    status, text = await set_project(policy="open")
    assert status == 409
    assert "berth registry set quay --takes-open" in text
    shown = await world.ask("GET", "/projects/vision", token=root)
    assert shown.json()["policy_preset"] != "open", "the refused change left nothing behind"
    assert (await set_project(policy="open", home="depot"))[0] == 200
    assert (await set_project(home="quay"))[0] == 409
    marked = await world.ask("PATCH", "/registries/quay", token=root, json={"takes_open": True})
    assert (marked.status_code, marked.json()["takes_open"]) == (200, True)
    assert (await set_project(home="quay"))[0] == 200
    kept = await world.ask("PATCH", "/registries/quay", token=root, json={"takes_open": False})
    assert (kept.status_code, kept.json()["used_by"]) == (409, ["vision"])
    assert (await set_project(policy="strict"))[0] == 200
    assert (await world.ask("PATCH", "/registries/quay", token=root, json={"takes_open": False})).status_code == 200


async def test_kinds_say_what_can_be_configured(staffed: Staffed) -> None:
    answer = await staffed.world.ask("GET", "/registry-kinds", token=staffed.tokens["root"])
    kinds = {kind["name"]: kind for kind in answer.json()["items"]}
    assert {"distribution", "folder", "berth"} <= set(kinds)
    assert "depot" not in kinds
    assert {"insecure", "chunk"} <= set(kinds["distribution"]["options"])
    assert {"endpoint", "region", "redirect"} <= set(kinds["objects"]["options"])
    assert {"prefix", "bundle", "cert_file"} <= set(kinds["daemon"]["options"])
    assert [name for name, kind in kinds.items() if kind["capabilities"]["repacks"]] == ["daemon"]


async def test_a_probe_finds_what_docker_registry_can_do_and_is_remembered(staffed: Staffed, peer_url: str) -> None:
    """Distribution 2.8: no referrers API, no OCI-Subject, tags go by way of content, mounts work."""
    world, root = staffed.world, staffed.tokens["root"]
    made = await add(staffed, url=peer_url, username=None, secret=None)
    assert made.status_code == 201, made.text
    answer = await world.ask("POST", "/registries/quay/probe", token=root, json={"repository": "lab/probe"})
    assert answer.status_code == 200, answer.text
    found = answer.json()["capabilities"]
    assert {key: found[key] for key in ("referrers", "oci_subject", "tag_delete", "content_delete", "mount")} == {
        "referrers": False,
        "oci_subject": False,
        "tag_delete": True,
        "content_delete": True,
        "mount": True,
    }
    assert answer.json()["probed_at"] is not None
    assert any("given other content" in note for note in found["notes"])
    assert (await world.ask("GET", "/registries/quay", token=root)).json() == answer.json()
    again = await world.ask("POST", "/registries/quay/probe", token=root, json={})
    assert again.json()["capabilities"]["content_delete"] is True


async def test_a_registry_that_does_not_answer_is_a_clear_error(staffed: Staffed) -> None:
    await add(staffed, url="http://127.0.0.1:9")
    answer = await staffed.world.ask("POST", "/registries/quay/probe", token=staffed.tokens["root"], json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert SECRET not in answer.text


async def test_the_opener_opens_what_is_known(staffed: Staffed, peer_url: str) -> None:
    await add(staffed, url=peer_url, username=None, secret=None)
    open_ = access_registries.opener(
        staffed.world.database, Registries(), lambda: sealer(staffed.world.services.settings)
    )
    assert await open_("nothing") is None
    registry = await open_("quay")
    assert registry is not None
    assert (await registry.tags("lab/none")).items == []
    await registry.close()
    assert json.dumps(registry.capabilities.to_json())
