"""What may a registry client ask? `/v2/`, the OCI Distribution API 1.1, through the gate.

Index: route name → handler, in the order of the distribution spec's table of endpoints.
"""

from __future__ import annotations

HANDLERS: dict[str, str] = {
    "base": "berth.server.gateway.base:handle",
    "catalog": "berth.server.gateway.base:catalog",
    "token": "berth.server.gateway.token:handle",
    "blob": "berth.server.gateway.blobs:handle",
    "uploads": "berth.server.gateway.uploads:start",
    "upload": "berth.server.gateway.uploads:handle",
    "manifest": "berth.server.gateway.manifests:handle",
    "tags": "berth.server.gateway.tags:handle",
    "referrers": "berth.server.gateway.referrers:handle",
}
