"""How is it remembered, row by row? One file per aggregate; `metadata` is what migrations compare with."""

from __future__ import annotations

from berth.db.tables.audit import audit, installation
from berth.db.tables.content import (
    blobs,
    closure,
    fetches,
    manifests,
    repositories,
    repository_blobs,
    repository_manifests,
    tags,
    uploads,
)
from berth.db.tables.evidence import evidence, signatures
from berth.db.tables.metadata import metadata
from berth.db.tables.needs import version_needs
from berth.db.tables.principals import principals, tokens
from berth.db.tables.projects import memberships, projects, trusted_keys
from berth.db.tables.registries import registries, registry_events, registry_pulls
from berth.db.tables.sync import (
    placements,
    sync_confirmed,
    sync_drift,
    sync_items,
    sync_rules,
    sync_runs,
    sync_uploads,
)
from berth.db.tables.verdicts import verdicts
from berth.db.tables.versions import alias_moves, aliases, approvals, versions

__all__ = [
    "alias_moves",
    "aliases",
    "approvals",
    "audit",
    "blobs",
    "closure",
    "evidence",
    "fetches",
    "installation",
    "manifests",
    "memberships",
    "metadata",
    "placements",
    "principals",
    "projects",
    "registries",
    "registry_events",
    "registry_pulls",
    "repositories",
    "repository_blobs",
    "repository_manifests",
    "signatures",
    "sync_confirmed",
    "sync_drift",
    "sync_items",
    "sync_rules",
    "sync_runs",
    "sync_uploads",
    "tags",
    "tokens",
    "trusted_keys",
    "uploads",
    "verdicts",
    "version_needs",
    "versions",
]
