"""Does a model do what its samples say? It is started, asked, and its answers are compared (`xumi test`)."""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from berth.authoring import running_targets as targets
from berth.authoring import samples
from berth.authoring.manifest import Sample
from berth.authoring.running import Options, started
from berth.authoring.running_targets import Target
from berth.authoring.running_watch import Running
from berth.errors import InvalidInput, Unavailable
from xumi.caller import Caller, CallFailed
from xumi.contract import MEDIA, check_value
from xumi.problems import InvalidValue
from xumi.values import File

START = "starts"
CONTRACT = "serves its manifest"
MEMORY = "memory"
_ENDING_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was tried; `problems` is empty when it went well. `kind`: start, contract, sample, memory."""

    kind: str
    name: str
    seconds: float
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class Report:
    """All that was tried. `peak_memory` is in bytes, of a process only."""

    how: str
    checks: tuple[Check, ...]
    peak_memory: int | None = None

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def run_samples(
    target: Target,
    options: Options,
    *,
    only: frozenset[str] = frozenset(),
    timeout: float = 60.0,
    report: Callable[[Check], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Starts the model, calls it with every sample, stops it.

    Args:
        target: from `running_targets.find`.
        options: how it is started.
        only: names of the samples to run; all when empty.
        timeout: seconds that one call may take.
        report: called after each check.
        tell: called with each line that the model writes.
    Raises:
        InvalidInput: a sample of `only` is not declared, or names a file that is not there.
        Unavailable: no container engine or no such Python. A model that does not start is a failed check instead.
    """
    chosen = _chosen(target, only)
    done: list[Check] = []

    def note(check: Check) -> Check:
        done.append(check)
        report(check)
        return check

    with TemporaryDirectory(prefix="xumi-test-") as scratch:
        files = _Files(target, Path(scratch))
        calls = [(sample, *files.read(sample, target)) for sample in chosen]
        began = time.monotonic()
        with started(target, options, tell=tell) as running:
            try:
                caller = running.wait_ready(target.manifest.runtime.startup_timeout)
            except Unavailable as error:
                problem = f"{error.message}\n{error.hint}" if error.hint else error.message
                note(Check("start", START, time.monotonic() - began, (problem,)))
                return Report(running.how, tuple(done))
            note(Check("start", START, time.monotonic() - began))
            caller.timeout = timeout
            note(_contract(target, caller))
            for sample, inputs, expected in calls:
                note(_try(target, sample, caller, inputs=inputs, expected=expected, running=running))
            peak = running.peak_memory()
            allowed = _allowed_memory(target)
            if peak is not None and allowed is not None:
                problems = (f"used {peak} bytes; hardware in xumi.yaml says {allowed}",) if peak > allowed else ()
                note(Check("memory", MEMORY, 0.0, problems))
    return Report(running.how, tuple(done), peak)


def _chosen(target: Target, only: frozenset[str]) -> list[Sample]:
    declared = {sample.name: sample for sample in target.manifest.samples}
    unknown = sorted(only - set(declared))
    if unknown:
        there = ", ".join(declared) or "none"
        raise InvalidInput(f"{target.label} has no sample {unknown[0]!r}; it has: {there}.")
    return [sample for name, sample in declared.items() if not only or name in only]


def _contract(target: Target, caller: Caller) -> Check:
    began = time.monotonic()
    problems: list[str] = []
    try:
        said = caller.manifest()
        for key in ("name", "version"):
            if said.get(key) != getattr(target.manifest, key):
                problems.append(f"GET /xumi says {key} {said.get(key)!r}, expected {getattr(target.manifest, key)!r}")
    except CallFailed as error:
        # A program that serves itself need not tell its manifest.
        if error.status != 404 or target.manifest.entry.command is None:
            problems.append(f"GET /xumi: {error}")
    return Check("contract", CONTRACT, time.monotonic() - began, tuple(problems))


