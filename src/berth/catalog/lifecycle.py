"""Which change of a version's existence is allowed? Pure: states and what leads from one to the next.

Existence is one of `received | live | archived | deleted` (design §2). Approval, deprecation and placement are facts
of their own, and the verdict is computed, never stored as a state.
"""

from __future__ import annotations

from typing import Literal

from berth.errors import Conflict

State = Literal["received", "live", "archived", "deleted"]

ALLOWED: dict[str, frozenset[str]] = {
    "received": frozenset({"live", "deleted"}),
    "live": frozenset({"archived", "deleted"}),
    "archived": frozenset({"live", "deleted"}),
    "deleted": frozenset({"received"}),  # the same bytes pushed again
}


def check_change(version: str, current: str, wanted: str) -> None:
    """Raise Conflict unless a version may go from `current` to `wanted`."""
    if wanted not in ALLOWED[current]:
        raise Conflict(f"{version} is {current}; it cannot become {wanted}.")
