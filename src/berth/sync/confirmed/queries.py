"""SQL of the evidence that targets were seen to hold. It is asked for again after a day, or when there is more of it.

Evidence seldom goes from a registry by itself, and asking for every piece of every version would be most of the work of
a run that has nothing to do. A version whose tag is missing or differs is copied with all its evidence, whatever stands
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

BELIEVED: Final = timedelta(days=1)


async def fresh(conn: AsyncConnection, rule_id: int, *, now: datetime) -> dict[tuple[str, str], frozenset[str]]:
    """(target repository, version's digest) → evidence that was there less than a day ago."""
    rows = await conn.execute(
        text(
            "select repository, digest, evidence from sync_confirmed where rule_id = :rule and confirmed_at > :since "
            "and confirmed_at <= :now"
        ),
        {"rule": rule_id, "since": now - BELIEVED, "now": now},
    )
    return {(row.repository, row.digest): frozenset(row.evidence) for row in rows}


async def keep(
    conn: AsyncConnection, rule_id: int, seen: Mapping[tuple[str, str], frozenset[str]], *, now: datetime
) -> None:
    """Write down what was just seen; what is too old to be believed goes."""
    await conn.execute(
        text("delete from sync_confirmed where rule_id = :rule and confirmed_at <= :since"),
        {"rule": rule_id, "since": now - BELIEVED},
    )
    if not seen:
        return
    found = [
        {"repository": repository, "digest": digest, "evidence": sorted(evidence)}
        for (repository, digest), evidence in sorted(seen.items())
    ]
    await conn.execute(
        text(
            "insert into sync_confirmed (rule_id, repository, digest, evidence, confirmed_at) "
            "select :rule, f.repository, f.digest, f.evidence, :now "
            "from jsonb_to_recordset(cast(:found as jsonb)) as f (repository text, digest text, evidence text[]) "
            "on conflict (rule_id, repository, digest) do update "
            "set evidence = excluded.evidence, confirmed_at = excluded.confirmed_at"
        ),
        {"rule": rule_id, "found": json.dumps(found), "now": now},
    )
