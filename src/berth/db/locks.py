"""How do processes agree who does something? PostgreSQL advisory locks, by name (design §5)."""

from __future__ import annotations

import hashlib

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


def lock_key(name: str) -> int:
    """The signed 64-bit number that PostgreSQL wants for a lock, from its name (e.g. "blob:sha256:…")."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


async def hold(conn: AsyncConnection, name: str) -> None:
    """Waits for the lock `name` and keeps it until the transaction of `conn` ends."""
    await conn.execute(select(func.pg_advisory_xact_lock(lock_key(name))))


async def hold_shared(conn: AsyncConnection, name: str) -> None:
    """As `hold`, beside other shared holders; waits only for an exclusive one."""
    await conn.execute(select(func.pg_advisory_xact_lock_shared(lock_key(name))))


async def try_hold(conn: AsyncConnection, name: str) -> bool:
    """Takes the lock `name` until the end of the transaction unless somebody has it; says whether it did."""
    return bool((await conn.execute(select(func.pg_try_advisory_xact_lock(lock_key(name))))).scalar_one())
