"""What is a version, which is newer, and how is it written as a tag? (Semantic Versioning 2.0.0; design section 6.)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from berth.errors import VersionInvalid

# A version lives as a tag, and a tag has at most 128 characters.
MAX_LENGTH = 128

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
# The expression of semver.org, with [0-9] because \d matches other scripts too.
_SEMVER = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_PRERELEASE}(?:\.{_PRERELEASE})*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
_VIRTUAL = re.compile(rf"latest|{_NUMBER}(?:\.{_NUMBER})?")
_LOOSE = re.compile(
    r"[vV]?[.]?([0-9]++)(?:\.([0-9]++))?+(?:\.([0-9]++))?+((?:\.[0-9]++)*+)"
    r"(?:[-._]?([0-9A-Za-z][0-9A-Za-z.-]*?))??(?:[+_]([0-9A-Za-z.-]+))?"
)


@total_ordering
@dataclass(frozen=True, slots=True)
class _Precedence:
    """Comparable form of a version: a release is above its pre-releases, build metadata does not count."""

    core: tuple[int, int, int]
    prerelease: tuple[str, ...]

    def __lt__(self, other: _Precedence) -> bool:
        if self.core != other.core:
            return self.core < other.core
        if not self.prerelease or not other.prerelease:
            return bool(self.prerelease) and not other.prerelease
        for mine, theirs in zip(self.prerelease, other.prerelease, strict=False):
            if mine == theirs:
                continue
            if mine.isdigit() and theirs.isdigit():
                return int(mine) < int(theirs)
            if mine.isdigit() != theirs.isdigit():
                return mine.isdigit()
            return mine < theirs
        return len(self.prerelease) < len(other.prerelease)


@dataclass(frozen=True, slots=True)
class SemVer:
    """A version. `<`, `<=`, `>`, `>=` compare precedence (build ignored); `==` compares everything."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SemVer:
        """Read a version exactly as Semantic Versioning 2.0.0 writes it.

        Raises:
            VersionInvalid: with a hint that names the version to use where one can be guessed.
        """
        match = _SEMVER.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            raise VersionInvalid(f"{text[:140]!r} is not a semantic version.", hint=_hint(text))
        major, minor, patch, prerelease, build = match.groups()
        return cls(
            int(major),
            int(minor),
            int(patch),
            tuple(prerelease.split(".")) if prerelease else (),
            tuple(build.split(".")) if build else (),
        )

    @property
    def precedence(self) -> _Precedence:
        """A sort key for in-memory ordering; `sort_key` is the one for the database."""
        return _Precedence((self.major, self.minor, self.patch), self.prerelease)

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return text + ("+" + ".".join(self.build) if self.build else "")

    def __lt__(self, other: SemVer) -> bool:
        return self.precedence < other.precedence

    def __le__(self, other: SemVer) -> bool:
        return self.precedence <= other.precedence

    def __gt__(self, other: SemVer) -> bool:
        return self.precedence > other.precedence

    def __ge__(self, other: SemVer) -> bool:
        return self.precedence >= other.precedence


def parse(text: str) -> SemVer:
    """Same as `SemVer.parse`."""
    return SemVer.parse(text)


def to_tag(version_text: str) -> str:
    """The tag of a version: `+` becomes `_`, which no semantic version contains. Raises VersionInvalid."""
    SemVer.parse(version_text)
    return version_text.replace("+", "_")


def from_tag(tag: str) -> str:
    """The version a tag stands for. Raises VersionInvalid if the tag is not a version."""
    if "+" in tag:
        raise VersionInvalid(f"{tag[:140]!r} is not a tag.", hint="In a tag, + is written _.")
    text = tag.replace("_", "+", 1)
    SemVer.parse(text)
    return text


def is_version_tag(tag: str) -> bool:
    """Whether `from_tag` would accept the tag."""
    return len(tag) <= MAX_LENGTH and "+" not in tag and _SEMVER.fullmatch(tag.replace("_", "+", 1)) is not None


def is_virtual_tag(tag: str) -> bool:
    """Whether the tag is computed (`latest`, `1`, `1.2`) rather than stored."""
    return _VIRTUAL.fullmatch(tag) is not None


def sort_key(version_text: str) -> str:
    """ASCII text whose byte order (PostgreSQL collation "C") is precedence; equal precedence gives equal keys.

    A number is its count of digits (three places) and its digits; a release ends in `1`, a pre-release goes on
    with `0` and its identifiers: `1` + number, or `2` + text + `!`, which sorts below every character of a text.

    Raises:
        VersionInvalid: not a semantic version.
    """
    version = SemVer.parse(version_text)
    core = "".join(_number_key(str(number)) for number in (version.major, version.minor, version.patch))
    if not version.prerelease:
        return core + "1"
    return (
        core + "0" + "".join("1" + _number_key(item) if item.isdigit() else f"2{item}!" for item in version.prerelease)
    )


def matches(range_text: str, version: SemVer) -> bool:
    """Whether a version lies in a range; the grammar is described in `ranges`. Raises VersionInvalid."""
    from berth.oci import ranges  # it needs SemVer from here

    return ranges.matches(range_text, version)


def bump(version_text: str, part: str) -> str:
    """The next version: `major`, `minor`, `patch` finish a pre-release of that very version, else count up.

    `prerelease` counts the last number of a pre-release up, or starts `-rc.1` of the next patch. Build metadata
    is dropped.

    Raises:
        VersionInvalid: not a version, or an unknown part.
    """
    old = SemVer.parse(version_text)
    pre = bool(old.prerelease)
    if part == "major":
        keep = pre and old.minor == 0 and old.patch == 0
        return str(SemVer(old.major if keep else old.major + 1, 0, 0))
    if part == "minor":
        keep = pre and old.patch == 0
        return str(SemVer(old.major, old.minor if keep else old.minor + 1, 0))
    if part == "patch":
        return str(SemVer(old.major, old.minor, old.patch if pre else old.patch + 1))
    if part == "prerelease":
        if not pre:
            return str(SemVer(old.major, old.minor, old.patch + 1, ("rc", "1")))
        *head, last = old.prerelease
        identifiers = (*head, str(int(last) + 1)) if last.isdigit() else (*head, last, "1")
        return str(SemVer(old.major, old.minor, old.patch, identifiers))
    raise VersionInvalid(f"{part[:40]!r} is not a part of a version.", hint="Use major, minor, patch or prerelease.")


def _number_key(digits: str) -> str:
    return f"{len(digits):03d}{digits}"


def _hint(text: str) -> str:
    """Name the version that was probably meant; only ever a valid one."""
    if len(text) > MAX_LENGTH:
        return f"A version has at most {MAX_LENGTH} characters, because it is also a tag."
    match = _LOOSE.fullmatch(text.strip())
    if match is not None:
        major, minor, patch, more, prerelease, build = match.groups()
        guess = ".".join((part or "0").lstrip("0") or "0" for part in (major, minor, patch))
        if prerelease:
            guess += "-" + ".".join(
                item.lstrip("0") or "0" if item.isdigit() else item for item in prerelease.split(".")
            )
        extra = ".".join(item for item in (more.strip("."), build) if item)
        if extra:
            guess += "+" + extra
        if guess != text and len(guess) <= MAX_LENGTH and _SEMVER.fullmatch(guess):
            return f"Use {guess}."
    return "Use MAJOR.MINOR.PATCH, for example 1.0.0 or 1.0.0-rc.1."
