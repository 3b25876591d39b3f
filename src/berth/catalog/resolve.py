"""Which version does a name mean? Pure: a reference and candidates → the one that answers (design §6 "Virtual tags").

`latest`, `1`, `1.2` and ranges mean the highest admitted, not deprecated version without pre-release; the answer is
the same for every reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from berth.errors import VersionInvalid
from berth.oci.digest import is_digest
from berth.oci.version import SemVer, is_virtual_tag, matches

Form = Literal["digest", "version", "range", "name"]


@dataclass(frozen=True)
class Candidate:
    """A version that a range might mean."""

    version_id: int
    version: str
    digest: str
    admitted: bool
    deprecated: bool
    prerelease: bool
    exists: bool


def form_of(reference: str) -> Form:
    """Digest, exact version, virtual tag or range, or a plain name (an alias or a stored tag)."""
    if is_digest(reference):
        return "digest"
    try:
        SemVer.parse(reference)
    except VersionInvalid:
        pass
    else:
        return "version"
    if is_virtual_tag(reference) or reference[:1] in "^~><=*" or reference.endswith((".x", ".*")) or "," in reference:
        return "range"
    return "name"


def answers(reference: str, candidate: Candidate) -> bool:
    """True when `candidate` may be what `reference` (a virtual tag or range) means."""
    return (
        candidate.exists
        and candidate.admitted
        and not candidate.deprecated
        and not candidate.prerelease
        and matches(reference, SemVer.parse(candidate.version))
    )
