"""What vendors do that a registry should not, each as documented: refusals, limits, credentials that end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from berth.adapters.registries.acr import AcrRegistry, azure_identity, expiry_of
from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import Limited, Measured, Registry, RegistrySettings, Retaining, Scanning
from berth.adapters.registries.ecr import EcrRegistry, place_of
from berth.adapters.registries.ecr_lifecycle import EcrRetention
from berth.adapters.registries.google import GoogleRegistry
from berth.adapters.registries.probe import probe_registry
from berth.errors import (
    BerthError,
    Conflict,
    InvalidInput,
    NameInvalid,
    RemoteAuthError,
    RemoteError,
    SetupError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from berth.oci.descriptor import Descriptor
from berth.sync.publishing.withdraw import untag
from tests.contracts.registries import vendor_doubles as vendors
from tests.contracts.registries.oci_double import OciDouble, Quirks, error
from tests.unit.wire.conftest import IMPATIENT
from tests.unit.wire.peer import Answer, Asked, running

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
REPOSITORY = "lab/demo"


@asynccontextmanager
async def opened(double: OciDouble, kind: str, **options: Any) -> AsyncIterator[Registry]:
    async with running(double) as peer:
        filled = {k: v.replace("{url}", peer.url) if isinstance(v, str) else v for k, v in options.items()}
        settings = RegistrySettings("test", kind, peer.url, vendors.USER, vendors.PASSWORD, filled)
        registry = Registries(retry=IMPATIENT).open(settings)
        yield registry
        await registry.close()


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


class Again:
    """Bytes that can be read as often as needed."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return chunks(self.data)


async def push(registry: Registry, tag: str = "1.0.0", **extra: object) -> str:
    await registry.push_blob(REPOSITORY, vendors.sha256(b"{}"), size=2, chunks=chunks(b"{}"))
    config = {"mediaType": EMPTY, "digest": vendors.sha256(b"{}"), "size": 2}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [config], **extra})
    return await registry.push_manifest(REPOSITORY, tag, media_type=MANIFEST, body=body.encode())


async def refer(registry: Registry, digest: str) -> str:
    subject = {"mediaType": MANIFEST, "digest": digest, "size": 1}
    return await push(registry, "a-referrer", subject=subject, artifactType="application/spdx+json")


# ---- Distribution


async def test_where_deletion_is_off_the_tag_is_left_untouched() -> None:
    """The way around a missing tag deletion overwrites the tag: it must not begin where it cannot end."""
    double = OciDouble(Quirks(basic=vendors.PAIR, tag_delete=405, content_delete=405))
    async with opened(double, "distribution") as registry:
        digest = await push(registry)
        with pytest.raises(Unsupported):
            await registry.delete_tag(REPOSITORY, "1.0.0")
        found = await registry.stat(REPOSITORY, "1.0.0")
        assert found is not None
        assert found.digest == digest


@pytest.mark.parametrize("restartable", [False, True])
async def test_a_broken_upload_is_repeated_only_from_a_source_that_can_be_read_again(restartable: bool) -> None:
    class Flapping(OciDouble):
        broken = False

        def __call__(self, asked: Asked) -> Answer:
            if asked.method == "PUT" and "/blobs/uploads/" in asked.path and not self.broken:
                self.broken = True
                return Answer(503)
            return super().__call__(asked)

    data = b"x" * (3 << 20)
    async with opened(Flapping(Quirks(basic=vendors.PAIR)), "distribution") as registry:
        source = Again(data) if restartable else chunks(data)
        pushed = registry.push_blob(REPOSITORY, vendors.sha256(data), size=len(data), chunks=source)
        if not restartable:
            with pytest.raises(Unavailable):
                await pushed
            assert await registry.blob_size(REPOSITORY, vendors.sha256(data)) is None
            return
        await pushed
        assert await registry.blob_size(REPOSITORY, vendors.sha256(data)) == len(data)


# ---- Azure


