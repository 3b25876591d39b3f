"""What may `xumi.yaml` say? Manifest v1: the contract between a model and whoever calls it (mission M1, X1).

`load` and `parse` are strict: unknown keys, wrong types and out-of-range values are errors that name line and column
and say what to write instead. `schema()` is the same as JSON Schema, for editors (docs/reference/xumi.schema.json).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from license_expression import ExpressionError, Licensing, get_spdx_licensing
from pydantic import Field, ValidationError, field_validator, model_validator

from berth.authoring import document, samples
from berth.authoring.benchmarks import Benchmark
from berth.authoring.complaints import explain
from berth.authoring.hardware import Bytes, Hardware, Part
from berth.authoring.interface import Interface
from berth.errors import BerthError, ManifestFileInvalid
from berth.oci import version as versions
from berth.oci.reference import ModelName
from xumi.contract import check_value
from xumi.problems import InvalidValue

FILE_NAME = "xumi.yaml"
DEFAULT_USER = 65532

Line = Annotated[str, Field(min_length=1, max_length=400)]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024)]
# (?:LicenseRef|DocumentRef) ids are part of SPDX expressions but name no licence of the list.
_OWN_LICENSE = re.compile(r"^(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+$")


class Author(Part):
    """A person or team."""

    name: Line
    email: str | None = Field(default=None, max_length=254, pattern=r"^[^@\s<>]+@[^@\s<>]+$")

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>" if self.email else self.name


class Links(Part):
    """Where more is to be found."""

    homepage: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None
    source: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None
    documentation: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None
    paper: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None
    issues: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None = None


class Entry(Part):
    """What is started: a class for the runtime, or a program that serves by itself."""

    python: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        description="module:Class, a subclass of xumi.Model.",
        examples=["serve:Classifier"],
    )
    command: list[Line] | None = Field(
        default=None, min_length=1, max_length=200, description="Program and arguments; must serve on runtime.port."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Entry:
        if (self.python is None) == (self.command is None):
            raise ValueError("write either `python: module:Class` or `command: [program, argument]`")
        return self


class ImageBuild(Part):
    """An image that a team already has; it is wrapped, not rebuilt: our layers are added on top."""

    image: Line | None = Field(
        default=None, max_length=1024, description="Image to wrap: an OCI reference, or oci-layout:PATH[:tag]."
    )
    dockerfile: RelativePath | None = Field(
        default=None, description="Dockerfile to build and wrap; its folder is the build context."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> ImageBuild:
        if (self.image is None) == (self.dockerfile is None):
            raise ValueError("write either `image: REFERENCE` or `dockerfile: PATH`")
        return self


class Runtime(Part):
    """The image around the code."""

    base: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Base image: an OCI reference, or oci-layout:PATH[:tag].",
        examples=["docker.io/library/python:3.11-slim"],
    )
    python: str | None = Field(
        default="3.11", pattern=r"^3\.(?:9|[1-9][0-9])$", description="Python of the base image; null when it has none."
    )
    requirements: RelativePath | list[Line] = Field(
        default=[], description="A requirements file, or a list of requirements. Installed from wheels only."
    )
    build: ImageBuild | None = Field(default=None, description="Instead of base: an image that is complete already.")
    system_packages: list[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?$", max_length=200)]
    ] = Field(
        default=[],
        max_length=500,
        description="Debian packages of the base's release, as name or name=version.",
        examples=[["libgomp1"]],
    )
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default={}, description="Environment variables."
    )
    port: int = Field(default=8080, ge=1, le=65535, description="Port the model listens on.")
    user: int = Field(
        default=DEFAULT_USER, ge=1, le=2**31 - 1, description="User id the container runs as; never root."
    )
    concurrency: int = Field(default=1, ge=1, le=1024, description="Calls of predict() at once.")
    startup_timeout: int = Field(default=300, ge=1, le=86400, description="Seconds setup() may take.")
    egress: bool = Field(
        default=False, description="Whether the model calls other services; without it, it is run without a network."
    )
    writable: bool = Field(
        default=False, description="Whether it writes outside of /tmp; without it, its root is mounted read-only."
    )
    shm: Bytes | None = Field(default=None, description="Size of /dev/shm.")

    @field_validator("base")
    @classmethod
    def _base_is_a_reference(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if re.search(r"\s", value) or "://" in value:
            raise ValueError("write an image reference such as docker.io/library/python:3.11-slim, or oci-layout:PATH")
        return value

    @model_validator(mode="after")
    def _base_or_build(self) -> Runtime:
        if (self.base is None) == (self.build is None):
            raise ValueError("write either `base: IMAGE` or `build:` with `image` or `dockerfile`")
        if self.build is not None and (self.requirements or self.system_packages):
            raise ValueError("with `build` the image is complete: install requirements and system_packages in it")
        return self


class Checkpoint(Part):
    """A set of weight files: an artifact of its own, mounted as one folder."""

    name: str = Field(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", max_length=64, description="Name within the model.")
    root: RelativePath = Field(default="weights", description="Folder the files are in, relative to xumi.yaml.")
    files: list[RelativePath] = Field(
        default=["**/*"], min_length=1, max_length=1000, description="Files or glob patterns, relative to root."
    )
    mount: str | None = Field(
        default=None,
        pattern=r"^/[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*$",
        max_length=512,
        description="Folder in the container; /weights/<name> when left out.",
    )
    format: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9._+-]{0,63}$",
        description="File format.",
        examples=["onnx", "safetensors"],
    )

    @field_validator("mount")
    @classmethod
    def _mount_is_its_own(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = value.split("/")[1:]
        if "." in parts or ".." in parts:
            raise ValueError("write the folder without . and ..")
        if parts[0] in ("opt", "usr", "bin", "sbin", "lib", "lib64", "etc", "proc", "sys", "dev", "boot", "run"):
            raise ValueError(f"/{parts[0]} belongs to the system or to the model's code; use /weights/<name>")
        return value

    @field_validator("root", "files")
    @classmethod
    def _stays_inside(cls, value: str | list[str]) -> str | list[str]:
        for text in [value] if isinstance(value, str) else value:
            if text.startswith(("/", "~")) or ".." in text.split("/") or "\\" in text:
                raise ValueError(f"{text!r} must stay inside the project: a relative path with / and without ..")
        return value

    @property
    def mount_path(self) -> str:
        return self.mount or f"/weights/{self.name}"


class Sample(Part):
    """An example call, shown to people and usable as a test."""

    name: Line
    description: str | None = Field(default=None, max_length=4000)
    inputs: dict[str, Any] = Field(
        default={}, description='Inputs as in a call; {"file": PATH} stands for a file\'s content.'
    )
    outputs: dict[str, Any] | None = Field(
        default=None,
        description="Expected outputs: a value, or a matcher: {equals: V}, {close: V, rtol: R, atol: A}, "
        "{contains: V}, {schema: JSON Schema}.",
    )


class Usage(Part):
    """What the model may be used for."""

    restrictions: list[Line] = Field(default=[], max_length=100, description="What users must not do, or must know.")
    intended: Annotated[str, Field(max_length=4000)] | None = Field(default=None, description="What it was made for.")


class Manifest(Part):
    """A model version, as its author declares it. Immutable with the version's digest."""

    xumi: Literal[1] = Field(description="Version of this format.")
    name: str = Field(description="project/model.", examples=["acme/file-type"])
    version: str = Field(description="Semantic version.", examples=["1.0.0"])
    title: str | None = Field(default=None, max_length=120, description="Short name for people.")
    description: str | None = Field(default=None, max_length=20_000, description="What the model does.")
    authors: list[Author | Line] = Field(default=[], max_length=200)
    organization: Line | None = Field(default=None, description="Who stands behind it.")
    license: str | None = Field(
        default=None, max_length=1000, description="SPDX licence expression.", examples=["Apache-2.0"]
    )
    usage: Usage = Field(default_factory=Usage)
    links: Links = Field(default_factory=Links)
    tags: list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]] = Field(
        default=[], max_length=100, description="Words to find it by."
    )
    interface: Interface = Field(default_factory=Interface)
    entry: Entry
    runtime: Runtime
    hardware: Hardware = Field(default_factory=Hardware)
    checkpoints: list[Checkpoint] = Field(default=[], max_length=100)
    samples: list[Sample] = Field(default=[], max_length=100)
    benchmarks: list[Benchmark] = Field(
        default=[], max_length=100, description="Benchmarks to run, with the goals they must reach."
    )

    @field_validator("name")
    @classmethod
    def _name_is_allowed(cls, value: str) -> str:
        return _or_value_error(lambda: str(ModelName.parse(value)))

    @field_validator("version")
    @classmethod
    def _version_is_semantic(cls, value: str) -> str:
        return _or_value_error(lambda: str(versions.parse(value)))

    @field_validator("license")
    @classmethod
    def _license_is_spdx(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return _check_license(value)

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        _distinct([c.name for c in self.checkpoints], "checkpoints", "name")
        mounts = sorted(c.mount_path for c in self.checkpoints)
        _distinct(mounts, "checkpoints", "mount path")
        for one, other in pairwise(mounts):
            if other.startswith(f"{one}/"):
                raise ValueError(f"the checkpoints' mount paths {one} and {other} lie in one another")
        _distinct(self.tags, "tags", "word")
        _distinct([s.name for s in self.samples], "samples", "name")
        _distinct([b.name for b in self.benchmarks], "benchmarks", "name")
        if self.runtime.python is None and self.entry.python is not None:
            raise ValueError("entry.python needs a Python: write runtime.python, or use entry.command")
        if self.runtime.python is None and self.runtime.requirements:
            raise ValueError("runtime.requirements needs a Python: write runtime.python")
        if self.entry.python is not None and not self.interface.outputs:
            raise ValueError("interface.outputs is empty; say what predict() returns")
        for sample in self.samples:
            _check_sample(sample, self.interface)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain data with all defaults filled in; what the container serves at /xumi."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for side in ("inputs", "outputs"):
            for value, out in zip(getattr(self.interface, side), data["interface"][side], strict=True):
                out["required"] = not value.optional
                if "default" in value.model_fields_set:
                    out["default"] = value.default
                if value.type == "object":
                    out["schema"] = value.json_schema
        for checkpoint, out in zip(self.checkpoints, data["checkpoints"], strict=True):
            out["mount"] = checkpoint.mount_path
        for sample, out in zip(self.samples, data["samples"], strict=True):
            out["inputs"] = sample.inputs
            if sample.outputs is not None:
                out["outputs"] = sample.outputs
        for benchmark, out in zip(self.benchmarks, data["benchmarks"], strict=True):
            out["parameters"] = benchmark.parameters  # null means something there
        if not self.benchmarks:
            del data["benchmarks"]  # so that versions without any keep the digest they always had
        return data


@dataclass(frozen=True)
class ManifestFile:
    """A manifest with the exact text it came from; the text is what a version carries."""

    manifest: Manifest
    text: str
    path: Path | None = None


def parse(text: bytes | str, *, name: str = FILE_NAME) -> ManifestFile:
    """Reads and checks the content of a manifest file.

    Raises:
        ManifestFileInvalid: `detail.problems` lists line, column, path, message and hint of everything wrong.
    """
    read = document.parse(text, name=name)
    if not isinstance(read.data, dict):
        problem = document.Problem(document.Place(1, 1), "", "The file must hold `key: value` lines.")
        raise document.failure([problem], name=name)
    try:
        manifest = Manifest.model_validate(read.data)
    except ValidationError as error:
        raise document.failure(explain(error, read, Manifest), name=name) from error
    plain = text if isinstance(text, str) else text.decode("utf-8-sig")
    return ManifestFile(manifest=manifest, text=plain)


def load(path: Path) -> ManifestFile:
    """Reads `xumi.yaml`; `path` is the file or the folder it is in. Raises ManifestFileInvalid."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            # One byte more than allowed is enough to know that it is too large.
            data = stream.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ManifestFileInvalid(
            f"{file} cannot be read: {error.strerror}.", hint="`xumi init PROJECT/MODEL` starts a new one."
        ) from error
    found = parse(data, name=file.name)
    return ManifestFile(manifest=found.manifest, text=found.text, path=file)


def schema() -> dict[str, Any]:
    """The format as JSON Schema (2020-12), for editors and other programs."""
    made = Manifest.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://berth.invalid/schemas/xumi-1.json",
        **made,
        "title": "xumi.yaml, version 1",
    }


def _or_value_error(check: Callable[[], str]) -> str:
    """Runs a check of the oci room; its message becomes one of this file's problems."""
    try:
        return check()
    except BerthError as error:
        raise ValueError(str(error)) from error


def _check_license(value: str) -> str:
    """The expression in its canonical spelling. Raises ValueError."""
    licensing = _spdx()
    try:
        # `simple` splits at spaces, as SPDX does; the other tokenizer is slow to make.
        parsed = licensing.parse(value, simple=True)
    except ExpressionError as error:
        raise ValueError(f"{value!r} is no SPDX licence expression: {error}") from error
    except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        # The parser stumbles over some malformed expressions instead of refusing them.
        raise ValueError(f"{value!r} is no SPDX licence expression") from error
    if parsed is None:
        raise ValueError("the licence is empty; leave the line out, or write for example Apache-2.0")
    unknown = [key for key in licensing.unknown_license_keys(parsed) if not _OWN_LICENSE.match(key)]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is not in the SPDX licence list; "
            f"for a licence of your own write LicenseRef-{_identifier(unknown[0])}"
        )
    return str(parsed)


@cache
def _spdx() -> Licensing:
    """The SPDX licence list; reading it takes a moment."""
    return get_spdx_licensing()


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-") or "Own"


def _distinct(values: list[str], where: str, what: str) -> None:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"{where} has the {what} {twice[0]} twice")


def _check_sample(sample: Sample, interface: Interface) -> None:
    for side, values, given in (
        ("input", interface.inputs, sample.inputs),
        ("output", interface.outputs, sample.outputs or {}),
    ):
        known = {v.name: v for v in values}
        for name, value in given.items():
            if name not in known:
                there = f"there are: {', '.join(known)}" if known else "there are none"
                raise ValueError(f"sample {sample.name!r} gives {name}, which is no {side}; {there}")
            if samples.is_file(value):
                continue
            field = known[name].model_dump(mode="json", by_alias=True)
            try:
                if side == "output":
                    samples.check_expectation(field, value)
                else:
                    check_value(field, value)
            except InvalidValue as error:
                raise ValueError(f"sample {sample.name!r}, {side} {name}: {error}") from error
    missing = [v.name for v in interface.inputs if not v.optional and v.name not in sample.inputs]
    if missing:
        raise ValueError(f"sample {sample.name!r} lacks the input {missing[0]}")
