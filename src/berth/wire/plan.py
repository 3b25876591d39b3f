"""What must be copied, left alone, reported or removed? Pure: a rule, two listings and the time → items with reasons.

Nothing is ever overwritten: the same name with other bytes at the target is a conflict for people to settle. Things
go away at the target only in a mirror whose rule says so, and never because the source looks empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from typing import Final, Literal

from berth.errors import VersionInvalid
from berth.oci.version import SemVer, from_tag, is_version_tag, matches

Action = Literal["copy", "skip", "conflict", "prune", "import"]
Direction = Literal["push", "pull", "mirror"]
DeletePolicy = Literal["never", "untag", "delete"]

DIRECTIONS: Final[tuple[Direction, ...]] = ("push", "pull", "mirror")
DELETE_POLICIES: Final[tuple[DeletePolicy, ...]] = ("never", "untag", "delete")


@dataclass(frozen=True)
class Listed:
    """One tag of a place.

    Attributes:
        aliases: other names that mean the same digest there.
        admitted: what our gate says about it; None where it has no say.
        deleted: it was there and was removed on purpose; its number stays taken.
        evidence: digests of manifests about it (signatures, reports), where the place knows them.
        held_back: why it must not go to this very target, whatever the rule says.
    """

    repository: str
    tag: str
    digest: str
    labels: Mapping[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    admitted: bool | None = None
    deleted: bool = False
    evidence: frozenset[str] = frozenset()
    held_back: str | None = None


@dataclass(frozen=True)
class Window:
    """Hours of the day, UTC, in which bytes may move; `start` > `end` spans midnight."""

    start: time
    end: time

    def holds(self, now: datetime) -> bool:
        """Whether `now` lies in it; an empty window (start = end) is the whole day."""
        at = now.astimezone(UTC).time()
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass(frozen=True)
class Terms:
    """What a rule asks for.

    Attributes:
        project: name of the project at the source.
        target_project: its name at the target; None = the same.
        model: glob over model names.
        labels: a version must have all of these, with these values ("*" = any).
        range: semver range that versions must lie in.
        alias: only what this name means at the source.
        only_higher: only versions above the highest one that the target has of that model.
        only_admitted: only what our gate lets out.
        all_tags: also tags that are no semantic version.
        delete: what happens in a mirror to that which the source no longer has.
    """

    project: str
    target_project: str | None = None
    model: str = "*"
    labels: Mapping[str, str] = field(default_factory=dict)
    range: str | None = None
    alias: str | None = None
    direction: Direction = "mirror"
    only_higher: bool = False
    only_admitted: bool = False
    all_tags: bool = False
    delete: DeletePolicy = "never"
    window: Window | None = None


@dataclass(frozen=True)
class Item:
    """One decision: `code` for programs, `reason` for people."""

    action: Action
    source_repository: str
    target_repository: str
    tag: str
    digest: str | None
    target_digest: str | None
    code: str
    reason: str


def target_name(terms: Terms, repository: str) -> str:
    """What a repository of the source is called at the target."""
    project, _, model = repository.partition("/")
    return f"{terms.target_project or project}/{model}"


def source_name(terms: Terms, repository: str) -> str:
    """What a repository of the target is called at the source."""
    return f"{terms.project}/{repository.partition('/')[2]}"


def in_scope(terms: Terms, repository: str) -> bool:
    """Whether the rule is about this repository of the source at all."""
    project, _, model = repository.partition("/")
    return project == terms.project and fnmatchcase(model, terms.model)


def plan(terms: Terms, source: Sequence[Listed], target: Sequence[Listed], now: datetime) -> list[Item]:
    """What the rule means for these listings, by repository and in rising order of versions."""
    there = {(listed.repository, listed.tag): listed for listed in target}
    highest = _highest(target)
    items: list[Item] = []
    for listed in sorted(source, key=_order):
        if in_scope(terms, listed.repository) and _is_content(terms, listed):
            items.append(_judge(terms, listed, there, highest, now))
    return items + _prunes(terms, source, target, now)


def _judge(
    terms: Terms,
    listed: Listed,
    there: Mapping[tuple[str, str], Listed],
    highest: Mapping[str, SemVer],
    now: datetime,
) -> Item:
    repository = target_name(terms, listed.repository)
    held = there.get((repository, listed.tag))

    def say(action: Action, code: str, reason: str) -> Item:
        found = held.digest if held else None
        return Item(action, listed.repository, repository, listed.tag, listed.digest, found, code, reason)

    unwanted = _unwanted(terms, listed)
    if unwanted is not None:
        return say("skip", *unwanted)
    if held is not None and held.digest != listed.digest:
        return say("conflict", "other_digest", f"The target has other bytes under '{listed.tag}'; they are kept.")
    if held is not None and held.deleted:
        return say("skip", "deleted_there", "It was deleted at the target on purpose.")
    if held is not None:
        missing = len(listed.evidence - held.evidence)
        if not missing:
            return say("skip", "same", "The target has it.")
        code, reason = "evidence_missing", f"The target lacks {missing} of its signatures and reports."
    elif terms.only_higher and not _is_higher(listed, highest.get(repository)):
        return say("skip", "not_higher", f"The target has {highest.get(repository)} already.")
    else:
        code, reason = "missing", "The target does not have it."
    if terms.window is not None and not terms.window.holds(now):
        return say("skip", "outside_window", f"{reason} It waits for {_hours(terms.window)}.")
    return say("copy", code, reason)


def _unwanted(terms: Terms, listed: Listed) -> tuple[str, str] | None:
    """Why a tag of the source is not the rule's business; None when it is."""
    if listed.deleted:
        return "deleted_here", "It was deleted at the source."
    version = _version(listed.tag)
    if terms.range is not None and (version is None or not matches(terms.range, version)):
        return "out_of_range", f"It is not in {terms.range}."
    if terms.alias is not None and terms.alias not in (listed.tag, *listed.aliases):
        return "not_the_alias", f"'{terms.alias}' does not mean it."
    for name, value in sorted(terms.labels.items()):
        if name not in listed.labels or value not in ("*", listed.labels[name]):
            return "label", f"It has no label {name}={value}."
    if listed.admitted is False:
        return "denied", "The gate does not let it out."
    if listed.held_back is not None:
        return "held_back", listed.held_back
    if terms.only_admitted and listed.admitted is None:
        return "not_judged", "Nobody has judged it here."
    return None


