"""Names: what goes out comes back, nothing else comes in, and what does not fit is refused before a byte moves."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.adapters.registries.build import Registries
from berth.adapters.registries.contract import RegistrySettings
from berth.adapters.registries.names import LIMITS, RULES, Names, tag_of, version_of
from berth.errors import BerthError, NameInvalid, TooLarge
from berth.oci.descriptor import Descriptor

PART = st.from_regex(r"[a-z0-9]{1,8}(?:[._-][a-z0-9]{1,8}){0,2}", fullmatch=True)
PREFIX = {
    "distribution": "team/models",
    "berth": "",
    "harbor": "ml",
    "acr": "",
    "ecr": "models",
    "google": "acme-prod/models",
    "gitlab": "group/sub/project",
    "ghcr": "acme",
    "hub": "",
    "quay": "acme",
    "zot": "",
}


@given(st.sampled_from(sorted(RULES)), PART, PART)
def test_a_name_comes_back_as_it_went_out(kind: str, project: str, model: str) -> None:
    names = Names(RULES[kind], PREFIX[kind])
    repository = f"{project}/{model}"
    assert names.inward(names.outward(repository)) == repository


@given(PART, PART, PART, PART)
def test_two_models_never_share_a_flat_name(a: str, b: str, c: str, d: str) -> None:
    flat = Names(RULES["hub"], "acme", flat=True)
    assert (flat.outward(f"{a}/{b}") == flat.outward(f"{c}/{d}")) is ((a, b) == (c, d))
    assert flat.inward(flat.outward(f"{a}/{b}")) == f"{a}/{b}"


@given(st.sampled_from(sorted(RULES)), st.text(alphabet="abz09._-/", max_size=40))
def test_what_reads_as_ours_is_written_the_same(kind: str, name: str) -> None:
    names = Names(RULES[kind], PREFIX[kind])
    inward = names.inward(name)
    assert inward is None or names.outward(inward) == name


@given(st.sampled_from(sorted(set(RULES) - {"berth"})), PART, PART)
def test_flat_names_come_back_too(kind: str, project: str, model: str) -> None:
    prefix = "acme" if kind == "hub" else PREFIX[kind] or "acme"
    names = Names(RULES[kind], prefix, flat=True)
    outward = names.outward(f"{project}/{model}")
    assert names.inward(outward) == f"{project}/{model}"
    assert outward.count("/") == prefix.count("/") + 1


@given(st.sampled_from(sorted(RULES)), PART, PART, PART, PART)
def test_two_models_never_share_a_name(kind: str, a: str, b: str, c: str, d: str) -> None:
    names = Names(RULES[kind], PREFIX[kind])
    assert (names.outward(f"{a}/{b}") == names.outward(f"{c}/{d}")) is ((a, b) == (c, d))


# What the vendors' own pages ask of a whole name, written down apart from names.py (registries.md §1, §3, §4).
SHAPES = {
    "harbor": r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/.+)+",
    "ecr": r"[a-z](?=.{1,255}$).*",
    "quay": r"[a-z0-9][.a-z0-9_-]*(?:/[a-z0-9][.a-z0-9_-]*)*",
    "gitlab": r"group/sub/project/[^/]+/[^/]+",
    "google": r"acme-prod/models/.+",
    "hub": r"[^/]+/[^/]+",
    "berth": r"[^/]+/[^/]+",
}
SPECIFICATION = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"


@given(st.sampled_from(sorted(RULES)), st.booleans(), PART, PART)
def test_what_goes_out_is_a_name_there(kind: str, flat: bool, project: str, model: str) -> None:
    flat = flat and kind not in ("berth", "gitlab")
    names = Names(RULES[kind], "acme" if kind == "hub" and flat else PREFIX[kind], flat)
    try:
        outward = names.outward(f"{project}/{model}")
    except NameInvalid as error:
        assert error.hint  # said before a byte moves, with what to change
        return
    assert re.fullmatch(SPECIFICATION, outward)
    assert len(outward) <= 255 + (kind == "ecr")
    assert re.fullmatch(SHAPES.get(kind, ".*"), outward)


NUMBER = st.integers(0, 10**9).map(str)
WORD = st.from_regex(r"(?:0|[1-9][0-9]{0,5}|[0-9]*[A-Za-z-][0-9A-Za-z-]{0,8})", fullmatch=True)
VERSION = st.builds(
    lambda a, b, c, pre, build: (
        f"{a}.{b}.{c}" + (f"-{'.'.join(pre)}" if pre else "") + (f"+{'.'.join(build)}" if build else "")
    ),
    NUMBER,
    NUMBER,
    NUMBER,
    st.lists(WORD, max_size=3),
    st.lists(WORD, max_size=3),
)


@given(VERSION)
def test_every_version_that_fits_is_a_tag_and_comes_back(version: str) -> None:
    """A tag has at most 128 of [A-Za-z0-9_.-]; `+` is none of them, and `_` is in no semantic version."""
    tag = tag_of(version)
    assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9._-]*", tag)
    assert version_of(tag) == (version if len(tag) <= 128 else None)


@given(VERSION, VERSION)
def test_two_versions_never_share_a_tag(one: str, other: str) -> None:
    assert (tag_of(one) == tag_of(other)) is (one == other)


@pytest.mark.parametrize(("length", "fits"), [(128, True), (129, False)])
async def test_a_version_whose_tag_is_too_long_is_refused_before_a_byte_moves(length: int, fits: bool) -> None:
    registry = Registries().open(RegistrySettings("r", "distribution", "https://registry.example"))
    version = "1.0.0-" + "a" * (length - 6)
    try:
        registry.check_content("lab/net", version, [])  # type: ignore[attr-defined]
        assert fits
    except NameInvalid:
        assert not fits
    await registry.close()


# By hand, from the vendors' rules.
@pytest.mark.parametrize(
    ("kind", "prefix", "flat", "expected"),
    [
        ("distribution", "", False, "vision/net"),
        ("harbor", "ml", False, "ml/vision/net"),
        ("harbor", "", False, "vision/net"),
        ("google", "acme-prod/models", False, "acme-prod/models/vision/net"),
        ("gitlab", "group/project", False, "group/project/vision/net"),
        ("hub", "", False, "vision/net"),
        ("hub", "acme", True, "acme/vision__net"),
        ("berth", "", False, "vision/net"),
    ],
)
def test_names_by_kind(kind: str, prefix: str, flat: bool, expected: str) -> None:
    assert Names(RULES[kind], prefix, flat).outward("vision/net") == expected


@pytest.mark.parametrize(
    ("kind", "prefix", "repository"),
    [
        ("hub", "acme", "vision/net"),  # exactly two components
        ("ecr", "", "3d/net"),  # starts with a letter
        ("ecr", "m" * 250, "vision/net"),
        ("distribution", "", "Vision/net"),
        ("distribution", "", "vision"),
    ],
)
def test_names_that_do_not_fit_are_refused(kind: str, prefix: str, repository: str) -> None:
    with pytest.raises(NameInvalid):
        Names(RULES[kind], prefix).outward(repository)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("google", ""), ("google", "only"), ("gitlab", "group"), ("berth", "x"), ("hub", "a/b")]
)
def test_a_prefix_of_the_wrong_depth_is_refused_with_what_it_is(kind: str, prefix: str) -> None:
    with pytest.raises(NameInvalid) as refused:
        Names(RULES[kind], prefix)
    assert refused.value.hint is not None


@pytest.mark.parametrize("name", ["other/vision/net", "ml/vision", "ml/vision/net/deep", "ml/Vision/net", "ml"])
def test_other_repositories_are_none_of_ours(name: str) -> None:
    assert Names(RULES["harbor"], "ml").inward(name) is None


@pytest.mark.parametrize(
    ("version", "tag"), [("1.0.0", "1.0.0"), ("1.0.0+cpu.1", "1.0.0_cpu.1"), ("2.0.0-rc.1", "2.0.0-rc.1")]
)
def test_versions_are_tags_and_back(version: str, tag: str) -> None:
    assert tag_of(version) == tag
    assert version_of(tag) == version


def test_other_tags_are_no_versions() -> None:
    assert [version_of(tag) for tag in ("latest", "v1.0.0", "sha256-" + "a" * 64, "1.0")] == [None] * 4


# registries.md §3 and §7: ECR 52,000 MiB, GHCR 10 GB, Quay 20 G, ACR 200 GiB and 4 MiB manifests.
@pytest.mark.parametrize(
    ("kind", "size", "fits"),
    [
        ("ecr", 52_000 * 1024**2, True),
        ("ecr", 52_000 * 1024**2 + 1, False),
        ("ghcr", 10_000_000_000, True),
        ("ghcr", 10_000_000_001, False),
        ("quay", 20_000_000_001, False),
        ("acr", 200 * 1024**3 + 1, False),
        ("zot", 10**13, True),
    ],
)
def test_layers_that_a_registry_refuses_are_named(kind: str, size: int, fits: bool) -> None:
    layer = Descriptor("application/vnd.cncf.model.weight.v1.raw", "sha256:" + "a" * 64, size)
    try:
        LIMITS[kind].check(kind, [layer])
        assert fits
    except TooLarge as error:
        assert not fits
        assert layer.digest in error.message


def test_manifests_have_a_limit_of_their_own() -> None:
    manifest = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, 4 * 1024**2 + 1)
    with pytest.raises(BerthError, match=re.escape(manifest.digest)):
        LIMITS["acr"].check("acr", [manifest])
