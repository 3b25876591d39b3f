"""zot: follows the distribution specification closely; what differs is what its configuration switches off.

Docker media types need `http.compat: ["docker2s2"]`; a manifest that an index names is not deleted (405); untagged
content goes with zot's own garbage collection, by its configuration file only (docs/guides/registries.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import Capabilities, Delivery, Inward, Kind, RemoteEvent
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.errors import InvalidInput

# What follows the prefix of the type, which zot's configuration may change.
_ACTIONS = {".image.updated": "pushed", ".image.deleted": "deleted"}


class ZotRegistry(DistributionRegistry):
    """A `Registry` at zot; an API key (`zak_…`) is a password like any other."""

    KIND: ClassVar[Kind] = Kind("zot", "zot", Capabilities(largest_manifest=4 * 2**20), COMMON_OPTIONS, notifies=True)

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """A CloudEvent each: what happened stands in `Ce-` headers, the image in the body; or all in the body, for a
        relay that packs it so (zotregistry.dev/articles/events; zot: pkg/extensions/events; CloudEvents: HTTP)."""
        found = notifications.document(delivery.body, "zot")
        whole = "specversion" in found
        about = found if whole else {key: delivery.headers.get(f"ce-{key}") for key in ("type", "id", "time")}
        data = found.get("data") if whole else found
        kind = about.get("type")
        if not isinstance(kind, str) or not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise InvalidInput("This is not an event of zot.")
        digest, reference = notifications.text(data.get("digest")), notifications.text(data.get("reference"))
        return [
            RemoteEvent(
                action=next((action for end, action in _ACTIONS.items() if kind.endswith(end)), "other"),
                repository=notifications.ours(data["name"], inward),
                digest=digest,
                tag=reference if reference != digest else None,
                at=notifications.moment(about.get("time")),
                id=notifications.text(about.get("id")),
            )
        ]
