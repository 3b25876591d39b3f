"""Where must a client go for a token, and for what? (RFC 9110 section 11.6.1; distribution token scopes.)"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from berth.errors import InvalidInput

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SPACE = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; scheme and parameter names are lower-case."""

    scheme: str
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a token is asked for, for example `repository:project/name:pull,push`."""

    type: str
    name: str
    actions: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Split from both ends, because a name may hold a `:` (host:port).

        Raises:
            InvalidInput: not `type:name:action[,action]`.
        """
        kind, first, rest = text.partition(":")
        name, second, actions = rest.rpartition(":")
        if not (first and second and kind and name):
            raise InvalidInput(f"{text[:200]!r} is not a scope.", hint="Write repository:<name>:pull,push.")
        return cls(kind, name, tuple(action for action in actions.split(",") if action))

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


def parse(header_values: Iterable[str]) -> list[Challenge]:
    """Read all challenges of all WWW-Authenticate headers, in order.

    Tolerant: what cannot be read ends that header; a parameter written twice keeps its first value.
    """
    found: list[Challenge] = []
    for value in header_values:
        _parse_one(value, found)
    return found


def bearer(realm: str, service: str, scopes: Iterable[Scope | str] = (), error: str | None = None) -> str:
    """The value of a `WWW-Authenticate: Bearer` header; several scopes are separated by spaces."""
    params = {"realm": realm, "service": service}
    joined = " ".join(str(scope) for scope in scopes)
    if joined:
        params["scope"] = joined
    if error is not None:
        params["error"] = error
    return "Bearer " + ",".join(f"{name}={_quote(value)}" for name, value in params.items())


def _parse_one(text: str, found: list[Challenge]) -> None:
    position = 0
    current: Challenge | None = None
    while True:
        while position < len(text) and text[position] in " \t,":
            position += 1
        token = _TOKEN.match(text, position)
        if token is None:
            return
        after = _skip(text, token.end())
        if current is not None and text[after : after + 1] == "=":
            value, position = _value(text, _skip(text, after + 1))
            current.params.setdefault(token.group().lower(), value)
            continue
        current = Challenge(token.group().lower())
        found.append(current)
        position = after
        opaque = _TOKEN68.match(text, position)  # `Negotiate YII=`: no parameters, nothing we use
        if opaque is not None and after > token.end():
            position = opaque.end()


def _value(text: str, position: int) -> tuple[str, int]:
    quoted = _QUOTED.match(text, position)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted.group(1), flags=re.DOTALL), quoted.end()
    end = position
    while end < len(text) and text[end] not in ", \t":
        end += 1
    return text[position:end].strip('"'), end


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match is not None else position


def _quote(value: str) -> str:
    # Control characters would end the header line; nothing we put here needs them.
    clean = "".join(char for char in value if char.isprintable())
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
