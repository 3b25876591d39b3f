"""Manifests, versions and tags as design §6 "Names and versions" has them, on the wire."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import text

from tests.unit.server.gateway.registry import CONFIG, INDEX, LAYER, MANIFEST, Client, Installation, sha256

REPOSITORY = "ml/demo"


@pytest.fixture
async def developer(installation: Installation) -> Client:
    await installation.project("ml")
    return await installation.user("dev", "ml", "developer")


async def test_a_semver_tag_creates_a_version_with_its_scans_in_the_same_transaction(
    installation: Installation, developer: Client
) -> None:
    image = await developer.image(REPOSITORY, "1.2.3-rc.1_cpu", labels={"org.opencontainers.image.licenses": "MIT"})
    async with installation.services.db.reading() as conn:
        row = (await conn.execute(text("select version, digest, number, declared from versions"))).one()
        jobs = set(
            await conn.scalars(
                text("select task_name from procrastinate_jobs where args->>'digest' = :d"), {"d": image.digest}
            )
        )
    assert (row.version, row.digest, row.number) == ("1.2.3-rc.1+cpu", image.digest, 1)
    assert row.declared["licenses"] == "MIT"
    assert jobs == {"scan_vulnerabilities", "scan_weights"}


async def test_pushing_the_same_version_again_is_201_and_other_bytes_are_409(developer: Client) -> None:
    image = await developer.image(REPOSITORY, "1.0.0")
    assert (await developer.manifest(REPOSITORY, "1.0.0", image.body)).status_code == 201
    other = await developer.image(REPOSITORY, None, salt="other")
    answer = await developer.manifest(REPOSITORY, "1.0.0", other.body)
    assert answer.status_code == 409
    assert "1.0.0" in answer.json()["errors"][0]["message"]
    served = await developer("GET", f"/v2/{REPOSITORY}/manifests/1.0.0")
    assert served.headers["docker-content-digest"] == image.digest


async def test_of_two_pushers_racing_for_one_version_one_wins(installation: Installation, developer: Client) -> None:
    one, two = await developer.image(REPOSITORY, None, salt="1"), await developer.image(REPOSITORY, None, salt="2")
    answers = await asyncio.gather(
        *(developer.manifest(REPOSITORY, "1.0.0", image.body) for image in (one, two, one, two))
    )
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201, 201, 409, 409]
    async with installation.services.db.reading() as conn:
        assert await conn.scalar(text("select count(*) from versions")) == 1


async def test_a_version_number_is_burnt_after_deletion(installation: Installation, developer: Client) -> None:
    image = await developer.image(REPOSITORY, "1.0.0")
    maintainer = await installation.user("max", "ml", "maintainer")
    assert (await maintainer("DELETE", f"/v2/{REPOSITORY}/manifests/1.0.0")).status_code == 202
    other = await developer.image(REPOSITORY, None, salt="other")
    assert (await developer.manifest(REPOSITORY, "1.0.0", other.body)).status_code == 409
    assert (await developer.manifest(REPOSITORY, "1.0.0", image.body)).status_code == 201


@pytest.mark.parametrize(
    ("tag", "use"), [("v1.2.3", "1.2.3"), ("1.2", "1.2.0"), ("latest", "1.0.0"), ("main", "1.0.0")]
)
async def test_tags_that_are_no_versions_are_refused_with_the_name_to_use(
    developer: Client, tag: str, use: str
) -> None:
    image = await developer.image(REPOSITORY, None)
    answer = await developer.manifest(REPOSITORY, tag, image.body)
    assert answer.status_code == 400
    assert use in answer.json()["errors"][0]["message"]
    assert (await developer("GET", f"/v2/{REPOSITORY}/tags/list")).json()["tags"] == []


async def test_in_an_open_project_any_tag_is_taken_moves_and_wins_over_the_virtual_one(
    installation: Installation,
) -> None:
    await installation.project("lab", "open")
    developer = await installation.user("dev", "lab", "developer")
    await developer.image("lab/demo", "1.0.0", salt="release")
    first = await developer.image("lab/demo", "latest", salt="first")
    second = await developer.image("lab/demo", "latest", salt="second")
    assert first.digest != second.digest
    reader = await installation.user("rae", "lab", "reader")
    served = await reader("GET", "/v2/lab/demo/manifests/latest")
    assert served.headers["docker-content-digest"] == second.digest
    virtual = await reader("GET", "/v2/lab/demo/manifests/1")
    assert virtual.status_code == 200


async def test_latest_is_the_highest_admitted_release(installation: Installation, developer: Client) -> None:
    reader = await installation.user("rae", "ml", "reader")
    digests = {}
    for version in ("1.9.0", "1.10.0", "2.0.0", "2.1.0-rc.1"):
        digests[version] = (await developer.image(REPOSITORY, version, salt=version)).digest
    for version in ("1.9.0", "1.10.0", "2.1.0-rc.1"):
        await installation.admit(REPOSITORY, digests[version])
    for name, version in (("latest", "1.10.0"), ("1", "1.10.0"), ("1.9", "1.9.0")):
        answer = await reader("GET", f"/v2/{REPOSITORY}/manifests/{name}")
        assert answer.headers["docker-content-digest"] == digests[version], name
    assert (await reader("GET", f"/v2/{REPOSITORY}/manifests/2")).status_code == 404
    assert (await reader("GET", f"/v2/{REPOSITORY}/manifests/2.1.0-rc.1")).status_code == 200


async def test_a_manifest_is_stored_byte_for_byte(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    odd = image.body.replace(b'{"schemaVersion"', b'{ "org.acme" : [1, 2.50],\n  "schemaVersion"')
    answer = await developer.manifest(REPOSITORY, sha256(odd), odd)
    assert answer.headers["docker-content-digest"] == sha256(odd)
    served = await developer("GET", f"/v2/{REPOSITORY}/manifests/{sha256(odd)}")
    assert served.content == odd
    assert served.headers["content-type"] == MANIFEST


async def test_docker_schema_2_keeps_its_media_type(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    document = json.loads(image.body) | {"mediaType": docker}
    document["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    body = json.dumps(document, indent=3).encode()
    assert (await developer.manifest(REPOSITORY, "1.0.0", body)).status_code == 201
    served = await developer("GET", f"/v2/{REPOSITORY}/manifests/1.0.0")
    assert (served.content, served.headers["content-type"]) == (body, docker)


async def test_a_manifest_above_four_mebibytes_is_413(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    body = image.body[:-1] + b', "pad": "' + b"x" * (4 << 20) + b'"}'
    answer = await developer.manifest(REPOSITORY, "1.0.0", body)
    assert answer.status_code == 413


async def test_a_manifest_with_the_wrong_digest_is_refused(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    answer = await developer.manifest(REPOSITORY, sha256(b"other"), image.body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


async def test_sizes_that_lie_are_refused(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    document = json.loads(image.body)
    document["layers"][0]["size"] += 1
    answer = await developer.manifest(REPOSITORY, "1.0.0", document)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "MANIFEST_INVALID"


async def test_missing_blobs_and_children_are_named(developer: Client) -> None:
    image = await developer.image(REPOSITORY, None)
    document = json.loads(image.body)
    document["layers"].append({"mediaType": LAYER, "digest": sha256(b"absent"), "size": 6})
    answer = await developer.manifest(REPOSITORY, "1.0.0", document)
    assert answer.status_code == 404
    assert sha256(b"absent") in answer.text
    child = {"mediaType": MANIFEST, "digest": sha256(b"absent child"), "size": 1}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    assert (await developer.manifest(REPOSITORY, "1.0.0", index)).status_code == 404


async def test_indexes_nest_eight_levels_and_no_more(installation: Installation) -> None:
    await installation.project("lab", "open")
    developer = await installation.user("dev", "lab", "developer")
    image = await developer.image("lab/demo", None)
    below, size = image.digest, len(image.body)
    codes = []
    for level in range(12):
        media = MANIFEST if level == 0 else INDEX
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [{"mediaType": media, "digest": below, "size": size}],
                "annotations": {"level": str(level)},
            }
        ).encode()
        codes.append((await developer.manifest("lab/demo", sha256(body), body)).status_code)
        below, size = sha256(body), len(body)
        if codes[-1] != 201:
            break
    assert codes == [201] * 8 + [400]


async def test_a_blob_in_use_cannot_be_deleted_and_an_unused_one_can(installation: Installation) -> None:
    await installation.project("lab", "open")
    maintainer = await installation.user("max", "lab", "maintainer")
    image = await maintainer.image("lab/demo", "one")
    assert (await maintainer("DELETE", f"/v2/lab/demo/blobs/{image.layer}")).status_code == 405
    loose = await maintainer.blob("lab/demo", b"loose")
    assert (await maintainer("DELETE", f"/v2/lab/demo/blobs/{loose}")).status_code == 202
    assert (await maintainer("GET", f"/v2/lab/demo/blobs/{loose}")).status_code == 404
    assert (await maintainer("GET", f"/v2/lab/demo/blobs/{image.layer}")).status_code == 200


async def test_the_kind_of_a_repository_is_fixed_by_its_first_version(developer: Client) -> None:
    await developer.image(REPOSITORY, "1.0.0")
    weights = await developer.blob(REPOSITORY, b"weights")
    config = await developer.blob(REPOSITORY, b'{"descriptor":{}}')
    checkpoint = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {"mediaType": "application/vnd.cncf.model.config.v1+json", "digest": config, "size": 17},
        "layers": [{"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": weights, "size": 7}],
    }
    answer = await developer.manifest(REPOSITORY, "2.0.0", checkpoint)
    assert answer.status_code == 400
    assert "checkpoint" in answer.text
    for data in (b"weights", b'{"descriptor":{}}'):
        await developer.blob("ml/weights", data)
    assert (await developer.manifest("ml/weights", "2.0.0", checkpoint)).status_code == 201
    image = await developer.image("ml/weights", None)
    assert (await developer.manifest("ml/weights", "3.0.0", image.body)).status_code == 400


@pytest.mark.parametrize("name", ["ml", "ml/a/b", "ML/demo", "ml/-x", "ml//x"])
async def test_repositories_have_exactly_two_parts(developer: Client, name: str) -> None:
    answer = await developer("POST", f"/v2/{name}/blobs/uploads/", b"")
    assert answer.status_code in (400, 404)
    assert answer.json()["errors"][0]["code"] in ("NAME_INVALID", "NAME_UNKNOWN")


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_a_tag_that_moves_often_shows_the_last_and_every_digest_stays(
    installation: Installation, count: int
) -> None:
    await installation.project("lab", "open")
    developer = await installation.user("dev", "lab", "developer")
    config = await developer.blob("lab/demo", b"{}")
    digests = []
    for number in range(count):
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": config, "size": 2},
                "layers": [],
                "annotations": {"n": str(number)},
            }
        ).encode()
        assert (await developer.manifest("lab/demo", "moving", body)).status_code == 201
        digests.append(sha256(body))
    assert (await developer("HEAD", "/v2/lab/demo/manifests/moving")).headers["docker-content-digest"] == digests[-1]
    assert (await developer("HEAD", f"/v2/lab/demo/manifests/{digests[0]}")).status_code == 200


async def test_tags_page_in_ascii_order(installation: Installation) -> None:
    await installation.project("lab", "open")
    developer = await installation.user("dev", "lab", "developer")
    for tag in ("b", "B", "a", "_x", "10", "9"):
        await developer.image("lab/demo", tag)
    seen: list[str] = []
    where: str | None = "/v2/lab/demo/tags/list?n=2"
    while where is not None:
        answer = await developer("GET", where)
        assert len(answer.json()["tags"]) <= 2
        seen += answer.json()["tags"]
        link = answer.headers.get("link")
        where = link.split(">")[0].lstrip("<") if link else None
    assert seen == ["10", "9", "B", "_x", "a", "b"]
    assert (await developer("GET", "/v2/lab/demo/tags/list?n=0")).json()["tags"] == []


async def test_the_catalog_shows_only_what_one_may_pull(installation: Installation) -> None:
    for project in ("lab", "ml"):
        await installation.project(project, "open")
        pusher = await installation.user("dev", project, "developer")
        await pusher.image(f"{project}/demo", "one")
    reader = await installation.user("rae", "lab", "reader")
    guest = await installation.user("gus", "lab", "guest")
    assert (await reader("GET", "/v2/_catalog")).json() == {"repositories": ["lab/demo"]}
    assert (await guest("GET", "/v2/_catalog")).json() == {"repositories": []}
    assert (await installation.anonymous("GET", "/v2/_catalog")).status_code == 401


async def test_reports_of_shared_content_are_attached_where_it_arrives_later(
    installation: Installation, developer: Client
) -> None:
    """Evidence belongs to the digest: the second repository shows the report without a second scan."""
    from berth.adapters.scanners.contract import ScanResult, Summary
    from berth.gates import evidence

    image = await developer.image("ml/one", "1.0.0")
    now = installation.services.clock()
    report = await installation.services.store.put_bytes(b'{"findings": []}')
    result = ScanResult(
        kind="vulnerabilities",
        status="ok",
        summary=Summary(),
        tool="trivy",
        tool_version="0.76.0",
        database={"updated_at": now.isoformat()},
        report=b'{"findings": []}',
        report_media_type="application/json",
        log="",
        started_at=now,
        finished_at=now,
    )
    async with installation.services.db.transaction() as conn:
        await evidence.record_scan(conn, digest=image.digest, result=result, report=report, now=now)
    await developer.image("ml/two", "1.0.0")
    for repository in ("ml/one", "ml/two"):
        listed = (await developer("GET", f"/v2/{repository}/referrers/{image.digest}")).json()["manifests"]
        assert [entry["artifactType"] for entry in listed] == ["application/vnd.berth.report.trivy.v1+json"]
        manifest = (await developer("GET", f"/v2/{repository}/manifests/{listed[0]['digest']}")).json()
        blob = await developer("GET", f"/v2/{repository}/blobs/{manifest['layers'][0]['digest']}")
        assert blob.content == b'{"findings": []}'
