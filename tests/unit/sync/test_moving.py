"""Archives: what goes in comes out whole on the other side, and a damaged one leaves nothing that anybody sees."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from berth.access import queries as access
from berth.adapters.stores.budget import TransferBudget
from berth.adapters.stores.files import FileStore
from berth.catalog import queries as catalog
from berth.catalog.queries import VersionRow
from berth.client.archive_file import open_archive
from berth.db.engine import Database
from berth.errors import ArchiveInvalid, BerthError, BlobUnknownToManifest, VersionTaken
from berth.gates import signatures
from berth.gates.verdicts import verdict_of
from berth.oci import archive
from berth.oci import media_types as types
from berth.oci.descriptor import Descriptor
from berth.signing import attestations, bundle, classic
from berth.signing.keys import PrivateKey, generate, load_private
from berth.sync.moving import exporting, importing, promoting
from berth.sync.moving.choosing import Chosen
from berth.sync.moving.importing import Plan
from berth.sync.moving.incoming import Incoming
from tests.support.postgres import Databases
from tests.unit.sync.conftest import START, Lab
from tests.unit.sync.made import content, push_blob, push_image, push_version, sha256


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def chosen(lab: Lab, *names: str) -> list[Chosen]:
    found = []
    async with lab.database.reading() as conn:
        for name in names:
            repository, _, version = name.partition(":")
            row = await catalog.repository(conn, repository)
            assert row is not None
            number: VersionRow | None = await catalog.version_by_number(conn, row.id, version)
            assert number is not None
            found.append(Chosen(row, number))
    return found


async def exported(lab: Lab, *names: str, since: Sequence[str] = ()) -> bytes:
    wanted, there = await chosen(lab, *names), await chosen(lab, *since)
    async with lab.database.reading() as conn:
        found = await exporting.prepare(conn, wanted, there, now=lab.now)
    data = b"".join([piece async for piece in exporting.stream(lab.store, lab.places.fetcher, found)])
    assert len(data) == found.size
    return data


async def imported(lab: Lab, data: bytes, *, project: str | None = None, size: int = 1000) -> tuple[Plan, int]:
    incoming = Incoming(pieces(data, size))
    contents, first = await incoming.head()
    async with lab.database.reading() as conn:
        wanted = await importing.plan(
            conn, contents, lambda name: name if project is None else f"{project}/{name.partition('/')[2]}"
        )
    kept = await importing.receive(lab.depot, wanted, incoming, first)
    await importing.settle(lab.depot, wanted)
    return wanted, kept


@pytest.fixture
async def far(databases: Databases, tmp_path: Path) -> AsyncIterator[Lab]:
    """Another service, which has the same projects and nothing in them."""
    name = databases.create()
    database = Database(databases.service_url(name), pool_size=3)
    store = FileStore(tmp_path / "far-depot", budget=TransferBudget(16 << 20), threads=2)
    lab = Lab(database, store, tmp_path / "far")
    await lab.project("lab")
    yield lab
    store.close()
    await database.close()
    databases.drop(name)


@pytest.fixture
async def near(lab: Lab) -> Lab:
    await lab.project("lab")
    return lab


async def test_all_of_a_version_arrives_signatures_and_referrers_included(near: Lab, far: Lab) -> None:
    root = await push_version(near.depot, "lab/net", "1.0.0")
    data = await exported(near, "lab/net:1.0.0")
    wanted, kept = await imported(far, data)
    assert [(step.action, step.notes) for step in wanted.steps] == [("import", [])]
    assert kept > 0
    there = await content(far.depot, "lab/net", "1.0.0")
    here = await content(near.depot, "lab/net", "1.0.0")
    # What nobody may judge does not travel on its own: an unknown referrer is content, not evidence.
    assert set(there) <= set(here)
    assert root in there
    again, moved = await imported(far, data)
    assert ([step.action for step in again.steps], moved, again.lacking) == (["present"], 0, {})


async def test_the_same_versions_give_the_same_bytes_in_any_order(near: Lab) -> None:
    await push_version(near.depot, "lab/net", "1.0.0")
    await push_version(near.depot, "lab/net", "1.10.0")
    await push_version(near.depot, "lab/net", "1.9.0")
    first = await exported(near, "lab/net:1.0.0", "lab/net:1.10.0", "lab/net:1.9.0")
    assert await exported(near, "lab/net:1.9.0", "lab/net:1.10.0", "lab/net:1.0.0") == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
        names = [member.name for member in tar]
    named = [m["annotations"]["org.opencontainers.image.ref.name"] for m in index["manifests"] if "annotations" in m]
    assert named[:3] == ["lab/net:1.0.0", "lab/net:1.9.0", "lab/net:1.10.0"]
    assert len(names) == len(set(names))


async def test_versions_share_their_blobs_in_a_file(near: Lab, far: Lab) -> None:
    weights = b"w" * 50_000
    await push_image(near.depot, "lab/net", "1.0.0", layers=[weights, b"code 1"])
    await push_image(near.depot, "lab/other", "1.0.0", layers=[weights, b"code 2"])
    data = await exported(near, "lab/net:1.0.0", "lab/other:1.0.0")
    assert data.count(weights) == 1
    wanted, kept = await imported(far, data)
    assert len(wanted.lacking[sha256(weights)]) == 2
    assert kept < 2 * len(weights)
    for model in ("lab/net", "lab/other"):
        assert weights in (await content(far.depot, model, "1.0.0")).values()


async def test_what_the_other_side_has_is_left_out_and_missed_where_it_is_not(near: Lab, far: Lab) -> None:
    weights = b"w" * 50_000
    await push_image(near.depot, "lab/net", "1.0.0", layers=[weights, b"code 1"])
    await push_image(near.depot, "lab/net", "1.1.0", layers=[weights, b"code 2"])
    await push_image(near.depot, "lab/other", "1.0.0", layers=[weights, b"code 3"])
    delta = await exported(near, "lab/net:1.1.0", since=["lab/net:1.0.0"])
    assert weights not in delta
    # Another model over there may not have it, though this one has.
    assert weights in await exported(near, "lab/other:1.0.0", since=["lab/net:1.0.0"])
    with pytest.raises(BlobUnknownToManifest, match="leaves out 1 blobs"):
        await imported(far, delta)
    assert await names_in(far) == []
    await imported(far, await exported(near, "lab/net:1.0.0"))
    await imported(far, delta)
    assert weights in (await content(far.depot, "lab/net", "1.1.0")).values()


async def test_other_bytes_under_a_number_stay_and_the_rest_comes(near: Lab, far: Lab) -> None:
    await push_image(near.depot, "lab/net", "1.0.0", layers=[b"ours"])
    await push_image(near.depot, "lab/net", "1.1.0", layers=[b"newer"])
    theirs = await push_image(far.depot, "lab/net", "1.0.0", layers=[b"theirs"])
    wanted, _ = await imported(far, await exported(near, "lab/net:1.0.0", "lab/net:1.1.0"))
    assert [(step.named.version, step.action) for step in wanted.steps] == [("1.0.0", "conflict"), ("1.1.0", "import")]
    stat = await far.depot.stat("lab/net", "1.0.0")
    assert stat is not None
    assert stat.digest == theirs


async def test_blobs_of_another_model_are_never_taken_without_their_bytes(near: Lab, far: Lab) -> None:
    """Whoever knows a digest must not get at its content by importing a manifest that names it."""
    secret = b"secret weights" * 100
    await push_image(near.depot, "lab/net", "1.0.0", layers=[secret])
    await push_image(far.depot, "lab/secret", "1.0.0", layers=[secret])
    data = await exported(near, "lab/net:1.0.0")
    without = without_blob(data, sha256(secret))
    with pytest.raises(BerthError):
        await imported(far, without)
    assert await far.depot.stat("lab/net", "1.0.0") is None
    await imported(far, data)


# -- statements by trusted keys


async def sign(lab: Lab, repository: str, root: str, key: PrivateKey) -> None:
    """As `xumi sign` does: a bundle as referrer, and a classic signature under its tag."""
    stat = await lab.depot.stat(repository, root)
    assert stat is not None
    statement = bundle.sign_statement(attestations.signature_statement(root, None), key)
    subject = Descriptor(stat.media_type, root, stat.size)
    body = bundle.build(statement, subject=subject, predicate_type=attestations.SIGN, created=START)
    for blob in (statement, b"{}"):
        await push_blob(lab.depot, repository, blob)
    await lab.depot.push_manifest(repository, sha256(body), media_type=types.OCI_MANIFEST, body=body)
    payload = classic.payload(root, f"registry.example/{repository}:1.0.0")
    config, image = classic.build(payload, base64.b64encode(key.sign(payload)).decode())
    for blob in (payload, config):
        await push_blob(lab.depot, repository, blob)
    await lab.depot.push_manifest(
        repository, root.replace(":", "-") + ".sig", media_type=types.OCI_MANIFEST, body=image
    )


async def trusting(lab: Lab, project: str, key: PrivateKey) -> None:
    await lab.project(project, {"preset": "strict"})
    async with lab.database.transaction() as conn:
        row = await access.project_by_name(conn, project)
        assert row is not None
        await signatures.trust_key(conn, row.id, "release", key.public.pem, by="max", now=lab.now)


async def reasons(lab: Lab, repository: str, root: str) -> set[str]:
    async with lab.database.transaction() as conn:
        row = await catalog.repository(conn, repository)
        assert row is not None
        return {str(reason["code"]) for reason in (await verdict_of(conn, row.id, root, lab.now)).reasons}


async def promote(lab: Lab, name: str, to: str) -> list[str]:
    [source] = await chosen(lab, name)
    async with lab.database.reading() as conn:
        planned = await promoting.plan(conn, source, to, source.version.version, now=lab.now)
        places = await promoting.places_of(conn, planned)
    documents = await promoting.documents_at(lab.store, lab.places.fetcher, places)
    async with lab.database.transaction() as conn:
        return await promoting.promote(conn, planned, documents=documents, by="dana", now=lab.now)


@pytest.fixture
def key() -> PrivateKey:
    return load_private(generate()[0])


async def test_a_signature_by_a_key_trusted_there_counts_after_an_import(near: Lab, far: Lab, key: PrivateKey) -> None:
    root = await push_image(near.depot, "lab/net", "1.0.0", layers=[b"code"])
    unsigned = await exported(near, "lab/net:1.0.0")
    await sign(near, "lab/net", root, key)
    data = await exported(near, "lab/net:1.0.0")
    await trusting(far, "prod", key)
    await far.project("others", {"preset": "strict"})
    await imported(far, unsigned, project="prod")
    assert "signature.missing" in await reasons(far, "prod/net", root)
    # What was signed later crosses alone: no blob of the version is needed again.
    wanted, kept = await imported(far, data, project="prod")
    assert ([step.action for step in wanted.steps], kept < 5_000) == (["evidence"], True)
    there = await reasons(far, "prod/net", root)
    assert ("signature.missing" in there, "approval.missing" in there) == (False, True)
    await imported(far, data, project="others")
    assert "signature.untrusted" in await reasons(far, "others/net", root)


async def test_a_signature_goes_along_with_a_promotion_and_the_approval_does_not(lab: Lab, key: PrivateKey) -> None:
    await lab.project("team")
    await trusting(lab, "prod", key)
    root = await push_image(lab.depot, "team/net", "1.0.0", layers=[b"code"])
    await lab.decide("team/net", root, "approved")
    assert await promote(lab, "team/net:1.0.0", "prod/net") == []
    assert {"signature.missing", "approval.missing"} <= await reasons(lab, "prod/net", root)
    await sign(lab, "team/net", root, key)
    assert await promote(lab, "team/net:1.0.0", "prod/net") == []
    there = await reasons(lab, "prod/net", root)
    assert ("signature.missing" in there, "approval.missing" in there) == (False, True)
    assert set(await content(lab.depot, "prod/net", "1.0.0")) == set(await content(lab.depot, "team/net", "1.0.0"))


async def test_a_part_that_was_rejected_holds_the_whole_back_from_promotion(lab: Lab) -> None:
    await lab.project("team")
    await lab.project("prod")
    await push_version(lab.depot, "team/net", "1.0.0")
    [source] = await chosen(lab, "team/net:1.0.0")
    part = json.loads(await lab.depot.manifest("team/net", source.version.digest))["manifests"][1]["digest"]
    await lab.decide("team/net", part, "rejected")
    async with lab.database.reading() as conn:
        planned = await promoting.plan(conn, source, "prod/net", "1.0.0", now=lab.now)
    assert (planned.action, planned.reason) == ("refused", f"rita rejected {part} in it in team.")


async def test_a_promotion_is_whole_or_not_at_all(lab: Lab, key: PrivateKey) -> None:
    await lab.project("team")
    await lab.project("prod")
    await push_version(lab.depot, "team/net", "1.0.0")
    [source] = await chosen(lab, "team/net:1.0.0")
    async with lab.database.reading() as conn:
        planned = await promoting.plan(conn, source, "prod/net", "1.0.0", now=lab.now)
        documents = await promoting.documents_at(
            lab.store, lab.places.fetcher, await promoting.places_of(conn, planned)
        )
    await push_image(lab.depot, "prod/net", "1.0.0", layers=[b"meanwhile somebody else"])
    before = await names_in(lab)
    with pytest.raises(VersionTaken):
        async with lab.database.transaction() as conn:
            await promoting.promote(conn, planned, documents=documents, by="dana", now=lab.now)
    assert await names_in(lab) == before


# -- damage


async def names_in(lab: Lab) -> list[str]:
    """Every name and manifest that anybody could ask for."""
    async with lab.database.reading() as conn:
        return list(
            await conn.scalars(
                text("select name from tags union all select digest from repository_manifests order by 1")
            )
        )


def members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def packed(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive of these files in this order, in our form."""
    entries = [archive.Entry(name, len(data), data) for name, data in files]
    return b"".join(piece for piece in archive.segments(entries) if isinstance(piece, bytes))


