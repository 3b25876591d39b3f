"""Content that calls itself something else: what it is decides, not what it says (found by attacking a service)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.server.gateway.registry import CONFIG, LAYER, MANIFEST, Client, Installation, layer_of, sha256

MODELPACK = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG = "application/vnd.cncf.model.config.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
RAW = "application/vnd.cncf.model.weight.v1.raw"
SPDX = "application/spdx+json"
EMPTY = "application/vnd.oci.empty.v1+json"


class Strict:
    """A strict project with its people, and one admitted version `ml/good:1.0.0`."""

    def __init__(self, installation: Installation) -> None:
        self.on = installation

    async def build(self) -> Strict:
        await self.on.project("ml")
        self.reader = await self.on.user("rae", "ml", "reader")
        self.developer = await self.on.user("dev", "ml", "developer")
        self.other = await self.on.user("dan", "ml", "developer")
        self.good = await self.developer.image("ml/good", "1.0.0", "good")
        await self.on.admit("ml/good", self.good.digest)
        return self


@pytest.fixture
async def strict(installation: Installation) -> Strict:
    return await Strict(installation).build()


async def pushed(
    client: Client,
    repository: str,
    tag: str,
    *,
    config: tuple[str, bytes],
    layers: list[tuple[str, bytes]],
    **extra: Any,
) -> str:
    """Push a manifest of these parts; returns its digest."""
    for _, data in (config, *layers):
        await client.blob(repository, data)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": config[0], "digest": sha256(config[1]), "size": len(config[1])},
            "layers": [{"mediaType": kind, "digest": sha256(data), "size": len(data)} for kind, data in layers],
            **extra,
        }
    ).encode()
    answer = await client.manifest(repository, tag, body)
    assert answer.status_code == 201, answer.text
    return sha256(body)


def image_config(diff_id: str) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


@pytest.mark.parametrize("disguise", ["artifactType", "config type", "in-toto layer", "both types"])
async def test_what_an_engine_could_run_is_scanned_as_an_image(strict: Strict, disguise: str) -> None:
    """Weight evidence alone, all a checkpoint needs, does not admit it."""
    data, diff_id = layer_of({"usr/lib/evil": b"vulnerable"})
    config_type = MODELPACK_CONFIG if disguise in ("config type", "both types") else CONFIG
    extra = {"artifactType": MODELPACK} if disguise in ("artifactType", "both types") else {}
    layer_type = IN_TOTO if disguise == "in-toto layer" else LAYER
    digest = await pushed(
        strict.developer,
        "ml/disguise",
        "1.0.0",
        config=(config_type, image_config(diff_id)),
        layers=[(layer_type, data)],
        **extra,
    )
    await strict.on.admit("ml/disguise", digest)
    await strict.on.scanned(digest, kinds=("weights",))
    async with strict.on.services.db.transaction() as conn:
        from sqlalchemy import text

        await conn.execute(text("delete from evidence where kind = 'vulnerabilities' and digest = :d"), {"d": digest})
        await conn.execute(text("update verdicts set valid_until = '-infinity'"))
    answer = await strict.reader("GET", "/v2/ml/disguise/manifests/1.0.0")
    assert answer.status_code == 403
    assert "scan.missing" in answer.headers["berth-reason"]


async def test_an_honest_checkpoint_needs_its_weight_scan_only(strict: Strict) -> None:
    digest = await pushed(
        strict.developer,
        "ml/weights",
        "1.0.0",
        config=(MODELPACK_CONFIG, b'{"modelfs":{}}'),
        layers=[(RAW, b"weights")],
        artifactType=MODELPACK,
    )
    await strict.on.admit("ml/weights", digest)
    assert (await strict.reader("GET", "/v2/ml/weights/manifests/1.0.0")).status_code == 200


@pytest.mark.parametrize("config", [b"\x80\x04pickle", b"[1]", b'{"x":"' + b"y" * (2 << 20) + b'"}'])
async def test_a_config_that_is_no_small_json_object_is_never_admitted(strict: Strict, config: bytes) -> None:
    digest = await pushed(
        strict.developer,
        "ml/odd",
        "1.0.0",
        config=(MODELPACK_CONFIG, config),
        layers=[(RAW, b"weights")],
        artifactType=MODELPACK,
    )
    await strict.on.admit("ml/odd", digest)
    answer = await strict.reader("GET", f"/v2/ml/odd/blobs/{sha256(config)}")
    assert answer.status_code == 403
    assert "content.unknown" in answer.headers["berth-reason"]


async def evidence(
    client: Client, repository: str, reference: str | None, subject: str, layer: bytes
) -> tuple[int, str]:
    for data in (b"{}", layer):
        await client.blob(repository, data)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SPDX,
            "config": {"mediaType": EMPTY, "digest": sha256(b"{}"), "size": 2},
            "layers": [{"mediaType": SPDX, "digest": sha256(layer), "size": len(layer)}],
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
        }
    ).encode()
    answer = await client.manifest(repository, reference or sha256(body), body)
    return answer.status_code, sha256(body)


async def test_evidence_cannot_take_a_version_number(strict: Strict) -> None:
    """It would be served on its subject's verdict, whatever people decide about that number."""
    document = b'{"spdxVersion":"SPDX-2.3"}'
    assert (await evidence(strict.developer, "ml/good", "9.9.9", strict.good.digest, document))[0] == 400
    status, digest = await evidence(strict.developer, "ml/good", None, strict.good.digest, document)
    assert status == 201
    body = (await strict.developer("GET", f"/v2/ml/good/manifests/{digest}")).content
    assert (await strict.developer.manifest("ml/good", "9.9.9", body)).status_code == 400


