"""Push, pull, sign and verify, with the bytes in a real registry (docker-registry: no referrers API)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.client import Berth
from berth.client.signing import Checked
from berth.errors import Conflict, IntegrityError, ManifestUnknown, VersionInvalid
from berth.signing import keys
from berth.wire import manifests, transfer
from berth.wire.uploads import Arrival
from tests.unit.client.conftest import LARGE, SMALL, Api

Built = Callable[..., tuple[Path, str, str]]
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.manifest.v1+json"


class Heard:
    """A progress display that only remembers."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.notes: dict[str, str] = {}

    def start(self, name: str, total: int) -> None:
        self.totals[name] = total
        self.counts[name] = 0

    def advance(self, name: str, count: int) -> None:
        self.counts[name] += count

    def finish(self, name: str, note: str = "") -> None:
        self.notes[name] = note


def known(api: Api, name: str, digest: str) -> None:
    """Lets the scripted API know acme/NAME:1.0.0."""
    api.answers[f"GET /api/v1/projects/acme/models/{name}/versions/1.0.0"] = {"version": "1.0.0", "digest": digest}


def fetch(url: str, name: str, ref: str) -> Any:
    found = httpx.get(f"{url}/v2/acme/{name}/manifests/{ref}", headers={"Accept": f"{INDEX}, {IMAGE}"})
    assert found.status_code == 200
    return found.json()


def test_a_push_stores_the_index_under_its_version(berth: Berth, built: Built) -> None:
    home, ref, digest = built("push")
    heard = Heard()
    pushed = berth.push(ref, home=home, progress=heard)
    assert (pushed.repository, pushed.version, pushed.tag, pushed.digest) == ("acme/push", "1.0.0", "1.0.0", digest)
    assert pushed.reference == f"{berth.host}/acme/push:1.0.0"
    head = httpx.head(f"{berth.url}/v2/acme/push/manifests/1.0.0", headers={"Accept": INDEX})
    assert head.headers["docker-content-digest"] == digest
    assert heard.totals["deep/large.bin"] == heard.counts["deep/large.bin"] == len(LARGE)
    assert set(heard.notes.values()) == {"uploaded"}
    again = berth.push("acme/push", home=home)
    assert (again.uploaded_bytes, again.blobs[Arrival.uploaded]) == (0, 0)


def test_skopeo_pulls_the_runnable_image_of_a_pushed_version_unchanged(
    berth: Berth, built: Built, tmp_path: Path
) -> None:
    home, ref, _ = built("skopeo")
    berth.push(ref, home=home)
    (image,) = (m["digest"] for m in fetch(berth.url, "skopeo", "1.0.0")["manifests"] if m["platform"]["os"] == "linux")
    target = tmp_path / "copy"
    subprocess.run(
        [
            *("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false"),
            *(f"docker://{berth.host}/acme/skopeo:1.0.0", f"dir:{target}"),
        ],
        check=True,
        capture_output=True,
    )
    assert "sha256:" + hashlib.sha256((target / "manifest.json").read_bytes()).hexdigest() == image


def test_build_metadata_is_mapped_to_a_tag(berth: Berth, built: Built) -> None:
    home, _, _ = built("plus", "1.0.0+gpu")
    pushed = berth.push("acme/plus:1.0.0+gpu", home=home)
    assert (pushed.version, pushed.tag) == ("1.0.0+gpu", "1.0.0_gpu")
    assert fetch(berth.url, "plus", "1.0.0_gpu")["mediaType"] == INDEX


def test_a_version_that_was_not_built_is_not_pushed(berth: Berth, tmp_path: Path) -> None:
    with pytest.raises(ManifestUnknown):
        berth.push("acme/nothing:1.0.0", home=tmp_path)


def test_weights_that_changed_since_the_build_are_not_pushed(berth: Berth, built: Built, tmp_path: Path) -> None:
    home, ref, _ = built("changed")
    (tmp_path / "project-changed" / "weights" / "small.bin").write_bytes(b"other weights")
    with pytest.raises(IntegrityError):
        berth.push(ref, home=home)
    found = httpx.get(f"{berth.url}/v2/acme/changed/manifests/1.0.0", headers={"Accept": INDEX})
    assert found.status_code == 404


