"""Makes the advisory registry available to the tests beside this file."""

from __future__ import annotations

from tests.support.advisories import advisory_registry

__all__ = ["advisory_registry"]
