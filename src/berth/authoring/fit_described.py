"""Which machine do these words describe? Texts of a command line or a query ⇄ a `Machine`.

A device is `VENDOR[:MEMORY[:CAPABILITY[:NAME]]]`, such as `nvidia:24GiB:8.6:NVIDIA A10`; what is left out is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final, get_args

from berth.authoring.fit import Device, Machine
from berth.authoring.hardware import Architecture, size_in_bytes
from berth.errors import InvalidInput

DEVICE: Final = r"^[a-z]{1,20}(:[^:]{0,30}(:([0-9]{1,2}\.[0-9]{1,2})?(:[^:]{0,100})?)?)?$"
MAX_DEVICES: Final = 64
ARCHITECTURES: Final[tuple[str, ...]] = get_args(Architecture)
_LARGEST: Final = 2**53
_FEATURE: Final = re.compile(r"^[a-z0-9][a-z0-9_.]{0,31}$")


def described(
    *,
    architecture: str,
    cpus: float | None = None,
    cpu_features: str | None = None,
    memory: str | None = None,
    disk: str | None = None,
    gpus: Sequence[str] = (),
    runtimes: dict[str, str] | None = None,
) -> Machine:
    """A machine from its description. Without a device it has none; the rest of what is left out is not known.

    Args:
        cpu_features: as /proc/cpuinfo calls them, with commas between.
        memory, disk: bytes, or a size with its unit.

    Raises:
        InvalidInput: with the word that is wrong.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidInput(f"{architecture[:40]!r} is not an architecture.", hint=f"One of {', '.join(ARCHITECTURES)}.")
    if cpus is not None and not (math.isfinite(cpus) and 0 < cpus <= 65536):
        raise InvalidInput(f"{cpus:g} is not a number of cores.", hint="Such as 8, or 1.5.")
    features = [word.strip().lower() for word in (cpu_features or "").split(",") if word.strip()]
    for word in features:
        if not _FEATURE.match(word):
            raise InvalidInput(f"{word[:40]!r} is not the name of a processor feature.", hint="Such as avx2,avx512f.")
    if len(gpus) > MAX_DEVICES:
        raise InvalidInput(f"{len(gpus)} devices are too many.", hint=f"At most {MAX_DEVICES}.")
    return Machine(
        architecture=architecture,
        cpus=cpus,
        cpu_features=frozenset(features),
        memory=_size("memory", memory),
        disk=_size("disk", disk),
        gpus=tuple(map(device, gpus)),
        runtimes=None if not runtimes else {name: _version(name, text) for name, text in runtimes.items()},
    )


def device(text: str) -> Device:
    """One device. Raises InvalidInput."""
    if not re.match(DEVICE, text):
        raise InvalidInput(
            f"{text[:60]!r} does not describe a device.",
            hint="VENDOR[:MEMORY[:CAPABILITY[:NAME]]], such as nvidia:24GiB:8.6.",
        )
    vendor, memory, capability, name = (*text.split(":"), "", "", "")[:4]
    return Device(vendor, name, _size("device memory", memory or None), None, capability or None)


def written(machine: Machine) -> dict[str, Any]:
    """The query parameters of `GET /models/fitting` that describe this machine."""
    devices = [
        ":".join((gpu.vendor, str(gpu.memory or ""), gpu.compute_capability or "", gpu.name.replace(":", " ")[:100]))
        for gpu in machine.gpus[:MAX_DEVICES]
    ]
    said: dict[str, Any] = {
        "architecture": machine.architecture,
        "cpus": None if machine.cpus is None else repr(machine.cpus),
        "cpu_features": ",".join(sorted(filter(_FEATURE.match, machine.cpu_features))) or None,
        "memory": machine.memory,
        "disk": machine.disk,
        "gpu": devices,
    }
    # A machine that was looked at and has no runtime is not one of which nothing is known.
    runtimes = {"cuda": "0", "rocm": "0"} | machine.runtimes if machine.runtimes is not None else {}
    return said | runtimes


def _size(what: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = int(text) if re.match(r"^[0-9]{1,16}$", text) else size_in_bytes(text)
    except ValueError as error:
        raise InvalidInput(f"{text[:40]!r} is not a size of {what}.", hint=f"So: {error}.") from error
    if found > _LARGEST:
        raise InvalidInput(f"{text[:40]!r} is too much {what}.")
    return int(found)


def _version(name: str, text: str) -> str:
    if not re.match(r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$", text):
        raise InvalidInput(f"{text[:40]!r} is not a version of {name}.", hint="Such as 12.4.")
    return text
