"""What does a model need to run? The `hardware:` part of `xumi.yaml` (mission H1)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

_UNITS = {"B": 1, **{f"{p}B": 1000 ** (i + 1) for i, p in enumerate("KMGTP")}}
_UNITS |= {f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGTP")}
_UNITS |= {f"{p}i": 1024 ** (i + 1) for i, p in enumerate("KMGTP")}
_SIZE = re.compile(r"^([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([KMGTP]?i?B|[KMGTP]i)$")

CpuFeature = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]{0,31}$")]
Architecture = Literal["amd64", "arm64", "arm", "ppc64le", "riscv64", "s390x", "386"]


class Part(BaseModel):
    """Base of everything in the manifest: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        strict=True,
        # Built at first use: most commands need the whole manifest or none of it, and never each part on its own.
        defer_build=True,
    )


def size_in_bytes(value: Any) -> Any:
    """ "8GiB" → 8589934592; an integer is bytes already. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str):
        return value
    found = _SIZE.match(value.strip())
    if not found:
        raise ValueError('write a size with its unit, such as "8GiB", "512MiB" or "16GB"')
    return int(float(found[1]) * _UNITS[found[2]])


Bytes = Annotated[
    int,
    BeforeValidator(size_in_bytes, json_schema_input_type=int | str),
    Field(ge=0, le=2**53, examples=["8GiB"]),
]


class Gpu(Part):
    """Accelerators that must be there."""

    vendor: Literal["nvidia", "amd", "intel", "any"] = Field(default="any", description="Maker of the device.")
    models: list[str] = Field(default=[], description="Acceptable device names, such as A100; empty means any.")
    count: int = Field(default=1, ge=1, le=1024, description="Number of devices.")
    memory: Bytes | None = Field(default=None, description="Memory of each device.")
    compute_capability: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$",
        description="Lowest CUDA compute capability.",
        examples=["8.0"],
    )
    runtime: str | None = Field(
        default=None, max_length=64, description="Accelerator runtime and version.", examples=["cuda 12.4"]
    )

    @model_validator(mode="after")
    def _cuda_is_nvidia(self) -> Gpu:
        if self.compute_capability and self.vendor not in ("nvidia", "any"):
            raise ValueError("compute_capability is NVIDIA's; write vendor: nvidia, or leave it out")
        return self


class Needs(Part):
    """One level of requirements."""

    cpu: float | None = Field(default=None, gt=0, le=4096, description="Processor cores.")
    cpu_features: list[CpuFeature] = Field(
        default=[],
        max_length=100,
        description="Instruction sets the processor must have, as /proc/cpuinfo calls them.",
        examples=[["avx2", "avx512f"]],
    )
    memory: Bytes | None = Field(default=None, description="Main memory.")
    disk: Bytes | None = Field(default=None, description="Disk space while running, weights included.")
    gpu: Gpu | None = Field(default=None, description="Accelerators; none needed when left out.")

    @field_validator("cpu", mode="before")
    @classmethod
    def _whole_cores(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Hardware(Part):
    """What the model needs, and what it runs well on."""

    architectures: list[Architecture] = Field(
        default=["amd64"], min_length=1, description="Processor architectures the model runs on."
    )
    minimum: Needs = Field(default_factory=Needs, description="Without this it does not run.")
    recommended: Needs | None = Field(default=None, description="With this it runs well.")

    @model_validator(mode="after")
    def _recommended_is_not_less(self) -> Hardware:
        if self.recommended is None:
            return self
        for name in ("cpu", "memory", "disk"):
            low, high = getattr(self.minimum, name), getattr(self.recommended, name)
            if low is not None and high is not None and high < low:
                raise ValueError(f"recommended.{name} is less than minimum.{name}")
        return self
