"""Does a model fit a machine? The manifest's `hardware:` against what was found, one row per requirement. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from berth.authoring.hardware import Gpu, Hardware, Needs

Result = Literal["ok", "missing", "unknown"]
# Quotas of control groups are fractions: 3.9999999999 cores are 4.
CPU_SLACK: Final = 1e-9
_RUNTIME = re.compile(r"^\s*(cuda|rocm)\s*(?:>=|=)?\s*v?([0-9]{1,9}(?:\.[0-9]{1,9})*)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """One accelerator; None is what its tool did not say. Memory in bytes."""

    vendor: str
    name: str
    memory: int | None = None
    memory_free: int | None = None
    compute_capability: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a machine offers to one process: limits of control groups are taken off already. Sizes in bytes.

    None is what nobody said or could read; it is never held against a model.

    Attributes:
        cpus: cores that may be used, such as 1.5.
        memory: that may be used; memory_free is what is free of it now.
        disk: free where the model would run.
        runtimes: highest version per accelerator runtime, such as {"cuda": "12.4"}.
        notes: what limits a number, and what could not be read.
    """

    architecture: str
    cpus: float | None
    cpu_model: str | None = None
    cpu_features: frozenset[str] = frozenset()
    memory: int | None = None
    memory_free: int | None = None
    disk: int | None = None
    gpus: tuple[Device, ...] = ()
    runtimes: dict[str, str] | None = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One requirement: texts for people, numbers for programs. `level` is "minimum" or "recommended"."""

    level: str
    what: str
    needed: str
    found: str
    result: Result
    needed_value: Any = None
    found_value: Any = None


@dataclass(frozen=True)
class Fit:
    """All requirements of a model against one machine."""

    rows: tuple[Row, ...]

    @property
    def runs(self) -> bool:
        """Whether nothing of the minimum is missing."""
        return not self.missing()

    @property
    def runs_well(self) -> bool:
        """Whether nothing is missing at all."""
        return all(row.result != "missing" for row in self.rows)

    def missing(self, level: str = "minimum") -> list[str]:
        """What the machine lacks, as short sentences."""
        return [
            f"{row.what}: needs {row.needed}, has {row.found}"
            for row in self.rows
            if row.level == level and row.result == "missing"
        ]


def compare(hardware: Hardware, machine: Machine) -> Fit:
    """One row for every requirement that is declared, minimum first."""
    allowed = list(hardware.architectures)
    rows = [
        _row("minimum", "architecture", needed=" or ".join(allowed), found=machine.architecture,
             good=machine.architecture in allowed, values=(allowed, machine.architecture)),
    ]  # fmt: skip
    rows += _level("minimum", hardware.minimum, machine)
    if hardware.recommended is not None:
        rows += _level("recommended", hardware.recommended, machine)
    return Fit(tuple(rows))


def twice(machine: Machine) -> Machine:
    """What is a step away: twice the cores, memory, disk, devices and device memory, and any accelerator runtime."""
    gpus = tuple(replace(gpu, memory=None if gpu.memory is None else 2 * gpu.memory) for gpu in machine.gpus)
    return replace(
        machine,
        cpus=None if machine.cpus is None else 2 * machine.cpus,
        memory=None if machine.memory is None else 2 * machine.memory,
        disk=None if machine.disk is None else 2 * machine.disk,
        gpus=gpus * 2,
        runtimes=None,
    )


def size(count: int | None) -> str:
    """Bytes for people, with enough digits to see why 7.99 GiB is not 8."""
    if count is None:
        return "unknown"
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number == int(number) else f"{number:.2f} {unit}"


def _level(level: str, needs: Needs, machine: Machine) -> list[Row]:
    rows: list[Row] = []
    if needs.cpu is not None:
        rows.append(
            _row(level, "cpu", needed=_cores(needs.cpu), found=_cores(machine.cpus),
                 good=None if machine.cpus is None else machine.cpus + CPU_SLACK >= needs.cpu,
                 values=(needs.cpu, machine.cpus))
        )  # fmt: skip
    if needs.cpu_features:
        rows.append(_features(level, needs.cpu_features, machine))
    for what, needed, found in (("memory", needs.memory, machine.memory), ("disk", needs.disk, machine.disk)):
        if needed is not None:
            text = size(found)
            free = machine.memory_free
            if what == "memory" and free is not None and found is not None and free < needed <= found:
                text += f" (only {size(free)} free now)"
            good = None if found is None else found >= needed
            rows.append(_row(level, what, needed=size(needed), found=text, good=good, values=(needed, found)))
    if needs.gpu is not None:
        rows += _gpu(level, needs.gpu, machine)
    return rows


def _features(level: str, wanted: Sequence[str], machine: Machine) -> Row:
    absent = [name for name in wanted if name not in machine.cpu_features]
    known = bool(machine.cpu_features)
    found = "unknown" if not known else ("all" if not absent else f"all but {', '.join(absent)}")
    if known and len(absent) == len(wanted):
        found = "none of them"
    good = not absent if known else None
    have = sorted(set(wanted) & machine.cpu_features)
    return _row(level, "cpu features", needed=", ".join(wanted), found=found, good=good, values=(list(wanted), have))


def _gpu(level: str, needs: Gpu, machine: Machine) -> list[Row]:
    """Devices are sorted out step by step, so that one device has to meet all of it."""
    devices = [d for d in machine.gpus if needs.vendor in ("any", d.vendor) and _is_model(d, needs.models)]
    kind: str = "gpu" if needs.vendor == "any" else needs.vendor
    if needs.models:
        kind += f" ({' or '.join(needs.models)})"
    found = _names(machine.gpus)
    rows = [
        _row(level, "gpu", needed=f"{needs.count} × {kind}", found=found, good=len(devices) >= needs.count,
             values=(needs.count, len(devices))),
    ]  # fmt: skip
    if needs.memory is not None and devices:
        limit = needs.memory
        rows.append(
            _each(level, "gpu memory", devices, needs.count, needed=f"{size(limit)} on {_each_of(needs.count)}",
                  fits=lambda d: None if d.memory is None else d.memory >= limit,
                  show=lambda d: size(d.memory), values=(limit, [d.memory for d in devices]))
        )  # fmt: skip
        devices = [d for d in devices if d.memory is None or d.memory >= limit]
    if needs.compute_capability is not None and devices:
        lowest = numbers_of(needs.compute_capability)
        rows.append(
            _each(level, "gpu compute capability", devices, needs.count, needed=needs.compute_capability,
                  fits=lambda d: None if d.compute_capability is None else numbers_of(d.compute_capability) >= lowest,
                  show=lambda d: d.compute_capability or "unknown",
                  values=(needs.compute_capability, [d.compute_capability for d in devices]))
        )  # fmt: skip
    if needs.runtime is not None:
        rows.append(_runtime(level, needs.runtime, machine))
    return rows


def _each(
    level: str, what: str, devices: list[Device], count: int, *, needed: str, fits: Any, show: Any, values: Any
) -> Row:
    """A requirement that `count` devices have to meet; a device that does not say is no proof of either."""
    said = [fits(device) for device in devices]
    sure, unsure = said.count(True), said.count(None)
    good = True if sure >= count else (None if sure + unsure >= count else False)
    return _row(level, what, needed=needed, found=", ".join(map(show, devices)), good=good, values=values)


def _runtime(level: str, text: str, machine: Machine) -> Row:
    parsed = _RUNTIME.match(text)
    if parsed is None:
        return _row(level, "gpu runtime", needed=text, found="cannot be checked", good=None, values=(text, None))
    name, version = parsed[1].lower(), parsed[2]
    here = None if machine.runtimes is None else machine.runtimes.get(name)
    if machine.runtimes is None:
        good, found = None, "unknown"
    else:
        good = here is not None and numbers_of(here) >= numbers_of(version)
        found = f"{name} {here}" if here else f"no {name}"
    return _row(level, "gpu runtime", needed=f"{name} {version}", found=found, good=good, values=(version, here))


def _row(level: str, what: str, *, needed: str, found: str, good: bool | None, values: tuple[Any, Any]) -> Row:
    result: Result = "unknown" if good is None else ("ok" if good else "missing")
    return Row(level, what, needed, found, result, *values)


def device_words(name: str) -> str:
    """A device's name, or a part of one, as lower-case words: "NVIDIA A100-SXM4" → "nvidia a100 sxm4"."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def runtime_of(text: str) -> tuple[str, tuple[int, ...]] | None:
    """("cuda", (12, 4)) of "CUDA >= 12.4"; None when it names no runtime that can be compared."""
    found = _RUNTIME.match(text)
    return (found[1].lower(), numbers_of(found[2])) if found else None


def _is_model(device: Device, models: Sequence[str]) -> bool:
    """As whole words: A10 is not A100."""
    return not models or any(f" {device_words(m)} " in f" {device_words(device.name)} " for m in models)


def _names(devices: Sequence[Device]) -> str:
    if not devices:
        return "none"
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.name] = counts.get(device.name, 0) + 1
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare by: 12.0 is 12."""
    found = [int(part) for part in re.findall(r"[0-9]+", version)]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def _cores(count: float | None) -> str:
    if count is None:
        return "unknown"
    return f"{count:g} core" if count == 1 else f"{count:g} cores"


def _each_of(count: int) -> str:
    return "the device" if count == 1 else f"each of {count}"
