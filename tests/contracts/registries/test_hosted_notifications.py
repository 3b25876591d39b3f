"""What hosted registries and zot tell, as each documents it; and that no delivery of any kind can do harm."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Delivery, RegistrySettings, RemoteEvent
from berth.errors import InvalidInput
from tests.contracts.registries.test_notifications import (
    AZURE,
    DIGEST,
    ENVELOPE,
    HARBOR,
    NOTIFYING,
    OCI,
    OPTIONS,
    QUAY,
    read,
)

# docker/docs: content/manuals/docker-hub/repos/manage/webhooks.md
HUB: dict[str, Any] = {
    "callback_url": "https://registry.hub.docker.com/u/lab/demo/hook/2141b5bi5i5b02bec211i4eeih0242eg11000a/",
    "push_data": {"pushed_at": 1_780_000_000, "pusher": "trustedbuilder", "tag": "1.0.0"},
    "repository": {
        "date_created": 1_417_494_799,
        "is_private": True,
        "name": "demo",
        "namespace": "lab",
        "owner": "lab",
        "repo_name": "lab/demo",
        "repo_url": "https://registry.hub.docker.com/u/lab/demo/",
        "status": "Active",
    },
}
# octokit/webhooks: payload-examples/api.github.com/registry_package/published.docker.payload.json
PACKAGE: dict[str, Any] = {
    "id": 10696,
    "name": "lab/demo",
    "namespace": "Acme",
    "ecosystem": "CONTAINER",
    "package_type": "CONTAINER",
    "created_at": "2026-05-09T23:28:29Z",
    "updated_at": "2026-05-09T23:28:29Z",
    "owner": {"login": "Acme", "type": "Organization"},
    "package_version": {
        "id": 57755791,
        "version": DIGEST,
        "name": DIGEST,
        "created_at": "0001-01-01T00:00:00Z",
        "container_metadata": {
            "tag": {"name": "1.0.0", "digest": DIGEST},
            "manifest": {"digest": DIGEST, "media_type": OCI, "size": 1782},
        },
        "package_url": "ghcr.io/Acme/lab/demo:1.0.0",
    },
    "registry": {"name": "GitHub CONTAINER registry", "type": "CONTAINER", "vendor": "GitHub Inc"},
}
GITHUB: dict[str, Any] = {"action": "published", "registry_package": PACKAGE, "sender": {"login": "Acme"}}
# awsdocs/amazon-ecr-user-guide: doc_source/ecr-eventbridge.md
AWS: dict[str, Any] = {
    "version": "0",
    "id": "13cde686-328b-6117-af20-0e5566167482",
    "detail-type": "ECR Image Action",
    "source": "aws.ecr",
    "account": "123456789012",
    "time": "2026-05-28T20:26:40Z",
    "region": "us-west-2",
    "resources": [],
    "detail": {
        "result": "SUCCESS",
        "repository-name": "lab/demo",
        "image-digest": DIGEST,
        "action-type": "PUSH",
        "image-tag": "1.0.0",
    },
}
PLACE = "registry.example/acme/models/lab/demo"


def google(host: str = "registry.example", **said: str) -> dict[str, Any]:
    """cloud.google.com: artifact-registry/docs/configure-notifications, in the envelope of pubsub/docs/push."""
    told = {key: value.replace("registry.example", host) for key, value in said.items()}
    return {
        "message": {
            "attributes": {},
            "data": base64.b64encode(json.dumps(told).encode()).decode(),
            "messageId": "2070443601311540",
            "publishTime": "2026-05-28T20:26:40Z",
        },
        "subscription": "projects/acme/subscriptions/berth",
    }


GOOGLE = google(action="INSERT", digest=f"{PLACE}@{DIGEST}", tag=f"{PLACE}:1.0.0")
# project-zot/zot: pkg/extensions/events and its tests; CloudEvents 1.0 over HTTP in binary mode
ZOT: dict[str, Any] = {"name": "lab/demo", "reference": "1.0.0", "digest": DIGEST, "mediaType": OCI, "manifest": "{}"}
ZOT_HEADERS = {
    "ce-specversion": "1.0",
    "ce-type": "zotregistry.image.updated",
    "ce-id": "b4a9f1de-0e1e-4a7e-8f4d-4a2a9f6fb3f6",
    "ce-time": "2026-05-28T20:26:40Z",
    "ce-source": "zotregistry.dev",
}
DOCUMENTED: dict[str, Any] = {
    "harbor": HARBOR,
    "distribution": ENVELOPE,
    "gitlab": ENVELOPE,
    "acr": AZURE,
    "quay": QUAY,
    "hub": HUB,
    "ghcr": GITHUB,
    "ecr": AWS,
    "google": GOOGLE,
    "zot": ZOT,
}


def test_every_kind_that_notifies_is_read_here() -> None:
    assert sorted(DOCUMENTED) == NOTIFYING


def test_docker_hub_tells_of_pushes_without_a_digest() -> None:
    [event] = read("hub", HUB)
    assert event == RemoteEvent("pushed", "lab/demo", None, "1.0.0", 1_780_000_000.0)
    assert event.key is not None, "the time tells one push of a tag from the next"
    for missing in ("push_data", "repository"):
        with pytest.raises(InvalidInput):
            read("hub", {key: value for key, value in HUB.items() if key != missing})


@pytest.mark.parametrize("event", ["package", "registry_package"])
def test_github_tells_of_containers_in_either_of_its_events(event: str) -> None:
    headers = {"x-github-event": event, "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    [found] = read("ghcr", {"action": "published", event: PACKAGE}, headers)
    assert (found.action, found.repository, found.digest, found.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert found.id == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert found.at == datetime(2026, 5, 9, 23, 28, 29, tzinfo=UTC).timestamp()


def test_github_leaves_the_tag_empty_where_there_is_none() -> None:
    version = {
        **PACKAGE["package_version"],
        "package_url": "ghcr.io/Acme/lab/demo:",
        "container_metadata": {"tag": {"name": "", "digest": DIGEST}},
    }
    [found] = read("ghcr", {"action": "updated", "package": {**PACKAGE, "package_version": version}})
    assert (found.action, found.repository, found.digest, found.tag) == ("pushed", "lab/demo", DIGEST, None)


def test_github_sends_more_than_containers_and_asks_for_nothing_with_a_ping() -> None:
    npm = {**PACKAGE, "package_type": "npm", "registry": {"type": "npm"}}
    assert read("ghcr", {"action": "published", "package": npm}) == []
    assert read("ghcr", {"zen": "Design for failure.", "hook_id": 1}, {"x-github-event": "ping"}) == []
    assert read("ghcr", {"ref": "refs/heads/main"}, {"x-github-event": "push"}) == []
    with pytest.raises(InvalidInput) as form:
        read("ghcr", b"payload=%7B%22action%22%3A%22published%22%7D", {"x-github-event": "package"})
    assert "application/json" in str(form.value.hint)


def test_aws_tells_by_eventbridge_what_succeeded() -> None:
    [event] = read("ecr", AWS)
    assert (event.action, event.repository, event.digest, event.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert (event.at, event.id) == (1_780_000_000.0, AWS["id"])
    for changed, action in (
        ({"action-type": "DELETE"}, "deleted"),
        ({"result": "FAILURE"}, "other"),
        ({"action-type": "ARCHIVE"}, "other"),
    ):
        assert [e.action for e in read("ecr", {**AWS, "detail": {**AWS["detail"], **changed}})] == [action]
    scan = {"scan-status": "COMPLETE", "repository-name": "lab/demo", "image-digest": DIGEST, "image-tags": []}
    [scanned] = read("ecr", {**AWS, "detail-type": "ECR Image Scan", "detail": scan})
    assert (scanned.action, scanned.digest, scanned.tag) == ("scanned", DIGEST, None)
    setting = {"action-type": "SCAN_FREQUENCY_CHANGE", "repositories": []}
    assert read("ecr", {**AWS, "detail-type": "ECR Scan Resource Change", "detail": setting}) == []
    with pytest.raises(InvalidInput) as other:
        read("ecr", {**AWS, "source": "aws.s3"})
    assert "aws.ecr" in str(other.value.hint)


def test_google_tells_by_pubsub_and_of_every_location_of_a_project() -> None:
    [both] = read("google", GOOGLE)
    assert (both.action, both.repository, both.digest, both.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert (both.at, both.id) == (1_780_000_000.0, "2070443601311540")
    [untagged] = read("google", google(action="INSERT", digest=f"{PLACE}@{DIGEST}"))
    assert (untagged.repository, untagged.digest, untagged.tag) == ("lab/demo", DIGEST, None)
    [gone] = read("google", google(action="DELETE", tag=f"{PLACE}:1.0.0"))
    assert (gone.action, gone.repository, gone.digest, gone.tag) == ("deleted", "lab/demo", None, "1.0.0")
    [elsewhere] = read("google", google("us-docker.pkg.dev", action="INSERT", digest=f"{PLACE}@{DIGEST}"))
    assert elsewhere.repository is None
    for data in ("not base64!", "ä", base64.b64encode(b"[]").decode(), ""):
        with pytest.raises(InvalidInput):
            read("google", {"message": {"data": data}})


def test_zot_says_in_headers_what_happened() -> None:
    [event] = read("zot", ZOT, ZOT_HEADERS)
    assert (event.action, event.repository, event.digest, event.tag) == ("pushed", "lab/demo", DIGEST, "1.0.0")
    assert (event.at, event.id) == (1_780_000_000.0, ZOT_HEADERS["ce-id"])
    # Its configuration may change what stands before the type.
    [gone] = read("zot", {**ZOT, "reference": DIGEST}, {**ZOT_HEADERS, "ce-type": "com.example.image.deleted"})
    assert (gone.action, gone.digest, gone.tag) == ("deleted", DIGEST, None)
    [lint] = read("zot", ZOT, {**ZOT_HEADERS, "ce-type": "zotregistry.image.lint_failed"})
    assert lint.action == "other"
    whole = {"specversion": "1.0", "type": "zotregistry.image.updated", "id": "1", "data": ZOT}
    assert [(e.action, e.id) for e in read("zot", whole)] == [("pushed", "1")]
    with pytest.raises(InvalidInput):
        read("zot", ZOT)


# ---- whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HEADERS = ("x-github-event", "x-github-delivery", "ce-type", "ce-id", "ce-time")


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [deeper for key, inner in inside for deeper in paths(inner, (*path, key))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("media_type", [[], {}, 1, None])
def test_a_media_type_that_is_no_text_is_none_of_a_manifest(media_type: object) -> None:
    said = replaced(DOCUMENTED["distribution"], ("events", 0, "target", "mediaType"), media_type)
    registry = RegistrySettings("r", "distribution", "https://registry.example")
    told = Registries().events(registry, Delivery(json.dumps(said).encode(), {}))
    whole = Registries().events(registry, Delivery(json.dumps(DOCUMENTED["distribution"]).encode(), {}))
    assert len(told) == len(whole) - 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NOTIFYING), st.data())
def test_whatever_comes_is_read_or_refused_and_can_be_stored(kind: str, data: st.DataObject) -> None:
    said = DOCUMENTED[kind]
    if kind == "google" and data.draw(st.booleans()):
        said = json.loads(base64.b64decode(said["message"]["data"]))
        told = replaced(said, data.draw(st.sampled_from(paths(said))), data.draw(JSON))
        said = {"message": {"data": base64.b64encode(json.dumps(told).encode()).decode()}}
    else:
        for _ in range(data.draw(st.integers(1, 2))):
            said = replaced(said, data.draw(st.sampled_from(paths(said))), data.draw(JSON))
    headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=20)))
    registry = RegistrySettings("r", kind, "https://registry.example", options=OPTIONS.get(kind, {}))
    try:
        events = Registries().events(registry, Delivery(json.dumps(said).encode(), headers))
    except InvalidInput:
        return
    for event in events:
        assert event.action in ("pushed", "pulled", "deleted", "scanned", "other")
        for text in (event.repository, event.digest, event.tag, event.id):
            assert text is None or (0 < len(text) <= 512 and "\0" not in text and text.encode())
        assert event.at is None or datetime.fromtimestamp(event.at, UTC)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NOTIFYING), st.binary(max_size=64))
def test_bytes_that_are_no_notification_tell_nothing(kind: str, body: bytes) -> None:
    with suppress(InvalidInput):
        assert read(kind, body) == []
