"""When is a request worth repeating, and how long to wait? (RFC 9110 sections 10.2.3 and 15; registries §7.)"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Args:
        attempts: tries in all, the first included.
        base_seconds: mean wait before the second try; doubles from try to try.
        cap_seconds: longest wait; also the most that a server's Retry-After can ask for.
    """

    attempts: int = 5
    base_seconds: float = 0.3
    cap_seconds: float = 30.0

    def wait(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds to wait after `failures` failed tries; jittered, so that clients do not come back together."""
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.cap_seconds)
        ceiling = min(self.cap_seconds, self.base_seconds * 2 ** (failures - 1))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - not a secret


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (delay or HTTP date); None when absent or unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return (date - (now or datetime.now(UTC))).total_seconds()
