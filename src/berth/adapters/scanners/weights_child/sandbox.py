"""How does the child lock itself in before it touches foreign bytes? No network, bounded memory, CPU time and files."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 64


def enter(*, memory_bytes: int, cpu_seconds: int) -> dict[str, str]:
    """Give up what a parser does not need; says what could be had, for the log.

    A kernel that refuses network namespaces (some containers do) does not stop the scan: the answer says so.
    """
    state = {"network": _leave_network()}
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A killed worker takes its parsers with it.
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    limits = {
        "memory": (resource.RLIMIT_AS, memory_bytes),
        "cpu": (resource.RLIMIT_CPU, cpu_seconds),
        "file_size": (resource.RLIMIT_FSIZE, 0),
        "open_files": (resource.RLIMIT_NOFILE, _OPEN_FILES),
        "core": (resource.RLIMIT_CORE, 0),
        "processes": (resource.RLIMIT_NPROC, 0),
    }
    for name, (which, wanted) in limits.items():
        state[name] = _limit(which, wanted)
    return state


def _leave_network() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    # As root alone; else through a user namespace of our own, where the kernel allows that.
    for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return "none"
        reason = os.strerror(ctypes.get_errno())
    return f"shared with the host ({reason})"


def _limit(which: int, wanted: int) -> str:
    _, hard = resource.getrlimit(which)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError) as error:
        return f"not limited ({error})"
    return str(value)
