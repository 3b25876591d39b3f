"""How is a registry? Asked once and without patience: one that is away, or refuses us, is an answer and no error."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from berth.adapters.registries.administration import Health, Watched
from berth.adapters.registries.contract import Registry
from berth.errors import BerthError, RemoteAuthError, SetupError, TooManyRequests, Unavailable, Unsupported

# More than a slow sign-in takes, less than a person waits.
PATIENCE_SECONDS: Final = 20.0


async def health_of(registry: Registry, *, patience: float = PATIENCE_SECONDS) -> Health:
    """What the registry says, and how long it took. Raises Unsupported, and SetupError for what is missing here."""
    if not isinstance(registry, Watched):
        raise Unsupported("This registry does not say how it is.", hint="berth registry probe asks what it can do.")
    began = time.monotonic()
    try:
        async with asyncio.timeout(patience):
            found = await registry.health()
    except TimeoutError:
        found = Health(healthy=False, components={"reachable": f"No answer within {patience:g} seconds."})
    except SetupError:
        raise
    except BerthError as error:
        found = Health(healthy=False, components={_part(error): str(error)})
    return replace(found, milliseconds=round((time.monotonic() - began) * 1000))


def _part(error: BerthError) -> str:
    """What of a registry a failure is about."""
    if isinstance(error, RemoteAuthError):
        return "credentials"
    if isinstance(error, TooManyRequests):
        return "requests"
    return "reachable" if isinstance(error, Unavailable) else "answer"
