"""Which registry is asked first? Those that work before those that don't, near ones before far ones, then by name.

What is known is this process's own experience: it starts empty and is forgotten with the process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

# After so many failures in a row a registry is left alone; each further one doubles the time.
PATIENCE: Final = 2
FIRST_REST_SECONDS: Final = 5.0
LONGEST_REST_SECONDS: Final = 300.0
# Whoever sent wrong bytes is asked last for so long.
DISTRUST_SECONDS: Final = 600.0
_NEW_SHARE: Final = 0.3


@dataclass
class _Known:
    failures: int = 0
    rests_until: float = 0.0
    distrusted_until: float = 0.0
    latency: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class State:
    """What this process knows about one registry.

    Attributes:
        healthy: it may be asked now.
        retry_seconds: how long it is left alone, 0 when it is not.
        latency_ms: usual time to its first byte, None before it was asked.
        trusted: it has not sent wrong bytes lately.
        reason: its last failure, None after a success.
    """

    healthy: bool
    retry_seconds: float
    latency_ms: float | None
    trusted: bool
    reason: str | None


class Health:
    """A circuit breaker per registry, with its usual latency.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def order(self, names: Iterable[str]) -> list[str]:
        """All of them, in the order in which they are to be asked; those that rest come last."""
        return sorted(set(names), key=self._rank)

    def _rank(self, name: str) -> tuple[bool, bool, int, str]:
        state = self.state(name)
        return not state.healthy, not state.trusted, _distance(state.latency_ms), name

    def state(self, name: str) -> State:
        known, now = self._known.get(name, _Known()), self._clock()
        rest = max(0.0, known.rests_until - now)
        latency = None if known.latency is None else known.latency * 1000
        return State(rest <= 0, rest, latency, known.distrusted_until <= now, known.reason)

    def answered(self, name: str, seconds: float) -> None:
        """Its first byte came after so long."""
        known = self._known.setdefault(name, _Known())
        before = seconds if known.latency is None else known.latency
        known.latency = before + _NEW_SHARE * (seconds - before)

    def succeeded(self, name: str) -> None:
        known = self._known.setdefault(name, _Known())
        known.failures, known.rests_until, known.reason = 0, 0.0, None

    def failed(self, name: str, reason: str) -> None:
        """It could not be reached or broke off. The first failure is forgiven, the next ones make it rest."""
        known = self._known.setdefault(name, _Known())
        known.failures += 1
        known.reason = reason
        if known.failures >= PATIENCE:
            rest = min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 2 ** min(known.failures - PATIENCE, 16))
            known.rests_until = self._clock() + rest

    def lied(self, name: str, reason: str) -> None:
        """It sent other bytes than it was asked for."""
        known = self._known.setdefault(name, _Known())
        known.distrusted_until = self._clock() + DISTRUST_SECONDS
        known.reason = reason


def _distance(latency_ms: float | None) -> int:
    """Latency in steps of a factor of two, so that noise does not decide; what was never asked is tried first."""
    return -1 if latency_ms is None else max(0, int(math.log2(max(latency_ms, 1.0))))
