"""How is a version signed and checked from here? Classic cosign and Sigstore bundles beside it (signing rules §2, §3).

The index is signed, and each runnable child: podman, CRI-O and Harbor check the child, the gate needs the index.
Checkpoints are not signed one by one; the index binds them.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from berth.errors import Conflict, NotFound
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types, referrers
from berth.oci.descriptor import Descriptor
from berth.oci.manifest import Manifest
from berth.signing import attestations, bundle, checks, classic
from berth.signing.checks import SignatureRecord, TrustedKey
from berth.signing.keys import PrivateKey, PublicKey
from berth.signing.outcome import MAX_ATTESTATION_BYTES, MAX_SIGNATURES
from berth.wire import blobs, uploads
from berth.wire import manifests as wire_manifests
from berth.wire import referrers as wire_referrers
from berth.wire.client import RegistryClient

FORMATS = ("classic", "bundle")
ATTEMPTS = 5
_SIGNATURES = ("cosign-classic", "sigstore-bundle", "notation")


@dataclass(frozen=True)
class Signed:
    """One signature that is in place now; `added` is False when the same key had signed before."""

    subject: str
    format: str
    manifest: str
    added: bool


@dataclass(frozen=True)
class Checked:
    """Every signature found, by the digest it is about. `valid`: the root has one by a given key."""

    root: str
    records: Mapping[str, Sequence[SignatureRecord]]

    @property
    def valid(self) -> bool:
        return any(r.verdict == "valid" and r.kind in _SIGNATURES for r in self.records[self.root])


async def sign(
    client: RegistryClient,
    repository: str,
    digest: str,
    *,
    tag: str,
    key: PrivateKey,
    formats: Collection[str] = FORMATS,
    annotations: Mapping[str, str] | None = None,
) -> list[Signed]:
    """Signs a version and its runnable children.

    Args:
        tag: goes into the signed `docker-reference`, as `host/repository:tag`.
        annotations: more signed facts.
    """
    reference = f"{client.host}/{repository}:{tag}"
    done: list[Signed] = []
    for subject in await targets(client, repository, digest):
        if "classic" in formats:
            payload = classic.payload(subject.digest, reference, annotations)
            done.append(await _sign_classic(client, repository, subject, payload, key))
        if "bundle" in formats:
            statement = attestations.signature_statement(subject.digest, annotations)
            done.append(await _sign_bundle(client, repository, subject, statement, key))
    return done


async def verify(client: RegistryClient, repository: str, digest: str, *, keys: Sequence[PublicKey]) -> Checked:
    """Finds and checks all signatures of a version and of its runnable children. Registry errors are raised."""
    trusted = [TrustedKey(key) for key in keys]
    found: dict[str, list[SignatureRecord]] = {}
    for subject in await targets(client, repository, digest):
        found[subject.digest] = []
        for manifest_digest, manifest in await _carriers(client, repository, subject.digest):
            contents = await _layers(client, repository, manifest)
            found[subject.digest] += checks.inspect(
                manifest,
                manifest_digest,
                subject=subject.digest,
                repository=repository,
                blobs=contents.get,
                keys=trusted,
            )
    return Checked(digest, found)


async def targets(client: RegistryClient, repository: str, digest: str) -> list[Descriptor]:
    """The manifest itself and, below an index, each image that can be run."""
    fetched = await wire_manifests.get(client, repository, digest)
    root = manifests.parse(fetched.body, fetched.media_type or None)
    found = [Descriptor(root.media_type, digest, root.size)]
    for child in root.children():
        if child.media_type not in media_types.MANIFEST_TYPES:
            continue
        body = (await wire_manifests.get(client, repository, child.digest)).body
        if runnable(child, manifests.parse(body, child.media_type)):
            found.append(Descriptor(child.media_type, child.digest, child.size))
    return found


def runnable(entry: Descriptor, manifest: Manifest) -> bool:
    """Whether a child of an index is a container image, and not a checkpoint or another artifact."""
    if manifest.config is None or manifest.artifact_type is not None or manifest.subject is not None:
        return False
    if (entry.platform or {}).get("os") == "unknown":
        return False
    return manifest.config.media_type in (media_types.OCI_CONFIG, media_types.DOCKER_CONFIG)


async def _sign_classic(
    client: RegistryClient, repository: str, subject: Descriptor, payload: bytes, key: PrivateKey
) -> Signed:
    """Read, add our layer, write, read again: a signature that another client's write removed is added again."""
    tag = referrers.signature_tag(subject.digest)
    signature = base64.b64encode(key.sign(payload)).decode("ascii")
    added = False
    for _ in range(ATTEMPTS):
        present = await _tagged(client, repository, tag)
        existing = present[1] if present else None
        if present and existing is not None and classic.already_signed(existing, payload, key.public):
            return Signed(subject.digest, "classic", present[0], added)
        config, manifest = classic.build(payload, signature, existing)
        await _put_blob(client, repository, payload)
        await _put_blob(client, repository, config)
        await wire_manifests.put(client, repository, tag, manifest, media_types.OCI_MANIFEST)
        added = True
    present = await _tagged(client, repository, tag)
    if present and classic.already_signed(present[1], payload, key.public):
        return Signed(subject.digest, "classic", present[0], added)
    raise Conflict(f"Other clients keep changing the signatures of {subject.digest}.", hint="Try again in a moment.")


