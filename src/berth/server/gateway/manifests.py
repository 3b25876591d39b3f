"""`/v2/<name>/manifests/<reference>`: HEAD, GET, PUT, DELETE, and what a PUT sets in motion."""

from __future__ import annotations

from dataclasses import dataclass

from berth.access import audit
from berth.access.decide import ANONYMOUS
from berth.catalog import lookup, record, removal
from berth.catalog import queries as catalog
from berth.errors import DigestInvalid, InvalidInput, ManifestUnknown, Unsupported
from berth.gates.arrival import arrived
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import reference as references
from berth.oci.manifest import Manifest
from berth.oci.version import is_virtual_tag
from berth.server.gateway import queries
from berth.server.gateway.admission import admitted_root, permit_manifest
from berth.server.gateway.authenticate import actor_of, known, lookup_of, require, unknown_name
from berth.server.gateway.exchange import Exchange
from berth.server.gateway.queries import ManifestFacts
from berth.sync.documents import read_documents

MAX_TAGS = 20


async def handle(exchange: Exchange) -> None:
    """Dispatch by method. Raises Unsupported for others."""
    wanted = exchange.route["reference"]
    if ":" in wanted:
        exchange.digest("reference")
    elif exchange.method == "PUT":
        references.check_tag(wanted)  # elsewhere a name that no tag can have is simply not found
    if exchange.method in ("GET", "HEAD"):
        await _read(exchange)
    elif exchange.method == "PUT":
        await _write(exchange)
    elif exchange.method == "DELETE":
        await _delete(exchange)
    else:
        raise Unsupported(f"{exchange.method} is not possible for a manifest.")


async def _read(exchange: Exchange) -> None:
    name, wanted = exchange.route["name"], exchange.route["reference"]
    now = exchange.services.clock()
    by_digest = digests.is_digest(wanted)
    lookup = lookup_of(exchange)
    if lookup is None:
        await require(exchange, ANONYMOUS, name, "pull")
        return
    async with exchange.services.db.reading() as conn:
        found, facts = await queries.actor_and_manifest(conn, lookup, name, wanted, now, by_digest=by_digest)
    actor = known(found)
    await require(exchange, actor, name, "pull")
    if facts is None and not by_digest:
        facts = await _by_name(exchange, name, wanted)
    if facts is None:
        virtual = not by_digest and is_virtual_tag(wanted)
        raise ManifestUnknown(
            f"{name} has no manifest '{wanted}'.",
            hint=f"'{wanted}' means the highest admitted version, and none is admitted." if virtual else None,
        )
    leave = await permit_manifest(exchange, actor, name, facts)
    headers = {
        "Content-Type": facts.media_type,
        "Docker-Content-Digest": facts.digest,
        "ETag": f'"{facts.digest}"',
    }
    if leave.quarantined:
        headers["Warning"] = '299 - "this content is in quarantine"'
    await exchange.answer(200, headers, facts.body)


async def _by_name(exchange: Exchange, name: str, wanted: str) -> ManifestFacts | None:
    """An alias, `latest`, `1` or `1.2`: the same admitted version for every reader, or nothing."""
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.repository(conn, name)
        if repository is None:
            return None

        async def admitted(repository_id: int, root: str) -> bool:
            return await admitted_root(exchange, conn, repository_id, root)

        version = await lookup.resolve_version(conn, repository.id, wanted, admitted=admitted)
        if version is None or version.state == "deleted":
            return None
        return await queries.manifest_facts(conn, name, version.digest, exchange.services.clock(), by_digest=True)


@dataclass(frozen=True)
class _Pushed:
    manifest: Manifest
    digest: str
    tags: tuple[str | None, ...]


async def _write(exchange: Exchange) -> None:
    name = exchange.route["name"]
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
    await require(exchange, actor, name, "push")
    pushed = await _received(exchange)
    services = exchange.services
    documents = await read_documents(
        services.db, services.store, services.cache, repository=name, manifest=pushed.manifest, tags=pushed.tags
    )
    # One transaction: content, version, verdict and the jobs that look at it appear together or not at all.
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.ensure_repository(conn, name)
        if repository is None:
            raise unknown_name(name)
        for tag in pushed.tags:
            receipt = await record.put_manifest(
                conn,
                repository=repository,
                tag=tag,
                manifest=pushed.manifest,
                digest=pushed.digest,
                documents=documents,
                pushed_by=actor.name or "",
            )
            await arrived(
                conn,
                repository=repository,
                receipt=receipt,
                manifest=pushed.manifest,
                documents=documents,
                pushed_by=actor.name or "",
                now=exchange.services.clock(),
            )
            if receipt.action == "version":
                await audit.record(
                    conn,
                    actor=actor,
                    action="version.push",
                    project=repository.project,
                    object=f"{repository.name}:{receipt.version}",
                    outcome="done",
                    detail={"digest": receipt.digest},
                )
    headers = {"Location": f"/v2/{name}/manifests/{pushed.digest}", "Docker-Content-Digest": pushed.digest}
    if pushed.manifest.subject is not None:
        headers["OCI-Subject"] = pushed.manifest.subject.digest
    named = [tag for tag in pushed.tags if tag is not None]
    if exchange.all("tag"):
        headers["OCI-Tag"] = ", ".join(named)
    await exchange.answer(201, headers)


async def _received(exchange: Exchange) -> _Pushed:
    """Body, digest and tags of a PUT, checked. Raises ManifestInvalid, DigestInvalid, TooLarge."""
    wanted = exchange.route["reference"]
    body = await exchange.body(exchange.services.settings.manifest_max_bytes, "The manifest")
    manifest = manifests.parse(body, exchange.headers.get("content-type"))
    if not digests.is_digest(wanted):
        return _Pushed(manifest, digests.of_bytes(body), (wanted,))
    digest = digests.of_bytes(body, digests.parse(wanted).algorithm)
    if digest != wanted:
        raise DigestInvalid(f"The manifest has digest {digest}, not {wanted}.")
    tags = exchange.all("tag")
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"More than {MAX_TAGS} tags in one request.")
    for tag in tags:
        references.check_tag(tag)
    return _Pushed(manifest, digest, tuple(tags) or (None,))


async def _delete(exchange: Exchange) -> None:
    name, wanted = exchange.route["name"], exchange.route["reference"]
    async with exchange.services.db.reading() as conn:
        actor = await actor_of(exchange, conn)
    await require(exchange, actor, name, "delete")
    async with exchange.services.db.transaction() as conn:
        repository = await catalog.repository(conn, name)
        if repository is None:
            raise unknown_name(name)
        if digests.is_digest(wanted):
            await removal.delete_manifest(conn, repository, wanted, actor.name or "")
        else:
            await removal.delete_tag(conn, repository, wanted, actor.name or "")
        await audit.record(
            conn,
            actor=actor,
            action="version.delete",
            project=repository.project,
            object=f"{name}{'@' if digests.is_digest(wanted) else ':'}{wanted}",
            outcome="done",
            detail={},
        )
    await exchange.answer(202)
