"""What registries tell by webhook, in the form that each of them documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Delivery, RegistrySettings, RemoteEvent
from berth.errors import InvalidInput, Unsupported

DIGEST = "sha256:" + "a" * 64
OCI = "application/vnd.oci.image.index.v1+json"
OPTIONS: dict[str, dict[str, Any]] = {
    "harbor": {"prefix": "ml"},
    "gitlab": {"prefix": "group/app", "api_url": "https://gitlab.example"},
    "google": {"prefix": "acme/models"},
    "ghcr": {"prefix": "acme"},
}
NOTIFYING = sorted(kind.name for kind in Registries().kinds() if kind.notifies)


def read(kind: str, body: Any, headers: Mapping[str, str] | None = None) -> list[RemoteEvent]:
    settings = RegistrySettings("r", kind, "https://registry.example", options=OPTIONS.get(kind, {}))
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(Registries().events(settings, Delivery(sent, headers or {})))


# goharbor/website: docs/working-with-projects/project-configuration/configure-webhooks
HARBOR = {
    "type": "PUSH_ARTIFACT",
    "occur_at": 1_780_000_000,
    "operator": "admin",
    "event_data": {
        "resources": [{"digest": DIGEST, "tag": "1.0.0", "resource_url": "h/ml/lab/demo:1.0.0"}],
        "repository": {"name": "lab/demo", "namespace": "ml", "repo_full_name": "ml/lab/demo", "repo_type": "private"},
    },
}
HARBOR_CLOUD = {
    "specversion": "1.0",
    "type": "harbor.artifact.deleted",
    "time": "2026-05-28T20:26:40Z",
    "source": "/projects/1/webhook/policies/1",
    "data": HARBOR["event_data"],
}
# distribution/distribution: docs/content/about/notifications.md
ENVELOPE = {
    "events": [
        {
            "id": "320678d8-ca14-430f-8bb6-4ca139cd83f7",
            "timestamp": "2026-03-09T14:44:26.402973972-08:00",
            "action": "push",
            "target": {"mediaType": OCI, "digest": DIGEST, "size": 708, "repository": "lab/demo", "tag": "1.0.0"},
            "request": {"id": "6df24a34", "addr": "192.168.64.11:42961", "method": "PUT", "useragent": "curl/7.38.0"},
        },
        {
            "id": "9a3b61ab-e99c-4b3f-ad1d-a1bd2f3f4d1f",
            "timestamp": "2026-03-09T14:44:26Z",
            "action": "push",
            "target": {"mediaType": "application/octet-stream", "digest": DIGEST, "repository": "lab/demo"},
        },
        {
            "id": "0f1f0f1f-ca14-430f-8bb6-4ca139cd83f7",
            "timestamp": "2026-03-09T14:44:27Z",
            "action": "delete",
            "target": {"digest": DIGEST, "repository": "lab/demo"},
        },
        {"id": "1", "timestamp": "2026-03-09T14:44:27Z", "action": "mount", "target": {"repository": "lab/demo"}},
    ]
}
# learn.microsoft.com: container-registry-webhook-reference
AZURE = {
    "id": "cb8c3971-9adc-488b-xxxx-43cbb4974ff5",
    "timestamp": "2026-11-17T16:52:01.343145347Z",
    "action": "push",
    "target": {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "size": 524,
        "digest": DIGEST,
        "length": 524,
        "repository": "lab/demo",
        "tag": "1.0.0",
    },
    "request": {"id": "3cbb6949-7549-4fa1-xxxx-a6d5451dffc7", "host": "myregistry.azurecr.io", "method": "PUT"},
}
# docs.redhat.com: use_red_hat_quay, repository_notifications
QUAY = {
    "name": "demo",
    "repository": "lab/demo",
    "namespace": "lab",
    "docker_url": "quay.io/lab/demo",
    "homepage": "https://quay.io/repository/lab/demo",
    "updated_tags": ["1.0.0", "latest"],
}


def test_harbor_in_both_of_its_forms() -> None:
    [event] = read("harbor", HARBOR)
    assert (event.action, event.repository, event.digest, event.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert event.at == 1_780_000_000
    [event] = read("harbor", HARBOR_CLOUD)
    assert (event.action, event.at) == ("deleted", 1_780_000_000)


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("PULL_ARTIFACT", "pulled"),
        ("DELETE_ARTIFACT", "deleted"),
        ("SCANNING_FAILED", "scanned"),
        ("harbor.scan.stopped", "scanned"),
        ("QUOTA_EXCEED", "other"),
        ("a type of the future", "other"),
    ],
)
def test_harbor_types_are_five_actions_here(said: str, action: str) -> None:
    assert [e.action for e in read("harbor", {**HARBOR, "type": said})] == [action]


def test_harbor_says_the_digest_where_no_tag_was_named() -> None:
    data = {**HARBOR["event_data"], "resources": [{"digest": DIGEST, "tag": DIGEST}]}  # type: ignore[dict-item]
    [event] = read("harbor", {**HARBOR, "event_data": data})
    assert (event.digest, event.tag) == (DIGEST, None)


@pytest.mark.parametrize("kind", ["distribution", "gitlab"])
def test_an_envelope_tells_of_manifests_and_leaves_blobs_out(kind: str) -> None:
    body = json.loads(
        json.dumps(ENVELOPE).replace("lab/demo", "group/app/lab/demo" if kind == "gitlab" else "lab/demo")
    )
    pushed, deleted = read(kind, body)
    assert (pushed.action, pushed.repository, pushed.digest, pushed.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert pushed.id == "320678d8-ca14-430f-8bb6-4ca139cd83f7"
    assert (deleted.action, deleted.digest, deleted.tag) == ("deleted", DIGEST, None)


def test_azure_sends_one_event_at_a_time_and_a_ping() -> None:
    [event] = read("acr", AZURE)
    assert (event.action, event.repository, event.digest, event.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert event.id == AZURE["id"]
    assert [e.action for e in read("acr", {**AZURE, "action": "delete"})] == ["deleted"]
    assert [e.action for e in read("acr", {**AZURE, "action": "chart_push"})] == ["other"]
    assert read("acr", {"id": "1", "timestamp": AZURE["timestamp"], "action": "ping"}) == []


def test_quay_names_tags_only_and_can_not_be_told_apart() -> None:
    events = read("quay", QUAY)
    assert [(e.action, e.repository, e.digest, e.tag) for e in events] == [
        ("pushed", "lab/demo", None, "1.0.0"),
        ("pushed", "lab/demo", None, "latest"),
    ]
    assert {e.key for e in events} == {None}, "a later push of the same tag says the same, and must not be swallowed"
    assert [e.tag for e in read("quay", {**QUAY, "updated_tags": {"1.0.0": "b750fe79"}})] == ["1.0.0"]
    found = {**QUAY, "vulnerability": {"id": "CVE-2026-1", "priority": "High"}, "tags": ["1.0.0"]}
    del found["updated_tags"]
    assert [(e.action, e.tag) for e in read("quay", found)] == [("scanned", "1.0.0")]


def test_a_repository_outside_the_prefix_is_none_of_ours() -> None:
    there = {**HARBOR["event_data"], "repository": {"repo_full_name": "other/lab/demo"}}  # type: ignore[dict-item]
    assert [e.repository for e in read("harbor", {**HARBOR, "event_data": there})] == [None]


@pytest.mark.parametrize("kind", NOTIFYING)
@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b"{}", b"null", b'{"events": 5}', b"[" * 100_000, b'{"type": 5}', b'{"action": []}'],
)
def test_what_is_no_notification_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(kind, body)


def test_odd_members_are_left_out_rather_than_stored() -> None:
    odd = {"mediaType": OCI, "digest": "x" * 600, "repository": "lab/demo", "tag": "a\0b"}
    [event] = read("distribution", {"events": [{"id": 7, "timestamp": "never", "action": "push", "target": odd}]})
    assert event == RemoteEvent("pushed", "lab/demo", None, None, None)


@pytest.mark.parametrize("kind", ["berth", "folder", "objects", "daemon"])
def test_kinds_without_a_documented_webhook_say_so(kind: str) -> None:
    settings = RegistrySettings("r", kind, "https://registry.example")
    with pytest.raises(Unsupported, match=kind) as refused:
        Registries().events(settings, Delivery(b"{}"))
    assert refused.value.hint


def test_two_events_are_the_same_when_all_they_say_is() -> None:
    one = RemoteEvent("pushed", "lab/demo", DIGEST, "1.0.0", 5.0)
    assert one.key == RemoteEvent("pushed", "lab/demo", DIGEST, "1.0.0", 5.0).key
    others = [
        RemoteEvent("deleted", "lab/demo", DIGEST, "1.0.0", 5.0),
        RemoteEvent("pushed", "lab/other", DIGEST, "1.0.0", 5.0),
        RemoteEvent("pushed", "lab/demo", DIGEST, "1.0.1", 5.0),
        RemoteEvent("pushed", "lab/demo", DIGEST, "1.0.0", 6.0),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert (
        RemoteEvent("pushed", "a/b", None, None, 5.0, "x").key == RemoteEvent("pushed", "a/b", None, None, 9.0, "x").key
    )
