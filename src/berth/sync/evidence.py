"""What is said about a manifest at the place it is copied from? Referrers, and tags of signatures and attestations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

from berth.adapters.registries.contract import Registry, Tagging
from berth.oci import digest as digests
from berth.oci import referrers
from berth.sync.depot import DepotRegistry
from berth.sync.flow import Flow
from berth.sync.trying import again

T = TypeVar("T")


async def evidence_of(
    source: Registry,
    repository: str,
    subject: str,
    *,
    root: str,
    flow: Flow | None,
    known_tags: Collection[str] | None,
) -> list[tuple[str, str | None]]:
    """Digests of what refers to one manifest, each with its tag if it has one.

    Args:
        root: the version that the subject belongs to: of the depot, only what may leave with it is named.
        flow: with it each question is tried again; without, the caller does that with the whole.
        known_tags: all tags of the repository, if the caller has them: saves asking for those that are not there.
    Raises:
        RemoteError, Unavailable, TooManyRequests: the source failed, also when tried again.
    """

    async def ask(do: Callable[[], Awaitable[T]]) -> T:
        return await do() if flow is None else await again(do, flow=flow)

    there: list[tuple[str, str | None]] = []
    if _may_have_referrers(source, subject, known_tags):
        listed = await ask(lambda: source.referrers(repository, subject))
        there += [(entry.digest, None) for entry in listed]
    for tag in _tags(subject, known_tags):
        stat = await ask(partial(source.stat, repository, tag))
        if stat is not None:
            there.append((stat.digest, tag))
    if isinstance(source, DepotRegistry):
        # Whoever may push can have anything refer to an admitted version; that alone lets nothing out.
        let_out = await source.may_leave(repository, [digest for digest, _ in there], root=root)
        there = [(digest, tag) for digest, tag in there if digest in let_out]
    return there


def _may_have_referrers(place: Registry, subject: str, known_tags: Collection[str] | None) -> bool:
    """Whether asking a place for what refers to a manifest can bring anything."""
    if known_tags is None or not (isinstance(place, Tagging) and place.referrers_in_tags):
        return True
    return digests.parse(subject).algorithm != "sha256" or referrers.fallback_tag(subject) in known_tags


def _tags(subject: str, known: Collection[str] | None) -> list[str]:
    if digests.parse(subject).algorithm != "sha256":
        return []
    base = referrers.fallback_tag(subject)
    return [tag for tag in (f"{base}.sig", f"{base}.att", f"{base}.sbom") if known is None or tag in known]
