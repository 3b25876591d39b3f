"""What belongs to a version when it moves? Its manifests, and the evidence that may go with it.

Of our own reports the newest of each kind goes: it is what the verdict rests on, and elsewhere it is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.errors import ManifestUnknown
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.sync.moving import queries
from berth.sync.moving.queries import Held

DEPTH = 3
_REPORTS = (types.REPORT_TRIVY, types.REPORT_WEIGHTS)


@dataclass(frozen=True)
class Whole:
    """`tree`: root and everything below it. `evidence`: what is about these and travels, reports included."""

    tree: dict[str, Held]
    evidence: dict[str, Held]

    def blobs(self) -> dict[str, int]:
        """Every blob that any of these manifests names, with its size."""
        return _blobs([*self.tree.values(), *self.evidence.values()])

    def content(self) -> dict[str, int]:
        """The blobs of the version itself."""
        return _blobs(list(self.tree.values()))


async def whole(conn: AsyncConnection, repository_id: int, root: str, *, now: datetime) -> Whole:
    """Everything of a version that may leave with it. Raises ManifestUnknown when the repository does not hold it."""
    tree = {held.digest: held for held in await queries.tree(conn, repository_id, root)}
    if root not in tree:
        raise ManifestUnknown(f"{root} is not there.")
    found: dict[str, Held] = {}
    subjects = list(tree)
    for _ in range(DEPTH):
        level = [
            held
            for held in await queries.evidence(conn, repository_id, subjects, root=root, now=now)
            if held.digest not in tree and held.digest not in found and (held.subject is not None or held.tags)
        ]
        found |= {held.digest: held for held in _newest(level)}
        subjects = [held.digest for held in level]
        if not subjects:
            break
    return Whole(tree, found)


def _newest(level: list[Held]) -> list[Held]:
    newest: dict[tuple[str | None, str | None], Held] = {}
    kept = []
    for held in level:
        if held.pushed_by != "berth" or held.artifact_type not in _REPORTS:
            kept.append(held)
            continue
        place = (held.about, held.artifact_type)
        known = newest.get(place)
        if known is None or (known.made, known.digest) < (held.made, held.digest):
            newest[place] = held
    return kept + list(newest.values())


def _blobs(held: list[Held]) -> dict[str, int]:
    return {
        blob.digest: blob.size
        for one in held
        for blob in manifests.parse(one.body, one.media_type).blobs()
        if blob.media_type not in types.FOREIGN_LAYER_TYPES
    }
