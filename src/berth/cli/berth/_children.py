"""How does `berth up` keep its children? Starts them, restarts crashed ones with growing pauses, ends them in order."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from berth.cli.berth._supervised import GO, READY
from berth.errors import SetupError

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 30.0
# Whoever ran so long starts again without a pause the next time.
STEADY_SECONDS: Final = 60.0


@dataclass
class Pause:
    """How long to wait before the next restart: doubles with each crash, forgets them after a steady run."""

    crashes: int = 0

    def after(self, ran_seconds: float) -> float:
        """Seconds to wait after a run of that length."""
        self.crashes = 0 if ran_seconds >= STEADY_SECONDS else self.crashes + 1
        return min(FIRST_PAUSE_SECONDS * float(2 ** max(0, self.crashes - 1)), LONGEST_PAUSE_SECONDS)


@dataclass
class Child:
    """One of Berth's own processes.

    Args:
        name: what logs call it.
        arguments: after `python`.
        environment: the child's whole environment.
        before_exec: `preexec_fn`; ties its life to ours.
        inherited: file descriptors it gets besides the pair.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    before_exec: Callable[[], None] | None
    inherited: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    pair: socket.socket | None = None
    ready: bool = False
    started_at: float = 0.0
    restart_at: float | None = None
    pause: Pause = field(default_factory=Pause)

    def start(self) -> None:
        """Starts the process; it waits for `go`."""
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments, "--supervisor-fd", str(fd)],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                pass_fds=(fd, *self.inherited),
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we end the others in order
                preexec_fn=self.before_exec,  # noqa: PLW1509 — it only makes two system calls
            )
        if self.pair is not None:
            self.pair.close()
        self.pair, self.ready, self.restart_at, self.started_at = ours, False, None, time.monotonic()

    def go(self) -> None:
        """Everything it needs is there."""
        if self.pair is not None:
            try:
                self.pair.sendall(GO)
            except OSError:
                return  # it has gone; `ended` says so

    def hear(self) -> None:
        """Reads what it says, when there is something to read."""
        if self.pair is None:
            return
        try:
            said = self.pair.recv(16)
        except OSError:
            said = b""
        if READY in said:
            self.ready = True
        elif not said:
            self.pair.close()
            self.pair = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def ended(self) -> int | None:
        """Exit code of a process that has ended; None while it runs or waits for its restart."""
        return self.process.poll() if self.process is not None else None

    def restart_later(self) -> float:
        """Forgets the ended process and plans a new one; returns the seconds until then."""
        self.process = None
        wait = self.pause.after(time.monotonic() - self.started_at)
        self.restart_at = time.monotonic() + wait
        return wait

    def send(self, sent: signal.Signals) -> None:
        """Sends it a signal when it runs."""
        self.restart_at = None
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sent)


class Signals:
    """Turns signals into something to wait for, together with what the children say.

    `stops` counts SIGTERM, SIGINT and SIGHUP: the first asks for an orderly end, the second for an immediate one.
    """

    def __init__(self) -> None:
        self.stops = 0
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Catches SIGTERM, SIGINT, SIGHUP and SIGCHLD within the block."""

        def stop(_number: int, _frame: object) -> None:
            self.stops += 1

        def child(_number: int, _frame: object) -> None:
            """Only wakes `wait`."""

        wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGCHLD: child}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is ignored under nohup
            wanted[signal.SIGHUP] = stop
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, children: Sequence[Child], *, until: float | None = None) -> None:
        """Returns when a signal came, a child spoke or ended, or `until` (monotonic) has passed."""
        talking = {child.pair: child for child in children if child.pair is not None}
        seconds = None if until is None else max(0.0, until - time.monotonic())
        readable, _, _ = select.select([self._woken, *talking], [], [], seconds)
        for pair in readable:
            if pair is self._woken:
                self._woken.recv(4096)
            else:
                talking[pair].hear()


def wait_until_ready(children: Sequence[Child], signals: Signals) -> bool:
    """Whether all became ready; False when we were told to stop. Raises SetupError when one ends before it was.

    One that was ready and has ended since is no failed start: whoever watches restarts it.
    """
    while not all(child.ready for child in children):
        for child in children:
            if not child.ready and child.ended() is not None:
                raise SetupError(f"The {child.name} did not start; the lines above say why.")
        if signals.stops:
            return False
        signals.wait(children)
    return True


def end(children: Sequence[Child], signals: Signals, *, grace_seconds: float) -> list[str]:
    """Asks all to end (SIGTERM), waits, and kills after `grace_seconds` or at the next signal; names of the killed."""
    asked = signals.stops
    for child in children:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while any(child.pid for child in children) and time.monotonic() < deadline and signals.stops == asked:
        signals.wait(children, until=deadline)
    killed = [child for child in children if child.pid]
    for child in killed:
        child.send(signal.SIGKILL)
    for child in children:
        if child.process is not None:
            child.process.wait()
    return [child.name for child in killed]
