"""How are vendors' own libraries used? Imported when a registry of theirs is opened, called in threads of this room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

from berth.errors import SetupError

T = TypeVar("T")


def sdk(module: str, *, extra: str) -> Any:
    """A vendor's module. Raises SetupError, naming the extra to install, when it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise SetupError(
            f"The library {module.partition('.')[0]} is not installed.", hint=f'Say: pip install "berth[{extra}]".'
        ) from error


async def in_sdk_thread(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Runs a call that blocks; never in the loop's own pool."""
    return await asyncio.get_running_loop().run_in_executor(_pool(), partial(call, *arguments, **named))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="berth-sdk")
