"""How does a Python program use a Berth service? `Berth` is the SDK; errors are those of `berth.errors`."""

from __future__ import annotations

from berth.client.berth import Berth
from berth.client.versions import Verdict

__all__ = ["Berth", "Verdict"]