async def _sign_bundle(
    client: RegistryClient, repository: str, subject: Descriptor, statement: bytes, key: PrivateKey
) -> Signed:
    for digest, manifest in await _bundles(client, repository, subject.digest):
        for content in (await _layers(client, repository, manifest)).values():
            outcome = bundle.verify(content, keys=[key.public], digest=subject.digest, predicate_type=attestations.SIGN)
            if outcome.verdict == "valid" and _same_statement(content, statement):
                return Signed(subject.digest, "bundle", digest, False)
    blob = bundle.sign_statement(statement, key)
    await _put_blob(client, repository, blob)
    await _put_blob(client, repository, b"{}")
    body = bundle.build(blob, subject=subject, predicate_type=attestations.SIGN, created=datetime.now(UTC))
    return Signed(subject.digest, "bundle", await wire_referrers.push(client, repository, body), True)


def _same_statement(content: bytes, statement: bytes) -> bool:
    read = bundle.read(content)
    return isinstance(read, bundle.Bundle) and read.envelope.payload == statement


async def _carriers(client: RegistryClient, repository: str, subject: str) -> list[tuple[str, Manifest]]:
    """Every manifest that may carry signatures of `subject`: tags of cosign, and referrers."""
    found: dict[str, Manifest] = {}
    if digests.parse(subject).algorithm == "sha256":
        for tag in (referrers.signature_tag(subject), referrers.attestation_tag(subject)):
            tagged = await _tagged(client, repository, tag)
            if tagged is not None:
                found[tagged[0]] = tagged[1]
    found.update(await _referring(client, repository, subject, None))
    return list(found.items())


async def _bundles(client: RegistryClient, repository: str, subject: str) -> list[tuple[str, Manifest]]:
    return list((await _referring(client, repository, subject, media_types.SIGSTORE_BUNDLE_V03)).items())


async def _referring(
    client: RegistryClient, repository: str, subject: str, artifact_type: str | None
) -> dict[str, Manifest]:
    """Referrers that hold signatures; type and subject are taken from the manifest itself, not from the list."""
    wanted = (media_types.SIGSTORE_BUNDLE_V03, media_types.NOTARY_SIGNATURE)
    found: dict[str, Manifest] = {}
    for entry in await wire_referrers.ls(client, repository, subject, artifact_type=artifact_type):
        if entry.artifact_type is not None and entry.artifact_type not in wanted:
            continue
        fetched = await wire_manifests.get(client, repository, entry.digest)
        manifest = manifests.parse(fetched.body, fetched.media_type or None)
        named = manifest.subject.digest if manifest.subject else None
        if named == subject and manifest.referrer_artifact_type in wanted:
            found[entry.digest] = manifest
        if len(found) > MAX_SIGNATURES:
            raise Conflict(f"{subject} has more than {MAX_SIGNATURES} signatures.", hint="Remove the ones not needed.")
    return found


async def _tagged(client: RegistryClient, repository: str, tag: str) -> tuple[str, Manifest] | None:
    try:
        fetched = await wire_manifests.get(client, repository, tag)
    except NotFound:
        return None
    return fetched.digest, manifests.parse(fetched.body, fetched.media_type or None)


async def _layers(client: RegistryClient, repository: str, manifest: Manifest) -> dict[str, bytes]:
    """The layers' bytes; those that are missing or too large are left out, and judged as such."""
    found: dict[str, bytes] = {}
    for layer in manifest.layers[: MAX_SIGNATURES + 1]:
        if layer.size > MAX_ATTESTATION_BYTES or layer.digest in found:
            continue
        try:
            found[layer.digest] = await blobs.read_all(
                client, repository, layer.digest, limit=MAX_ATTESTATION_BYTES, size=layer.size
            )
        except NotFound:
            continue
    return found


async def _put_blob(client: RegistryClient, repository: str, content: bytes) -> None:
    await uploads.put_bytes(client, repository, content)
