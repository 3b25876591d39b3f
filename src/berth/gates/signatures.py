"""Whose signatures are on it, and whom does the project trust? Keeps every signature ever pushed (design §6).

Signing never adds trust, `trust_key` does. Ending the trust in a key voids its signatures in the same transaction;
they come back, without being pushed again, when a key is trusted and `recheck_signatures` looks at all of them anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from berth.errors import Conflict, DigestInvalid, InvalidInput, ManifestInvalid, NotFound, TooLarge
from berth.gates import queries
from berth.gates.policies import trust_hash
from berth.gates.queries import AsyncConnection, KeyRow, SignatureRow
from berth.gates.verdicts import hold_digest, recompute_for_project, recompute_root
from berth.oci import manifest as manifests
from berth.signing.checks import SIGNATURE, SignatureRecord, TrustedKey, inspect
from berth.signing.keys import load_public
from berth.signing.outcome import MAX_ATTESTATION_BYTES

JUNK_LIMIT: Final = 100
_PAGE: Final = 200
_NAME_LIMIT: Final = 128
# What a signature may weigh on disk: base64 of the largest attestation, and its envelope.
_BLOB_LIMIT: Final = 2 * MAX_ATTESTATION_BYTES

ReadBlob = Callable[[str], Awaitable[bytes | None]]


async def record_signatures(
    conn: AsyncConnection,
    *,
    repository_id: int,
    subject: str,
    records: Sequence[SignatureRecord],
    pushed_by: str,
    now: datetime,
) -> None:
    """Add what `berth.signing.checks.inspect` found in one pushed manifest, and decide again about its subject.

    Nothing is ever removed here, so a pushed signature manifest cannot hide an older one.

    Raises:
        TooLarge: the subject would have more than 100 signatures that are not valid. Valid ones are always taken.
    """
    await hold_digest(conn, subject, repository_id=repository_id)
    known = await queries.signatures_on(conn, repository_id, subject)
    junk = {(row.payload, row.signature) for row in known if row.verdict != "valid"}
    added = {(item.payload, item.signature) for item in records if item.verdict != "valid"} - junk
    if added and len(junk) + len(added) > JUNK_LIMIT:
        raise TooLarge(
            f"{subject} has {len(junk)} signatures that no trusted key made; {JUNK_LIMIT} is the limit.",
            hint="Trust the key first: berth key trust. Then sign again.",
        )
    for item in records:
        await queries.upsert_signature(
            conn, repository_id=repository_id, subject=subject, row=_row(item), pushed_by=pushed_by, now=now
        )
    await recompute_root(conn, repository_id=repository_id, root=subject, now=now)


async def trusted_keys_of(conn: AsyncConnection, project_id: int) -> list[TrustedKey]:
    """The keys that a project trusts now, as `inspect` wants them."""
    return [TrustedKey(load_public(row.public_key), row.predicates) for row in await queries.keys_of(conn, project_id)]


async def trust_key(
    conn: AsyncConnection,
    project_id: int,
    name: str,
    pem: str,
    predicates: Sequence[str] = (SIGNATURE,),
    *,
    by: str,
    now: datetime,
) -> KeyRow:
    """Trust a key for `signature` and/or predicate types. Call `recheck_signatures` next, in the same transaction.

    Raises:
        InvalidInput: not a public key we accept, or a bad name or predicate.
        Conflict: another trusted key of the project has that name.
        NotFound: there is no such project.
    """
    _check_key(name, predicates)
    public = load_public(pem)
    await queries.require_transaction(conn)
    if not await queries.lock_project(conn, project_id):
        raise NotFound("There is no such project.")
    if any(row.name == name for row in await queries.keys_of(conn, project_id)):
        raise Conflict(f"The project trusts a key named '{name}' already.", hint="Choose another name for this one.")
    values: Mapping[str, Any] = {
        "project_id": project_id,
        "name": name,
        "public_key": public.pem,
        "key_id": public.key_id,
        "predicates": list(dict.fromkeys(predicates)),
        "added_by": by,
        "added_at": now,
    }
    await queries.insert_key(conn, values)
    rows = await _store_trust(conn, project_id)
    return next(row for row in rows if row.name == name)


async def untrust_key(conn: AsyncConnection, project_id: int, name: str, *, now: datetime) -> None:
    """End the trust in a key: every signature by it is void when this transaction commits.

    Raises:
        NotFound: no trusted key of the project has that name.
    """
    await queries.require_transaction(conn)
    await queries.lock_project(conn, project_id)
    if not await queries.revoke_key(conn, project_id, name, now=now):
        raise NotFound(f"The project trusts no key named '{name}'.", hint="List its keys with: berth key list")
    await _store_trust(conn, project_id)
    await queries.void_signatures(conn, project_id, now=now)
    await recompute_for_project(conn, project_id, now)


async def recheck_signatures(conn: AsyncConnection, *, project_id: int, read_blob: ReadBlob, now: datetime) -> None:
    """Check every stored signature of a project again with the keys it trusts now, and decide again.

    Args:
        read_blob: reads a blob by digest; None when it is gone, which makes its signature invalid.
    """
    await queries.require_transaction(conn)
    await queries.lock_project(conn, project_id)
    keys = await trusted_keys_of(conn, project_id)
    after = (0, "", "")
    while True:
        page = await queries.signature_manifests(conn, project_id, after=after, limit=_PAGE)
        for stored in page:
            await queries.set_outcomes(
                conn,
                repository_id=stored["repository_id"],
                subject=stored["subject"],
                manifest=stored["manifest"],
                rows=[_row(item) for item in await _inspect(stored, keys, read_blob=read_blob, now=now)],
                now=now,
            )
        if len(page) < _PAGE:
            break
        after = (page[-1]["repository_id"], page[-1]["subject"], page[-1]["manifest"])
    await recompute_for_project(conn, project_id, now)


async def _inspect(
    stored: Mapping[str, Any], keys: Sequence[TrustedKey], *, read_blob: ReadBlob, now: datetime
) -> list[SignatureRecord]:
    """The records of one stored manifest; none when it cannot be read any more."""
    if stored["body"] is None:
        return []
    try:
        manifest = manifests.parse(stored["body"], stored["media_type"])
        blobs = {layer.digest: await read_blob(layer.digest) for layer in manifest.layers if layer.size <= _BLOB_LIMIT}
        return inspect(
            manifest,
            stored["manifest"],
            subject=stored["subject"],
            repository=stored["repository"],
            blobs=blobs.get,
            keys=keys,
            now=now,
        )
    except (ManifestInvalid, DigestInvalid, TooLarge):
        return []


async def _store_trust(conn: AsyncConnection, project_id: int) -> list[KeyRow]:
    rows = await queries.keys_of(conn, project_id)
    await queries.write_trust_hash(conn, project_id, trust_hash((row.key_id, row.predicates) for row in rows))
    return rows


def _row(item: SignatureRecord) -> SignatureRow:
    return SignatureRow(
        kind=item.kind,
        manifest=item.manifest,
        payload=item.payload,
        signature=item.signature,
        predicate_type=item.predicate_type,
        key_id=item.key_id,
        verdict=item.verdict,
        reason=item.reason,
    )


def _check_key(name: str, predicates: Sequence[str]) -> None:
    if not name or len(name) > _NAME_LIMIT or not name.isprintable():
        raise InvalidInput(f"A key's name has 1 to {_NAME_LIMIT} printable characters.")
    if not predicates:
        raise InvalidInput("A key must be trusted for something.", hint="For signatures of versions say 'signature'.")
    for predicate in predicates:
        if predicate != SIGNATURE and ":" not in predicate:
            raise InvalidInput(
                f"A key can be trusted for 'signature' or for a predicate type (a URI), not for '{predicate}'."
            )
