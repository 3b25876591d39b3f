"""What do two places hold of what a rule is about? Reads both sides; `plan` compares them.

The depot answers with two queries. Other registries are asked for their tags and, many at once, for what each means;
about evidence only where both sides hold the same version, since a missing one brings its evidence along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from berth.adapters.registries.contract import Confirming, Registry, Repacking
from berth.errors import ManifestUnknown, Unsupported
from berth.oci import manifest as manifests
from berth.oci import referrers
from berth.oci.version import is_version_tag
from berth.sync.depot import DepotRegistry
from berth.sync.evidence import evidence_of
from berth.sync.images import matched
from berth.wire.parallel import each
from berth.wire.plan import Listed, Terms, in_scope, source_name, target_name

# (repository, tag) → the digest that the tag probably means.
Guesses = Mapping[tuple[str, str], str]
# (repository of the target, digest of a version) → what refers to it and is there.
Evidence = Mapping[tuple[str, str], frozenset[str]]
PAGE: Final = 500
# Repositories whose tags are read side by side; for each of them tags are looked up side by side too.
REPOSITORIES_AT_ONCE: Final = 4


@dataclass
class Remembered:
    """What earlier runs of a rule found, and what this one adds.

    Attributes:
        tags: of the source; asked whether it is still so, registries work less.
        evidence: what the target was seen to hold not long ago; not asked for again.
        seen: the same, of this time.
    """

    tags: Guesses = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)
    seen: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)


async def compared(
    terms: Terms,
    source: Registry,
    target: Registry,
    *,
    judge: DepotRegistry | None = None,
    remembered: Remembered | None = None,
) -> tuple[list[Listed], list[Listed]]:
    """Both listings, ready for `plan`.

    Args:
        judge: asked for verdicts about content of other registries when the rule wants only what is admitted.
        remembered: what is known of both; gets what is found about evidence.

    Raises:
        Unsupported: a glob over models at a registry that cannot list its repositories.
        RemoteError, Unavailable, TooManyRequests: a place failed. A plan is made from whole listings or not at all.
    """
    memory = remembered or Remembered()
    tags: dict[str, frozenset[str]] = {}
    ours = await _list(
        terms,
        source,
        project=terms.project,
        mine=lambda name: in_scope(terms, name),
        sides="source",
        guesses=memory.tags,
        tags=tags,
    )
    names = {target_name(terms, listed.repository) for listed in ours}
    guesses = {(target_name(terms, listed.repository), listed.tag): listed.digest for listed in ours}
    theirs = await _list(
        terms,
        target,
        project=terms.target_project or terms.project,
        mine=lambda name: in_scope(terms, source_name(terms, name)),
        sides="target",
        known=names,
        guesses=guesses,
        tags={},
    )
    if terms.only_admitted and judge is not None and not isinstance(source, DepotRegistry):
        ours = await each(ours, lambda listed: _judged(judge, listed))
    if isinstance(source, Repacking) or isinstance(target, Repacking):
        return await matched(terms, source, target, ours, theirs)
    return await _with_evidence(terms, source, target, ours, theirs, memory, tags)


async def _list(
    terms: Terms,
    place: Registry,
    *,
    project: str,
    mine: Callable[[str], bool],
    sides: str,
    guesses: Guesses,
    tags: dict[str, frozenset[str]],
    known: Iterable[str] = (),
) -> list[Listed]:
    """What one side has; every tag of each repository goes into `tags`, those too that are not of interest here."""
    if isinstance(place, DepotRegistry):
        return [listed for listed in await place.listed(project) if mine(listed.repository)]
    names = set(known)
    if any(sign in terms.model for sign in "*?["):
        # Of a target that nothing is removed from, only what the source has is of interest.
        if sides == "source" or terms.delete != "never":
            names |= {name for name in await _repositories(place, project) if mine(name)}
    else:
        names.add(f"{project}/{terms.model}")

    async def read(name: str) -> list[Listed]:
        every = await all_tags(place, name)
        tags[name] = frozenset(every)
        return await _tags_of(terms, place, name, every, source=sides == "source", guesses=guesses)

    return [listed for found in await each(sorted(names), read, at_once=REPOSITORIES_AT_ONCE) for listed in found]


async def _repositories(place: Registry, project: str) -> list[str]:
    if not place.capabilities.list_repositories:
        raise Unsupported(
            "This registry cannot say which repositories it has.", hint="Name one model in the rule: --model NAME."
        )
    names: list[str] = []
    after: str | None = None
    while True:
        page = await place.repositories(after=after, limit=PAGE)
        names += [name for name in page.items if name.startswith(f"{project}/") and name.count("/") == 1]
        after = page.after
        if after is None:
            return names


async def all_tags(place: Registry, repository: str) -> list[str]:
    """Every tag of a repository."""
    names: list[str] = []
    after: str | None = None
    while True:
        page = await place.tags(repository, after=after, limit=PAGE)
        names += page.items
        after = page.after
        if after is None:
            return names


async def _tags_of(
    terms: Terms, place: Registry, repository: str, names: Sequence[str], *, source: bool, guesses: Guesses
) -> list[Listed]:
    wanted = [
        name
        for name in names
        if is_version_tag(name) or name == terms.alias or (terms.all_tags and referrers.subject_of_tag(name) is None)
    ]

    confirming = place if isinstance(place, Confirming) else None

    async def look(tag: str) -> Listed | None:
        likely = guesses.get((repository, tag))
        if likely is not None and confirming is not None:
            digest = await confirming.tag_digest(repository, tag, likely=likely)
            return None if digest is None else Listed(repository, tag, digest)
        stat = await place.stat(repository, tag)
        return None if stat is None else Listed(repository, tag, stat.digest)

    found = [listed for listed in await each(wanted, look) if listed is not None]
    if not source:
        return found
    by_digest: dict[str, set[str]] = {}
    for listed in found:
        by_digest.setdefault(listed.digest, set()).add(listed.tag)
    found = [replace(listed, aliases=frozenset(by_digest[listed.digest] - {listed.tag})) for listed in found]
    if terms.labels:
        found = await each(found, lambda listed: _labelled(place, listed))
    return found


async def _labelled(place: Registry, listed: Listed) -> Listed:
    """Other registries know no labels of ours; a manifest's annotations say the same."""
    try:
        body = await place.manifest(listed.repository, listed.digest)
    except ManifestUnknown:
        return listed
    return replace(listed, labels=dict(manifests.parse(body).annotations))


