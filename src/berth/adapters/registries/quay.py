"""Quay: a token service that knows no `delete`, and referrers without `OCI-Subject` (docs/guides/registries.md).

Deleting needs the scope pull,push there; asking for `delete` is answered 400. The referrers API is there but answers
400 for a missing subject, and no answer ever carries `OCI-Subject`, so the fallback tag must not be written. Deleted
tags live on for Quay's time machine.
"""

from __future__ import annotations

from typing import ClassVar

from berth.adapters.registries.contract import Capabilities, Kind
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry


class QuayRegistry(DistributionRegistry):
    """A `Registry` at quay.io or Red Hat Quay; the user is a robot, `namespace+robot`, or `$oauthtoken`."""

    KIND: ClassVar[Kind] = Kind(
        "quay",
        "Quay (quay.io, Red Hat Quay)",
        Capabilities(
            oci_subject=False,
            largest_blob=20 * 1000**3,
            notes=("a manifest without tag, subject or index around it is kept for one hour only",),
        ),
        {**COMMON_OPTIONS, "prefix": "Namespace, and perhaps a path below it; without it projects are namespaces."},
    )

    def scope(self, scope: str) -> str:
        return f"{scope.removesuffix(':delete')}:pull,push" if scope.endswith(":delete") else scope