async def test_azure_exchanges_the_identity_once_and_again_before_it_ends() -> None:
    asked_entra = []

    async def entra() -> str:
        asked_entra.append(1)
        return "entra"

    for exp, exchanges in ((4_000_000_000, 1), (1_000_000_000, 2)):
        double = vendors.Acr(refresh=vendors.jwt(exp=exp))
        async with running(double) as peer:
            settings = RegistrySettings("azure", "acr", peer.url, options={"tenant": "t-1"})
            registry = AcrRegistry(settings, retry=IMPATIENT, entra=entra)
            await push(registry)
            assert double.exchanges[0]["service"] == [peer.url.removeprefix("http://")]
            assert double.exchanges[0]["tenant"] == ["t-1"]
            assert (len(double.exchanges) == 1) is (exchanges == 1)
            await registry.close()
    assert asked_entra


async def test_azure_tags_go_at_the_data_plane_and_content_stays() -> None:
    double = vendors.Acr()
    async with opened(double, "acr") as registry:
        digest = await push(registry)
        assert await registry.delete_tag(REPOSITORY, "1.0.0")
        assert await registry.stat(REPOSITORY, digest) is not None
    assert "/acr/v1/lab/demo/_tags/1.0.0" in [a.path for a in double.asked if a.method == "DELETE"]


def test_a_token_that_does_not_say_when_it_ends_counts_as_ended() -> None:
    assert expiry_of(vendors.jwt(exp=5)) == 5.0
    for odd in ("", "a.b", "a.b.c", vendors.jwt(sub="x")):
        assert expiry_of(odd) > 1_700_000_000


async def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("berth.adapters.registries.sdk.import_module", absent)
    with pytest.raises(SetupError, match=r"berth\[azure\]"):
        await azure_identity()


# ---- AWS


@asynccontextmanager
async def ecr(double: vendors.Ecr) -> AsyncIterator[EcrRegistry]:
    pytest.importorskip("boto3")
    async with running(double) as peer:
        options = {"account": "123456789012", "region": "eu-central-1"}
        settings = RegistrySettings("aws", "ecr", peer.url, options=options)
        registry = EcrRegistry(settings, retry=IMPATIENT, api=lambda _: double.client())
        yield registry
        await registry.close()


async def test_aws_repositories_are_made_once_and_the_password_is_kept() -> None:
    double = vendors.Ecr()
    async with ecr(double) as registry:
        await push(registry)
        await push(registry, "1.0.1")
    assert double.made == {"lab/demo"}
    assert (double.calls.count("CreateRepository"), double.calls.count("GetAuthorizationToken")) == (1, 1)


async def test_aws_gets_a_new_password_in_the_middle_of_the_work() -> None:
    double = vendors.Ecr()
    async with ecr(double) as registry:
        await push(registry)
        double.quirks.basic = "AWS:the next one"
        await push(registry, "1.0.1")
    assert double.calls.count("GetAuthorizationToken") == 2


async def test_aws_pushing_the_same_bytes_under_an_immutable_tag_is_no_failure() -> None:
    double = vendors.Ecr()
    double.immutable = True
    async with ecr(double) as registry:
        first = await push(registry)
        assert await push(registry) == first
        with pytest.raises(RemoteError, match="immutable"):
            await push(registry, annotations={"other": "bytes"})


async def test_aws_removes_the_image_with_its_last_tag_and_says_so() -> None:
    async with ecr(vendors.Ecr()) as registry:
        digest = await push(registry)
        assert registry.capabilities.last_tag_takes_content
        assert await registry.delete_tag(REPOSITORY, "1.0.0")
        assert await registry.stat(REPOSITORY, digest) is None
        assert not await registry.delete_manifest("lab/never", digest)


async def test_aws_scans() -> None:
    double = vendors.Ecr()
    async with ecr(double) as registry:
        assert isinstance(registry, Scanning)
        digest = await push(registry)
        assert (await registry.scan_state(REPOSITORY, digest)).state == "none"
        assert await registry.start_scan(REPOSITORY, digest)
        assert not await registry.start_scan(REPOSITORY, digest)
        double.scans[digest] = "COMPLETE"
        done = await registry.scan_state(REPOSITORY, digest)
        assert (done.state, done.severity, done.counts) == ("done", "HIGH", {"high": 2, "low": 1})
        double.scans[digest] = "UNSUPPORTED_IMAGE"
        assert (await registry.scan_state(REPOSITORY, digest)).state == "unsupported"


