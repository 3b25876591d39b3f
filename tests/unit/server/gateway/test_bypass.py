"""Every way around the gate that design §6 names: refused for a reader while in quarantine, and each with its
admitted twin that succeeds, so that no test passes because everything is refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.unit.server.gateway.registry import (
    CONFIG,
    LAYER,
    MANIFEST,
    SIMPLE_SIGNING,
    Client,
    Image,
    Installation,
    sha256,
)

REPOSITORY = "ml/demo"


class Scene:
    """A strict project with one version (an index over one image), a reader, a developer and a reviewer."""

    def __init__(self, installation: Installation) -> None:
        self.on = installation
        self.image: Image
        self.root: str

    async def build(self) -> Scene:
        await self.on.project("ml")
        self.reader = await self.on.user("rae", "ml", "reader")
        self.developer = await self.on.user("dev", "ml", "developer")
        self.reviewer = await self.on.user("rita", "ml", "reviewer")
        self.image = await self.developer.image(REPOSITORY, None)
        self.root = await self.developer.index(
            REPOSITORY, "1.0.0", [self.image.descriptor(platform={"os": "linux", "architecture": "amd64"})]
        )
        return self

    async def admit(self) -> None:
        await self.on.admit(REPOSITORY, self.root, self.image.digest)


@pytest.fixture
async def scene(installation: Installation) -> Scene:
    return await Scene(installation).build()


Ask = Callable[[Scene, Client], Awaitable[httpx.Response]]


def path(form: str) -> Ask:
    async def ask(scene: Scene, client: Client) -> httpx.Response:
        where = form.format(
            root=scene.root, child=scene.image.digest, layer=scene.image.layer, config=scene.image.config
        )
        method, _, where = where.partition(" ")
        return await client(method, f"/v2/{REPOSITORY}{where}")

    return ask


async def ranged(scene: Scene, client: Client) -> httpx.Response:
    return await client("GET", f"/v2/{REPOSITORY}/blobs/{scene.image.layer}", Range="bytes=0-9")


async def suffix_range(scene: Scene, client: Client) -> httpx.Response:
    return await client("GET", f"/v2/{REPOSITORY}/blobs/{scene.image.layer}", Range="bytes=-10")


WAYS: dict[str, Ask] = {
    "tag": path("GET /manifests/1.0.0"),
    "tag HEAD": path("HEAD /manifests/1.0.0"),
    "root digest": path("GET /manifests/{root}"),
    "root digest HEAD": path("HEAD /manifests/{root}"),
    "child digest": path("GET /manifests/{child}"),
    "child digest HEAD": path("HEAD /manifests/{child}"),
    "layer": path("GET /blobs/{layer}"),
    "layer HEAD": path("HEAD /blobs/{layer}"),
    "config": path("GET /blobs/{config}"),
    "Range": ranged,
    "suffix Range": suffix_range,
    "referrers": path("GET /referrers/{root}"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_reader_gets_nothing_out_of_quarantine_and_everything_once_admitted(scene: Scene, way: str) -> None:
    refused = await WAYS[way](scene, scene.reader)
    assert refused.status_code == 403, refused.text
    assert "scan.missing" in refused.headers["berth-reason"]
    assert "signature.missing" in refused.headers["berth-reason"]
    assert "approval.missing" in refused.headers["berth-reason"]
    assert refused.headers["warning"].startswith("299 - ")
    if "HEAD" not in way:
        error = refused.json()["errors"][0]
        assert error["code"] == "DENIED"
        assert {"code", "message"} <= set(error["detail"]["reasons"][0])
    await scene.admit()
    served = await WAYS[way](scene, scene.reader)
    assert served.status_code in (200, 206), served.text


@pytest.mark.parametrize("missing", ["scan", "signature", "approval"])
async def test_each_single_missing_condition_keeps_it_in(scene: Scene, missing: str) -> None:
    if missing != "scan":
        await scene.on.scanned(scene.image.digest)
    if missing == "signature":
        await scene.on.decided(REPOSITORY, scene.root)
    elif missing == "approval":
        await scene.on.admit(REPOSITORY, scene.root, scene.image.digest)
        await scene.on.decided(REPOSITORY, scene.root, "revoked")
    else:
        await scene.on.admit(REPOSITORY, scene.root, scene.image.digest)
        await scene.on.scanned(scene.image.digest, status="failed")
    answer = await WAYS["layer"](scene, scene.reader)
    assert answer.status_code == 403
    assert missing in answer.headers["berth-reason"] or "approval" in answer.headers["berth-reason"]


async def test_virtual_tags_and_aliases_do_not_resolve_to_quarantined_versions_for_anybody(scene: Scene) -> None:
    from berth.catalog import aliases
    from berth.catalog import queries as catalog

    async with scene.on.services.db.transaction() as conn:
        repository = await catalog.repository(conn, REPOSITORY)
        assert repository is not None
        version = await catalog.version_by_number(conn, repository.id, "1.0.0")
        assert version is not None
        await aliases.set_alias(conn, repository_id=repository.id, name="production", version_id=version.id, by="rita")
    for name in ("latest", "1", "1.0", "production"):
        for client in (scene.reader, scene.developer, scene.reviewer):
            answer = await client("GET", f"/v2/{REPOSITORY}/manifests/{name}")
            assert answer.status_code == 404, (name, answer.text)
    await scene.admit()
    for name in ("latest", "1", "1.0", "production"):
        for client in (scene.reader, scene.developer, scene.reviewer):
            answer = await client("GET", f"/v2/{REPOSITORY}/manifests/{name}")
            assert answer.headers["docker-content-digest"] == scene.root


async def test_tags_list_shows_neither_aliases_nor_virtual_tags(scene: Scene) -> None:
    await scene.admit()
    answer = await scene.reader("GET", f"/v2/{REPOSITORY}/tags/list")
    assert "1.0.0" in answer.json()["tags"]
    assert not {"latest", "1", "1.0"} & set(answer.json()["tags"])


async def test_developers_see_quarantined_manifests_and_configs_but_not_layers(scene: Scene) -> None:
    assert (await WAYS["tag"](scene, scene.developer)).status_code == 200
    assert (await WAYS["child digest"](scene, scene.developer)).status_code == 200
    assert (await WAYS["config"](scene, scene.developer)).status_code == 200
    assert (await WAYS["layer"](scene, scene.developer)).status_code == 403
    assert (await WAYS["Range"](scene, scene.developer)).status_code == 403


async def test_reviewers_read_quarantined_layers_and_leave_a_trace(scene: Scene) -> None:
    from sqlalchemy import text

    answer = await WAYS["layer"](scene, scene.reviewer)
    assert answer.content == scene.image.layer_bytes
    assert "quarantine" in answer.headers["warning"]
    async with scene.on.services.db.reading() as conn:
        rows = (await conn.execute(text("select principal, object from audit where action = 'quarantine.read'"))).all()
    assert [tuple(row) for row in rows] == [("rita", f"{REPOSITORY}@{scene.image.layer}")]


async def test_mounting_out_of_quarantine_is_refused_and_mounting_admitted_content_succeeds(scene: Scene) -> None:
    where = f"/v2/ml/other/blobs/uploads/?mount={scene.image.layer}&from={REPOSITORY}"
    refused = await scene.developer("POST", where, b"")
    assert refused.status_code == 202
    assert (await scene.developer("HEAD", f"/v2/ml/other/blobs/{scene.image.layer}")).status_code == 404
    await scene.admit()
    mounted = await scene.developer("POST", where, b"")
    assert mounted.status_code == 201
    assert (await scene.developer("HEAD", f"/v2/ml/other/blobs/{scene.image.layer}")).status_code == 200


async def test_mounting_from_a_project_one_has_no_role_in_is_refused(scene: Scene) -> None:
    await scene.admit()
    await scene.on.project("other")
    stranger = await scene.on.user("eve", "other", "developer")
    where = f"/v2/other/theft/blobs/uploads/?mount={scene.image.layer}&from={REPOSITORY}"
    assert (await stranger("POST", where, b"")).status_code == 202
    assert (await stranger("GET", f"/v2/other/theft/blobs/{scene.image.layer}")).status_code == 404


async def test_a_blob_of_another_project_cannot_be_named_in_a_manifest(scene: Scene) -> None:
    await scene.admit()
    await scene.on.project("other")
    thief = await scene.on.user("eve", "other", "developer")
    config = await thief.blob("other/theft", b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 2},
        "layers": [{"mediaType": LAYER, "digest": scene.image.layer, "size": len(scene.image.layer_bytes)}],
    }
    answer = await thief.manifest("other/theft", "1.0.0", document)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


async def test_weights_disguised_as_a_signature_stay_in(scene: Scene) -> None:
    """The layer of a quarantined version, named as a simple-signing layer at the `.sig` tag of an admitted one."""
    await scene.admit()
    secret = await scene.developer.image(REPOSITORY, "2.0.0", salt="secret")
    config = await scene.developer.blob(REPOSITORY, b'{"architecture":""}')
    disguise = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 19},
        "layers": [{"mediaType": SIMPLE_SIGNING, "digest": secret.layer, "size": len(secret.layer_bytes)}],
    }
    tag = scene.root.replace(":", "-") + ".sig"
    pushed = await scene.developer.manifest(REPOSITORY, tag, disguise)
    assert pushed.status_code == 201
    assert (await scene.reader("GET", f"/v2/{REPOSITORY}/blobs/{secret.layer}")).status_code == 403
    assert (await scene.reader("GET", f"/v2/{REPOSITORY}/manifests/{tag}")).status_code == 403
    # The version it was hung on is still admitted, and its real signature is still counted.
    assert (await WAYS["layer"](scene, scene.reader)).status_code == 200


@pytest.mark.parametrize(
    ("artifact_type", "layer_type", "rides"),
    [
        ("application/spdx+json", "application/spdx+json", True),
        ("application/vnd.acme.weights", "application/octet-stream", False),
        ("application/spdx+json", "application/octet-stream", False),
        ("application/vnd.oci.image.manifest.v1+json", "application/spdx+json", False),
    ],
)
async def test_only_referrers_of_the_closed_list_ride_on_their_subject(
    scene: Scene, artifact_type: str, layer_type: str, rides: bool
) -> None:
    await scene.admit()
    document = json.dumps({"spdxVersion": "SPDX-2.3"}).encode()
    layer = await scene.developer.blob(REPOSITORY, document)
    empty = await scene.developer.blob(REPOSITORY, b"{}")
    referrer = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{"mediaType": layer_type, "digest": layer, "size": len(document)}],
        "subject": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": scene.root, "size": 1},
    }
    body = json.dumps(referrer).encode()
    pushed = await scene.developer.manifest(REPOSITORY, sha256(body), body)
    assert pushed.status_code == 201
    assert pushed.headers["oci-subject"] == scene.root
    wanted = 200 if rides else 403
    assert (await scene.reader("GET", f"/v2/{REPOSITORY}/manifests/{sha256(body)}")).status_code == wanted
    assert (await scene.reader("GET", f"/v2/{REPOSITORY}/blobs/{layer}")).status_code == wanted
    listed = await scene.reader("GET", f"/v2/{REPOSITORY}/referrers/{scene.root}")
    assert (sha256(body) in {entry["digest"] for entry in listed.json()["manifests"]}) is rides


async def test_binary_content_under_an_evidence_type_does_not_ride(scene: Scene) -> None:
    await scene.admit()
    weights = b"\x80\x04weights"
    layer, empty = await scene.developer.blob(REPOSITORY, weights), await scene.developer.blob(REPOSITORY, b"{}")
    kind = "application/spdx+json"
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [{"mediaType": kind, "digest": layer, "size": len(weights)}],
            "subject": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": scene.root, "size": 1},
        }
    ).encode()
    assert (await scene.developer.manifest(REPOSITORY, sha256(body), body)).status_code == 201
    assert (await scene.reader("GET", f"/v2/{REPOSITORY}/blobs/{layer}")).status_code == 403


async def test_revoking_a_child_denies_every_version_that_holds_it(scene: Scene) -> None:
    await scene.admit()
    assert (await WAYS["tag"](scene, scene.reader)).status_code == 200
    await scene.on.decided(REPOSITORY, scene.image.digest, "revoked")
    assert (await WAYS["tag"](scene, scene.reader)).status_code == 403


async def test_ending_trust_in_the_key_closes_the_gate_at_once(scene: Scene) -> None:
    from berth.access import queries as access
    from berth.gates import queries as gate
    from berth.gates import signatures

    await scene.admit()
    assert (await WAYS["layer"](scene, scene.reader)).status_code == 200
    async with scene.on.services.db.transaction() as conn:
        project = await access.project_by_name(conn, "ml")
        assert project is not None
        for key in await gate.keys_of(conn, project.id):
            await signatures.untrust_key(conn, project.id, key.name, now=scene.on.services.clock())
    refused = await WAYS["layer"](scene, scene.reader)
    assert refused.status_code == 403
    assert "signature" in refused.headers["berth-reason"]


async def test_no_right_is_answered_like_a_missing_name_byte_for_byte(scene: Scene) -> None:
    await scene.on.project("other")
    stranger = await scene.on.user("eve", "other", "maintainer")
    for form in ("/manifests/1.0.0", "/tags/list", f"/blobs/{scene.image.layer}", f"/referrers/{scene.root}"):
        hidden = await stranger("GET", f"/v2/ml/demo{form}")
        missing = await stranger("GET", f"/v2/no/demo{form}")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.content == missing.content.replace(b"no/demo", b"ml/demo")
        assert hidden.json()["errors"][0]["code"] == "NAME_UNKNOWN"


async def test_nobody_in_particular_is_asked_to_sign_in(scene: Scene) -> None:
    await scene.admit()
    for way in WAYS.values():
        answer = await way(scene, scene.on.anonymous)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith(
            'Bearer realm="http://berth.test/v2/token",service="berth"'
        )


async def test_a_deleted_version_lets_nothing_out_any_more(scene: Scene) -> None:
    await scene.admit()
    maintainer = await scene.on.user("max", "ml", "maintainer")
    assert (await maintainer("DELETE", f"/v2/{REPOSITORY}/manifests/1.0.0")).status_code == 202
    assert (await WAYS["tag"](scene, scene.reader)).status_code == 404
    assert (await WAYS["layer"](scene, scene.reader)).status_code == 403
    assert (await WAYS["root digest"](scene, scene.reader)).status_code == 403


async def test_a_rejected_version_of_an_open_project_is_held_back_and_everything_else_is_not(
    installation: Installation,
) -> None:
    await installation.project("lab", "open")
    developer = await installation.user("dev", "lab", "developer")
    reader = await installation.user("rae", "lab", "reader")
    bad, good = await developer.image("lab/demo", "1.0.0", "bad"), await developer.image("lab/demo", "1.0.1", "good")
    await installation.decided("lab/demo", bad.digest, "rejected")
    assert (await reader("GET", f"/v2/lab/demo/manifests/{bad.digest}")).status_code == 403
    assert (await reader("GET", f"/v2/lab/demo/blobs/{bad.layer}")).status_code == 403
    assert (await reader("GET", f"/v2/lab/demo/manifests/{good.digest}")).status_code == 200
    assert (await reader("GET", f"/v2/lab/demo/blobs/{good.layer}")).status_code == 200
    loose = await developer.blob("lab/demo", b"committed, in no manifest yet")
    assert (await reader("GET", f"/v2/lab/demo/blobs/{loose}")).status_code == 200
