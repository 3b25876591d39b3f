"""Which rows of `version_needs` does a version have? Pure: what it declares → typed needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from berth.authoring.fit import device_words, numbers_of, runtime_of
from berth.authoring.hardware import Hardware


@dataclass(frozen=True)
class NeedsRow:
    """The minimum of one version on one architecture. Sizes in bytes; 0 and empty mean no need."""

    architecture: str
    cpu: float
    cpu_features: list[str]
    memory: int
    disk: int
    gpu_count: int
    gpu_memory: int
    gpu_vendor: str | None
    gpu_models: list[str]
    gpu_capability: list[int]
    gpu_runtime: str | None
    gpu_runtime_version: list[int]


def hardware_of(declared: Mapping[str, Any]) -> Hardware | None:
    """The hardware that a version declares (catalog/declared.py); None when it says nothing that can be read."""
    xumi = declared.get("xumi")
    if not isinstance(xumi, Mapping):
        return None
    try:
        return Hardware.model_validate(xumi.get("hardware") or {})
    except ValidationError:
        return None  # written by a release that knew another form


def rows_of(hardware: Hardware | None) -> list[NeedsRow]:
    """One row for each architecture that the model runs on."""
    if hardware is None:
        return []
    needs, gpu = hardware.minimum, hardware.minimum.gpu
    runtime = runtime_of(gpu.runtime) if gpu and gpu.runtime else None
    return [
        NeedsRow(
            architecture=architecture,
            cpu=needs.cpu or 0.0,
            cpu_features=sorted(set(needs.cpu_features)),
            memory=needs.memory or 0,
            disk=needs.disk or 0,
            gpu_count=gpu.count if gpu else 0,
            gpu_memory=(gpu.memory or 0) if gpu else 0,
            gpu_vendor=gpu.vendor if gpu and gpu.vendor != "any" else None,
            gpu_models=sorted({device_words(name) for name in gpu.models}) if gpu else [],
            gpu_capability=list(numbers_of(gpu.compute_capability)) if gpu and gpu.compute_capability else [],
            gpu_runtime=runtime[0] if runtime else None,
            gpu_runtime_version=list(runtime[1]) if runtime else [],
        )
        for architecture in dict.fromkeys(hardware.architectures)
    ]
