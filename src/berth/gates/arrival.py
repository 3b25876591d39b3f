"""What does newly recorded content set in motion? Signatures become evidence, versions get scans and a first verdict.

Called in the transaction that records the content, so that content, verdict and jobs appear together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import queries as catalog
from berth.catalog.queries import RepositoryRow
from berth.catalog.record import Receipt
from berth.db import queue
from berth.gates import evidence, signatures, verdicts
from berth.gates.decide import NEEDS
from berth.oci.manifest import Manifest
from berth.signing.checks import inspect

# Which job brings which kind of evidence.
SCANS: Mapping[str, str] = {"vulnerabilities": "scan_vulnerabilities", "weights": "scan_weights"}


async def arrived(
    conn: AsyncConnection,
    *,
    repository: RepositoryRow,
    receipt: Receipt,
    manifest: Manifest,
    documents: Mapping[str, bytes],
    pushed_by: str,
    now: datetime,
) -> None:
    """Follow up on what `catalog.record.put_manifest` recorded.

    Args:
        documents: bytes of the manifest's small blobs by digest; signatures are read from here.

    Raises:
        TooLarge: one junk signature too many (gates/signatures.py).
    """
    if receipt.evidence_for is not None:
        records = inspect(
            manifest,
            receipt.digest,
            subject=receipt.evidence_for,
            repository=repository.name,
            blobs=documents.get,
            keys=await signatures.trusted_keys_of(conn, repository.project_id),
            now=now,
        )
        await signatures.record_signatures(
            conn,
            repository_id=repository.id,
            subject=receipt.evidence_for,
            records=records,
            pushed_by=pushed_by,
            now=now,
        )
    if receipt.action in ("version", "repeat"):
        leaves = await catalog.leaves_of(conn, repository.id, receipt.digest)
        await evidence.share_reports(conn, repository_id=repository.id, digests=[leaf for leaf, _ in leaves])
        for leaf, role in leaves:
            for kind in NEEDS.get(role, ()):
                await queue.defer(conn, SCANS[kind], queue="scan", key=f"{SCANS[kind]}:{leaf}", digest=leaf)
        await verdicts.decide_now(conn, repository_id=repository.id, root=receipt.digest, now=now)
