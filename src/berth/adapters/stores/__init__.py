"""Where do the depot's bytes lie? Index of store kinds: kind → dotted name, loaded by `wiring` alone."""

from __future__ import annotations

STORES: dict[str, str] = {
    "files": "berth.adapters.stores.files:FileStore",
}