async def test_aws_usage_counts_images_by_repository_and_an_index_once() -> None:
    double = vendors.Ecr()
    async with ecr(double) as registry:
        assert isinstance(registry, Measured)
        one = await push(registry)
        await push(registry, "1.0.1", annotations={"another": "image"})
        index = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [{"mediaType": MANIFEST, "digest": one, "size": 1}],
            }
        ).encode()
        await registry.push_manifest(REPOSITORY, "1.0.2", media_type=INDEX, body=index)
        await registry.push_blob("other/demo", vendors.sha256(b"{}"), size=2, chunks=chunks(b"{}"))
        used = await registry.usage("lab")
        assert (await registry.usage("nobody")).repositories == []
    # Two images of an empty config and the same layer, 2 bytes each; pages of AWS hold two images here.
    assert (used.used, used.limit) == (8, None)
    assert [(u.repository, u.used, u.images, u.tags) for u in used.repositories] == [(REPOSITORY, 8, 3, 3)]
    assert double.calls.count("DescribeImages") == 2


async def versions(registry: Registry, *tags: str) -> None:
    for tag in tags:
        await push(registry, tag, annotations={"tag": tag})


async def test_aws_is_asked_what_a_retention_removes_before_it_is_set() -> None:
    double = vendors.Ecr()
    async with ecr(double) as registry:
        assert isinstance(registry, Retaining)
        await versions(registry, "1.0.0", "sha256-abc.sig", "1.1.0", "1.2.0-rc.1", "latest")
        kept = await registry.retained("lab")
        assert [(k.place, k.keep_newest, k.schedule, list(k.rules)) for k in kept] == [("lab/demo", None, None, [])]
        dry = await registry.retain("lab", 2, schedule=None, dry_run=True)
        assert dry.changes == ["lab/demo: kept: everything → 2"]
        assert dry.expiring is not None
        assert [(e.place, e.count, list(e.tags)) for e in dry.expiring] == [("lab/demo", 1, ["1.0.0"])]
        assert double.policies == {}, "a signature is no version, and a dry run sets nothing"
        done = await registry.retain("lab", 2, schedule=None, dry_run=False)
        assert done == dry
        assert double.calls.index("StartLifecyclePolicyPreview") < double.calls.index("PutLifecyclePolicy")
        assert [(k.keep_newest, k.schedule) for k in await registry.retained("lab")] == [(2, "within 24 hours")]
        again = await registry.retain("lab", 2, schedule=None, dry_run=False)
        assert (again.changes, double.calls.count("PutLifecyclePolicy")) == ([], 1)
        with pytest.raises(InvalidInput, match="24 hours"):
            await registry.retain("lab", 2, schedule="1d", dry_run=True)


async def test_aws_rules_of_others_stay_and_one_for_any_tag_stays_last() -> None:
    old = {
        "rules": [
            {
                "rulePriority": 1,
                "description": "theirs",
                "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 500},
                "action": {"type": "expire"},
            }
        ]
    }
    double = vendors.Ecr()
    async with ecr(double) as registry:
        await versions(registry, "1.0.0")
        double.policies["lab/demo"] = json.dumps(old)
        assert (await registry.retain("lab", 3, schedule=None, dry_run=False)).changes == [
            "lab/demo: kept: by other rules → 3"
        ]
        assert (await registry.retain("lab", 4, schedule=None, dry_run=False)).changes == ["lab/demo: kept: 3 → 4"]
        [kept] = await registry.retained("lab")
    assert [rule["description"] for rule in json.loads(double.policies["lab/demo"])["rules"]] == [
        "berth: the newest versions stay",
        "theirs",
    ]
    assert list(kept.rules) == ["expire tagged *.*.*: imageCountMoreThan 4", "expire any: imageCountMoreThan 500"]


