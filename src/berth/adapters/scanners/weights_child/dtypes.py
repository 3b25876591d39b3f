"""Does a numpy dtype that a pickle describes hold objects? Read from the values the machine followed, nothing is built.

joblib writes an array's bytes, or for objects a pickle of its own, into the middle of its pickle; which of them follows
is said only by the dtype.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_DTYPE = re.compile(r"[<>|=]?([biufcSUmMOV])(\d*)\Z")
_DTYPE_STATE = 8
_DTYPE_DEPTH = 8
_ITEM_REFCOUNT = 1  # NPY_ITEM_REFCOUNT of numpy/ndarraytypes.h


@dataclass(frozen=True)
class Import:
    module: str
    name: str


@dataclass
class Call:
    """The result of calling something; `state` is what BUILD put into it."""

    target: Any
    arguments: Any = None
    state: Any = None


def letters_of(dtype: Any) -> re.Match[str] | None:
    letters = dtype.arguments[0] if isinstance(dtype, Call) and isinstance(dtype.arguments, tuple) else None
    # numpy writes date units as 'M8[D]' into the state only.
    return _DTYPE.match(letters) if isinstance(letters, str) else None


def holds_objects(dtype: Any, depth: int = 0) -> bool | None:
    """Whether arrays of this pickled dtype hold objects (`dtype.__reduce__`: letters, then a state); None = unknown."""
    kind = letters_of(dtype)
    if kind is None or depth > _DTYPE_DEPTH:
        return None
    if kind[1] == "O":
        return True
    if dtype.state is None:
        return False
    if not isinstance(dtype.state, tuple) or len(dtype.state) < _DTYPE_STATE:
        return None
    flags = dtype.state[_DTYPE_STATE - 1]
    if not isinstance(flags, int):
        return None
    if flags & _ITEM_REFCOUNT:
        return True
    subarray, fields = dtype.state[2], dtype.state[4]
    parts = [subarray[0]] if isinstance(subarray, tuple) and subarray else []
    if isinstance(fields, dict):
        parts += [field[0] for field in fields.values() if isinstance(field, tuple) and field]
    answers = [holds_objects(part, depth + 1) for part in parts]
    return True if True in answers else None if None in answers else False
