"""How are many things asked or moved side by side? A few at once, and the first failure ends the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Requests without a body of note that are under way at once.
AT_ONCE: Final = 16


async def each(items: Sequence[T], do: Callable[[T], Awaitable[R]], *, at_once: int = AT_ONCE) -> list[R]:
    """`do` for every item, begun in order and `at_once` side by side; the answers in the order of the items.

    Raises: what the first that failed raised; the others are cancelled and have ended by then.
    """
    results: list[R | None] = [None] * len(items)
    waiting = iter(enumerate(items))

    async def work() -> None:
        for index, item in waiting:
            results[index] = await do(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise first_of(failures) from None
    return results  # type: ignore[return-value]


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of tasks; the others were only told to stop."""
    for failure in failures.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            return first_of(failure)
        if not isinstance(failure, asyncio.CancelledError):
            return failure
    return failures.exceptions[0]
