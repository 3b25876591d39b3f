"""How does content leave the catalogue? Tags, versions, manifests and blob links; bytes go later, by clean-up."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.catalog import queries
from berth.catalog.lifecycle import check_change
from berth.catalog.queries import RepositoryRow
from berth.errors import BlobUnknown, Conflict, ManifestUnknown, NotFound, Unsupported
from berth.oci import referrers
from berth.oci.version import from_tag, is_version_tag, to_tag


async def delete_version(conn: AsyncConnection, version_id: int, by: str) -> None:
    """Mark a version deleted and drop its tag. Its number stays burnt; its bytes are collected after the grace period.

    Raises NotFound, or Conflict while an alias points at it.
    """
    version = await queries.version_by_id(conn, version_id)
    if version is None or version.state == "deleted":
        raise NotFound("That version does not exist.")
    held = await queries.aliases_of_version(conn, version_id)
    if held:
        raise Conflict(
            f"{version.repository}:{version.version} is what {', '.join(held)} means now.",
            hint="Move or remove the alias first.",
        )
    check_change(f"{version.repository}:{version.version}", version.state, "deleted")
    if version.approval == "approved":
        await queries.revoke_approval(conn, version.repository_id, version.digest, by=by)
        await queries.set_version(conn, version_id, approval="revoked")
    await queries.set_version(conn, version_id, state="deleted")
    await queries.delete_tag(conn, version.repository_id, to_tag(version.version))
    await queries.mark_stale(conn, version.repository_id, version.digest)


async def delete_tag(conn: AsyncConnection, repository: RepositoryRow, tag: str, by: str) -> None:
    """DELETE of a tag: a version's tag deletes the version, any other tag just goes. Raises ManifestUnknown."""
    if is_version_tag(tag):
        version = await queries.version_by_number(conn, repository.id, from_tag(tag))
        if version is not None and version.state != "deleted":
            await delete_version(conn, version.id, by)
            return
    if not await queries.delete_tag(conn, repository.id, tag):
        raise ManifestUnknown(f"{repository.name} has no tag '{tag}'.")


async def delete_manifest(conn: AsyncConnection, repository: RepositoryRow, digest: str, by: str) -> None:
    """DELETE by digest: the manifest, its tags, its versions, and the evidence about it.

    Raises ManifestUnknown, or Conflict while another manifest of the repository holds it.
    """
    if await queries.manifest_in(conn, repository.id, digest) is None:
        raise ManifestUnknown(f"{repository.name} has no manifest {digest}.")
    holders = await queries.indexes_holding(conn, repository.id, digest)
    if holders and not repository.open_project:
        raise Conflict(
            f"{digest} is part of {', '.join(holders[:3])}.", hint="Delete the index (the version) that holds it first."
        )
    for version in await queries.versions_with_digest(conn, repository.id, digest):
        if version.state != "deleted":
            await delete_version(conn, version.id, by)
    if not repository.open_project and digest.startswith("sha256:"):
        for tag in (referrers.signature_tag(digest), referrers.attestation_tag(digest)):
            await queries.delete_tag(conn, repository.id, tag)
    await queries.delete_manifest(conn, repository.id, digest)


async def delete_blob(conn: AsyncConnection, repository: RepositoryRow, digest: str) -> None:
    """DELETE of a blob: unlink it from here. Raises BlobUnknown, or Unsupported while a manifest needs it."""
    if await queries.blob_in_use(conn, repository.id, digest):
        raise Unsupported(f"{digest} is part of a manifest in {repository.name}.", hint="Delete the manifest instead.")
    if not await queries.unlink_blob(conn, repository.id, digest):
        raise BlobUnknown(f"{repository.name} has no blob {digest}.")
