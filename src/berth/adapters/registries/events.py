"""What do registries tell by themselves? Webhooks: what comes in, what it means, and how they are set up.

Names of this file are seen by others through contract.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class RemoteEvent:
    """Something that happened at a registry, from its webhook. Deliveries repeat and overtake each other.

    Attributes:
        action: pushed | pulled | deleted | scanned | other
        repository: by our own name; None for one that is none of ours.
        at: when it happened there, seconds since the epoch.
        id: the registry's own name of the event, where it gives one.
    """

    action: str
    repository: str | None
    digest: str | None
    tag: str | None
    at: float | None
    id: str | None = None

    @property
    def key(self) -> str | None:
        """What makes two deliveries the same event; None where a registry says nothing that would tell them apart."""
        if self.id is not None:
            return f"id {self.id}"
        if self.at is None:
            return None
        return " ".join(str(part) for part in (self.action, self.repository, self.digest, self.tag, self.at))


@dataclass(frozen=True)
class Delivery:
    """What came to a hook.

    Attributes:
        headers: by name in lower case; some registries say there what happened.
        host: host[:port] of the registry that it is about.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str = ""


# The `project/name` that a repository of the registry stands for here; None when it is none of ours.
Inward = Callable[[str], str | None]


@runtime_checkable
class Notifying(Protocol):
    """It sends webhooks. Who sent a delivery is checked before anything of it is read."""

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """The events of a delivery. Raises InvalidInput when it is unreadable."""
        ...


@runtime_checkable
class Hooking(Protocol):
    """Its webhooks can be set up from here."""

    async def ensure_hook(self, project: str, *, address: str, authorization: str, pulls: bool) -> bool:
        """Have it tell `address` what happens to one of our projects there; whether the hook is new.

        `authorization` comes back with every delivery. With `pulls` also each pull is told.
        """
        ...
