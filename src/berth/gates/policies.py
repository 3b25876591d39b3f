"""What does a project ask of a version before it may leave? Pure (design §6 "Policies").

A project stores `{"preset": "open" | "scanned" | "strict", ...fields that differ}`; `from_json` reads it, `to_json`
writes it back in its shortest form, and `policy_hash` names it inside a stored verdict.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from berth.errors import InvalidInput

Preset = Literal["open", "scanned", "strict"]
OnDeny = Literal["untag", "delete", "mark", "keep"]

SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
DEFAULT_PRESET: Final = "strict"
_MAX_DAYS: Final = 3650
_MAX_SIGNATURES: Final = 10


@dataclass(frozen=True)
class Response:
    """What happens to an already admitted version: denied at once, after `grace_days`, or never (`warn`)."""

    kind: Literal["block", "grace", "warn"]
    grace_days: int = 0

    def to_json(self) -> str | dict[str, int]:
        return {"grace_days": self.grace_days} if self.kind == "grace" else self.kind


BLOCK: Final = Response("block")
WARN: Final = Response("warn")


@dataclass(frozen=True)
class Policy:
    """All conditions of a project, presets and overrides already merged.

    Attributes:
        preset: the preset that the other fields were derived from.
        admit_everything: no evidence, signature or approval is asked for.
        require_vulnerability_scan: every image needs a usable vulnerability report.
        deny_severities: findings of these severities deny.
        only_fixable: … only where a fixed version of the package exists.
        max_report_age_days: an older report no longer counts.
        require_weight_scan: every leaf needs a usable weight-scan report without malicious findings.
        required_signatures: number of distinct trusted keys that must have signed the root.
        require_approval: a person must have approved the root.
        four_eyes: the approver must not be who pushed it.
        on_new_finding: for versions admitted before a new vulnerability became known.
        on_stale_report: for versions admitted before their report became too old.
        allow_no_packages: an image in which there is no operating system and no package is acceptable.
        on_deny: what happens to published copies when the verdict turns to deny.
    """

    preset: Preset
    admit_everything: bool
    require_vulnerability_scan: bool
    deny_severities: tuple[str, ...]
    only_fixable: bool
    max_report_age_days: int
    require_weight_scan: bool
    required_signatures: int
    require_approval: bool
    four_eyes: bool
    on_new_finding: Response
    on_stale_report: Response
    allow_no_packages: bool
    on_deny: OnDeny


def _preset(name: Preset, *, scans: bool, signed: bool) -> Policy:
    return Policy(
        preset=name,
        admit_everything=not scans,
        require_vulnerability_scan=scans,
        deny_severities=("CRITICAL", "HIGH"),
        only_fixable=True,
        max_report_age_days=30,
        require_weight_scan=scans,
        required_signatures=1 if signed else 0,
        require_approval=signed,
        four_eyes=False,
        on_new_finding=BLOCK,
        on_stale_report=BLOCK,
        allow_no_packages=False,
        on_deny="untag",
    )


PRESETS: Final[Mapping[str, Policy]] = {
    "open": _preset("open", scans=False, signed=False),
    "scanned": _preset("scanned", scans=True, signed=False),
    "strict": _preset("strict", scans=True, signed=True),
}


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"Policy field '{name}' must be true or false, not {value!r}.")
    return value


def _whole(low: int, high: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"Policy field '{name}' must be a whole number from {low} to {high}, not {value!r}.")
        return value

    return read


def _severities(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"Policy field '{name}' must be a list of severities, not {value!r}.")
    for item in value:
        if item not in SEVERITIES:
            raise InvalidInput(f"'{item}' is not a severity.", hint=_suggest(item.upper(), SEVERITIES))
    return tuple(severity for severity in SEVERITIES if severity in value)


def _response(name: str, value: object) -> Response:
    if value in ("block", "warn"):
        return BLOCK if value == "block" else WARN
    if isinstance(value, Mapping) and set(value) == {"grace_days"}:
        return Response("grace", _whole(1, _MAX_DAYS)(f"{name}.grace_days", value["grace_days"]))
    raise InvalidInput(
        f'Policy field \'{name}\' must be "block", "warn" or {{"grace_days": N}}, not {value!r}.',
        hint='For two weeks of grace write {"grace_days": 14}.',
    )


def _on_deny(name: str, value: object) -> str:
    choices = ("untag", "delete", "mark", "keep")
    if value not in choices:
        raise InvalidInput(f"Policy field '{name}' cannot be {value!r}.", hint=_suggest(str(value), choices))
    return str(value)


_READERS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "admit_everything": _boolean,
    "require_vulnerability_scan": _boolean,
    "deny_severities": _severities,
    "only_fixable": _boolean,
    "max_report_age_days": _whole(1, _MAX_DAYS),
    "require_weight_scan": _boolean,
    "required_signatures": _whole(0, _MAX_SIGNATURES),
    "require_approval": _boolean,
    "four_eyes": _boolean,
    "on_new_finding": _response,
    "on_stale_report": _response,
    "allow_no_packages": _boolean,
    "on_deny": _on_deny,
}


def from_json(value: object) -> Policy:
    """Read what a project stores.

    Args:
        value: `{"preset": name, ...overrides}`; without a preset, `strict`.

    Raises:
        InvalidInput: not an object, an unknown preset or field (with the nearest right name as hint), a bad value.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput("A policy must be a JSON object.", hint='The shortest one is {"preset": "strict"}.')
    preset = value.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InvalidInput(f"There is no policy preset {preset!r}.", hint=_suggest(str(preset), PRESETS))
    base = PRESETS[preset]
    merged: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(base)}
    for name, item in value.items():
        if name == "preset":
            continue
        if name not in _READERS:
            raise InvalidInput(f"There is no policy field {name!r}.", hint=_suggest(str(name), _READERS))
        merged[name] = _READERS[name](name, item)
    if merged["admit_everything"] != base.admit_everything:
        # Everybody who reads "strict" or "open" must be able to rely on the word.
        raise InvalidInput(
            f"The preset {preset!r} cannot be told to admit everything, or to stop doing so.",
            hint="Choose the preset 'open', or 'scanned' with overrides.",
        )
    return Policy(**merged)


def to_json(policy: Policy) -> dict[str, Any]:
    """The shortest object that `from_json` reads back as the same policy: the preset and what differs from it."""
    base = PRESETS[policy.preset]
    document: dict[str, Any] = {"preset": policy.preset}
    for name in _READERS:
        item = getattr(policy, name)
        if item != getattr(base, name):
            document[name] = _plain(item)
    return document


def policy_hash(policy: Policy) -> str:
    """Hex SHA-256 over every field, so that a changed meaning of a preset also changes the hash."""
    return canonical_hash({field.name: _plain(getattr(policy, field.name)) for field in fields(policy)})


def trust_hash(keys: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Hex SHA-256 over a project's trusted keys: (key id, what it may state), in any order."""
    return canonical_hash(sorted([key_id, sorted(set(predicates))] for key_id, predicates in keys))


def canonical_hash(document: object) -> str:
    """Hex SHA-256 of a JSON document with sorted keys and without spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(item: object) -> object:
    if isinstance(item, Response):
        return item.to_json()
    return list(item) if isinstance(item, tuple) else item


def _suggest(wrong: str, right: Iterable[str]) -> str:
    names = sorted(right)
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"Choose one of: {', '.join(names)}."
