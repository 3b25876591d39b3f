"""Which known vulnerabilities has this image? Scans one leaf and keeps the evidence (design §6 "Scanning")."""

from __future__ import annotations

from typing import Final

from berth.jobs.context import JobContext
from berth.jobs.scanning import scan_leaf

NAME: Final = "scan_vulnerabilities"
QUEUE: Final = "scan"


async def run(context: JobContext, *, digest: str, input_version: str = "") -> None:
    """Scan the image `digest`; see `scanning.scan_leaf` for `input_version`."""
    await scan_leaf(
        context, context.vulnerability_scanner, kind="vulnerabilities", digest=digest, input_version=input_version
    )
