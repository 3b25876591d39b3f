"""Which facts reach a verdict, when is it decided again, and do the newest facts win? On a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from berth.adapters.scanners.contract import Finding, Problem
from berth.adapters.stores.contract import StoredBlob
from berth.catalog.record import pin_empty_config
from berth.db.engine import Database
from berth.errors import InvalidInput, ManifestUnknown, NotFound, SetupError
from berth.gates import evidence, verdicts
from berth.gates.decide import FOREVER
from berth.gates.policies import from_json, policy_hash
from berth.oci import digest as digests
from berth.oci import media_types as types
from tests.unit.gates.stored import (
    DAY,
    NOW,
    Repository,
    checkpoint_body,
    image_body,
    make,
    make_project,
    make_repository,
    result,
)


async def test_a_scanned_version_is_admitted_once_every_leaf_has_its_scans(database: Database) -> None:
    version = await make(database)
    assert await version.codes() == ["weights.missing", "weights.missing", "scan.missing"]
    await version.scan(version.image, "vulnerabilities")
    assert await version.codes() == ["weights.missing", "weights.missing"]
    await version.scan(version.image, "weights")
    assert await version.codes() == ["weights.missing"]
    await version.scan(version.checkpoint, "weights")
    assert await version.codes() == ["admitted"]
    assert await version.stored() == (True, False)


async def test_a_verdict_is_stored_with_what_it_rests_on(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    row = await version.verdict()
    assert row.fresh
    assert row.policy_hash == policy_hash(from_json({"preset": "scanned"}))
    assert row.valid_until == NOW + 29 * DAY
    assert row.decided_at == NOW
    assert [reason["code"] for reason in row.reasons] == [
        "scan.ok",
        "weights.ok",
        "weights.ok",
        "signature.not_required",
        "approval.not_required",
        "admitted.first",
    ]


async def test_a_verdict_past_its_time_is_decided_again(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    assert await version.codes(now=NOW + 29 * DAY) == ["weights.stale", "weights.stale", "scan.stale"]


async def test_a_verdict_without_end_survives_storage(database: Database) -> None:
    version = await make(database, "open")
    assert (await version.verdict()).valid_until == FOREVER


async def test_a_denying_report_denies_at_once_wherever_the_leaf_is(database: Database) -> None:
    version = await make(database)
    other = await make_repository(database, await make_project(database, "audio", {"preset": "scanned"}), "audio/clone")
    await version.scan_all()
    assert await version.stored() == (True, False)
    assert await other.stored() == (True, False)
    await version.scan(version.checkpoint, "weights", malicious=(Finding("weights.pkl", "os.system"),))
    assert await version.stored() == (False, False)
    assert await other.codes() == ["weights.malicious"]


@pytest.mark.parametrize(
    ("kind", "changes", "code"),
    [
        ("vulnerabilities", {"high": 2}, "scan.vulnerable"),
        ("vulnerabilities", {"status": "failed"}, "scan.failed"),
        ("vulnerabilities", {"status": "inconclusive"}, "scan.inconclusive"),
        ("vulnerabilities", {"database": {"updated_at": "last week"}}, "scan.inconclusive"),
        ("vulnerabilities", {"database": {"updated_at": "2026-05-01T00:00:00Z"}}, "scan.stale"),
        ("weights", {"problems": (Problem("layer.diff_id_mismatch", "layer 1"),)}, "content.unreadable"),
    ],
)
async def test_what_a_report_says_reaches_the_verdict(
    database: Database, kind: str, changes: dict[str, object], code: str
) -> None:
    version = await make(database)
    await version.scan_all()
    await version.scan(version.image, kind, **changes)
    assert await version.codes() == [code]


async def test_a_summary_of_another_shape_is_no_clean_report(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        await conn.execute(text("update evidence set summary = '{}' where kind = 'vulnerabilities'"))
        await verdicts.recompute_for_digest(conn, version.image, NOW)
    assert await version.codes() == ["scan.inconclusive"]


async def test_a_foreign_layer_and_a_layer_with_an_address_are_refused(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    bodies = {
        "foreign": image_body("foreign", media_type=types.DOCKER_FOREIGN_LAYER),
        "url": image_body("url", urls=("https://elsewhere.example/layer",)),
    }
    async with database.transaction() as conn:
        for name, body in bodies.items():
            leaf = await version.put(conn, body, "image")
            root = await version.put_index(conn, {name: body})
            for kind in ("vulnerabilities", "weights"):
                await evidence.record_scan(conn, digest=leaf, result=result(kind), report=None, now=NOW)
            verdict = await verdicts.decide_now(conn, repository_id=version.id, root=root, now=NOW)
            assert [reason.code for reason in verdict.reasons] == ["content.foreign_layer"]


async def test_a_child_whose_manifest_is_not_here_is_refused(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        await conn.execute(
            text("delete from closure where root = :r and digest = :d"), {"r": version.root, "d": version.checkpoint}
        )
        await verdicts.recompute_for_repository(conn, version.id, NOW)
    assert await version.codes() == ["content.unreadable"]


async def test_a_role_that_does_not_fit_the_manifest_is_refused(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        await conn.execute(text("update manifests set role = 'checkpoint' where digest = :d"), {"d": version.root})
        await verdicts.recompute_for_repository(conn, version.id, NOW)
    assert "content.unreadable" in await version.codes()


async def test_an_unknown_child_is_refused_and_its_twin_without_it_admitted(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    bodies = {"image": image_body("one"), "odd": checkpoint_body("odd")}
    async with database.transaction() as conn:
        await version.put(conn, bodies["odd"], "unknown")
        odd = await version.put_index(conn, bodies)
        twin = await version.put_index(conn, {"image": bodies["image"]})
    assert await version.codes(odd) == ["content.unknown"]
    assert await version.codes(twin) == ["admitted"]


async def test_approval_rejection_and_revocation_count_at_once(database: Database) -> None:
    version = await make(database, "strict", required_signatures=0)
    await version.scan_all()
    assert await version.codes() == ["approval.missing"]
    for decision, expected in (
        ("approved", "admitted"),
        ("revoked", "approval.revoked"),
        ("approved", "admitted"),
        ("rejected", "approval.rejected"),
    ):
        await version.approve(decision)
        assert await version.codes() == [expected]
        async with database.reading() as conn:
            shown = await conn.execute(text("select approval from versions where digest = :d"), {"d": version.root})
            assert shown.scalar_one() == decision


async def test_revoking_a_child_denies_every_root_that_holds_it_in_that_repository(database: Database) -> None:
    version = await make(database)
    elsewhere = await make_repository(database, version.project_id, "vision/copy")
    await version.scan_all()
    await version.approve("revoked", version.checkpoint)
    assert await version.stored() == (False, False)
    assert await version.codes() == ["child.revoked"]
    assert await elsewhere.codes() == ["admitted"]


async def test_a_decision_needs_a_known_word_a_person_and_a_manifest(database: Database) -> None:
    version = await make(database)
    with pytest.raises(InvalidInput, match="approved, rejected, revoked"):
        await version.approve("maybe")
    with pytest.raises(InvalidInput, match="name of the person"):
        await version.approve(principal="")
    with pytest.raises(ManifestUnknown):
        await version.approve(digest="sha256:" + "0" * 64)


async def test_four_eyes_look_at_everyone_who_pushed_it(database: Database) -> None:
    version = await make(database, "strict", required_signatures=0, four_eyes=True)
    await version.scan_all()
    async with database.transaction() as conn:
        await version.version(conn, version.root, "1.0.1", pushed_by="rita")
    await version.approve(principal="dana")
    assert await version.codes() == ["approval.four_eyes"]
    await version.approve(principal="rita")
    assert await version.codes() == ["approval.four_eyes"]
    await version.approve(principal="sam")
    assert await version.codes() == ["admitted"]


async def test_a_deleted_version_is_denied_and_a_second_number_saves_it(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        await conn.execute(text("update versions set state = 'deleted'"))
        await verdicts.recompute_for_digest(conn, version.root, NOW)
    assert await version.codes() == ["version.deleted"]
    async with database.transaction() as conn:
        await version.version(conn, version.root, "1.0.1")
        await verdicts.recompute_for_digest(conn, version.root, NOW)
    assert await version.codes() == ["admitted"]


async def test_another_policy_holds_at_once(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        stored = await verdicts.set_policy(
            conn, version.project_id, {"preset": "strict", "only_fixable": True}, now=NOW
        )
    assert stored == {"preset": "strict"}
    assert await version.stored() == (False, False)
    assert await version.codes() == ["signature.missing", "approval.missing"]


async def test_a_bad_policy_changes_nothing(database: Database) -> None:
    version = await make(database)
    with pytest.raises(InvalidInput, match="preset"):
        async with database.transaction() as conn:
            await verdicts.set_policy(conn, version.project_id, {"preset": "scaned"}, now=NOW)
    with pytest.raises(NotFound):
        async with database.transaction() as conn:
            await verdicts.set_policy(conn, 10**6, {"preset": "open"}, now=NOW)


async def test_a_verdict_made_under_other_rules_is_not_served(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    for column in ("policy_hash", "trust_hash"):
        async with database.transaction() as conn:
            await conn.execute(text(f"update verdicts set {column} = 'old', admitted = false"))
        async with database.reading() as conn:
            assert await verdicts.fresh_verdict(conn, version.id, version.root, NOW) is None
        assert await version.codes() == ["admitted"]


async def test_a_policy_nobody_can_read_denies(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        await conn.execute(text("update projects set policy = '{\"preset\": \"lenient\"}', policy_hash = 'x'"))
    assert await version.codes() == ["policy.invalid"]


async def test_grace_needs_an_admission_on_evidence_before_the_finding(database: Database) -> None:
    version = await make(database, "scanned", on_new_finding="warn")
    await version.scan(version.image, "vulnerabilities", finished_at=NOW - DAY)
    await version.scan(version.image, "weights")
    await version.scan(version.checkpoint, "weights")
    assert await version.codes() == ["admitted"]
    await version.scan(version.image, "vulnerabilities", high=1, finished_at=NOW + DAY)
    assert await version.codes(now=NOW + DAY) == ["admitted"]
    fresh = await make_repository(database, version.project_id, "vision/late")
    assert await fresh.codes(now=NOW + DAY) == ["scan.vulnerable"]


async def test_an_admission_by_an_open_policy_earns_no_grace(database: Database) -> None:
    version = await make(database, "open")
    await version.scan_all()
    assert await version.codes() == ["admitted"]
    await version.scan(version.image, "vulnerabilities", high=1, finished_at=NOW + DAY)
    async with database.transaction() as conn:
        rules = {"preset": "scanned", "on_new_finding": "warn"}
        await verdicts.set_policy(conn, version.project_id, rules, now=NOW + DAY)
    assert await version.codes(now=NOW + DAY) == ["scan.vulnerable"]


async def test_the_first_admission_is_remembered_through_denials(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    first = (await version.verdict()).reasons[-1]
    await version.scan(version.image, "vulnerabilities", status="failed")
    denied = await version.verdict(now=NOW + DAY)
    assert not denied.admitted
    assert denied.reasons[-1] == first
    assert first["at"] == "2026-06-15T12:00:00+00:00"


async def test_of_many_roots_the_newest_are_decided_at_once_and_the_others_on_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "INLINE", 2)
    version = await make(database)
    await version.scan_all()
    bodies = {"image": image_body("one"), "checkpoint": checkpoint_body("one")}
    roots = [version.root]
    async with database.transaction() as conn:
        for number in range(1, 4):
            root = await version.put_index(conn, bodies, label=str(number))
            await version.version(conn, root, f"1.0.{number}")
            await verdicts.decide_now(conn, repository_id=version.id, root=root, now=NOW)
            roots.append(root)
    assert [await version.stored(root) for root in roots[1:]] == [(True, False)] * 3
    await version.scan(version.checkpoint, "weights", malicious=(Finding("w", "x"),))
    assert [await version.stored(root) for root in roots] == [
        (True, True),
        (True, True),
        (False, False),
        (False, False),
    ]
    assert [await version.codes(root) for root in roots] == [["weights.malicious"]] * 4
    async with database.transaction() as conn:
        await verdicts.recompute_for_project(conn, version.project_id, NOW)
    assert [stored and stored[1] for stored in [await version.stored(root) for root in roots]] == [
        True,
        True,
        False,
        False,
    ]


async def test_an_unknown_root_or_repository_is_an_error_and_no_verdict(database: Database) -> None:
    version = await make(database)
    for repository_id, root in ((version.id, "sha256:" + "0" * 64), (10**6, version.root)):
        with pytest.raises(ManifestUnknown):
            async with database.transaction() as conn:
                await verdicts.decide_now(conn, repository_id=repository_id, root=root, now=NOW)
        async with database.reading() as conn:
            assert await verdicts.load_facts(conn, repository_id, root) is None


async def test_deciding_outside_a_transaction_is_refused(database: Database) -> None:
    version = await make(database)
    async with database.reading() as conn:
        with pytest.raises(SetupError, match="transaction"):
            await verdicts.decide_now(conn, repository_id=version.id, root=version.root, now=NOW)


async def _waits(database: Database, waiting: asyncio.Task[object]) -> None:
    """Return when the database says that somebody waits for a lock (or the task ended, which fails the test)."""
    while not waiting.done():
        async with database.reading() as conn:
            found = await conn.execute(
                text(
                    "select count(*) from pg_stat_activity"
                    " where wait_event_type = 'Lock' and datname = current_database()"
                )
            )
            if found.scalar_one():
                return
    pytest.fail("nothing waited")


async def test_a_decider_waits_for_a_scan_that_is_being_recorded(database: Database) -> None:
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        bad = result("weights", malicious=(Finding("w", "x"),))
        await evidence.record_scan(conn, digest=version.checkpoint, result=bad, report=None, now=NOW)
        reader = asyncio.create_task(version.codes(now=NOW + 40 * DAY))
        await _waits(database, reader)
    assert "weights.malicious" in await reader


async def test_a_scan_waits_for_a_push_that_decides_right_now(database: Database) -> None:
    """The pushed index cannot be seen by the scan job yet; without waiting it would keep an admission for ever."""
    version = await make(database)
    await version.scan_all()
    async with database.transaction() as conn:
        bodies = {"image": image_body("one"), "checkpoint": checkpoint_body("one")}
        pushed = await version.put_index(conn, bodies, label="second")
        assert (await verdicts.decide_now(conn, repository_id=version.id, root=pushed, now=NOW)).admitted
        bad = (Finding("w", "x"),)
        scan = asyncio.create_task(version.scan(version.checkpoint, "weights", malicious=bad))
        await _waits(database, scan)
    await scan
    assert await version.stored(pushed) == (False, False)


async def test_two_scans_of_siblings_end_in_the_answer_to_both(database: Database) -> None:
    version = await make(database)
    for _ in range(5):
        await asyncio.gather(
            version.scan(version.image, "vulnerabilities"),
            version.scan(version.image, "weights"),
            version.scan(version.checkpoint, "weights"),
        )
    assert await version.stored() == (True, False)


async def test_revoking_while_another_decides_wins(database: Database) -> None:
    version = await make(database, "strict", required_signatures=0)
    await version.scan_all()
    await version.approve()
    async with database.transaction() as conn:
        await verdicts.decide_now(conn, repository_id=version.id, root=version.root, now=NOW)
        revoking = asyncio.create_task(version.approve("revoked"))
        await _waits(database, revoking)
    await revoking
    assert await version.stored() == (False, False)


async def test_scans_that_are_awaited_are_told_apart(database: Database) -> None:
    version = await make(database)
    leaves = [(version.checkpoint, "weights"), (version.image, "vulnerabilities"), (version.image, "weights")]
    assert await scans(version) == dict.fromkeys(leaves, "pending")
    await version.scan_all()
    await version.scan(version.image, "weights", status="failed")
    await version.scan(version.image, "vulnerabilities", status="inconclusive")
    assert await scans(version) == dict(zip(leaves, ("ok", "inconclusive", "failed"), strict=True))
    async with database.transaction() as conn:
        await conn.execute(
            text(
                "insert into procrastinate_jobs (queue_name, task_name, args, scheduled_at) values"
                " ('scan', 'scan_weights', jsonb_build_object('digest', cast(:now as text)), null),"
                " ('scan', 'scan_vulnerabilities', jsonb_build_object('digest', cast(:later as text)), :at)"
            ),
            {"now": version.checkpoint, "later": version.image, "at": NOW + DAY},
        )
    assert await scans(version) == dict(zip(leaves, ("pending", "inconclusive", "failed"), strict=True))


async def test_an_open_project_awaits_only_scans_that_are_on_their_way(database: Database) -> None:
    version = await make(database, "open")
    assert await scans(version) == {}
    await version.scan(version.image, "weights")
    assert await scans(version) == {(version.image, "weights"): "ok"}


async def scans(version: Repository) -> dict[tuple[str, str], str]:
    async with version.database.reading() as conn:
        found = await evidence.scans_of(conn, version.id, version.root, NOW)
    return {(digest, kind): state for digest, kind, state in found}


async def test_a_report_becomes_a_referrer_and_its_evidence_names_it(database: Database) -> None:
    version = await make(database)
    body = b'{"findings": []}'
    stored = StoredBlob(digests.of_bytes(body), len(body), "somewhere")
    empty = StoredBlob(digests.EMPTY_JSON, 2, "empty")
    async with database.transaction() as conn:
        await pin_empty_config(conn, empty)
        await evidence.record_scan(
            conn, digest=version.image, result=result("weights", report=body), report=stored, now=NOW
        )
    async with database.reading() as conn:
        row = (await conn.execute(text("select report, report_media_type, log, tool from evidence"))).one()
        assert tuple(row) == (stored.digest, "application/json", "looked at it", "hand")
        referrer = (
            await conn.execute(
                text(
                    "select m.artifact_type, r.evidence_for from repository_manifests r"
                    " join manifests m on m.digest = r.digest where r.subject = :d"
                ),
                {"d": version.image},
            )
        ).one()
        assert tuple(referrer) == (types.REPORT_WEIGHTS, version.image)


async def test_a_push_under_a_tag_and_a_scan_of_its_leaf_do_not_block_each_other(database: Database) -> None:
    version = await make(database)
    body = b"{}"
    async with database.transaction() as conn:
        await pin_empty_config(conn, StoredBlob(digests.EMPTY_JSON, 2, "empty"))

    async def scan() -> None:
        async with database.transaction() as conn:
            stored = StoredBlob(digests.of_bytes(body), len(body), "empty")
            await evidence.record_scan(conn, digest=version.image, result=result("weights"), report=stored, now=NOW)

    async with database.transaction() as conn:
        await conn.execute(text("select 1 from repositories where id = :i for update"), {"i": version.id})
        scanning = asyncio.create_task(scan())
        await _waits(database, scanning)
        await verdicts.decide_now(conn, repository_id=version.id, root=version.root, now=NOW)
    await scanning
    assert await version.codes() == ["weights.missing", "scan.missing"]