async def test_aws_previews_take_their_time_and_only_one_at_a_time() -> None:
    double = vendors.Ecr()

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    async with ecr(double) as registry:
        await versions(registry, "1.0.0")
        retention = EcrRetention(registry._call, patience=0.0, sleep=no_sleep)
        double.looks = 3
        changes, [late] = await retention.retain(["lab/demo"], 1, dry_run=True)
        assert (late.count, changes) == (None, ["lab/demo: kept: everything → 1"])
        with pytest.raises(Conflict, match="another policy"):
            await retention.retain(["lab/demo"], 2, dry_run=True)
        patient = EcrRetention(registry._call, sleep=no_sleep)
        _, [known] = await patient.retain(["lab/demo"], 1, dry_run=True)
        assert known.count == 0
        double.policies["lab/demo"] = "no json".ljust(100)
        with pytest.raises(RemoteError, match="unreadable"):
            await registry.retained("lab")


async def test_aws_refusals_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    double = vendors.Ecr()
    monkeypatch.setattr(double, "_GetAuthorizationToken", lambda _: vendors.failure("AccessDeniedException"))
    async with ecr(double) as registry:
        with pytest.raises(RemoteAuthError, match="AccessDeniedException"):
            await registry.tags(REPOSITORY)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", ("123456789012", "eu-west-1")),
        ("https://123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", ("123456789012", "us-east-1")),
        ("https://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", ("123456789012", "cn-north-1")),
        ("https://public.ecr.aws", None),
        ("https://12345.dkr.ecr.eu-west-1.amazonaws.com", None),
        ("https://123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", None),
    ],
)
def test_aws_addresses_say_account_and_region(url: str, expected: tuple[str, str] | None) -> None:
    settings = RegistrySettings("aws", "ecr", url)
    if expected is None:
        with pytest.raises(InvalidInput):
            place_of(settings)
    else:
        assert place_of(settings) == expected


# ---- Google


async def test_google_content_goes_after_its_tags() -> None:
    async def token(refused: bool) -> str:
        return "ya29.token"

    double = vendors.Google()
    async with running(double) as peer:
        options = {"prefix": "acme/models", "location": "europe", "api_url": peer.url}
        registry = GoogleRegistry(RegistrySettings("g", "google", peer.url, options=options), token=token)
        digest = await push(registry)
        assert await registry.delete_manifest(REPOSITORY, digest)
        await registry.close()
    deleted = [a.path.rpartition("/")[2] for a in double.asked if a.method == "DELETE" and "authorization" in a.headers]
    assert deleted[-2:] == ["1.0.0", digest]


async def test_google_asks_for_a_new_token_when_one_was_refused() -> None:
    told = []

    async def token(refused: bool) -> str:
        told.append(refused)
        return "ya29.token" if True in told else "ended"

    async with running(vendors.Google()) as peer:
        options = {"prefix": "acme/models", "api_url": peer.url}
        registry = GoogleRegistry(RegistrySettings("g", "google", peer.url, options=options), token=token)
        with pytest.raises(RemoteAuthError):  # the token service refuses the ended one
            await registry.tags(REPOSITORY)
        told.append(True)
        assert list((await registry.tags(REPOSITORY)).items) == []
        await registry.close()


async def test_google_with_a_key_file_lists_nothing_and_says_why() -> None:
    async with opened(vendors.Google(), "google", prefix="acme/models") as registry:
        with pytest.raises(Unsupported):
            await registry.repositories()


# ---- GitLab, GitHub, Docker Hub, Quay


async def test_gitlab_referrers_live_under_the_fallback_tag() -> None:
    double = vendors.GitLab()
    async with opened(double, "gitlab", prefix=double.PROJECT, api_url="{url}") as registry:
        digest = await push(registry)
        referrer = await refer(registry, digest)
        assert digest.replace(":", "-") in double.repositories["group/project/lab/demo"].tags
        assert [d.digest for d in await registry.referrers(REPOSITORY, digest)] == [referrer]