async def _judged(judge: DepotRegistry, listed: Listed) -> Listed:
    return replace(listed, admitted=await judge.admitted(listed.repository, listed.digest))


async def _with_evidence(
    terms: Terms,
    source: Registry,
    target: Registry,
    ours: Sequence[Listed],
    theirs: Sequence[Listed],
    memory: Remembered,
    tags: Mapping[str, frozenset[str]],
) -> tuple[list[Listed], list[Listed]]:
    there = {(listed.repository, listed.tag): listed for listed in theirs}
    known: dict[tuple[str, str], bool] = {}
    # Several names may mean one version.
    about: dict[tuple[str, str], frozenset[str]] = {}

    async def look(listed: Listed) -> tuple[Listed, Listed | None]:
        held = there.get((target_name(terms, listed.repository), listed.tag))
        if held is None or held.digest != listed.digest:
            return listed, held
        if not isinstance(source, DepotRegistry):
            source_version = (listed.repository, listed.digest)
            if source_version not in about:
                about[source_version] = await _evidence(source, listed, tags[listed.repository])
            listed = replace(listed, evidence=about[source_version])
        wanted, version = listed.evidence, (held.repository, held.digest)
        if wanted and wanted <= memory.evidence.get(version, frozenset()):
            return listed, replace(held, evidence=wanted)
        if wanted:
            held = replace(held, evidence=await _held(target, held.repository, wanted, known))
            if held.evidence == wanted:
                memory.seen[version] = wanted
        return listed, held

    pairs = await each(ours, look)
    for _, held in pairs:
        if held is not None:
            there[(held.repository, held.tag)] = held
    return [listed for listed, _ in pairs], list(there.values())


async def _evidence(place: Registry, listed: Listed, tags: frozenset[str]) -> frozenset[str]:
    """What refers to one version, at a registry that is not ours."""
    found = await evidence_of(place, listed.repository, listed.digest, root=listed.digest, flow=None, known_tags=tags)
    return frozenset(digest for digest, _ in found)


async def _held(
    place: Registry, repository: str, wanted: frozenset[str], known: dict[tuple[str, str], bool]
) -> frozenset[str]:
    """Those of these manifests that a place has. `known`: what was asked before; versions may share evidence."""
    if isinstance(place, DepotRegistry):
        return await place.held(repository, wanted)
    for digest in sorted(wanted):
        if (repository, digest) not in known:
            known[repository, digest] = await place.stat(repository, digest) is not None
    return frozenset(digest for digest in wanted if known[repository, digest])
