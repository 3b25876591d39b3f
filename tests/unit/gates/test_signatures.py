"""Whose signatures count, from push to revocation? Real keys and signatures, on a real PostgreSQL."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import text

from berth.db.engine import Database
from berth.errors import Conflict, InvalidInput, NotFound, TooLarge
from berth.gates import signatures, verdicts
from berth.oci import digest as digests
from berth.oci import manifest as manifests
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.signing import attestations, bundle, classic, keys
from berth.signing.checks import SignatureRecord, inspect
from tests.unit.gates.stored import NOW, Repository, descriptor, image_body, make, make_project, make_repository

ALICE, BOB = (keys.load_private(keys.generate(kind)[0]) for kind in ("ecdsa-p256", "ed25519"))
BLOBS: dict[str, bytes] = {}


async def read_blob(digest: str) -> bytes | None:
    return BLOBS.get(digest)


def signature_body(
    version: Repository, key: keys.PrivateKey, existing: bytes | None = None, tag: str = "1.0.0"
) -> bytes:
    """A classic signature manifest over the version's root; `existing` keeps the signatures of an older one."""
    payload = classic.payload(version.root, f"reg.example/{version.name}:{tag}")
    BLOBS[digests.of_bytes(payload)] = payload
    older = manifests.parse(existing) if existing is not None else None
    return classic.build(payload, base64.b64encode(key.sign(payload)).decode(), older)[1]


async def push(version: Repository, body: bytes, *, role: str = "evidence") -> None:
    """What a PUT of a signature manifest does."""
    async with version.database.transaction() as conn:
        digest = await version.put(conn, body, role)
        records = inspect(
            manifests.parse(body),
            digest,
            subject=version.root,
            repository=version.name,
            blobs=BLOBS.get,
            keys=await signatures.trusted_keys_of(conn, version.project_id),
            now=NOW,
        )
        await signatures.record_signatures(
            conn, repository_id=version.id, subject=version.root, records=records, pushed_by="dana", now=NOW
        )


async def trust(version: Repository, name: str, key: keys.PrivateKey, *predicates: str) -> str:
    async with version.database.transaction() as conn:
        row = await signatures.trust_key(
            conn, version.project_id, name, key.public.pem, predicates or ("signature",), by="mona", now=NOW
        )
        await signatures.recheck_signatures(conn, project_id=version.project_id, read_blob=read_blob, now=NOW)
    return row.key_id


async def untrust(version: Repository, name: str) -> None:
    async with version.database.transaction() as conn:
        await signatures.untrust_key(conn, version.project_id, name, now=NOW)


async def signed_version(database: Database) -> Repository:
    """A version that only waits for its signature."""
    version = await make(database, "strict", require_approval=False)
    await version.scan_all()
    return version


async def kept(version: Repository) -> list[tuple[str, str, str | None]]:
    async with version.database.reading() as conn:
        rows = await conn.execute(text("select verdict, reason, key_id from signatures order by id"))
        return [(row.verdict, row.reason, row.key_id) for row in rows]


async def test_a_signature_by_a_trusted_key_admits_and_one_by_a_stranger_does_not(database: Database) -> None:
    version = await signed_version(database)
    key_id = await trust(version, "alice", ALICE)
    assert key_id == ALICE.public.key_id
    assert await version.codes() == ["signature.missing"]
    await push(version, signature_body(version, BOB))
    assert await version.stored() == (False, False)
    assert await version.codes() == ["signature.untrusted"]
    await push(version, signature_body(version, ALICE))
    assert await version.stored() == (True, False)
    assert await version.codes() == ["admitted"]


async def test_signing_adds_no_trust_but_trusting_later_counts_what_was_signed(database: Database) -> None:
    version = await signed_version(database)
    await push(version, signature_body(version, ALICE))
    assert await version.codes() == ["signature.untrusted"]
    await trust(version, "alice", ALICE)
    assert await version.stored() == (True, False)