async def test_gitlab_usage_tells_sizes_where_gitlab_knows_them() -> None:
    double = vendors.GitLab()
    async with opened(double, "gitlab", prefix=double.PROJECT, api_url="{url}") as registry:
        assert isinstance(registry, Measured)
        await versions(registry, "1.0.0", "1.1.0")
        await registry.push_blob("other/demo", vendors.sha256(b"abc"), size=3, chunks=chunks(b"abc"))
        used = await registry.usage("lab")
        assert (used.used, used.limit) == (2, None)
        assert [(u.repository, u.used, u.images, u.tags) for u in used.repositories] == [(REPOSITORY, 2, None, 2)]
        double.metadata = False
        unknown = await registry.usage("lab")
        assert (unknown.used, [(u.used, u.tags) for u in unknown.repositories]) == (None, [(None, 2)])
        assert (await registry.usage("nobody")).repositories == []


async def test_gitlab_keeps_versions_by_its_clean_up_policy_and_never_removes_referrers() -> None:
    double = vendors.GitLab()
    async with opened(double, "gitlab", prefix=double.PROJECT, api_url="{url}") as registry:
        assert isinstance(registry, Retaining)
        [off] = await registry.retained("lab")
        assert (off.place, off.keep_newest, off.schedule) == ("group/project", None, None)
        before = dict(double.policy)
        dry = await registry.retain("lab", 25, schedule="7d", dry_run=True)
        assert double.policy == before
        assert "group/project: keep_n: 10 → 25" in dry.changes
        assert dry.expiring is None, "GitLab has no preview"
        done = await registry.retain("lab", 25, schedule="7d", dry_run=False)
        assert done == dry
        assert (double.policy["enabled"], double.policy["older_than"]) == (True, "90d")
        # Anchored on both sides by GitLab.
        removable = re.compile(double.policy["name_regex"])
        assert removable.fullmatch("1.10.0-rc.1_cpu")
        assert not removable.fullmatch("sha256-" + "a" * 64)
        assert not removable.fullmatch("withdrawn-1.0.0")
        assert (await registry.retain("lab", 25, schedule=None, dry_run=False)).changes == [], "the schedule stays"
        [on] = await registry.retained("lab")
        assert (on.keep_newest, on.schedule) == (25, "7d")
        assert "older_than: 90d" in on.rules
        for count, schedule in ((7, None), (25, "2d")):
            with pytest.raises(InvalidInput) as refused:
                await registry.retain("lab", count, schedule=schedule, dry_run=False)
            assert refused.value.hint


async def test_github_gets_large_layers_in_one_piece() -> None:
    """A PATCH of more than 4 MiB is answered 416 there."""
    double = vendors.Ghcr()
    data = b"w" * (5 << 20)
    async with opened(double, "ghcr", prefix="acme", api_url="{url}") as registry:
        await registry.push_blob(REPOSITORY, vendors.sha256(data), size=len(data), chunks=chunks(data))
        assert await registry.blob_size(REPOSITORY, vendors.sha256(data)) == len(data)
        with pytest.raises(TooLarge):
            await registry.push_blob(REPOSITORY, "sha256:" + "a" * 64, size=10 * 1000**3 + 1, chunks=chunks(b""))
    assert "PATCH" not in {asked.method for asked in double.asked}


async def test_github_owners_are_orgs_or_users() -> None:
    for owner_type, good in (("users", True), ("teams", False)):
        settings = RegistrySettings("g", "ghcr", "https://ghcr.io", options={"owner_type": owner_type})
        if good:
            Registries().check(settings)
        else:
            with pytest.raises(InvalidInput):
                Registries().check(settings)


async def test_docker_hub_is_asked_again_after_429_and_checked_by_head() -> None:
    double = vendors.Hub(busy=2)
    async with opened(double, "hub", api_url="{url}/hub") as registry:
        digest = await push(registry)
        assert await registry.stat(REPOSITORY, "1.0.0") is not None
        gets = [a for a in double.asked if a.method == "GET" and "/manifests/" in a.path]
        assert gets == []
        assert await registry.manifest(REPOSITORY, digest)


async def test_docker_hub_takes_two_components_only() -> None:
    async with opened(vendors.Hub(), "hub", prefix="acme", api_url="{url}/hub") as registry:
        with pytest.raises(NameInvalid, match="exactly 2"):
            await registry.tags(REPOSITORY)


