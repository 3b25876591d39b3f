"""Quay: a token service that knows no `delete`, and referrers without `OCI-Subject` (docs/guides/registries.md).

Deleting needs the scope pull,push there; asking for `delete` is answered 400. The referrers API is there but answers
400 for a missing subject, and no answer ever carries `OCI-Subject`, so the fallback tag must not be written. Deleted
tags live on for Quay's time machine. Its notifications say neither digest nor time, and carry no header of ours: user
and password in the hook's address arrive as Basic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import Capabilities, Delivery, Inward, Kind, RemoteEvent
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.errors import InvalidInput


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
        notifies=True,
    )

    def scope(self, scope: str) -> str:
        return f"{scope.removesuffix(':delete')}:pull,push" if scope.endswith(":delete") else scope

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """Pushes name the tags that moved (older ones with an image's id), findings theirs (Quay: notifications)."""
        found = notifications.document(delivery.body, "Quay")
        repository = notifications.ours(found.get("repository"), inward)
        pushed, affected = found.get("updated_tags"), found.get("tags") if "vulnerability" in found else None
        if not isinstance(found.get("repository"), str):
            raise InvalidInput("This is not a notification of Quay.")
        action, tags = ("pushed", pushed) if pushed is not None else ("scanned", affected)
        if not isinstance(tags, dict | list):
            return [RemoteEvent("other", repository, None, None, None)]
        names = (notifications.text(tag) for tag in tags)
        return [RemoteEvent(action, repository, None, name, None) for name in names if name is not None]
