"""What does this machine offer? Read from /proc, control groups, the file system and the vendors' tools.

Nothing is required: what cannot be read is unknown. `root` and `run` are parameters so that recorded machines can be
read, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from berth.authoring.fit import Device, Machine
from berth.authoring.fit_gpu import (
    NVIDIA_OLD_FIELDS,
    ROCM_QUERY,
    nvidia_query,
    parse_cuda,
    parse_nvidia,
    parse_rocm,
    parse_rocm_version,
)
from berth.authoring.running_targets import architecture

_TOOL_SECONDS = 20
# Where a control group has no limit, version 1 writes the largest number that is a whole number of pages.
_NO_LIMIT = 2**60

Run = Callable[[Sequence[str]], tuple[int, str]]


def run_tool(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard output of a tool; 127 when it is not there or does not end."""
    if shutil.which(command[0]) is None:
        return 127, ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_TOOL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout


def read_machine(
    where: Path, *, root: Path = Path("/"), run: Run = run_tool, cpus: int | None = None, arch: str | None = None
) -> Machine:
    """The facts about a machine.

    Args:
        where: a folder on the disk that the model would use; it may not exist yet.
        root: of the file system that /proc and /sys are read from.
        run: runs a vendor's tool.
        cpus: processors this process may use; default: asked of the system.
        arch: default: this machine's.
    """
    model, features, listed = parse_cpuinfo(_read(root / "proc/cpuinfo"))
    total, free = parse_meminfo(_read(root / "proc/meminfo"))
    notes: list[str] = []
    count = float(cpus if cpus is not None else _usable_cpus() or listed or 1)
    quota = cpu_limit(root)
    if quota is not None and quota < count:
        notes.append(f"A control group limits this process to {quota:g} of {count:g} cores.")
        count = quota
    limit = memory_limit(root)
    if limit is not None and (total is None or limit < total):
        notes.append(f"A control group limits this process to {limit} bytes of memory.")
        total, free = limit, None if free is None else min(free, limit)
    gpus, runtimes, said = _accelerators(root, run)
    return Machine(
        architecture=arch or architecture(),
        cpus=count,
        cpu_model=model,
        cpu_features=features,
        memory=total,
        memory_free=free,
        disk=_free_disk(where),
        gpus=tuple(gpus),
        runtimes=runtimes,
        notes=(*notes, *said),
    )


def parse_cpuinfo(text: str) -> tuple[str | None, frozenset[str], int]:
    """Model name, features that all processors share, and their number, from /proc/cpuinfo (x86, ARM, others)."""
    model: str | None = None
    shared: frozenset[str] | None = None
    count = 0
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            continue
        name, words = key.strip().lower(), value.strip()
        if name == "processor" and words.isdecimal():
            count += 1
        elif name in ("model name", "cpu") and words and model is None:
            model = words
        elif name in ("flags", "features"):
            own = frozenset(words.lower().split())
            shared = own if shared is None else shared & own
    return model, shared or frozenset(), count


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Total and available bytes, from /proc/meminfo."""
    found = {
        name: int(number) * 1024 for name, number in re.findall(r"^(\w+):\s+([0-9]{1,15}) kB$", text, re.MULTILINE)
    }
    return found.get("MemTotal"), found.get("MemAvailable", found.get("MemFree"))


def memory_limit(root: Path) -> int | None:
    """The lowest memory limit of this process's control groups in bytes; None without one."""
    found = [int(t) for folder in _groups(root, "") if (t := _read(folder / "memory.max").strip()).isdecimal()]
    for folder in _groups(root, "memory"):
        text = _read(folder / "memory.limit_in_bytes").strip()
        if text.isdecimal():
            found.append(int(text))
    found = [limit for limit in found if limit < _NO_LIMIT]
    return min(found, default=None)


def cpu_limit(root: Path) -> float | None:
    """The lowest processor quota of this process's control groups in cores; None without one."""
    found: list[float] = []
    for folder in _groups(root, ""):
        parts = _read(folder / "cpu.max").split()
        if len(parts) == 2 and all(p.isdecimal() for p in parts) and int(parts[1]) > 0:
            found.append(int(parts[0]) / int(parts[1]))
    for folder in _groups(root, "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min((limit for limit in found if limit > 0), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of all above it; controller "" is version 2.

    In a container the path of /proc/self/cgroup may be the host's and not exist here; then the mount's top is ours.
    """
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (controller not in names.split(",")) if controller else names:
            continue
        mounted = [top / names, top / controller] if controller else [top, top / "unified"]
        base = next((folder for folder in mounted if folder.is_dir()), None)
        if base is None:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _accelerators(root: Path, run: Run) -> tuple[list[Device], dict[str, str], list[str]]:
    gpus: list[Device] = []
    runtimes: dict[str, str] = {}
    notes: list[str] = []
    code, text = run(nvidia_query())
    if code not in (0, 127):
        fields = NVIDIA_OLD_FIELDS
        code, text = run(nvidia_query(fields))
        gpus += parse_nvidia(text, fields) if code == 0 else []
    elif code == 0:
        gpus += parse_nvidia(text)
    if code not in (0, 127):
        notes.append(f"nvidia-smi failed: {(text.strip().splitlines() or ['no message'])[0][:200]}")
    if gpus:
        cuda = parse_cuda(run(["nvidia-smi"])[1])
        if cuda:
            runtimes["cuda"] = cuda
    code, text = run(ROCM_QUERY)
    if code == 0:
        gpus += parse_rocm(text)
    elif code != 127:
        notes.append("rocm-smi failed.")
    rocm = parse_rocm_version(_read(root / "opt/rocm/.info/version"))
    if rocm:
        runtimes["rocm"] = rocm
    return gpus, runtimes, notes


def _usable_cpus() -> int | None:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _free_disk(where: Path) -> int | None:
    folder = where.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