async def test_quay_is_never_asked_for_delete_and_gets_no_fallback_tags() -> None:
    double = vendors.quay()
    async with opened(double, "quay") as registry:
        digest = await push(registry)
        referrer = await refer(registry, digest)
        assert [d.digest for d in await registry.referrers(REPOSITORY, digest)] == [referrer]
        assert sorted((await registry.tags(REPOSITORY)).items) == ["1.0.0", "a-referrer"]
        assert await registry.referrers(REPOSITORY, "sha256:" + "a" * 64) == []
        assert await registry.delete_tag(REPOSITORY, "1.0.0")
    assert double.scopes
    assert not any("delete" in scope for scope in double.scopes)


async def test_a_locked_tag_of_azure_stays_and_says_why() -> None:
    double = vendors.Acr()
    async with opened(double, "acr") as registry:
        await push(registry)
        double.locked.add("1.0.0")
        with pytest.raises(Unsupported, match="disallowed"):
            await registry.delete_tag(REPOSITORY, "1.0.0")
        double.locked.clear()
        assert await registry.delete_tag(REPOSITORY, "1.0.0")


async def test_a_deploy_token_of_gitlab_pushes_and_is_refused_where_it_deletes() -> None:
    double = vendors.GitLab(deploys_only=True)
    async with opened(double, "gitlab", prefix=double.PROJECT, api_url="{url}") as registry:
        digest = await push(registry)
        with pytest.raises(RemoteAuthError):
            await registry.delete_tag(REPOSITORY, "1.0.0")
        found = await registry.stat(REPOSITORY, "1.0.0")
        assert found is not None
        assert found.digest == digest


async def test_aws_gets_no_chunks_and_its_images_outlive_an_untagging() -> None:
    """PATCH is answered 201 there and loses count; batch_delete_image of the last tag deletes the image."""
    double = vendors.Ecr()
    async with ecr(double) as registry:
        data = b"w" * (5 << 20)
        await registry.push_blob(REPOSITORY, vendors.sha256(data), size=len(data), chunks=Again(data))
        digest = await push(registry)
        found = await registry.stat(REPOSITORY, "1.0.0")
        assert found is not None
        note = await untag(registry, REPOSITORY, "1.0.0", found)
        assert note is not None
        assert await registry.stat(REPOSITORY, "1.0.0") is None
        assert await registry.stat(REPOSITORY, digest) is not None
        assert list((await registry.tags(REPOSITORY)).items) == ["withdrawn-1.0.0"]
    assert "PATCH" not in {asked.method for asked in double.asked}


# ---- credentials that end while bytes move


async def long_copy(registry: Registry) -> None:
    for number in range(6):
        data = bytes([number]) * 1000
        await registry.push_blob(REPOSITORY, vendors.sha256(data), size=len(data), chunks=Again(data))
        assert await registry.blob_size(REPOSITORY, vendors.sha256(data)) == 1000
    config = Again(b"{}")
    await registry.push_blob(REPOSITORY, vendors.sha256(b"{}"), size=2, chunks=config)
    digest = await push(registry)
    assert (await registry.stat(REPOSITORY, "1.0.0")) is not None
    assert await registry.manifest(REPOSITORY, digest)


@pytest.mark.parametrize(
    ("kind", "options", "make"),
    [
        ("acr", {}, vendors.Acr),
        ("gitlab", {"prefix": "group/project", "api_url": "{url}"}, vendors.GitLab),
        ("ghcr", {"prefix": "acme", "api_url": "{url}"}, vendors.Ghcr),
        ("hub", {"api_url": "{url}/hub"}, vendors.Hub),
        ("quay", {}, vendors.quay),
        ("distribution", {}, lambda: OciDouble(Quirks(bearer=vendors.PAIR))),
    ],
)
@pytest.mark.parametrize("good_for", [1, 2, 3])
async def test_a_token_that_ends_in_the_middle_of_a_copy_is_renewed(
    kind: str, options: dict[str, Any], make: Callable[[], OciDouble], good_for: int
) -> None:
    """Between any two requests, before a body and after it."""
    double = make()
    double.quirks.token_requests = good_for
    async with opened(double, kind, **options) as registry:
        await long_copy(registry)
    assert double.issued > 5


