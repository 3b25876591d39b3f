"""How is a damaged file reported by the readers of `detect_*`? As one error that the caller turns into a remark."""

from __future__ import annotations

from berth.errors import InvalidInput


class Malformed(InvalidInput):
    """A file is not what it looks like. The message continues "FILE was not read: "."""
