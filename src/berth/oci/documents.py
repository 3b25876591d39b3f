"""How is JSON from strangers read, and how is ours written? (OCI image-spec "canonicalization"; RFC 8259.)

Programs written in Go match object keys without regard to case and let the last duplicate win. A document that
two programs can read differently could be scanned as one thing and run as another, so both are refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from berth.errors import ManifestInvalid

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64

# Everything but brackets outside of strings; possessive, so an unterminated string costs one pass, not n.
_NOT_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++', re.DOTALL)
_OPENING = frozenset(b"[{")


class _DuplicateError(ValueError):
    pass


def loads(body: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, what: str = "The manifest") -> Any:
    """Parse strict UTF-8 JSON: no duplicate keys, no NaN, no NUL or lone surrogate in strings, bounded nesting.

    Raises:
        ManifestInvalid: whatever is wrong with the bytes, never another exception.
    """
    if len(body) > max_bytes:
        raise ManifestInvalid(f"{what} has {len(body)} bytes; the limit is {max_bytes}.")
    _check_depth(body, max_depth, what)
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except _DuplicateError as error:
        raise ManifestInvalid(f"{what} is ambiguous: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{what} is not JSON: {error}.") from None
    if "\\u" in text:  # only escapes can smuggle these two past the decoder
        _check_strings(value, what)
    return value


def dumps(value: object, *, sort_keys: bool = True) -> bytes:
    """UTF-8 JSON without spaces; sorted keys unless a format prescribes its own order.

    Raises:
        ManifestInvalid: a lone surrogate (say, of an undecodable command-line argument) or a number JSON has not.
    """
    try:
        text = json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except ValueError as error:
        raise ManifestInvalid(f"This cannot be written as JSON: {error}.") from None


def check_spelling(value: dict[str, Any], known: Iterable[str], what: str) -> None:
    """Refuse keys that a case-insensitive reader would take for a known field.

    Raises:
        ManifestInvalid: for example `Layers` beside or instead of `layers`.
    """
    exact = frozenset(known)
    folded = {name.casefold(): name for name in exact}
    for key in value:
        if key not in exact and key.casefold() in folded:
            raise ManifestInvalid(f"{what} has the field {key!r}; it is written {folded[key.casefold()]!r}.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateError(f"the key {key!r} occurs twice")
            seen.add(key)
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(body: bytes, max_depth: int, what: str) -> None:
    depth = 0
    for byte in _NOT_BRACKETS.sub(b"", body):
        if byte in _OPENING:
            depth += 1
            if depth > max_depth:
                raise ManifestInvalid(f"{what} is nested deeper than {max_depth} levels.")
        else:
            depth -= 1


def _check_strings(value: Any, what: str) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= char <= "\udfff" for char in item):
                raise ManifestInvalid(f"{what} holds a string with NUL or a lone surrogate.")
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
