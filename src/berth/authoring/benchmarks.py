"""Which benchmarks are to be run on a model, and what must they reach? The `benchmarks:` part of `xumi.yaml`.

Declared by the author and immutable with the version; results are evidence of their own and are kept elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from berth.authoring.hardware import Part

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", max_length=64)]
_Line = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\r\n]+$")]


class Dataset(Part):
    """What it is run on. A name alone can mean other data tomorrow; revision or sha256 pin it."""

    reference: _Line = Field(
        description="Where the data is: an address, an OCI reference, or a name the benchmark's runner knows.",
        examples=["https://data.example.org/digits-2024.parquet", "hf://datasets/glue"],
    )
    revision: _Line | None = Field(default=None, description="Commit, tag or version of the data.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="Hash of the file, where it is one."
    )
    subset: _Line | None = Field(default=None, description="Part or configuration of it.", examples=["sst2"])
    split: _Line | None = Field(default=None, description="Split of it.", examples=["validation"])

    @field_validator("reference")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        scheme, found, rest = value.partition("://")
        if found and "@" in rest.partition("/")[0]:
            raise ValueError(f"write the address without user and password: {scheme}://…")
        return value


class Metric(Part):
    """One number that a run gives."""

    name: Name = Field(description="As the benchmark's runner reports it.", examples=["accuracy", "latency.p95"])
    unit: _Line | None = Field(default=None, max_length=32, description="Unit of the number.", examples=["ms"])
    better: Literal["higher", "lower"] = Field(default="higher", description="Which way is better.")
    goal: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="What must be reached: at least, or at most where lower is better.",
    )
    tolerance: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="How much worse than the version before it may be."
    )

    @field_validator("goal", "tolerance", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Benchmark(Part):
    """A benchmark to run."""

    name: Name = Field(description="Name within the model.", examples=["digits", "mmlu"])
    description: str | None = Field(default=None, max_length=4000, description="What it measures.")
    runner: _Line | None = Field(
        default=None,
        description="What runs it: an OCI reference, or a name the benchmark service knows.",
        examples=["registry.example/benchmarks/lm-eval:0.4"],
    )
    dataset: Dataset | None = Field(default=None, description="What it is run on; none when the runner brings its own.")
    parameters: dict[str, Any] = Field(default={}, description="Settings for the runner, handed over as they are.")
    metrics: list[Metric] = Field(min_length=1, max_length=100, description="What is measured, with goals.")
    timeout: int = Field(default=3600, ge=1, le=7 * 86400, description="Seconds a run may take.")

    @model_validator(mode="after")
    def _metrics_differ(self) -> Benchmark:
        names = [metric.name for metric in self.metrics]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the metric {twice} is there twice")
        return self