async def test_azures_refresh_token_is_exchanged_anew_before_it_ends_in_the_middle_of_a_copy() -> None:
    async def entra() -> str:
        return "entra"

    double = vendors.Acr(refresh=vendors.jwt(exp=1_000_000_000))
    double.quirks.token_requests = 2
    async with running(double) as peer:
        registry = AcrRegistry(RegistrySettings("azure", "acr", peer.url), retry=IMPATIENT, entra=entra)
        await long_copy(registry)
        await registry.close()
    assert len(double.exchanges) > 5


async def test_awss_password_ends_in_the_middle_of_a_copy_and_another_is_asked_for() -> None:
    double = vendors.Ecr()
    double.password_requests = 7
    async with ecr(double) as registry:
        await long_copy(registry)
    assert double.calls.count("GetAuthorizationToken") > 2


async def test_googles_token_changes_in_the_middle_of_a_copy() -> None:
    """The library gives another one when the first is about to end; the registry's own tokens end sooner."""
    double, asked = vendors.Google(), 0

    async def token(refused: bool) -> str:
        nonlocal asked
        asked += 1
        current = f"ya29.{asked // 5}"
        double.quirks.bearer = f"oauth2accesstoken:{current}"
        return current

    double.quirks.token_requests = 2
    async with running(double) as peer:
        options = {"prefix": "acme/models", "location": "europe", "api_url": peer.url}
        settings = RegistrySettings("g", "google", peer.url, options=options)
        registry = GoogleRegistry(settings, retry=IMPATIENT, token=token)
        await long_copy(registry)
        await registry.close()
    assert asked > 10
    assert double.issued > 5


# ---- what holds for all


@pytest.mark.parametrize(
    ("kind", "options", "make", "expected"),
    [
        ("quay", {}, vendors.quay, {"referrers": True, "oci_subject": False, "tag_delete": True}),
        ("zot", {}, vendors.zot, {"referrers": True, "oci_subject": True, "content_delete": True, "mount": True}),
        (
            "ghcr",
            {"prefix": "acme", "api_url": "{url}"},
            vendors.Ghcr,
            {"referrers": False, "tag_delete": False, "content_delete": True},
        ),
        ("hub", {"api_url": "{url}/hub"}, vendors.Hub, {"referrers": False, "content_delete": False}),
    ],
)
async def test_a_probe_that_writes_finds_the_quirks(
    kind: str, options: dict[str, Any], make: Callable[[], OciDouble], expected: dict[str, bool]
) -> None:
    double = make()
    async with running(double) as peer:
        filled = {k: v.replace("{url}", peer.url) for k, v in options.items()}
        settings = RegistrySettings("test", kind, peer.url, vendors.USER, vendors.PASSWORD, filled)
        found = await Registries(retry=IMPATIENT).probe(settings, repository="lab/probe")
    assert {key: getattr(found, key) for key in expected} == expected
    # None of these doubles takes a PATCH.
    assert not found.chunked_upload
    if found.content_delete:
        assert [r.manifests for n, r in double.repositories.items() if n.endswith("lab/probe")] == [{}]


async def test_rate_limits_are_noted() -> None:
    double = vendors.Hub()

    def limited(asked: Asked) -> Answer:
        answer = double(asked)
        headers = {"ratelimit-remaining": "98;w=21600"} if "/manifests/" in asked.path else {}
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    async with running(limited) as peer:
        settings = RegistrySettings(
            "h", "hub", peer.url, vendors.USER, vendors.PASSWORD, {"api_url": f"{peer.url}/hub"}
        )
        found = await Registries(retry=IMPATIENT).probe(settings)
    assert "ratelimit-remaining: 98;w=21600" in found.notes
    assert (found.rate_remaining, found.rate_window) == (98, 21600)