def without_blob(data: bytes, digest: str) -> bytes:
    return packed((m.name, body) for m, body in members(data) if m.name != archive.name_of(digest))


@pytest.fixture
async def whole(near: Lab) -> bytes:
    await push_image(near.depot, "lab/net", "1.0.0", layers=[b"x" * 3000, b"y" * 700])
    return await exported(near, "lab/net:1.0.0")


async def refused(far: Lab, data: bytes, *, client: Path | None = None) -> None:
    with pytest.raises(ArchiveInvalid):
        await imported(far, data)
    assert await names_in(far) == []
    if client is not None:
        client.write_bytes(data)
        with pytest.raises(ArchiveInvalid):
            open_archive(client)


async def test_a_cut_off_file_is_refused_wherever_it_was_cut(near: Lab, far: Lab, whole: bytes, tmp_path: Path) -> None:
    for length in [0, 1, *range(511, len(whole), 1024), len(whole) - 1]:
        await refused(far, whole[:length], client=tmp_path / "cut.tar")
    await imported(far, whole)
    assert "1.0.0" in await names_in(far)


async def test_no_changed_bit_gets_through(near: Lab, far: Lab, whole: bytes, tmp_path: Path) -> None:
    """Each byte that means something; the rest of a header block is checked by its sum."""
    for place in range(0, len(whole), 173):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        with pytest.raises(ArchiveInvalid):
            await imported(far, bytes(damaged))
        assert await names_in(far) == [], place
        (tmp_path / "bit.tar").write_bytes(damaged)
        with pytest.raises(ArchiveInvalid):
            open_archive(tmp_path / "bit.tar").verify()


