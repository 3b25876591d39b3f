"""What is kept of a delivery? Each event of ours once, with one job for all that wait.

Deliveries repeat (Distribution until it is answered, Harbor after a lost answer) and overtake each other: the key of an
event is what the registry calls it, or else what it says.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from berth.adapters.registries.contract import RemoteEvent
from berth.db import queue
from berth.sync.events import queries

TAKE: Final = "take_registry_events"
# A rule that is busy is asked again after so long.
LATER_SECONDS: Final = 15


@dataclass(frozen=True)
class Arrived:
    """How many events of a delivery were new, known already, or about nothing of ours."""

    new: int = 0
    repeated: int = 0
    foreign: int = 0


async def arrive(conn: AsyncConnection, registry_id: int, events: Sequence[RemoteEvent], *, now: datetime) -> Arrived:
    """Store what a delivery says, and have a worker take it up."""
    new = repeated = foreign = 0
    for event in events:
        if event.repository is None:
            foreign += 1
            continue
        values = {
            "key": event.key or f"once {secrets.token_hex(16)}",
            "action": event.action,
            "repository": event.repository,
            "digest": event.digest,
            "tag": event.tag,
            "happened_at": None if event.at is None else datetime.fromtimestamp(event.at, UTC),
            "received_at": now,
        }
        if await queries.insert_event(conn, registry_id, values):
            new += 1
        else:
            repeated += 1
    if new:
        await take_up(conn, registry_id)
    return Arrived(new, repeated, foreign)


async def take_up(conn: AsyncConnection, registry_id: int, *, delay_seconds: int = 0) -> None:
    """Have a worker look at the events of a registry; once, however many came."""
    later = ":later" if delay_seconds else ""
    await queue.defer(
        conn,
        TAKE,
        key=f"{TAKE}:{registry_id}{later}",
        delay_seconds=delay_seconds,
        registry_id=registry_id,
    )
