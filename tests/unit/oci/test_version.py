"""Versions: hints, tags, sort keys, ranges and counting up. The clauses of the specification are in tests/spec."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import VersionInvalid
from berth.oci import version
from berth.oci.version import SemVer

NUMBERS = st.integers(0, 30) | st.integers(0, 10**20)
IDENTIFIERS = NUMBERS.map(str) | st.from_regex(r"[0-9A-Za-z-]{0,3}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True)
VERSIONS = st.builds(
    SemVer,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(IDENTIFIERS, max_size=4).map(tuple),
    st.lists(st.from_regex(r"[0-9A-Za-z-]{1,5}", fullmatch=True), max_size=2).map(tuple),
).filter(lambda item: len(str(item)) <= 128)


def reference_order(item: SemVer) -> tuple[object, ...]:
    """Precedence written a third way: clause 11 as a tuple for sorted()."""
    pre = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in item.prerelease)
    return (item.major, item.minor, item.patch, not item.prerelease, pre)


@given(VERSIONS)
def test_text_round_trips(item: SemVer) -> None:
    assert SemVer.parse(str(item)) == item


@given(VERSIONS)
def test_tags_round_trip(item: SemVer) -> None:
    tag = version.to_tag(str(item))
    assert "+" not in tag
    assert version.is_version_tag(tag)
    assert version.from_tag(tag) == str(item)


@given(VERSIONS, VERSIONS)
def test_the_byte_order_of_sort_keys_is_precedence(one: SemVer, two: SemVer) -> None:
    a, b = version.sort_key(str(one)).encode("ascii"), version.sort_key(str(two)).encode("ascii")
    assert (a < b) == (reference_order(one) < reference_order(two)) == (one < two)
    assert (a == b) == (reference_order(one) == reference_order(two)) == (one <= two and one >= two)


@given(st.lists(IDENTIFIERS, min_size=1, max_size=3), st.lists(IDENTIFIERS, min_size=1, max_size=3))
def test_the_byte_order_of_sort_keys_is_precedence_of_near_prereleases(one: list[str], two: list[str]) -> None:
    first, second = SemVer(1, 0, 0, tuple(one)), SemVer(1, 0, 0, tuple(one[:1] + two))
    a, b = version.sort_key(str(first)), version.sort_key(str(second))
    assert (a < b) == (reference_order(first) < reference_order(second))


def test_sort_keys_are_golden_because_they_are_stored() -> None:
    assert version.sort_key("1.20.3") == "0011" + "00220" + "0013" + "1"
    assert version.sort_key("1.0.0-rc.1+x") == "0011" + "0010" + "0010" + "0" + "2rc!" + "10011"


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("v1.2.3", "1.2.3"),
        ("V1.2.3", "1.2.3"),
        ("1.2", "1.2.0"),
        ("1", "1.0.0"),
        ("v2", "2.0.0"),
        ("01.2.3", "1.2.3"),
        ("1.02.003", "1.2.3"),
        (" 1.2.3\n", "1.2.3"),
        ("1.2.3_cpu", "1.2.3+cpu"),
        ("1.2.3.4", "1.2.3+4"),
        ("1.2.3rc1", "1.2.3-rc1"),
        ("1.2rc1", "1.2.0-rc1"),
        ("1.2.3-01", "1.2.3-1"),
        ("v1.2.3-beta.2+a.b", "1.2.3-beta.2+a.b"),
    ],
)
def test_a_near_miss_is_refused_with_the_version_to_use(text: str, use: str) -> None:
    with pytest.raises(VersionInvalid) as caught:
        SemVer.parse(text)
    assert caught.value.hint == f"Use {use}."
    SemVer.parse(use)


@pytest.mark.parametrize("text", ["", "latest", "release", "1.2.3-", "1.2.3+", "1.2.3 4", "1.٢.3", "-1.0.0", "1..2"])
def test_anything_else_is_refused_with_the_form_to_use(text: str) -> None:
    with pytest.raises(VersionInvalid) as caught:
        SemVer.parse(text)
    assert caught.value.hint is not None
    assert "1.0.0" in caught.value.hint


def test_a_version_longer_than_a_tag_is_refused() -> None:
    SemVer.parse("1.0.0-" + "a" * 122)
    with pytest.raises(VersionInvalid, match="128"):
        SemVer.parse("1.0.0-" + "a" * 123)
    with pytest.raises(VersionInvalid):
        SemVer.parse("9" * 10_000 + ".0.0")


@given(st.text("0123456789.-+_vVrc ", max_size=140))
def test_any_text_is_a_version_or_version_invalid_with_a_valid_suggestion(text: str) -> None:
    try:
        assert str(SemVer.parse(text)) == text
    except VersionInvalid as error:
        if error.hint is not None and error.hint.startswith("Use ") and "MAJOR" not in error.hint:
            SemVer.parse(error.hint[4:-1])


@pytest.mark.parametrize("tag", ["1.0.0+x", "v1.0.0", "latest", "1.0", "1.0.0_a_b", "_1.0.0", ""])
def test_other_tags_are_not_versions(tag: str) -> None:
    assert not version.is_version_tag(tag)
    with pytest.raises(VersionInvalid):
        version.from_tag(tag)


def test_virtual_tags_are_latest_a_major_and_a_minor() -> None:
    for tag in ("latest", "0", "1", "12", "1.2", "0.10"):
        assert version.is_virtual_tag(tag), tag
    for tag in ("1.2.3", "01", "1.", "v1", "Latest", "1.02", "", "1.x", "latest\n"):
        assert not version.is_virtual_tag(tag), tag


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ("^1.2", ["1.2.0", "1.9.9", "1.2.0+b"], ["1.1.9", "2.0.0", "2.0.0-rc.1", "1.3.0-rc.1"]),
        ("^1.2.3", ["1.2.3", "1.3.0"], ["1.2.2", "2.0.0", "1.2.4-a"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.0.2"]),
        ("^0.0", ["0.0.9"], ["0.1.0"]),
        ("^0", ["0.9.0"], ["1.0.0"]),
        ("^1.2.3-rc.2", ["1.2.3-rc.2", "1.2.3-rc.10", "1.2.3", "1.9.0"], ["1.2.3-rc.1", "1.2.4-rc.3", "2.0.0"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0", "1.1.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("1.x", ["1.0.0", "1.7.0"], ["2.0.0", "0.9.0", "1.1.0-a"]),
        ("1.2.*", ["1.2.5"], ["1.3.0"]),
        ("1", ["1.0.0", "1.9.9"], ["2.0.0", "1.0.0-rc.1"]),
        ("1.2", ["1.2.0", "1.2.7"], ["1.3.0", "1.2.0-rc.1"]),
        (">=1,<2", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.9", "2.0.0-rc.1"]),
        (">=1.2.0 <1.4", ["1.2.0", "1.3.9"], ["1.4.0"]),
        (">1.2", ["1.3.0"], ["1.2.9", "1.2.0"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<1.2.3", ["1.2.2"], ["1.2.3", "1.2.3-rc.1"]),
        ("<1.2.3-rc.2", ["1.2.3-rc.1", "1.2.2"], ["1.2.3-rc.2", "1.2.3", "1.2.2-rc.1"]),
        ("1.2.3", ["1.2.3", "1.2.3+cpu"], ["1.2.4", "1.2.3-rc.1"]),
        ("=1.2.3", ["1.2.3"], ["1.2.2"]),
        ("1.2.3-rc.1", ["1.2.3-rc.1"], ["1.2.3", "1.2.3-rc.2"]),
        ("1.2.3+cpu", ["1.2.3+cpu"], ["1.2.3", "1.2.3+gpu"]),
        ("latest", ["1.2.3", "0.0.1"], ["1.2.3-rc.1"]),
        ("*", ["1.2.3"], ["1.2.3-rc.1"]),
        (">*", [], ["1.2.3", "0.0.0"]),
        ("1.x <2.0.0-rc.2", ["1.5.0"], ["2.0.0-rc.1"]),
        (" >= 1.0.0 , < 1.1.0 ", ["1.0.5"], ["1.1.0"]),
    ],
)
def test_a_range_holds_what_npm_users_expect(spec: str, inside: list[str], outside: list[str]) -> None:
    assert [text for text in inside if not version.matches(spec, SemVer.parse(text))] == []
    assert [text for text in outside if version.matches(spec, SemVer.parse(text))] == []


@pytest.mark.parametrize("spec", ["", " ", "foo", "1.x.3", ">=", "1.2.3.4", "^v1", ">=1,", "1 || 2", "01", ",1", "=>1"])
def test_what_is_no_range_is_refused(spec: str) -> None:
    with pytest.raises(VersionInvalid):
        version.matches(spec, SemVer(1, 2, 3))


@given(st.text("0123456789.-+xX*^~<>=, a", max_size=30), VERSIONS)
def test_any_text_is_a_range_or_version_invalid(spec: str, item: SemVer) -> None:
    try:
        version.matches(spec, item)
    except VersionInvalid:
        pass


@pytest.mark.parametrize(
    ("text", "major", "minor", "patch", "prerelease"),
    [
        ("1.2.3", "2.0.0", "1.3.0", "1.2.4", "1.2.4-rc.1"),
        ("1.2.3-rc.1", "2.0.0", "1.3.0", "1.2.3", "1.2.3-rc.2"),
        ("1.2.0-rc.9+b", "2.0.0", "1.2.0", "1.2.0", "1.2.0-rc.10"),
        ("2.0.0-alpha", "2.0.0", "2.0.0", "2.0.0", "2.0.0-alpha.1"),
        ("0.0.0+x", "1.0.0", "0.1.0", "0.0.1", "0.0.1-rc.1"),
    ],
)
def test_counting_up(text: str, major: str, minor: str, patch: str, prerelease: str) -> None:
    got = [version.bump(text, part) for part in ("major", "minor", "patch", "prerelease")]
    assert got == [major, minor, patch, prerelease]


@given(VERSIONS.filter(lambda item: len(str(item)) < 100), st.sampled_from(["major", "minor", "patch", "prerelease"]))
def test_counting_up_gives_a_newer_version(item: SemVer, part: str) -> None:
    assert SemVer.parse(version.bump(str(item), part)) > item


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(VersionInvalid):
        version.bump("1.0.0", "micro")


def test_equality_sees_build_metadata_and_order_does_not() -> None:
    a, b = SemVer.parse("1.0.0+a"), SemVer.parse("1.0.0+b")
    assert a != b
    assert a <= b <= a
    assert not a < b
    assert sorted(itertools.chain([b, a])) == [b, a]