@pytest.mark.parametrize("kind", ["distribution", "harbor", "acr", "quay", "zot", "berth"])
async def test_sizes_are_checked_before_a_byte_moves(kind: str) -> None:
    registry = Registries().open(RegistrySettings("t", kind, "https://registry.example"))
    assert isinstance(registry, Limited)
    big = Descriptor(MANIFEST, "sha256:" + "a" * 64, 4 * 2**20 + 1)
    if kind != "quay":
        with pytest.raises(TooLarge):
            registry.check_content(REPOSITORY, "1.0.0", [big])
    with pytest.raises(NameInvalid):
        registry.check_content("Lab/demo", None, [])
    registry.check_content(REPOSITORY, "1.0.0", [Descriptor(EMPTY, "sha256:" + "a" * 64, 2)])
    await registry.close()


async def test_wrong_credentials_are_one_clear_error() -> None:
    for kind, double in (("zot", vendors.zot()), ("quay", vendors.quay())):
        async with running(double) as peer:
            settings = RegistrySettings("t", kind, peer.url, "robot", "wrong")
            registry = Registries(retry=IMPATIENT).open(settings)
            with pytest.raises(RemoteAuthError) as refused:
                await registry.tags(REPOSITORY)
            assert "wrong" not in str(refused.value.detail)
            await registry.close()


async def test_a_server_that_answers_nonsense_is_a_remote_error() -> None:
    def nonsense(asked: Asked) -> Answer:
        return Answer(200, b"<html>") if asked.method == "GET" else error(500, "UNKNOWN")

    async with running(nonsense) as peer:
        registry = Registries(retry=IMPATIENT).open(RegistrySettings("t", "distribution", peer.url))
        for call in (registry.repositories(), registry.tags(REPOSITORY)):
            with pytest.raises(RemoteError):
                await call
        with pytest.raises(BerthError):
            await registry.push_blob(REPOSITORY, vendors.sha256(b"x"), size=1, chunks=chunks(b"x"))
        await registry.close()


async def test_a_list_that_comes_whole_is_asked_for_once() -> None:
    """Distribution 2.8 knows neither `n` nor `last` for tags."""
    asked_lists = []

    def whole(asked: Asked) -> Answer:
        asked_lists.append(asked.target)
        return Answer(200, json.dumps({"tags": [f"t{number}" for number in range(7)]}).encode())

    async with running(whole) as peer:
        registry = Registries(retry=IMPATIENT).open(RegistrySettings("t", "distribution", peer.url))
        for _ in range(2):
            seen: list[str] = []
            after: str | None = None
            while True:
                page = await registry.tags(REPOSITORY, after=after, limit=3)
                seen += page.items
                after = page.after
                if after is None:
                    break
            assert seen == [f"t{number}" for number in range(7)]
        await registry.close()
    assert len(asked_lists) == 2


@pytest.mark.parametrize("probed", [False, True])
async def test_after_a_probe_only_the_fallback_tag_is_asked_for(probed: bool) -> None:
    double = OciDouble(Quirks(referrers=False, subject=False))
    async with running(double) as peer:
        known = {"referrers": False} if probed else None
        settings = RegistrySettings("t", "distribution", peer.url, capabilities=known)
        registry = Registries(retry=IMPATIENT).open(settings)
        digest = await push(registry)
        referrer = await refer(registry, digest)
        assert [d.digest for d in await registry.referrers(REPOSITORY, digest)] == [referrer]
        await registry.close()
    assert any("/referrers/" in asked.path for asked in double.asked) is not probed


async def test_a_probe_makes_the_repository_where_a_push_does_not() -> None:
    pytest.importorskip("boto3")
    double = vendors.Ecr()
    async with ecr(double) as registry:
        found = await probe_registry(registry, repository="lab/probe")
    assert "lab/probe" in double.made
    assert (found.referrers, found.oci_subject, found.mount) == (True, True, False)


async def test_a_second_probe_asks_again_what_the_first_could_not_see() -> None:
    double = OciDouble(Quirks(catalog=False))
    async with running(double) as peer:
        settings = RegistrySettings("t", "zot", peer.url)
        first = await Registries(retry=IMPATIENT).probe(settings)
        assert not first.list_repositories
        double.quirks.catalog = True
        again = RegistrySettings("t", "zot", peer.url, capabilities=first.to_json())
        assert (await Registries(retry=IMPATIENT).probe(again)).list_repositories