async def test_another_order_or_other_files_are_refused(near: Lab, far: Lab, whole: bytes, tmp_path: Path) -> None:
    files = [(member.name, body) for member, body in members(whole)]
    layout, index, manifest, *blobs = files
    client = tmp_path / "other.tar"
    await refused(far, packed([index, layout, manifest, *blobs]), client=client)
    await refused(far, packed([layout, manifest, index, *blobs]), client=client)
    await refused(far, packed([layout, index, *blobs, manifest]), client=client)
    await refused(far, packed([layout, index, manifest, *blobs, blobs[0]]), client=client)
    await refused(far, packed([layout, index, manifest, manifest, *blobs]), client=client)
    stranger = b"stranger"
    await refused(far, packed([*files, (archive.name_of(sha256(stranger)), stranger)]), client=client)
    await refused(far, packed([layout, index, manifest, *blobs]) + b"more", client=None)
    await refused(far, packed([layout, ("index.json", b"{}"), manifest, *blobs]), client=client)
    assert packed(files) == whole
    await imported(far, whole)


async def test_a_blob_larger_than_its_manifest_says_is_refused_before_it_is_read(
    near: Lab, far: Lab, whole: bytes
) -> None:
    files = [(member.name, body) for member, body in members(whole)]
    bomb = packed([*files[:-1], (files[-1][0], files[-1][1] + b"z" * 10_000_000)])
    incoming = Incoming(pieces(bomb))
    contents, first = await incoming.head()
    async with far.database.reading() as conn:
        wanted = await importing.plan(conn, contents, str)
    with pytest.raises(ArchiveInvalid):
        await importing.receive(far.depot, wanted, incoming, first)
    assert incoming.received < len(whole) + 5_000
    assert await names_in(far) == []


async def test_bytes_that_are_here_already_are_compared_too(near: Lab, far: Lab, whole: bytes) -> None:
    await imported(far, whole)
    damaged = bytearray(whole)
    damaged[damaged.index(b"x" * 100)] ^= 1
    with pytest.raises(ArchiveInvalid):
        await imported(far, bytes(damaged))


async def test_what_arrived_before_a_break_is_not_needed_again(near: Lab, far: Lab, whole: bytes) -> None:
    with pytest.raises(ArchiveInvalid):
        await imported(far, whole[:-1500])
    wanted, kept = await imported(far, whole)
    assert 0 < kept < 3000
    assert [step.action for step in wanted.steps] == ["import"]