def _prunes(terms: Terms, source: Sequence[Listed], target: Sequence[Listed], now: datetime) -> list[Item]:
    if terms.direction != "mirror" or terms.delete == "never":
        return []
    if terms.window is not None and not terms.window.holds(now):
        return []
    kept: dict[tuple[str, str], Listed] = {(listed.repository, listed.tag): listed for listed in source}
    # A source that lists nothing of a project has more likely lost it, or us, than emptied it.
    if not any(in_scope(terms, listed.repository) and not listed.deleted for listed in source):
        return []
    items = []
    for listed in sorted(target, key=_order):
        origin = source_name(terms, listed.repository)
        same_project = listed.repository.partition("/")[0] == (terms.target_project or terms.project)
        if not same_project or not in_scope(terms, origin) or listed.deleted or not _is_content(terms, listed):
            continue
        if not _may_prune(terms, listed):
            continue
        at_source = kept.get((origin, listed.tag))
        if at_source is None or at_source.deleted:
            code, reason = "gone", "The source no longer has it."
        elif at_source.admitted is False and at_source.digest == listed.digest:
            code, reason = "denied", "The gate no longer lets it out."
        else:
            continue
        items.append(Item("prune", origin, listed.repository, listed.tag, None, listed.digest, code, reason))
    return items


def _may_prune(terms: Terms, listed: Listed) -> bool:
    """Only what the rule's filters would have brought there can go by it; labels and aliases are the source's."""
    version = _version(listed.tag)
    if terms.range is not None and (version is None or not matches(terms.range, version)):
        return False
    return not terms.labels and terms.alias is None


def _is_content(terms: Terms, listed: Listed) -> bool:
    """Versions, and with `all_tags` other names; signature and referrers tags travel with what they are about."""
    return _version(listed.tag) is not None or (terms.all_tags and not listed.tag.startswith("sha256-"))


def _version(tag: str) -> SemVer | None:
    if not is_version_tag(tag):
        return None
    try:
        return SemVer.parse(from_tag(tag))
    except VersionInvalid:
        return None


def _highest(target: Iterable[Listed]) -> dict[str, SemVer]:
    found: dict[str, list[SemVer]] = defaultdict(list)
    for listed in target:
        version = _version(listed.tag)
        if version is not None:
            found[listed.repository].append(version)
    return {repository: max(versions) for repository, versions in found.items()}


def _is_higher(listed: Listed, highest: SemVer | None) -> bool:
    version = _version(listed.tag)
    return version is not None and (highest is None or version > highest)


def _order(listed: Listed) -> tuple[str, bool, SemVer | None, str]:
    version = _version(listed.tag)
    return (listed.repository, version is None, version or _ZERO, listed.tag)


_ZERO: Final = SemVer(0, 0, 0)


def _hours(window: Window) -> str:
    return f"{window.start:%H:%M}-{window.end:%H:%M} UTC"
