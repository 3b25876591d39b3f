"""How fast may we ask? What registries say about it in their answers, and how long to wait because of it.

Read are `RateLimit-*` (GitLab; Docker Hub, whose values carry the window: `100;w=21600`) and `X-RateLimit-*` (GitHub).
Where nothing is left until a time that is told, we wait for it instead of running into 429; where little is left, we
spread it over that time. Without such a time only the answer 429 and its `Retry-After` count (retry.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

_VALUE: Final = re.compile(r"\s*(\d{1,12})(?:\.\d+)?\s*(?:;.*?\bw=(\d{1,12}))?")
# A number beyond this is a time of day (seconds since 1970), below it a number of seconds.
_EPOCH: Final = 1_000_000_000
# The part of the limit below which requests are spread.
LOW: Final = 0.1


@dataclass(frozen=True)
class RateLimit:
    """What a registry said last; times in seconds, `reset` from the moment of the answer."""

    limit: int | None = None
    remaining: int | None = None
    window: int | None = None
    reset: float | None = None


def read(headers: Mapping[str, str], *, now: float) -> RateLimit | None:
    """What an answer's headers say, None when they say nothing. `now`: seconds since 1970."""
    limit, window = _number(headers, "limit")
    remaining, other = _number(headers, "remaining")
    if limit is None and remaining is None:
        return None
    until, _ = _number(headers, "reset")
    reset = None if until is None else max(0.0, until - now) if until > _EPOCH else float(until)
    return RateLimit(limit, remaining, window if window is not None else other, reset)


def _number(headers: Mapping[str, str], word: str) -> tuple[int | None, int | None]:
    for name in (f"ratelimit-{word}", f"x-ratelimit-{word}"):
        if name in headers and (found := _VALUE.match(headers[name])) is not None:
            return int(found[1]), None if found[2] is None else int(found[2])
    return None, None


class Pace:
    """Keeps to what one registry said.

    Args:
        longest: most seconds that one request is held back.
    """

    def __init__(
        self,
        *,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.latest: RateLimit | None = None
        self._longest = longest
        self._clock = clock
        self._now = now
        self._at = 0.0

    def seen(self, headers: Mapping[str, str]) -> None:
        """Take note of an answer."""
        found = read(headers, now=self._now())
        if found is not None:
            self.latest, self._at = found, self._clock()

    def delay(self) -> float:
        """Seconds to wait before the next request, which is counted here."""
        said = self.latest
        if said is None or said.remaining is None or said.reset is None:
            return 0.0
        left = said.reset - (self._clock() - self._at)
        if left <= 0:
            return 0.0
        self.latest = replace(said, remaining=max(0, said.remaining - 1))
        if said.remaining == 0:
            return min(left, self._longest)
        if said.limit is None or said.remaining >= said.limit * LOW:
            return 0.0
        return min(left / (said.remaining + 1), self._longest)