def _try(
    target: Target, sample: Sample, caller: Caller, *, inputs: Mapping[str, Any], expected: _Expected, running: Running
) -> Check:
    began = time.monotonic()
    fields = [v.model_dump(mode="json", by_alias=True) | {"required": not v.optional} for v in _outputs(target)]
    try:
        pieces = list(caller.invoke(inputs))
    except CallFailed as error:
        said = f"HTTP {error.status} " if error.status else ""
        where = f"{error.field}: " if error.field and not error.message.startswith(error.field) else ""
        problems = [f"{said}{where}{error.message}"]
        if error.code == "timeout":
            # Nobody waits for this call any more, so neither does the end of the model.
            running.patience = 1
        if error.code == "unreachable" and running.ended(_ENDING_SECONDS):
            problems.append(running.failure().message)
        return Check("sample", sample.name, time.monotonic() - began, tuple(problems))
    seconds = time.monotonic() - began
    if not pieces:
        return Check("sample", sample.name, seconds, ("the stream held no outputs",))
    answer = samples.combine(fields, pieces)
    problems = _breaches(fields, pieces)
    if expected.outputs is not None:
        problems += samples.differences(fields, expected.outputs, answer, expected.files)
    return Check("sample", sample.name, seconds, tuple(problems))


def _outputs(target: Target) -> list[Any]:
    return list(target.manifest.interface.outputs)


def _breaches(fields: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> list[str]:
    """Outputs that break the manifest's interface: what serves itself (entry.command) is checked only here."""
    known = {field["name"]: field for field in fields}
    found: list[str] = []
    for piece in pieces if known else []:
        found += [f"{name}: is not an output of the manifest" for name in piece if name not in known]
        for name, field in known.items():
            if name not in piece:
                if field["required"]:
                    found.append(f"{name}: is missing in the answer")
                continue
            try:
                check_value(field, piece[name])
            except InvalidValue as error:
                found.append(str(error.below(name)))
    return list(dict.fromkeys(found))


def _allowed_memory(target: Target) -> int | None:
    hardware = target.manifest.hardware
    levels = [level for level in (hardware.recommended, hardware.minimum) if level is not None]
    return next((level.memory for level in levels if level.memory), None)


@dataclass(frozen=True)
class _Expected:
    outputs: Mapping[str, Any] | None
    files: Mapping[str, bytes]


class _Files:
    """Files that samples name; the code is unpacked for them only if one does."""

    def __init__(self, target: Target, scratch: Path) -> None:
        self._target = target
        self._scratch = scratch
        self._folder: Path | None = None

    def read(self, sample: Sample, target: Target) -> tuple[dict[str, Any], _Expected]:
        """Inputs for the call, and what is expected. Raises InvalidInput."""
        fields = {v.name: v.model_dump(mode="json", by_alias=True) for v in target.manifest.interface.inputs}
        inputs: dict[str, Any] = {}
        for name, value in sample.inputs.items():
            if not samples.is_file(value):
                inputs[name] = value
                continue
            path = value["file"]
            try:
                inputs[name] = value_of(fields[name], self.bytes_of(path, sample), name=Path(path).name)
            except InvalidValue as error:
                raise InvalidInput(f"Sample {sample.name!r}, input {name}, file {path}: {error}.") from error
        expected = sample.outputs or {}
        files = {n: self.bytes_of(v["file"], sample) for n, v in expected.items() if samples.is_file(v)}
        return inputs, _Expected(sample.outputs, files)

    def bytes_of(self, name: str, sample: Sample) -> bytes:
        if self._folder is None:
            self._folder = targets.code_folder(self._target, self._scratch).resolve()
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise InvalidInput(f"Sample {sample.name!r} names {name}, which lies outside the model's folder.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"Sample {sample.name!r} names {name}, which cannot be read: {error.strerror}.",
                hint="Paths are relative to xumi.yaml; files that .xumiignore leaves out are not in a version.",
            ) from error


def value_of(field: Mapping[str, Any], data: bytes, *, name: str) -> Any:
    """An input's value out of a file: a File for media, its text for text, JSON for the rest. Raises InvalidValue."""
    if field["type"] in MEDIA:
        return File(data, _media_type(field, name), name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValue("is not UTF-8 text") from None
    if field["type"] in ("text", "enum"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue(f"is not JSON, which an input of type {field['type']} must be") from None


def _media_type(field: Mapping[str, Any], name: str) -> str:
    """By the file's name, where the field allows it; without a type the model judges the bytes itself."""
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    allowed = field.get("media_types") or ()
    fits = not allowed or any(guessed == a or (a.endswith("/*") and guessed.startswith(a[:-1])) for a in allowed)
    return guessed if fits else "application/octet-stream"