def test_what_was_pushed_comes_back_as_a_folder(berth: Berth, built: Built, api: Api, tmp_path: Path) -> None:
    home, ref, digest = built("pull")
    berth.push(ref, home=home)
    known(api, "pull", digest)
    heard = Heard()
    pulled = berth.pull("acme/pull:1.0.0", tmp_path / "out", progress=heard)
    assert pulled.digest == digest
    out = tmp_path / "out"
    assert (out / "weights" / "main" / "small.bin").read_bytes() == SMALL
    assert (out / "weights" / "main" / "deep" / "large.bin").read_bytes() == LARGE
    assert (out / "code" / "server.py").read_text() == "print('hello')\n"
    assert (out / "xumi.yaml").read_text() == (tmp_path / "project-pull" / "xumi.yaml").read_text()
    assert pulled.files.weight_bytes == len(SMALL) + len(LARGE)
    assert list(heard.notes.values()) == ["pulled"]
    assert list(heard.counts.values()) == list(heard.totals.values())


def test_a_folder_with_something_in_it_is_kept(berth: Berth, built: Built, api: Api, tmp_path: Path) -> None:
    home, ref, digest = built("force")
    berth.push(ref, home=home)
    known(api, "force", digest)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(Conflict):
        berth.pull("acme/force:1.0.0", out)
    assert (out / "mine").read_text() == "precious"
    berth.pull("acme/force:1.0.0", out, force=True, weights=False)
    assert sorted(p.name for p in out.iterdir()) == ["code", "xumi.yaml"]


