"""Clauses of Semantic Versioning 2.0.0 (semver.org), each quoted as the docstring of its test."""

from __future__ import annotations

import itertools

import pytest

from berth.errors import VersionInvalid
from berth.oci.version import SemVer, sort_key

# The two lists that semver.org publishes with its regular expression (regex101.com/r/vkijKf/1).
VALID = """0.0.4 1.2.3 10.20.30 1.1.2-prerelease+meta 1.1.2+meta 1.1.2+meta-valid 1.0.0-alpha 1.0.0-beta
1.0.0-alpha.beta 1.0.0-alpha.beta.1 1.0.0-alpha.1 1.0.0-alpha0.valid 1.0.0-alpha.0valid
1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay 1.0.0-rc.1+build.1 2.0.0-rc.1+build.123 1.2.3-beta
10.2.3-DEV-SNAPSHOT 1.2.3-SNAPSHOT-123 1.0.0 2.0.0 1.1.7 2.0.0+build.1848 2.0.1-alpha.1227 1.0.0-alpha+beta
1.2.3----RC-SNAPSHOT.12.9.1--.12+788 1.2.3----R-S.12.9.1--.12+meta 1.2.3----RC-SNAPSHOT.12.9.1--.12
1.0.0+0.build.1-rc.10000aaa-kk-0.1
99999999999999999999999.999999999999999999.99999999999999999 1.0.0-0A.is.legal""".split()

INVALID = """1 1.2 1.2.3-0123 1.2.3-0123.0123 1.1.2+.123 +invalid -invalid -invalid+invalid -invalid.01 alpha alpha.beta
alpha.beta.1 alpha.1 alpha+beta alpha_beta alpha. alpha.. beta 1.0.0-alpha_beta -alpha. 1.0.0-alpha.. 1.0.0-alpha..1
1.0.0-alpha...1 1.0.0-alpha....1 1.0.0-alpha.....1 1.0.0-alpha......1 1.0.0-alpha.......1 01.1.1 1.01.1 1.1.01 1.2.3.DEV
1.2-SNAPSHOT 1.2.31.2.3----RC-SNAPSHOT.12.09.1--..12+788 1.2-RC-SNAPSHOT -1.0.3-gamma+b7718 +justmeta 9.8.7+meta+meta
9.8.7-whatever+meta+meta
99999999999999999999999.999999999999999999.99999999999999999----RC-SNAPSHOT.12.09.1--------------------------------..12""".split()


@pytest.mark.parametrize("text", VALID)
def test_the_published_valid_versions(text: str) -> None:
    """ "A normal version number MUST take the form X.Y.Z where X, Y, and Z are non-negative integers" (clause 2)."""
    assert str(SemVer.parse(text)) == text


@pytest.mark.parametrize("text", INVALID)
def test_the_published_invalid_versions(text: str) -> None:
    """ "…and MUST NOT contain leading zeroes." (clause 2); identifiers "MUST NOT be empty" (clauses 9 and 10)."""
    with pytest.raises(VersionInvalid):
        SemVer.parse(text)


@pytest.mark.parametrize("text", ["v1.2.3", "1.2.3\n", "1.2.3 ", "1.٢.3", "1.2.3-é"])
def test_nothing_beside_the_version_and_only_ascii(text: str) -> None:
    """ "Identifiers MUST comprise only ASCII alphanumerics and hyphens [0-9A-Za-z-]." (clauses 9 and 10)"""
    with pytest.raises(VersionInvalid):
        SemVer.parse(text)


def assert_rising(*texts: str) -> None:
    versions = [SemVer.parse(text) for text in texts]
    keys = [sort_key(text).encode() for text in texts]
    for lower, higher in itertools.pairwise(versions):
        assert lower < higher
        assert lower <= higher
        assert higher > lower
        assert not higher <= lower
    assert keys == sorted(set(keys))


def test_core_precedence() -> None:
    """ "Major, minor, and patch versions are always compared numerically." (clause 11.2)"""
    assert_rising("1.0.0", "2.0.0", "2.1.0", "2.1.1")
    assert_rising("0.9.0", "0.10.0", "0.11.0", "1.0.0", "9.0.0", "10.0.0", "99999999999999999999.0.0")


def test_a_prerelease_is_lower() -> None:
    """ "a pre-release version has lower precedence than a normal version" (clause 11.3)"""
    assert_rising("0.9.9", "1.0.0-alpha", "1.0.0", "1.0.1-0", "1.0.1")


def test_the_example_of_clause_11() -> None:
    """ "Example: 1.0.0-alpha < 1.0.0-alpha.1 < … < 1.0.0-rc.1 < 1.0.0." (clause 11.4.4)"""
    assert_rising(
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    )


def test_identifiers() -> None:
    """ "Numeric identifiers always have lower precedence than non-numeric identifiers." (clause 11.4.3)"""
    assert_rising("1.0.0-0", "1.0.0-9", "1.0.0-10", "1.0.0--", "1.0.0-0a", "1.0.0-A", "1.0.0-Z", "1.0.0-a", "1.0.0-a-")
    assert_rising("1.0.0-a", "1.0.0-a.0", "1.0.0-a.a", "1.0.0-a-b", "1.0.0-a0", "1.0.0-aa")


def test_build_metadata_does_not_count() -> None:
    """ "Build metadata MUST be ignored when determining version precedence." (clause 10)"""
    one, two = SemVer.parse("1.0.0-a+x"), SemVer.parse("1.0.0-a+y.1")
    assert one <= two <= one
    assert not one < two
    assert not two < one
    assert sort_key(str(one)) == sort_key(str(two))