async def test_ending_the_trust_in_a_key_voids_its_signatures_at_once(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    await push(version, signature_body(version, ALICE))
    assert await version.codes() == ["admitted"]
    await untrust(version, "alice")
    assert await version.stored() == (False, False)
    assert await kept(version) == [("untrusted", "unknown_key", ALICE.public.key_id)]
    await trust(version, "alice", ALICE)
    assert await version.codes() == ["admitted"]


async def test_ending_the_trust_in_one_key_leaves_the_other(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    await trust(version, "bob", BOB)
    first = signature_body(version, ALICE)
    await push(version, signature_body(version, BOB, first))
    await untrust(version, "alice")
    assert await version.codes() == ["admitted"]
    await untrust(version, "bob")
    assert await version.codes() == ["signature.untrusted"]


async def test_a_later_manifest_without_the_signature_takes_nothing_away(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    await push(version, signature_body(version, ALICE))
    await push(version, signature_body(version, BOB))
    assert await version.codes() == ["admitted"]


async def test_two_signatures_need_two_keys(database: Database) -> None:
    version = await make(database, "strict", require_approval=False, required_signatures=2)
    await version.scan_all()
    await trust(version, "alice", ALICE)
    await trust(version, "alice again", ALICE)
    await trust(version, "bob", BOB)
    await push(version, signature_body(version, ALICE))
    await push(version, signature_body(version, ALICE, tag="1.0.1"))
    assert await version.codes() == ["signature.missing"]
    await push(version, signature_body(version, BOB))
    assert await version.codes() == ["admitted"]


async def test_a_bundle_signs_and_an_attestation_by_the_same_key_does_not(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE, "signature", attestations.CYCLONEDX)

    def bundle_body(predicate_type: str) -> bytes:
        blob = bundle.sign_statement(attestations.statement(version.root, predicate_type, {}), ALICE)
        BLOBS[digests.of_bytes(blob)] = blob
        return manifests.image(
            artifact_type=types.SIGSTORE_BUNDLE_V03,
            config=descriptor(b"{}", types.OCI_EMPTY),
            layers=[descriptor(blob, types.SIGSTORE_BUNDLE_V03)],
            subject=Descriptor(types.OCI_INDEX, version.root, 1),
        )

    await push(version, bundle_body(attestations.CYCLONEDX))
    assert await version.codes() == ["signature.missing"]
    await push(version, bundle_body(attestations.SIGN))
    assert await version.codes() == ["admitted"]


async def test_a_key_trusted_for_something_else_does_not_sign(database: Database) -> None:
    version = await signed_version(database)
    await push(version, signature_body(version, ALICE))
    await trust(version, "alice", ALICE, attestations.CYCLONEDX)
    assert await version.codes() == ["signature.untrusted"]


async def test_a_signature_whose_bytes_are_gone_counts_no_more(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    await push(version, signature_body(version, ALICE))

    async def nothing(digest: str) -> bytes | None:
        return None

    async with database.transaction() as conn:
        await signatures.recheck_signatures(conn, project_id=version.project_id, read_blob=nothing, now=NOW)
    assert await version.codes() == ["signature.untrusted"]
    assert [verdict for verdict, _, _ in await kept(version)] == ["invalid"]


async def test_rechecking_reads_every_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_PAGE", 2)
    version = await signed_version(database)
    for number in range(5):
        await push(version, signature_body(version, ALICE, tag=f"1.0.{number}"))
    await trust(version, "alice", ALICE)
    assert [verdict for verdict, _, _ in await kept(version)] == ["valid"] * 5


def junk(number: int, verdict: str = "untrusted", key_id: str | None = None) -> SignatureRecord:
    return SignatureRecord(
        kind="cosign-classic",
        manifest="sha256:" + "f" * 64,
        payload=f"sha256:{number:064x}",
        signature="c2ln",
        key_id=key_id,
        predicate_type=None,
        verdict=verdict,  # type: ignore[arg-type]
        reason="" if verdict == "valid" else "unknown_key",
    )


async def record(version: Repository, *records: SignatureRecord) -> None:
    async with version.database.transaction() as conn:
        await signatures.record_signatures(
            conn, repository_id=version.id, subject=version.root, records=records, pushed_by="eve", now=NOW
        )


async def test_the_101st_junk_signature_is_refused_and_a_trusted_one_never(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    await record(version, *(junk(number) for number in range(60)))
    await record(version, *(junk(number, "invalid") for number in range(60, 100)))
    with pytest.raises(TooLarge, match="100"):
        await record(version, junk(100))
    with pytest.raises(TooLarge):
        await record(version, junk(100), junk(101, "valid", ALICE.public.key_id))
    assert len(await kept(version)) == 100
    await record(version, junk(99))
    await record(version, junk(102, "valid", ALICE.public.key_id))
    assert await version.codes() == ["admitted"]


async def test_the_same_junk_in_another_manifest_is_the_same_signature(database: Database) -> None:
    version = await signed_version(database)
    body = signature_body(version, BOB)
    await push(version, body)
    payload = signature_body(version, ALICE, body)
    await push(version, payload)
    async with database.reading() as conn:
        rows = (await conn.execute(text("select count(*), count(distinct (payload, signature)) from signatures"))).one()
    assert tuple(rows) == (3, 2)


async def test_who_pushed_a_signature_first_stays(database: Database) -> None:
    version = await signed_version(database)
    await record(version, junk(1))
    async with database.transaction() as conn:
        await signatures.record_signatures(
            conn, repository_id=version.id, subject=version.root, records=[junk(1)], pushed_by="zoe", now=NOW
        )
        pushed = await conn.execute(text("select pushed_by from signatures"))
        assert pushed.scalars().all() == ["eve"]


async def test_a_signature_that_comes_before_its_subject_counts_when_the_subject_is_there(database: Database) -> None:
    version = await signed_version(database)
    await trust(version, "alice", ALICE)
    early = digests.of_bytes(image_body("later"))
    async with database.transaction() as conn:
        await signatures.record_signatures(
            conn,
            repository_id=version.id,
            subject=early,
            records=[junk(1, "valid", ALICE.public.key_id)],
            pushed_by="eve",
            now=NOW,
        )
        assert await verdicts.load_facts(conn, version.id, early) is None
        await version.put(conn, image_body("later"), "image")
    assert await version.codes(early) == ["weights.missing", "scan.missing"]


async def test_trusting_needs_a_name_a_key_and_a_purpose(database: Database) -> None:
    version = await make(database)
    await trust(version, "alice", ALICE)
    cases: list[tuple[type[Exception], str, str, tuple[str, ...]]] = [
        (Conflict, "alice", BOB.public.pem, ("signature",)),
        (InvalidInput, "", BOB.public.pem, ("signature",)),
        (InvalidInput, "x" * 129, BOB.public.pem, ("signature",)),
        (InvalidInput, "a\nb", BOB.public.pem, ("signature",)),
        (InvalidInput, "bob", "no key", ("signature",)),
        (InvalidInput, "bob", BOB.public.pem, ()),
        (InvalidInput, "bob", BOB.public.pem, ("sign",)),
    ]
    for error, name, pem, predicates in cases:
        with pytest.raises(error):
            async with database.transaction() as conn:
                await signatures.trust_key(conn, version.project_id, name, pem, predicates, by="mona", now=NOW)
    with pytest.raises(NotFound):
        async with database.transaction() as conn:
            await signatures.trust_key(conn, 10**6, "bob", BOB.public.pem, by="mona", now=NOW)
    with pytest.raises(NotFound, match="berth key list"):
        await untrust(version, "bob")
    await untrust(version, "alice")
    await trust(version, "alice", BOB)


async def test_the_trust_of_one_project_is_not_that_of_another(database: Database) -> None:
    version = await signed_version(database)
    rules = {"preset": "strict", "require_approval": False}
    other = await make_repository(database, await make_project(database, "audio", rules), "audio/clone")
    await trust(version, "alice", ALICE)
    await push(version, signature_body(version, ALICE))
    await push(other, signature_body(other, ALICE))
    assert await version.codes() == ["admitted"]
    assert await other.codes() == ["signature.untrusted"]
