"""What is a digest, and how is one made? (OCI image-spec descriptor.md "Digests".)

Digests travel as `str` everywhere; `parse` is the check that comes before any use, above all in a path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from berth.errors import DigestInvalid

ALGORITHMS = ("sha256", "sha512")
EMPTY_JSON = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

_ENCODED = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Digest:
    """A well-formed digest; both parts are safe as path components."""

    algorithm: str
    encoded: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


def parse(text: str) -> Digest:
    """Split `algorithm:encoded` after checking both by the grammar of a registered algorithm.

    Raises:
        DigestInvalid: malformed, upper-case, of the wrong length, or of an algorithm we do not have.
    """
    algorithm, _, encoded = text.partition(":")
    pattern = _ENCODED.get(algorithm)
    if pattern is None:
        raise DigestInvalid(
            f"{text[:160]!r} is not a digest of a supported algorithm.",
            hint=f"Use one of {', '.join(ALGORITHMS)}, as in sha256:<64 hex digits>.",
        )
    if pattern.fullmatch(encoded) is None:
        raise DigestInvalid(f"{text[:160]!r} is not a well-formed {algorithm} digest.", hint="Lower-case hex only.")
    return Digest(algorithm, encoded)


def is_digest(text: str) -> bool:
    """Whether `parse` would accept the text."""
    algorithm, _, encoded = text.partition(":")
    pattern = _ENCODED.get(algorithm)
    return pattern is not None and pattern.fullmatch(encoded) is not None


def new_hasher(algorithm: str = "sha256") -> Hasher:
    """A fresh hashlib object.

    Raises:
        DigestInvalid: the algorithm is not one of `ALGORITHMS`.
    """
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(f"The digest algorithm {algorithm[:40]!r} is not supported.", hint="Use sha256 or sha512.")
    return hashlib.new(algorithm)


def of_bytes(data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> str:
    """The digest of these bytes as text."""
    hasher = new_hasher(algorithm)
    hasher.update(data)
    return f"{algorithm}:{hasher.hexdigest()}"
