"""Export, import and promotion over HTTP: who may move what, and what is said when somebody may not."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import httpx
import pytest

from berth.catalog import queries as catalog
from berth.gates import evidence
from berth.oci import media_types as types
from tests.unit.server.api.conftest import Staffed
from tests.unit.server.api.world import World

Q = "/projects/quiet/models/net"


@pytest.fixture
async def staff(staffed: Staffed) -> Staffed:
    """Project `quiet` is strict, so that everything in it is in quarantine; the same people have roles there."""
    await staffed.world.project("quiet", "strict")
    await staffed.world.project("prod", "strict")
    for role in ("guest", "reader", "developer", "reviewer", "maintainer"):
        await staffed.world.member("quiet", f"the-{role}", role)
    await staffed.world.member("prod", "the-developer", "developer")
    await staffed.world.member("prod", "the-reviewer", "developer")
    return staffed


async def ask(staff: Staffed, who: str, method: str, path: str, **more: Any) -> httpx.Response:
    return await staff.world.ask(method, path, token=staff.tokens[who], **more)


async def take_in(staff: Staffed, who: str, data: bytes, query: str = "") -> httpx.Response:
    return await ask(staff, who, "POST", f"/import{query}", content=data, headers={"Content-Type": "application/x-tar"})


# -- export


@pytest.mark.parametrize(
    ("who", "status"), [("guest", 403), ("reader", 200), ("developer", 200), ("auditor", 403), ("stranger", 404)]
)
async def test_who_may_pull_may_export(staff: Staffed, who: str, status: int) -> None:
    await staff.world.version("vision/net", "1.0.0")
    assert (await ask(staff, who, "GET", "/export?ref=vision/net:1.0.0")).status_code == status


async def test_a_missing_project_and_a_hidden_one_answer_the_same(staff: Staffed) -> None:
    await staff.world.version("secret/net", "1.0.0")
    hidden = await ask(staff, "reader", "GET", "/export?ref=secret/net:1.0.0")
    missing = await ask(staff, "reader", "GET", "/export?ref=absent/net:1.0.0")
    assert hidden.status_code == 404
    assert hidden.text.replace("secret", "absent") == missing.text


@pytest.mark.parametrize(("who", "status"), [("reader", 403), ("developer", 403), ("reviewer", 200)])
async def test_quarantine_leaves_only_with_those_who_may_read_it(staff: Staffed, who: str, status: int) -> None:
    digest = await staff.world.version("quiet/net", "1.0.0")
    for ref in ("quiet/net:1.0.0", f"quiet/net@{digest}"):
        answer = await ask(staff, who, "GET", f"/export?ref={ref}")
        assert answer.status_code == status, answer.text
        if status == 403:
            assert answer.json()["code"] == "denied"
            assert answer.json()["reasons"]
    audited = await staff.world.audited(action="quarantine.read" if status == 200 else "self.browse")
    assert audited


@pytest.mark.parametrize(("who", "status"), [("reader", 403), ("developer", 403), ("reviewer", 200)])
async def test_a_version_written_as_its_tag_is_as_much_in_quarantine(staff: Staffed, who: str, status: int) -> None:
    for project in ("quiet", "vision"):
        await staff.world.version(f"{project}/net", "1.0.0+cpu")
    assert (await ask(staff, who, "GET", "/export?ref=quiet/net:1.0.0_cpu")).status_code == status
    assert (await ask(staff, who, "GET", "/export?ref=vision/net:1.0.0_cpu")).status_code == 200


async def test_a_range_means_what_is_admitted_in_it(staff: Staffed) -> None:
    for number in ("1.0.0", "1.2.0", "2.0.0", "1.3.0-rc.1"):
        await staff.world.version("vision/net", number)
    answer = await ask(staff, "reader", "GET", "/export/plan?ref=vision/net:^1")
    assert [v["name"] for v in answer.json()["versions"]] == ["vision/net:1.0.0", "vision/net:1.2.0"]
    nothing = await ask(staff, "reader", "GET", "/export/plan?ref=quiet/net:^1")
    assert nothing.status_code == 404


async def test_the_file_can_be_taken_up_at_any_byte(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    whole = await ask(staff, "reader", "GET", "/export?ref=vision/net:1.0.0")
    etag = whole.headers["etag"]
    assert int(whole.headers["content-length"]) == len(whole.content)
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert "index.json" in tar.getnames()
    for start in (1, 1000, len(whole.content) - 1):
        rest = await ask(
            staff, "reader", "GET", "/export?ref=vision/net:1.0.0",
            headers={"Range": f"bytes={start}-", "If-Range": etag},
        )  # fmt: skip
        assert (rest.status_code, rest.content) == (206, whole.content[start:])
        assert rest.headers["content-range"] == f"bytes {start}-{len(whole.content) - 1}/{len(whole.content)}"
    other = await ask(
        staff, "reader", "GET", "/export?ref=vision/net:1.0.0", headers={"Range": "bytes=9-", "If-Range": '"other"'}
    )
    assert (other.status_code, other.content) == (200, whole.content)
    behind = await ask(staff, "reader", "GET", "/export?ref=vision/net:1.0.0", headers={"Range": "bytes=99999999-"})
    assert behind.status_code == 416


# -- import


async def exported(staff: Staffed, *refs: str) -> bytes:
    answer = await ask(staff, "root", "GET", "/export?" + "&".join(f"ref={ref}" for ref in refs))
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize(
    ("who", "status"), [("reader", 403), ("developer", 200), ("auditor", 403), ("stranger", 404), (None, 401)]
)
async def test_who_may_push_may_import(staff: Staffed, who: str | None, status: int) -> None:
    await staff.world.version("secret/net", "1.0.0")
    data = await exported(staff, "secret/net:1.0.0")
    token = None if who is None else staff.tokens[who]
    answer = await staff.world.ask("POST", "/import?project=vision", token=token, content=data)
    assert answer.status_code == status, answer.text
    shown = await ask(staff, "root", "GET", "/projects/vision/models/net/versions/1.0.0")
    assert shown.status_code == (200 if status == 200 else 404)


@pytest.mark.parametrize(("who", "status"), [("reader", 403), ("stranger", 404), ("developer", 400)])
async def test_nothing_behind_the_index_is_read_of_somebody_who_may_not_push(
    staff: Staffed, who: str, status: int
) -> None:
    await staff.world.version("vision/net", "1.0.0")
    data = await exported(staff, "vision/net:1.0.0")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        end = tar.getmembers()[2].offset  # where the manifests begin
    assert (await take_in(staff, who, data[:end])).status_code == status


async def test_every_project_in_the_file_is_asked_about(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    await staff.world.version("secret/net", "1.0.0")
    data = await exported(staff, "vision/net:1.0.0", "secret/net:1.0.0")
    assert (await take_in(staff, "developer", data)).status_code == 404
    assert (await take_in(staff, "root", data)).status_code == 200


async def test_an_import_starts_without_evidence_and_an_empty_try_says_so_before(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    data = await exported(staff, "vision/net:1.0.0")
    tried = (await take_in(staff, "developer", data, "?project=quiet&dry_run=true")).json()
    assert [(item["action"], item["repository"]) for item in tried["items"]] == [("import", "quiet/net")]
    assert len(tried["missing"]) == 2
    assert (await ask(staff, "developer", "GET", f"{Q}/versions")).status_code == 404
    done = (await take_in(staff, "developer", data, "?project=quiet")).json()
    assert done["bytes_transferred"] == sum(blob["size"] for blob in tried["missing"])
    verdict = (await ask(staff, "developer", "GET", f"{Q}/versions/1.0.0/verdict")).json()
    assert verdict["verdict"] == "deny"
    again = (await take_in(staff, "developer", data, "?project=quiet")).json()
    assert ([item["action"] for item in again["items"]], again["bytes_transferred"]) == (["present"], 0)
    assert len(await staff.world.audited(action="version.push", object="quiet/net:1.0.0")) == 1


async def test_the_name_of_an_alias_is_not_taken_by_an_import(staff: Staffed) -> None:
    """Aliases of a file are told, and never moved."""
    await staff.world.version("vision/net", "1.0.0")
    put = await ask(staff, "root", "PUT", "/projects/vision/models/net/aliases/prod", json={"version": "1.0.0"})
    assert put.status_code == 200, put.text
    data = await exported(staff, "vision/net:prod")
    done = (await take_in(staff, "root", data, "?project=secret")).json()
    assert done["items"][0]["aliases"] == ["prod"]
    there = await ask(staff, "root", "GET", "/projects/secret/models/net/aliases")
    assert there.json()["items"] == []


async def test_what_is_no_archive_is_refused_in_words(staff: Staffed) -> None:
    answer = await take_in(staff, "developer", b"PK\x03\x04" + b"zip" * 1000)
    assert (answer.status_code, answer.json()["code"]) == (400, "archive_invalid")
    assert "archive" in answer.json()["detail"]


# -- promotion


async def promote(staff: Staffed, who: str, source: str = "vision", **body: Any) -> httpx.Response:
    body = {"versions": "1.0.0", "to": "prod/net"} | body
    return await ask(staff, who, "POST", f"/projects/{source}/models/net/promotions", json=body)


@pytest.mark.parametrize(
    ("who", "status"), [("developer", 200), ("reader", 404), ("guest", 403), ("maintainer", 404), ("stranger", 404)]
)
async def test_promotion_needs_pull_here_and_push_there(staff: Staffed, who: str, status: int) -> None:
    await staff.world.version("vision/net", "1.0.0")
    assert (await promote(staff, who)).status_code == status
    there = await ask(staff, "root", "GET", "/projects/prod/models/net/versions/1.0.0")
    assert there.status_code == (200 if status == 200 else 404)


async def test_quarantine_is_promoted_only_by_those_who_may_read_it(staff: Staffed) -> None:
    await staff.world.version("quiet/net", "1.0.0")
    refused = await promote(staff, "developer", "quiet")
    assert (refused.status_code, refused.json()["code"]) == (403, "denied")
    assert (await promote(staff, "reviewer", "quiet")).status_code == 200


async def test_a_version_written_as_its_tag_is_not_promoted_out_of_quarantine(staff: Staffed) -> None:
    for project in ("quiet", "vision"):
        await staff.world.version(f"{project}/net", "1.0.0+cpu", content=project)
    refused = await promote(staff, "developer", "quiet", versions="1.0.0_cpu")
    assert (refused.status_code, refused.json()["code"]) == (403, "denied")
    assert (await promote(staff, "developer", "vision", versions="1.0.0_cpu")).status_code == 200


async def approve(world: World, repository: str, digest: str, decision: str = "approved") -> None:
    async with world.database.transaction() as conn:
        row = await catalog.repository(conn, repository)
        assert row is not None
        await evidence.decide_approval(
            conn, repository_id=row.id, digest=digest, decision=decision, principal="rita", note="", now=world.clock()
        )


async def test_the_approval_stays_behind_and_the_target_decides_anew(staff: Staffed) -> None:
    digest = await staff.world.version("vision/net", "1.0.0")
    await approve(staff.world, "vision/net", digest)
    item = (await promote(staff, "developer")).json()["items"][0]
    assert (item["action"], item["digest"], item["verdict"]) == ("promote", digest, "deny")
    assert "approval.missing" in {reason["code"] for reason in item["reasons"]}
    # Its twin: in an open project the same version is let out at once.
    open_one = (await promote(staff, "root", to="secret/net")).json()["items"][0]
    assert open_one["verdict"] == "allow"


@pytest.mark.parametrize("decision", ["rejected", "revoked"])
async def test_what_a_reviewer_said_no_to_is_not_promoted_where_less_is_asked(staff: Staffed, decision: str) -> None:
    digest = await staff.world.version("vision/net", "1.0.0")
    await approve(staff.world, "vision/net", digest, decision)
    for dry_run in (True, False):
        item = (await promote(staff, "root", to="secret/net", dry_run=dry_run)).json()["items"][0]
        assert (item["action"], item["reason"]) == ("refused", f"rita {decision} it in vision.")
    assert (await ask(staff, "root", "GET", "/projects/secret/models/net/versions/1.0.0")).status_code == 404
    # Its twin: approved again, it goes.
    await approve(staff.world, "vision/net", digest)
    assert (await promote(staff, "root", to="secret/net")).json()["items"][0]["action"] == "promote"


async def test_nothing_is_copied_or_changed_twice(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    before = sorted(path.name for path in staff.world.store.root.rglob("*") if path.is_file())
    dry = (await promote(staff, "developer", dry_run=True)).json()
    assert (dry["dry_run"], [item["action"] for item in dry["items"]]) == (True, ["promote"])
    assert (await ask(staff, "root", "GET", "/projects/prod/models/net/versions")).status_code == 404
    await promote(staff, "developer")
    again = (await promote(staff, "developer")).json()
    assert [item["action"] for item in again["items"]] == ["present"]
    assert sorted(path.name for path in staff.world.store.root.rglob("*") if path.is_file()) == before
    assert len(await staff.world.audited(action="version.push", project="prod")) == 1
    went = await staff.world.audited(action="version.pull", project="vision", outcome="done")
    assert [row.detail["promoted_to"] for row in went] == ["prod/net:1.0.0"]


async def test_another_digest_under_the_number_is_a_conflict_and_stays(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    await staff.world.version("vision/net", "1.1.0")
    theirs = await staff.world.version("prod/net", "1.0.0", content="other")
    items = (await promote(staff, "developer", versions="^1")).json()["items"]
    assert [(item["version"], item["action"]) for item in items] == [("1.0.0", "conflict"), ("1.1.0", "promote")]
    shown = await ask(staff, "root", "GET", "/projects/prod/models/net/versions/1.0.0")
    assert shown.json()["digest"] == theirs


async def test_a_release_candidate_can_get_its_number(staff: Staffed) -> None:
    digest = await staff.world.version("vision/net", "1.0.0-rc.1")
    item = (await promote(staff, "developer", versions="1.0.0-rc.1", version="1.0.0")).json()["items"][0]
    assert (item["version"], item["digest"]) == ("1.0.0", digest)
    same = await promote(staff, "developer", versions="1.0.0-rc.1", to="vision/net")
    assert same.status_code == 400
    await staff.world.version("vision/net", "1.1.0")
    await staff.world.version("vision/net", "1.2.0")
    assert (await promote(staff, "developer", versions="^1", version="2.0.0")).status_code == 400


async def test_the_archive_names_its_media_types(staff: Staffed) -> None:
    await staff.world.version("vision/net", "1.0.0")
    answer = await ask(staff, "reader", "GET", "/export?ref=vision/net:1.0.0")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
    assert [entry["mediaType"] for entry in index["manifests"]] == [types.OCI_MANIFEST]
