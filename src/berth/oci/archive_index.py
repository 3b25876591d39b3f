"""What is in an archive of versions? Its `index.json`, and what the manifests in it say about each other.

Versions stand in `index.json` under `project/model:version` with their aliases as annotation, signature tags under
`project/model:sha256-….sig`, other evidence without a name; each of those says itself what it is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from berth.errors import BerthError, ManifestInvalid, NameInvalid
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci import referrers
from berth.oci.archive import refused
from berth.oci.descriptor import Descriptor, from_json
from berth.oci.documents import dumps, loads
from berth.oci.layout import REF_NAME
from berth.oci.manifest import Manifest
from berth.oci.reference import ModelName
from berth.oci.version import SemVer, to_tag

ALIASES: Final = "berth.aliases"
# How many blobs were left out because the other side has them; without it all of them are inside.
LEFT_OUT: Final = "berth.left-out"
MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
MAX_MANIFESTS: Final = 20_000
MAX_MANIFEST_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NamedVersion:
    """A version under its name. `aliases`: other names it had where it was exported; an import moves none."""

    repository: str
    version: str
    descriptor: Descriptor
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.version}"

    @property
    def tag(self) -> str:
        return to_tag(self.version)

    @property
    def digest(self) -> str:
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class SignatureTag:
    """A tag such as `sha256-….sig` of a repository, and the manifest it names."""

    repository: str
    tag: str
    descriptor: Descriptor

    @property
    def digest(self) -> str:
        return self.descriptor.digest


def index_document(
    versions: Iterable[NamedVersion],
    signatures: Iterable[SignatureTag],
    evidence: Iterable[Descriptor],
    *,
    left_out: int = 0,
) -> bytes:
    """`index.json` in its one form: the same versions and evidence always give the same bytes."""
    entries = []
    for version in sorted(versions, key=lambda v: (v.repository, SemVer.parse(v.version).precedence, v.version)):
        notes = {REF_NAME: version.name} | ({ALIASES: ",".join(sorted(version.aliases))} if version.aliases else {})
        entries.append(_plain(version.descriptor, notes))
    for signature in sorted(signatures, key=lambda s: (s.repository, s.tag)):
        entries.append(_plain(signature.descriptor, {REF_NAME: f"{signature.repository}:{signature.tag}"}))
    for descriptor in sorted(evidence, key=lambda d: d.digest):
        entries.append(_plain(descriptor, {}))
    value = {"schemaVersion": 2, "mediaType": types.OCI_INDEX, "manifests": [entry.to_json() for entry in entries]}
    if left_out:
        value["annotations"] = {LEFT_OUT: str(left_out)}
    return dumps(value)


def _plain(descriptor: Descriptor, annotations: dict[str, str]) -> Descriptor:
    return Descriptor(
        descriptor.media_type,
        descriptor.digest,
        descriptor.size,
        artifact_type=descriptor.artifact_type,
        annotations=annotations,
    )


@dataclass
class Contents:
    """An archive as far as it has been read. `blobs` is every blob that its manifests name."""

    versions: list[NamedVersion] = field(default_factory=list)
    signatures: list[SignatureTag] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    left_out: int = 0
    manifests: dict[str, Manifest] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    _expected: dict[str, Descriptor] = field(default_factory=dict)
    _bytes: int = 0

    @classmethod
    def begin(cls, index: bytes) -> Contents:
        """Read `index.json`. Raises ArchiveInvalid for one that no export writes."""
        found = cls()
        try:
            value = loads(index, max_bytes=MAX_INDEX_BYTES, what="index.json")
            items = value.get("manifests") if isinstance(value, dict) else None
            if not isinstance(items, list) or len(items) > MAX_MANIFESTS:
                raise ManifestInvalid("index.json has no list `manifests`, or a very long one")
            for number, item in enumerate(items):
                found._add(from_json(item, what=f"manifests[{number}]"))
            notes = value.get("annotations") or {}
            told = notes.get(LEFT_OUT, "0") if isinstance(notes, dict) else "0"
            if not (isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 10):
                raise ManifestInvalid(f"{LEFT_OUT} is not a number")
            found.left_out = int(told)
        except BerthError as error:
            raise refused(error.message.rstrip(".")) from error
        if not found.versions:
            raise refused("index.json names no version")
        return found

    def expects(self, digest: str) -> int | None:
        """Size of a manifest that may come next; None for anything else."""
        if digest in self.manifests or digest not in self._expected:
            return None
        return self._expected[digest].size

    def add(self, digest: str, body: bytes) -> None:
        """Take up a manifest that is expected. Raises ArchiveInvalid when it is not what was announced."""
        told = self._expected[digest]
        self._bytes += len(body)
        if len(self._expected) > MAX_MANIFESTS or self._bytes > MAX_MANIFEST_BYTES:
            raise refused("It names too many manifests, or very large ones")
        if len(body) != told.size or digests.of_bytes(body, digests.parse(digest).algorithm) != digest:
            raise refused(f"The manifest {digest} has other bytes")
        try:
            manifest = manifests.parse(body, told.media_type)
        except ManifestInvalid as error:
            raise refused(f"{digest}: {error.message.rstrip('.')}") from error
        self.manifests[digest] = manifest
        for child in manifest.children():
            self._expect(child)
        for blob in manifest.blobs():
            if blob.media_type in types.FOREIGN_LAYER_TYPES:
                continue
            if self.blobs.setdefault(blob.digest, blob.size) != blob.size:
                raise refused(f"Two manifests give {blob.digest} two sizes")

    def pending(self) -> list[str]:
        """Manifests that are named and have not come yet, in the order in which they were named."""
        return [digest for digest in self._expected if digest not in self.manifests]

    def finish(self) -> None:
        """Raises ArchiveInvalid unless every manifest is there; blobs may be left out, manifests never."""
        missing = self.pending()
        if missing:
            raise refused(f"The manifest {missing[0]} is missing")

    def tree(self, root: str) -> list[str]:
        """Digests of a manifest and all below it, children before parents."""
        order: list[str] = []
        waiting = [(root, False)]
        seen: set[str] = set()
        while waiting:
            digest, ready = waiting.pop()
            if ready:
                order.append(digest)
            elif digest not in seen:
                seen.add(digest)
                waiting.append((digest, True))
                waiting += [(child.digest, False) for child in self.manifests[digest].children()]
        return order

    def about(self, subjects: Collection[str], repository: str) -> tuple[list[str], list[SignatureTag]]:
        """What of the evidence is about these manifests: digests of referrers, and signature tags."""
        known = set(subjects)
        found: list[str] = []
        for _ in range(3):  # a signature on a report is evidence too
            more = [digest for digest in self.evidence if digest not in known and self._subject(digest) in known]
            found += more
            known |= set(more)
        tags = [
            tag
            for tag in self.signatures
            if tag.repository == repository
            and (subject := referrers.subject_of_tag(tag.tag)) is not None
            and subject[0] in known
        ]
        return found, tags

    def blobs_of(self, digests_: Iterable[str]) -> dict[str, int]:
        """The blobs that these manifests name, with their sizes."""
        return {
            blob.digest: blob.size
            for digest in digests_
            for blob in self.manifests[digest].blobs()
            if blob.media_type not in types.FOREIGN_LAYER_TYPES
        }

    def in_order(self) -> list[tuple[str, bytes]]:
        """Every manifest with its bytes, parents before children, as an archive holds them."""
        return [(digest, manifest.body) for digest, manifest in self.manifests.items()]

    def _subject(self, digest: str) -> str | None:
        subject = self.manifests[digest].subject
        return subject.digest if subject is not None else None

    def _add(self, entry: Descriptor) -> None:
        name = entry.annotations.get(REF_NAME)
        self._expect(entry)
        if name is None:
            self.evidence.append(entry.digest)
            return
        repository, colon, rest = name.rpartition(":")
        ModelName.parse(repository)
        subject = referrers.subject_of_tag(rest)
        if not colon or (subject is None and not _is_version(rest)):
            raise NameInvalid(f"index.json names {name[:200]!r}, which is no version of a model.")
        if subject is not None:
            self.signatures.append(SignatureTag(repository, rest, entry))
            return
        aliases: Sequence[str] = [a for a in entry.annotations.get(ALIASES, "").split(",") if a]
        if any(known.name == name for known in self.versions):
            raise NameInvalid(f"index.json names {name!r} twice.")
        self.versions.append(NamedVersion(repository, rest, entry, tuple(aliases)))

    def _expect(self, entry: Descriptor) -> None:
        if entry.media_type not in types.INDEX_TYPES | types.MANIFEST_TYPES:
            raise refused(f"It names {entry.digest} as a manifest of type {entry.media_type!r}")
        told = self._expected.setdefault(entry.digest, entry)
        if (told.size, told.media_type) != (entry.size, entry.media_type):
            raise refused(f"It names {entry.digest} twice with other facts")


def _is_version(text: str) -> bool:
    try:
        SemVer.parse(text)
    except BerthError:
        return False
    return True
