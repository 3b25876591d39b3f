"""Which accelerators do the vendors' tools see? Parsers of nvidia-smi's and rocm-smi's output.

Anything that is not as documented is skipped, never guessed: a field without a number is unknown.
"""

from __future__ import annotations

import json
import re

from berth.authoring.fit import Device

NVIDIA_FIELDS = ("index", "name", "memory.total", "memory.free", "compute_cap")
# Drivers before 510 do not know compute_cap.
NVIDIA_OLD_FIELDS = NVIDIA_FIELDS[:-1]
ROCM_QUERY = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*([0-9]+(?:\.[0-9]+)*)")
_ROCM_VERSION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)*)")
_MIB = 1024 * 1024


def nvidia_query(fields: tuple[str, ...] = NVIDIA_FIELDS) -> list[str]:
    """The command whose output `parse_nvidia` reads."""
    return ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]


def parse_nvidia(text: str, fields: tuple[str, ...] = NVIDIA_FIELDS) -> list[Device]:
    """The devices of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`; memory is printed in MiB."""
    found: list[Device] = []
    for line in text.splitlines():
        row = line.split(",")
        if len(row) != len(fields) or not row[0].strip().isdecimal():
            continue  # "No devices were found", warnings, and errors in words
        cell = {name: value.strip() for name, value in zip(fields, row, strict=True)}
        if not cell["name"] or cell["name"].startswith("["):
            continue
        capability = cell.get("compute_cap", "")
        found.append(
            Device(
                vendor="nvidia",
                name=cell["name"],
                memory=_mebibytes(cell["memory.total"]),
                memory_free=_mebibytes(cell["memory.free"]),
                compute_capability=capability if re.fullmatch(r"[0-9]+\.[0-9]+", capability) else None,
            )
        )
    return found


def parse_cuda(text: str) -> str | None:
    """The highest CUDA version that the driver runs, from the head of plain `nvidia-smi`."""
    found = _CUDA.search(text)
    return found[1] if found else None


def parse_rocm(text: str) -> list[Device]:
    """The devices of `rocm-smi --showproductname --showmeminfo vram --json`; warnings may stand before the JSON."""
    try:
        data = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return []
    found: list[Device] = []
    for key in sorted(data, key=_card_number) if isinstance(data, dict) else ():
        card = data[key]
        if not re.fullmatch(r"card[0-9]+", key) or not isinstance(card, dict):
            continue
        # Names differ between releases in their capitals.
        facts = {str(name).lower(): str(value).strip() for name, value in card.items()}
        names = (facts.get("card series"), facts.get("card model"), facts.get("card sku"))
        name = next((n for n in names if n and n.upper() != "N/A"), "AMD GPU")
        total, used = _bytes(facts.get("vram total memory (b)")), _bytes(facts.get("vram total used memory (b)"))
        free = total - used if total is not None and used is not None and used <= total else None
        found.append(Device("amd", name, total, free))
    return found


def parse_rocm_version(text: str) -> str | None:
    """The version in /opt/rocm/.info/version, such as "6.1.0-82"."""
    found = _ROCM_VERSION.match(text)
    return found[1] if found else None


def _card_number(key: str) -> tuple[int, str]:
    digits = re.sub(r"[^0-9]", "", key)
    return (int(digits[:9]) if digits else -1, key)


def _mebibytes(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,12})(?:\.[0-9]+)?(?: MiB)?", text)
    return int(found[1]) * _MIB if found else None


def _bytes(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None
