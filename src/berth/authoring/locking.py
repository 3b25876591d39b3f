"""How do several programs share one folder? An exclusive lock on a file, given back at the end of a `with` block."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    @contextmanager
    def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
        """Holds the lock of the file `path`; the file stays. Raises OSError when it is taken and `wait` is False."""
        with path.open("ab") as handle:
            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            try:
                yield
            finally:
                msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    @contextmanager
    def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
        """Holds the lock of the file `path`; the file stays. Raises OSError when it is taken and `wait` is False."""
        with path.open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