async def test_quarantined_json_does_not_leave_as_somebody_elses_evidence(strict: Strict) -> None:
    weights = b'{"layers": [1, 2, 3]}'
    await pushed(strict.other, "ml/good", "2.0.0", config=(CONFIG, image_config(sha256(b""))), layers=[(RAW, weights)])
    assert (await strict.reader("GET", f"/v2/ml/good/blobs/{sha256(weights)}")).status_code == 403
    status, _ = await evidence(strict.developer, "ml/good", None, strict.good.digest, weights)
    assert status == 201
    assert (await strict.reader("GET", f"/v2/ml/good/blobs/{sha256(weights)}")).status_code == 403


@pytest.mark.parametrize("first", [True, False])
async def test_naming_a_quarantined_layer_as_config_opens_it_to_nobody(strict: Strict, first: bool) -> None:
    """Neither before nor after the manifest whose layer it is, and not for a mount either."""
    weights = b"\x80\x04 quarantined weights"
    config = {"mediaType": CONFIG, "digest": sha256(weights), "size": len(weights)}
    thief = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}
    body = json.dumps(thief).encode()
    await strict.other.blob("ml/iso", weights)
    if first:
        assert (await strict.developer.manifest("ml/iso", sha256(body), body)).status_code == 201
    await pushed(strict.other, "ml/iso", "1.0.0", config=(MODELPACK_CONFIG, b'{"a":1}'), layers=[(RAW, weights)])
    if not first:
        assert (await strict.developer.manifest("ml/iso", sha256(body), body)).status_code == 201
    assert (await strict.developer("GET", f"/v2/ml/iso/blobs/{sha256(weights)}")).status_code == 403
    mount = await strict.developer("POST", f"/v2/ml/elsewhere/blobs/uploads/?mount={sha256(weights)}&from=ml/iso", b"")
    assert mount.status_code == 202


async def test_a_signature_under_the_wrong_tag_cannot_hide_it_from_readers(strict: Strict) -> None:
    """Pushed first as `.sig` of something else, it is no evidence; pushed rightly, readers see it."""
    from berth.signing import keys

    private, public = keys.generate("ecdsa-p256", None)
    await strict.on.trust("ml", "release", public.decode())
    version = await strict.developer.image("ml/signed", "1.0.0", "signed")
    other = await strict.developer.image("ml/signed", "0.9.0", "other")
    key = keys.load_private(private, None)
    await strict.developer.sign("ml/signed", version.digest, key)
    tag = version.digest.replace(":", "-") + ".sig"
    manifest = (await strict.developer("GET", f"/v2/ml/signed/manifests/{tag}")).content
    wrong = other.digest.replace(":", "-") + ".sig"
    assert (await strict.developer.manifest("ml/signed", wrong, manifest)).status_code == 201
    await strict.on.scanned(version.digest)
    await strict.on.decided("ml/signed", version.digest)
    assert (await strict.reader("GET", f"/v2/ml/signed/manifests/{tag}")).status_code == 200


async def test_a_deleted_version_needs_a_new_approval_when_it_comes_back(strict: Strict) -> None:
    maintainer = await strict.on.user("max", "ml", "maintainer")
    assert (await maintainer("DELETE", "/v2/ml/good/manifests/1.0.0")).status_code == 202
    assert (await strict.developer.manifest("ml/good", "1.0.0", strict.good.body)).status_code == 201
    answer = await strict.reader("GET", "/v2/ml/good/manifests/1.0.0")
    assert answer.status_code == 403
    assert "approval.revoked" in answer.headers["berth-reason"]


@pytest.mark.parametrize("lie", [{"size": 1}, {"mediaType": "application/vnd.oci.image.index.v1+json"}])
async def test_an_index_that_lies_about_its_children_is_refused(strict: Strict, lie: dict[str, Any]) -> None:
    image = await strict.developer.image("ml/index", None)
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [image.descriptor() | lie],
    }
    assert (await strict.developer.manifest("ml/index", "1.0.0", body)).status_code == 400


@pytest.mark.parametrize(
    "where", ["/v2/ml/good/tags/list?last=%00", "/v2/ml/good/manifests/%00", "/v2/_catalog?last=%00"]
)
async def test_a_nul_is_a_bad_request(strict: Strict, where: str) -> None:
    assert (await strict.reader("GET", where)).status_code == 400


async def test_a_host_header_cannot_break_out_of_the_challenge(installation: Installation) -> None:
    answer = await installation.anonymous("GET", "/v2/", Host='evil"><script>')
    assert answer.headers["www-authenticate"].startswith('Bearer realm="http://localhost/v2/token"')