def test_a_damaged_blob_leaves_no_folder(
    berth: Berth, built: Built, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, ref, digest = built("damaged")
    berth.push(ref, home=home)
    known(api, "damaged", digest)
    original = transfer.blobs.stream

    async def tampered(*arguments: Any, **named: Any) -> Any:
        async for piece in original(*arguments, **named):
            yield piece[:-1] + bytes([piece[-1] ^ 1])

    monkeypatch.setattr("berth.wire.blobs.stream", tampered)
    with pytest.raises(IntegrityError):
        berth.pull("acme/damaged:1.0.0", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_sdk_works_where_a_loop_is_running_already(berth: Berth, built: Built) -> None:
    home, ref, _ = built("notebook")

    async def cell() -> str:
        return berth.push(ref, home=home).version

    assert asyncio.run(cell()) == "1.0.0"


def test_a_reference_with_a_registry_is_not_pushed_elsewhere(berth: Berth, built: Built) -> None:
    home, ref, _ = built("elsewhere")
    with pytest.raises((VersionInvalid, ManifestUnknown)):
        berth.push(f"other.example/{ref}", home=home)


# --- signatures ------------------------------------------------------------------------------------------------------


def test_the_index_and_each_runnable_image_are_signed_and_no_checkpoint(
    berth: Berth, built: Built, api: Api, tmp_path: Path
) -> None:
    home, ref, digest = built("signed")
    berth.push(ref, home=home)
    known(api, "signed", digest)
    private, public = keys.generate("ecdsa-p256")
    key = keys.load_private(private)
    done = berth.sign("acme/signed:1.0.0", key)
    index = fetch(berth.url, "signed", "1.0.0")
    images = [m["digest"] for m in index["manifests"] if m["platform"]["os"] == "linux"]
    checkpoints = [m["digest"] for m in index["manifests"] if m["platform"]["os"] == "unknown"]
    assert len(images) == len(checkpoints) == 1
    assert [(s.subject, s.format) for s in done] == [
        (subject, form) for subject in (digest, *images) for form in ("classic", "bundle")
    ]
    # The classic signature, checked with openssl over the bytes as they are stored.
    manifest = fetch(berth.url, "signed", digest.replace(":", "-") + ".sig")
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    (layer,) = manifest["layers"]
    payload = httpx.get(f"{berth.url}/v2/acme/signed/blobs/{layer['digest']}").content
    assert json.loads(payload)["critical"] == {
        "identity": {"docker-reference": f"{berth.host}/acme/signed:1.0.0"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    _openssl(tmp_path, public, payload, layer["annotations"]["dev.cosignproject.cosign/signature"])
    # The bundle is found through the fallback tag, and its envelope is signed over the DSSE PAE.
    (entry,) = fetch(berth.url, "signed", digest.replace(":", "-"))["manifests"]
    referrer = fetch(berth.url, "signed", entry["digest"])
    assert entry["artifactType"] == referrer["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert referrer["subject"]["digest"] == digest
    bundle = httpx.get(f"{berth.url}/v2/acme/signed/blobs/{referrer['layers'][0]['digest']}").json()
    envelope = bundle["dsseEnvelope"]
    statement = base64.b64decode(envelope["payload"])
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(statement), statement)
    _openssl(tmp_path, public, pae, envelope["signatures"][0]["sig"])
    assert json.loads(statement)["subject"] == [{"digest": {"sha256": digest.removeprefix("sha256:")}}]


def _openssl(folder: Path, public: bytes, data: bytes, signature: str) -> None:
    (folder / "key.pem").write_bytes(public)
    (folder / "data").write_bytes(data)
    (folder / "sig").write_bytes(base64.b64decode(signature))
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "data"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_signing_again_with_the_same_key_adds_nothing(berth: Berth, built: Built, api: Api) -> None:
    home, ref, digest = built("again")
    berth.push(ref, home=home)
    known(api, "again", digest)
    first, second = (keys.load_private(keys.generate("ed25519")[0]) for _ in range(2))
    assert {s.added for s in berth.sign("acme/again:1.0.0", first)} == {True}
    assert {s.added for s in berth.sign("acme/again:1.0.0", first)} == {False}
    assert {s.added for s in berth.sign("acme/again:1.0.0", second)} == {True}
    assert len(fetch(berth.url, "again", digest.replace(":", "-") + ".sig")["layers"]) == 2
    assert len(fetch(berth.url, "again", digest.replace(":", "-"))["manifests"]) == 2
    checked = berth.verify("acme/again:1.0.0", [second.public])
    assert checked.valid
    verdicts = sorted((r.kind, r.verdict) for r in checked.records[digest])
    assert verdicts == [
        ("cosign-classic", "untrusted"),
        ("cosign-classic", "valid"),
        ("sigstore-bundle", "untrusted"),
        ("sigstore-bundle", "valid"),
    ]


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_each_format_alone_verifies_and_a_foreign_key_does_not(berth: Berth, built: Built, api: Api, form: str) -> None:
    name = f"only{form}"
    home, ref, digest = built(name)
    berth.push(ref, home=home)
    known(api, name, digest)
    key, other = (keys.load_private(keys.generate()[0]) for _ in range(2))
    unsigned = berth.verify(f"acme/{name}:1.0.0", [key.public])
    assert (unsigned.valid, unsigned.records[digest]) == (False, [])
    berth.sign(f"acme/{name}:1.0.0", key, formats=[form], annotations={"stage": "release"})
    checked = berth.verify(f"acme/{name}:1.0.0", [key.public])
    assert checked.valid
    assert checked.records[digest][0].annotations == {"stage": "release"}
    assert not berth.verify(f"acme/{name}:1.0.0", [other.public]).valid


def test_a_signature_copied_to_another_repository_does_not_count(berth: Berth, built: Built, api: Api) -> None:
    home, ref, digest = built("origin")
    berth.push(ref, home=home)
    known(api, "origin", digest)
    known(api, "thief", digest)
    key = keys.load_private(keys.generate()[0])
    berth.sign("acme/origin:1.0.0", key, formats=["classic"])
    tag = digest.replace(":", "-") + ".sig"

    async def copy() -> Checked:
        async with berth.registry() as client:
            source = transfer.RemoteSource(client, "acme/origin")
            await transfer.copy_tree(source, client, "acme/thief", digest, tag="1.0.0")
            signature = (await manifests.get(client, "acme/origin", tag)).digest
            await transfer.copy_tree(source, client, "acme/thief", signature, tag=tag)
        return berth.verify("acme/thief:1.0.0", [key.public])

    checked = asyncio.run(copy())
    assert not checked.valid
    assert [r.reason for r in checked.records[digest]] == ["identity_mismatch"]
