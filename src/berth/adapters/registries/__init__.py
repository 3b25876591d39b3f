"""Who else holds models? Index of registry kinds: kind → dotted name of a `Registry`.

`depot` is our own store, which `wiring` builds; every other kind is opened by build.py from a configured row.
"""

from __future__ import annotations

_HERE = "berth.adapters.registries"

REGISTRIES: dict[str, str] = {
    "depot": "berth.sync.depot:DepotRegistry",
    "folder": f"{_HERE}.folder:FolderRegistry",
    "objects": f"{_HERE}.objects:ObjectRegistry",
    "daemon": f"{_HERE}.daemon:DaemonRegistry",
    "distribution": f"{_HERE}.distribution:DistributionRegistry",
    "berth": f"{_HERE}.distribution:BerthRegistry",
    "harbor": f"{_HERE}.harbor:HarborRegistry",
    "acr": f"{_HERE}.acr:AcrRegistry",
    "ecr": f"{_HERE}.ecr:EcrRegistry",
    "google": f"{_HERE}.google:GoogleRegistry",
    "gitlab": f"{_HERE}.gitlab:GitLabRegistry",
    "ghcr": f"{_HERE}.ghcr:GhcrRegistry",
    "hub": f"{_HERE}.hub:HubRegistry",
    "quay": f"{_HERE}.quay:QuayRegistry",
    "zot": f"{_HERE}.zot:ZotRegistry",
}
