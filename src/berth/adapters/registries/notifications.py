"""What does a notification of CNCF Distribution say? Its envelope, which GitLab's registry and others send too.

Distribution: docs/content/about/notifications.md. One delivery holds events about manifests and blobs; only manifests
mean something to us. Its retries repeat an event under the same id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from berth.adapters.registries.contract import Inward, RemoteEvent
from berth.errors import InvalidInput
from berth.oci import media_types as types

ACTIONS = {"push": "pushed", "pull": "pulled", "delete": "deleted"}
# PostgreSQL keeps neither NUL nor half a pair of surrogates.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# What a time can be: the years to 2242.
_LATEST = 2**33
_MANIFESTS = types.MANIFEST_TYPES | types.INDEX_TYPES | types.SCHEMA1_TYPES


def of_envelope(body: bytes, *, inward: Inward) -> Sequence[RemoteEvent]:
    """The events about manifests. Raises InvalidInput."""
    events = document(body, "CNCF Distribution").get("events")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise InvalidInput("This is not a notification of CNCF Distribution.")
    return list(_of_events(events, inward))


def _of_events(events: Sequence[Mapping[str, Any]], inward: Inward) -> Iterator[RemoteEvent]:
    for event in events:
        target = event.get("target")
        action = ACTIONS.get(str(event.get("action")))
        # A deletion says digest or tag, and no media type; a blob is deleted by nobody but administrators.
        if not isinstance(target, dict) or action is None:
            continue
        if action != "deleted" and text(target.get("mediaType")) not in _MANIFESTS:
            continue
        yield RemoteEvent(
            action=action,
            repository=ours(target.get("repository"), inward),
            digest=text(target.get("digest")),
            tag=text(target.get("tag")),
            at=moment(event.get("timestamp")),
            id=text(event.get("id")),
        )


# ---- what all kinds of deliveries need


def document(body: bytes, who: str) -> dict[str, Any]:
    """The JSON object that a delivery is. Raises InvalidInput."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"This is not a notification of {who}: it is no JSON.") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"This is not a notification of {who}.")
    return found


def member(found: object, *keys: str) -> Any:
    """What stands at the end of nested objects, None where one is missing or none."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def text(value: object) -> str | None:
    """A short text that can be stored, or nothing."""
    if not isinstance(value, str) or not 0 < len(value) <= 512 or _UNSTORABLE.search(value) is not None:
        return None
    return value


def ours(name: object, inward: Inward) -> str | None:
    """Our name of a repository there, or nothing."""
    found = text(name)
    return None if found is None else inward(found)


def moment(value: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time or a number of seconds; None for neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if 0 <= value < _LATEST else None
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    seconds = found.timestamp() if found.tzinfo is not None else -1.0
    return seconds if 0 <= seconds < _LATEST else None
