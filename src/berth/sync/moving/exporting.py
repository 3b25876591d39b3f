"""How do versions become one file? Everything is known before the first byte, so length and any part of it are too.

The file is never on our disk: headers and manifests come from memory, blobs from the depot while they are sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.stores.contract import BlobStore
from berth.catalog import queries as catalog
from berth.errors import BlobUnknown, TooLarge
from berth.oci import archive
from berth.oci.archive import Entry, Stretch
from berth.oci.archive_index import Contents, NamedVersion, SignatureTag, index_document
from berth.oci.descriptor import Descriptor
from berth.sync.cache.fetcher import Fetcher
from berth.sync.moving.choosing import Chosen
from berth.sync.moving.contents import Whole, whole
from berth.sync.moving.queries import Held

MAX_VERSIONS: Final = 1_000
# A blob stays in the depot for so long once its turn has come.
HELD: Final = timedelta(hours=6)


@dataclass(frozen=True)
class Export:
    """A file that can be sent, from any byte on.

    Attributes:
        etag: names these very bytes; it changes when evidence is added.
        left_out: blobs that the other side has, and their bytes.
        holders: blob → the model as whose content it is read.
    """

    versions: Sequence[NamedVersion]
    entries: Sequence[Entry]
    blobs: int
    size: int
    etag: str
    evidence: int
    left_out: tuple[int, int]
    holders: Mapping[str, int]


async def prepare(
    conn: AsyncConnection, versions: Sequence[Chosen], since: Sequence[Chosen], *, now: datetime
) -> Export:
    """Find everything that belongs to these versions, less the blobs of versions that the other side has.

    A blob is only left out where the same model has it on the other side: nothing is taken from other models there.

    Raises:
        TooLarge: more versions than one file may hold. BlobUnknown: the depot has lost something.
    """
    if len(versions) > MAX_VERSIONS:
        raise TooLarge(f"One file holds at most {MAX_VERSIONS} versions, not {len(versions)}.", hint="Export in parts.")
    named: dict[str, NamedVersion] = {}
    signatures: dict[tuple[str, str], SignatureTag] = {}
    referring: dict[str, Descriptor] = {}
    bodies: dict[str, Held] = {}
    needed: dict[str, set[int]] = {}
    sizes: dict[str, int] = {}
    evidence_blobs: set[str] = set()
    holders: dict[str, int] = {}
    for one in versions:
        found = await whole(conn, one.repository.id, one.version.digest, now=now)
        aliases = await catalog.aliases_of_version(conn, one.version.id)
        root = found.tree[one.version.digest]
        named[one.name] = NamedVersion(one.repository.name, one.version.version, _descriptor(root), tuple(aliases))
        _collect_evidence(one.repository.name, found, signatures, referring)
        bodies |= found.tree | found.evidence
        content = found.content()
        sizes |= found.blobs()
        evidence_blobs |= found.blobs().keys() - content.keys()
        # One of several models is enough, best one that has shown that it holds the blob.
        for digest in found.blobs().keys() - await catalog.unproven(conn, one.repository.id, found.blobs()):
            holders[digest] = one.repository.id
        for digest in found.blobs():
            holders.setdefault(digest, one.repository.id)
        for digest in content:
            needed.setdefault(digest, set()).add(one.repository.id)
    there: dict[int, set[str]] = {}
    for one in since:
        held = (await whole(conn, one.repository.id, one.version.digest, now=now)).content()
        there.setdefault(one.repository.id, set()).update(held)
    omitted = {
        digest
        for digest, repositories in needed.items()
        if digest not in evidence_blobs and all(digest in there.get(repository, ()) for repository in repositories)
    }
    inside = {digest: size for digest, size in sizes.items() if digest not in omitted}
    lost = sorted(inside.keys() - (await catalog.blob_places(conn, inside)).keys())
    if lost:
        raise BlobUnknown(f"The depot does not hold {lost[0]} any more.", hint="berth fsck says what else is missing.")
    index = index_document(named.values(), signatures.values(), referring.values(), left_out=len(omitted))
    contents = Contents.begin(index)
    while pending := contents.pending():
        for digest in pending:
            contents.add(digest, bodies[digest].body)
    entries = archive.entries_of(index, contents.in_order(), inside.items())
    return Export(
        versions=contents.versions,
        entries=entries,
        blobs=len(inside),
        size=archive.total_size(entries),
        etag=_etag(index, entries),
        evidence=len(signatures) + len(referring),
        left_out=(len(omitted), sum(sizes[digest] for digest in omitted)),
        holders=holders,
    )


async def stream(store: BlobStore, cache: Fetcher, export: Export, start: int = 0) -> AsyncIterator[bytes]:
    """The file's bytes from `start` on; blobs that are at a registry only are fetched when their turn comes."""
    for piece in archive.segments(export.entries, start):
        if not isinstance(piece, Stretch):
            yield piece
            continue
        places = await cache.hold([piece.digest], for_=HELD, repository_id=export.holders[piece.digest])
        if piece.digest not in places:
            raise BlobUnknown(f"The depot does not hold {piece.digest} any more.")
        async for chunk in store.read(places[piece.digest], start=piece.start, length=piece.length):
            yield chunk


def _collect_evidence(
    repository: str, found: Whole, signatures: dict[tuple[str, str], SignatureTag], referring: dict[str, Descriptor]
) -> None:
    for held in found.evidence.values():
        for tag in held.tags:
            signatures[(repository, tag)] = SignatureTag(repository, tag, _descriptor(held))
        if held.subject is not None:
            referring[held.digest] = _descriptor(held)


def _descriptor(held: Held) -> Descriptor:
    return Descriptor(held.media_type, held.digest, len(held.body), artifact_type=held.artifact_type)


def _etag(index: bytes, entries: Sequence[Entry]) -> str:
    told = hashlib.sha256(index)
    for entry in entries:
        told.update(f"\n{entry.name} {entry.size}".encode())
    return told.hexdigest()
