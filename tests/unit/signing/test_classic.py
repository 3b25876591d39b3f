"""Classic cosign signatures: what we write, and what we refuse to believe."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from berth.errors import DigestInvalid, ManifestInvalid, TooLarge
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.signing import classic, keys

D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
OTHER = "sha256:" + "ab" * 32
REFERENCE = "reg.example/ml/demo:v1"
PRIVATE, PUBLIC = keys.generate()
KEY = keys.load_private(PRIVATE)
FOREIGN = keys.load_private(keys.generate("ed25519")[0])


def signed(body: bytes, key: keys.PrivateKey = KEY) -> str:
    return base64.b64encode(key.sign(body)).decode()


def judge(body: bytes, signature: str | None = None, **more: Any) -> tuple[str, str]:
    arguments: dict[str, Any] = {"keys": [KEY.public], "digest": D, "repository": "ml/demo"} | more
    outcome = classic.verify(body, signed(body) if signature is None else signature, **arguments)
    assert (outcome.verdict == "valid") == (outcome.reason == "")
    return outcome.verdict, outcome.reason


def test_openssl_verifies_what_we_sign(tmp_path: Path) -> None:
    body = classic.payload(D, REFERENCE, {"creator": "berth"})
    _, manifest = classic.build(body, signed(body))
    layer = json.loads(manifest)["layers"][0]
    (tmp_path / "payload").write_bytes(body)
    (tmp_path / "sig").write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
    (tmp_path / "pub").write_bytes(PUBLIC)
    command = ["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "payload"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"Verified OK\n")
    (tmp_path / "payload").write_bytes(body.replace(b"berth", b"barth"))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_openssl_signs_what_we_verify(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(PRIVATE)
    body = classic.payload(D, REFERENCE)
    (tmp_path / "payload").write_bytes(body)
    command = ["openssl", "dgst", "-sha256", "-sign", "key", "payload"]
    signature = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert judge(body, base64.b64encode(signature).decode()) == ("valid", "")


def test_the_payload_carries_signed_annotations_that_are_returned() -> None:
    body = classic.payload(D, REFERENCE, {"git": "abc", "creator": "ci"})
    outcome = classic.verify(body, signed(body), keys=[KEY.public], digest=D, repository="ml/demo")
    assert outcome.annotations == {"creator": "ci", "git": "abc"}
    assert outcome.key_id == KEY.public.key_id
    assert judge(body, required={"git": "abc"}) == ("valid", "")
    assert judge(body, required={"git": "abd"}) == ("invalid", "identity_mismatch")
    assert judge(body, required={"missing": "x"}) == ("invalid", "identity_mismatch")


def test_a_timestamp_in_optional_is_accepted() -> None:
    value = json.loads(classic.payload(D, REFERENCE)) | {"optional": {"creator": "skopeo", "timestamp": 1700000000}}
    assert judge(json.dumps(value).encode()) == ("valid", "")


def test_a_payload_needs_a_digest() -> None:
    with pytest.raises(DigestInvalid):
        classic.payload("latest", REFERENCE)


def test_rejections() -> None:
    body = classic.payload(D, REFERENCE)
    assert judge(body) == ("valid", "")
    assert judge(body, signed(body, FOREIGN)) == ("untrusted", "unknown_key")
    assert judge(body, keys=[]) == ("untrusted", "unknown_key")
    assert judge(body.replace(b"v1", b"v2"), signed(body)) == ("untrusted", "unknown_key")
    assert judge(body, digest=OTHER) == ("invalid", "digest_mismatch")
    assert judge(body, "") == ("invalid", "bad_format")
    assert judge(body, "not base64!") == ("invalid", "bad_format")
    assert judge(body, signed(body)[:8] + "!" + signed(body)[8:]) == ("invalid", "bad_format")
    assert judge(body, signed(body) + "\n") == ("invalid", "bad_format")
    assert judge(body, "A" * 4000) == ("invalid", "bad_format")
    assert judge(body + b" " * 1024 * 1024) == ("invalid", "bad_format")


def payload_with(**change: Any) -> bytes:
    value = json.loads(classic.payload(D, REFERENCE))
    value["critical"].update(change)
    return json.dumps({key: item for key, item in value.items() if item != "drop"}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (payload_with(type="atomic container signature"), "bad_format"),
        (payload_with(type=None), "bad_format"),
        (payload_with(image={}), "digest_mismatch"),
        (payload_with(image=None), "digest_mismatch"),
        (payload_with(image={"docker-manifest-digest": D.upper()}), "digest_mismatch"),
        (payload_with(identity={}), "identity_mismatch"),
        (payload_with(identity=None), "identity_mismatch"),
        (payload_with(identity={"docker-reference": ""}), "identity_mismatch"),
        (payload_with(identity={"docker-reference": 5}), "identity_mismatch"),
        (b"[]", "bad_format"),
        (b"{}", "bad_format"),
        (b"null", "bad_format"),
        (b"\xff", "bad_format"),
        (b'{"critical":{},"critical":{}}', "bad_format"),
        (b'{"critical":' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_format"),
        (json.dumps(json.loads(classic.payload(D, REFERENCE)) | {"optional": []}).encode(), "bad_format"),
    ],
)
def test_a_payload_by_a_trusted_key_with_wrong_content_is_invalid(body: bytes, reason: str) -> None:
    assert judge(body) == ("invalid", reason)


@pytest.mark.parametrize(
    ("reference", "repository", "same"),
    [
        ("reg.example/ml/demo:v1", "ml/demo", True),
        ("reg.example/ml/demo", "ml/demo", True),
        ("localhost:5000/ml/demo:1.0.0", "ml/demo", True),
        ("localhost/ml/demo:1.0.0", "ml/demo", True),
        (f"ml/demo@{D}", "ml/demo", True),
        (f"reg.example/ml/demo:v1@{D}", "reg.example/ml/demo", True),
        ("reg.example/ml/demo:v1", "reg.example/ml/demo", True),
        ("reg.example/ml/demo2:v1", "ml/demo", False),
        ("reg.example/other/demo:v1", "ml/demo", False),
        ("evil.example/x/ml/demo:v1", "ml/demo", False),
        ("other.example/ml/demo:v1", "reg.example/ml/demo", False),
        ("evil.example/reg.example/ml/demo:v1", "reg.example/ml/demo", False),
        ("ml/demo:v1", "reg.example/ml/demo", False),
        ("", "ml/demo", False),
        (":v1", "ml/demo", False),
    ],
)
def test_policy_repository_compares_paths_and_named_hosts(reference: str, repository: str, same: bool) -> None:
    expected = ("valid", "") if same else ("invalid", "identity_mismatch")
    assert judge(classic.payload(D, reference), repository=repository) == expected


def test_policy_exact_wants_the_tag_and_ignore_wants_nothing() -> None:
    body = classic.payload(D, REFERENCE)
    assert judge(body, repository=REFERENCE, identity="exact") == ("valid", "")
    assert judge(body, repository="reg.example/ml/demo:v2", identity="exact") == ("invalid", "identity_mismatch")
    assert judge(body, repository="a/b", identity="ignore") == ("valid", "")


def test_a_manifest_has_one_layer_per_signature_and_keeps_what_was_there() -> None:
    one, two = classic.payload(D, REFERENCE), classic.payload(D, "reg.example/ml/demo:v2")
    keyless = Descriptor(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        OTHER,
        5,
        annotations={"dev.cosignproject.cosign/signature": "x", "dev.sigstore.cosign/certificate": "y"},
    )
    old = manifests.parse(
        manifests.image(config=Descriptor("a/b", OTHER, 1), layers=[keyless], annotations={"kept": "1"})
    )
    _, first = classic.build(one, signed(one), old)
    config, second = classic.build(two, signed(two), manifests.parse(first))
    value = json.loads(second)
    assert [layer["digest"] for layer in value["layers"]] == [OTHER, digests.of_bytes(one), digests.of_bytes(two)]
    assert value["layers"][0] == keyless.to_json()
    assert value["annotations"] == {"kept": "1"}
    assert "subject" not in value
    assert "artifactType" not in value
    assert value["config"] == {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digests.of_bytes(config),
        "size": len(config),
    }
    assert json.loads(config)["rootfs"] == {
        "type": "layers",
        "diff_ids": [OTHER, digests.of_bytes(one), digests.of_bytes(two)],
    }
    assert len(json.loads(config)["history"]) == 3


def test_the_same_signature_is_not_added_twice_and_its_signer_is_recognised() -> None:
    body = classic.payload(D, REFERENCE)
    text = signed(body)
    _, manifest = classic.build(body, text)
    parsed = manifests.parse(manifest)
    assert classic.build(body, text, parsed)[1] == manifest
    assert classic.already_signed(parsed, body, KEY.public)
    assert not classic.already_signed(parsed, body, FOREIGN.public)
    assert not classic.already_signed(parsed, classic.payload(D, "other/x:1"), KEY.public)


def test_the_hundred_and_first_signature_is_refused() -> None:
    body = classic.payload(D, REFERENCE)
    layers = [classic.layer(body, str(number)) for number in range(100)]
    full = manifests.parse(manifests.image(config=Descriptor("a/b", OTHER, 1), layers=layers))
    with pytest.raises(TooLarge):
        classic.build(body, signed(body), full)


def test_an_index_under_the_signature_tag_is_not_overwritten() -> None:
    body = classic.payload(D, REFERENCE)
    with pytest.raises(ManifestInvalid):
        classic.build(body, signed(body), manifests.parse(manifests.index([])))
