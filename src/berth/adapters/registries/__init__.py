"""Who else holds models? Index of registry kinds: kind → dotted name of a `Registry`, loaded lazily by `wiring`."""

from __future__ import annotations

REGISTRIES: dict[str, str] = {
    "depot": "berth.sync.depot:DepotRegistry",
    "folder": "berth.adapters.registries.folder:FolderRegistry",
}
