"""Which versions does a range mean? `^1.2`, `~1.2`, `1.x`, `1`, `>=1,<2`, an exact version, `latest` or `*`.

Comparators separated by commas or spaces must all hold. A pre-release is in a range only if a comparator names a
pre-release of the same major.minor.patch, so nobody gets a release candidate without asking for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from berth.errors import VersionInvalid
from berth.oci.version import MAX_LENGTH, SemVer

_COMPARATOR = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*([0-9A-Za-z.+*-]+)")
_PARTIAL = re.compile(r"(0|[1-9][0-9]*|[xX*])(?:\.(0|[1-9][0-9]*|[xX*]))?(?:\.(0|[1-9][0-9]*|[xX*]))?")
_ANY = frozenset({"latest", "*", "x", "X"})


@dataclass(frozen=True, slots=True)
class _Bound:
    """Half-open interval [low, high) of precedence; None is open. `exact` compares build metadata too."""

    low: SemVer | None
    high: SemVer | None
    named: SemVer | None = None
    include_high: bool = False
    exclude_low: bool = False

    def holds(self, version: SemVer) -> bool:
        if self.low is not None and (version < self.low or (self.exclude_low and version <= self.low)):
            return False
        return self.high is None or version < self.high or (self.include_high and version <= self.high)


def matches(range_text: str, version: SemVer) -> bool:
    """Whether the version satisfies every comparator.

    Raises:
        VersionInvalid: the text is not a range.
    """
    text = range_text.strip()
    if len(text) > 4 * MAX_LENGTH:
        raise _invalid(range_text)
    if text in _ANY:
        return not version.prerelease
    bounds = [_bound(operator, operand, range_text) for operator, operand in _comparators(text)]
    if not all(bound.holds(version) for bound in bounds):
        return False
    names = [bound.named for bound in bounds if bound.named is not None]
    if any(name.build and name.build != version.build for name in names):
        return False
    return not version.prerelease or any(name.prerelease and _core(name) == _core(version) for name in names)


def _comparators(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _COMPARATOR.match(text, position)
        if match is None:
            raise _invalid(text)
        found.append((match.group(1) or "", match.group(2)))
        position = match.end()
        separator = re.compile(r"\s*,\s*|\s+").match(text, position)
        if separator is not None:
            position = separator.end()
            if position == len(text):
                raise _invalid(text)
        elif position < len(text):
            raise _invalid(text)
    if not found:
        raise _invalid(text)
    return found


def _bound(operator: str, operand: str, whole: str) -> _Bound:
    partial = _PARTIAL.fullmatch(operand)
    numbers: list[int] = []
    named: SemVer | None = None
    if partial is not None:
        for part in partial.groups():
            if part is None or part in "xX*":
                break
            numbers.append(int(part))
        if any(part is not None and part.isdigit() for part in partial.groups()[len(numbers) :]):
            raise _invalid(whole)  # 1.x.3
    else:
        try:
            named = SemVer.parse(operand)
        except VersionInvalid:
            raise _invalid(whole) from None
        numbers = [named.major, named.minor, named.patch]
    low = named or _filled(numbers)
    if operator == "^":
        return _Bound(low, _after(numbers, _first_significant(numbers)), named)
    if operator == "~":
        return _Bound(low, _after(numbers, min(2, len(numbers))), named)
    if len(numbers) == 3:
        return {
            ">=": _Bound(low, None, named),
            ">": _Bound(low, None, named, exclude_low=True),
            "<": _Bound(None, low, named),
            "<=": _Bound(None, low, named, include_high=True),
        }.get(operator, _Bound(low, low, named, include_high=True))
    above = _after(numbers, len(numbers))
    if operator == ">=":
        return _Bound(low, None)
    if operator == ">":  # >1.2 begins with 1.3
        return _Bound(above, None) if above is not None else _Bound(low, low)
    if operator == "<":
        return _Bound(None, low)
    if operator == "<=":
        return _Bound(None, above)
    return _Bound(low, above)


def _first_significant(numbers: list[int]) -> int:
    """How many leading numbers a caret keeps: up to and including the first that is not zero."""
    for place, number in enumerate(numbers, start=1):
        if number:
            return place
    return len(numbers)


def _after(numbers: list[int], kept: int) -> SemVer | None:
    """The lowest version (its first pre-release) above everything that shares the first `kept` numbers."""
    if kept == 0:
        return None
    head = numbers[:kept]
    head[-1] += 1
    return replace(_filled(head), prerelease=("0",))


def _filled(numbers: list[int]) -> SemVer:
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return SemVer(major, minor, patch)


def _core(version: SemVer) -> tuple[int, int, int]:
    return version.major, version.minor, version.patch


def _invalid(text: str) -> VersionInvalid:
    return VersionInvalid(f"{text[:140]!r} is not a range of versions.", hint="Examples: ^1.2, ~1.2, 1.x, >=1,<2, *.")
