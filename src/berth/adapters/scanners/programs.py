"""How is a foreign program run so that it can't hang us, flood us or outlive us?

Own process group, bounded output, one time limit for everything; on the limit or on cancellation the whole group is
killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 64 << 10
_REAP_SECONDS = 5.0


@dataclass(frozen=True)
class Finished:
    """How a program ended. `code` is None when it was killed by us; output beyond the limit is dropped."""

    code: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    truncated: bool = False

    @property
    def ending(self) -> str:
        """The ending in words, for messages."""
        if self.timed_out:
            return "was ended because it took too long"
        if self.code is not None and self.code < 0:
            try:
                return f"was killed by {signal.Signals(-self.code).name}"
            except ValueError:
                return f"was killed by signal {-self.code}"
        return f"ended with exit code {self.code}"


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    stdin: bytes = b"",
    stdout_limit: int = 1 << 20,
    stderr_limit: int = 256 << 10,
) -> Finished:
    """Run `argv` (no shell) with exactly the environment `env`; killed after `seconds`; limits in bytes.

    Raises:
        OSError: the program cannot be started (missing, not executable, wrong format).
    """
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        # asyncio itself would kill only the program, not its group, and then wait for whoever holds its pipes.
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _kill(await starting)
        raise
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise OSError("no pipes to the program")
    out, err = _Bounded(stdout_limit), _Bounded(stderr_limit)
    code: int | None = None
    timed_out = False
    try:
        async with asyncio.timeout(seconds):
            # The pipes may be held open by a grandchild: waiting for their ends is part of the time limit.
            await asyncio.gather(_feed(process.stdin, stdin), out.read(process.stdout), err.read(process.stderr))
            code = await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        if code is None:
            await _kill(process)
    return Finished(code, bytes(out.data), bytes(err.data), timed_out=timed_out, truncated=out.truncated)


class _Bounded:
    """Reads a pipe to its end and keeps the first `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.truncated = False
        self._limit = limit

    async def read(self, pipe: asyncio.StreamReader) -> None:
        while chunk := await pipe.read(_CHUNK):
            room = self._limit - len(self.data)
            self.data += chunk[:room]
            self.truncated = self.truncated or len(chunk) > room


async def _feed(pipe: asyncio.StreamWriter, data: bytes) -> None:
    # A program that does not read its input to the end is not an error here; its answer is judged.
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(data)
        await pipe.drain()
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.close()
        await pipe.wait_closed()


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_REAP_SECONDS):
            await process.wait()
