"""How does a built version get from the local repository to a service? Blobs first, several at a time, the tag last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from berth.authoring.repository import LocalRepository
from berth.client.address import parse_version
from berth.errors import VersionInvalid
from berth.oci.version import SemVer, to_tag
from berth.wire import transfer
from berth.wire.client import RegistryClient
from berth.wire.transfer import Copied, FileSource, Progress
from berth.wire.uploads import Arrival

# Larger blobs go in chunks of this size, so that a broken connection costs at most one of them.
CHUNK_BYTES = 256 * 1024 * 1024
_NAMES = ("org.cncf.model.filepath", "org.opencontainers.image.title")


@dataclass(frozen=True)
class Pushed:
    """What a push did. `reference` is what stock clients call it, `digest` what it is."""

    repository: str
    version: str
    tag: str
    digest: str
    reference: str
    uploaded_bytes: int
    blobs: Mapping[Arrival, int]


async def push(
    local: LocalRepository, client: RegistryClient, ref: str, *, progress: Progress | None, parallel: int
) -> Pushed:
    """Sends the version that `ref` names (`project/model:version`, or without version the highest built).

    Raises:
        ManifestUnknown: it is not in the local repository.
        VersionTaken: the number is taken by other bytes.
        IntegrityError: a weight file has changed since it was built.
    """
    found = local.resolve(ref)
    address, version = parse_version(found.annotations.get("org.opencontainers.image.ref.name", ref))
    SemVer.parse(version)
    if address.registry is not None:
        raise VersionInvalid(f"{ref} names a registry.", hint=f"Write {address.repository}:{version}.")
    tag = to_tag(version)
    source = FileSource(local.manifest, local.open_blob)
    copied = await transfer.copy_tree(
        source,
        client,
        address.repository,
        found.digest,
        tag=tag,
        parallel=parallel,
        chunk_bytes=CHUNK_BYTES,
        progress=progress,
        names=await file_names(source, found.digest),
    )
    return Pushed(
        repository=address.repository,
        version=version,
        tag=tag,
        digest=copied.digest,
        reference=f"{client.host}/{address.repository}:{tag}",
        uploaded_bytes=copied.sent_bytes,
        blobs=_counts(copied),
    )


async def file_names(source: transfer.Source, digest: str) -> dict[str, str]:
    """What people call the blobs of a version: the file's name where the manifest says one."""
    names: dict[str, str] = {}
    for _, manifest in (await transfer.tree_of(source, digest)).order:
        for blob in manifest.blobs():
            name = next((blob.annotations[key] for key in _NAMES if blob.annotations.get(key)), None)
            if name is not None and name not in names.values():
                names.setdefault(blob.digest, name)
    return names


def _counts(copied: Copied) -> dict[Arrival, int]:
    return {kind: sum(1 for a in copied.arrivals.values() if a is kind) for kind in Arrival}
