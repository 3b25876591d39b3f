"""zot: follows the distribution specification closely; what differs is what its configuration switches off.

Docker media types need `http.compat: ["docker2s2"]`; a manifest that an index names is not deleted (405); untagged
content goes with zot's own garbage collection, by its configuration file only (docs/guides/registries.md).
"""

from __future__ import annotations

from typing import ClassVar

from berth.adapters.registries.contract import Capabilities, Kind
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry


class ZotRegistry(DistributionRegistry):
    """A `Registry` at zot; an API key (`zak_…`) is a password like any other."""

    KIND: ClassVar[Kind] = Kind("zot", "zot", Capabilities(largest_manifest=4 * 2**20), COMMON_OPTIONS)
