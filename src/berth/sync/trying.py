"""When is something tried again? A few times, with growing waits, where the failure may pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from berth.errors import (
    DigestInvalid,
    IntegrityError,
    RemoteAuthError,
    RemoteError,
    SizeInvalid,
    TooManyRequests,
    Unavailable,
)
from berth.sync.flow import Flow

T = TypeVar("T")

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
# What waiting may cure, a transfer that arrived damaged included.
PASSING: Final = (DigestInvalid, IntegrityError, RemoteError, SizeInvalid, TooManyRequests, Unavailable)


async def again(do: Callable[[], Awaitable[T]], *, flow: Flow) -> T:
    """Do something, again after a while when the failure may pass; refused credentials do not get better."""
    failures = 0
    while True:
        try:
            return await do()
        except PASSING as error:
            failures += 1
            if failures >= flow.limits.attempts or isinstance(error, RemoteAuthError):
                raise
            asked = error.detail.get("retry_after")
            wait = float(asked) if isinstance(asked, int | float) else FIRST_WAIT_SECONDS * 2 ** (failures - 1)
            await flow.sleep(min(wait, LONGEST_WAIT_SECONDS))
