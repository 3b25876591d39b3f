"""Are there malicious weights in a leaf? Asked of our own child process, which never unpickles (design §6 "Scanning").

The parent parses nothing but the child's JSON answer. The child has no network (where the kernel allows), bounded
memory, CPU time and decompression, and is killed with its process group at the time limit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from berth.adapters.scanners.contract import (
    LISTED_FINDINGS,
    Finding,
    Problem,
    ScanResult,
    Status,
    Subject,
    Summary,
)
from berth.adapters.scanners.programs import Finished, run
from berth.errors import BerthError
from berth.oci import media_types

_ANSWER_LIMIT = 64 << 20
_LOG_LIMIT = 16 << 10
_TEXT_LIMIT = 600
_CHILD = "berth.adapters.scanners.weights_child"
# Isolated from the working directory and PYTHON* variables; the folder of our own package goes last, which is where
# an installed Berth is anyway.
_BOOTSTRAP = f"import runpy, sys; sys.path.append(sys.argv.pop()); runpy.run_module('{_CHILD}', run_name='__main__')"
_ROOT = Path(__file__).resolve().parents[3]


class PickleWeightScanner:
    """Looks into every file of every layer, with picklescan's lists and our own pickle machine.

    Args:
        timeout: seconds after which a scan is killed.
        memory_bytes: address space of the child.
        limits: members of `weights_child.findings.Limits` to change.
    """

    def __init__(
        self,
        timeout: float = 900.0,
        memory_bytes: int = 4 << 30,
        *,
        limits: Mapping[str, int] | None = None,
        python: str = sys.executable,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._timeout = timeout
        self._memory = memory_bytes
        # Content that must be held in memory exists up to three times for a moment.
        self._limits = {"held_bytes": memory_bytes // 4, **(limits or {})}
        self._python = python
        self._now = now

    async def version(self) -> dict[str, Any]:
        """picklescan and its version; "" if it is not installed. There is no database."""
        try:
            found = version("picklescan")
        except PackageNotFoundError:
            found = ""
        return {"tool": "picklescan", "version": found, "database": {}}

    async def scan(self, subject: Subject) -> ScanResult:
        """Scan one leaf manifest, image or checkpoint. Never raises for bad content or a broken child."""
        started = self._now()
        tool = await self.version()
        answer: dict[str, Any] = {}
        log = ""
        try:
            finished = await self._run_child(subject)
            log = finished.stderr.decode("utf-8", "replace")[-_LOG_LIMIT:]
            status, summary, answer = self._read(finished)
        except OSError as error:
            problem = Problem("scanner.unusable", f"The weight scanner could not be started: {error}")
            status, summary = "failed", Summary(problems=(problem,))
        sandbox = answer.get("sandbox")
        return ScanResult(
            kind="weights",
            status=status,
            summary=summary,
            tool="picklescan",
            tool_version=str(tool["version"]),
            database={},
            report=json.dumps({"digest": subject.digest, **answer}, ensure_ascii=False).encode("utf-8", "replace"),
            report_media_type=media_types.REPORT_WEIGHTS,
            log=f"sandbox: {json.dumps(sandbox)}\n{log}" if sandbox else log,
            started_at=started,
            finished_at=self._now(),
        )

    async def _run_child(self, subject: Subject) -> Finished:
        job = {
            "manifest": subject.manifest.decode("utf-8", "replace"),
            "paths": _paths(subject),
            "limits": self._limits,
            "memory_bytes": self._memory,
            "cpu_seconds": int(self._timeout) + 1,
        }
        return await run(
            [self._python, "-I", "-c", _BOOTSTRAP, str(_ROOT)],
            cwd=Path("/"),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=json.dumps(job).encode(),
            seconds=self._timeout,
            stdout_limit=_ANSWER_LIMIT,
        )

    def _read(self, finished: Finished) -> tuple[Status, Summary, dict[str, Any]]:
        """Judge the answer of a process that foreign bytes may have taken over: nothing in it is taken on trust."""
        if finished.timed_out:
            return _failed(
                "scanner.timeout",
                f"The weight scan did not finish within {self._timeout:g} s and was killed. "
                "Raise BERTH_SCAN_TIMEOUT_SECONDS if the content is large.",
            )
        if finished.code != 0:
            return _failed(
                "scanner.crashed",
                f"The weight scanner {finished.ending}: {_last_line(finished.stderr)}. "
                "If memory ran out, raise BERTH_SCAN_MEMORY_BYTES.",
            )
        try:
            answer = json.loads(finished.stdout)
            status = answer["status"]
            if status not in get_args(Status):
                raise ValueError(f"status {status!r}")
            summary = Summary(
                malicious=_findings(answer["malicious"]),
                suspicious=_findings(answer["suspicious"]),
                problems=tuple(
                    Problem(_text(entry["code"]), _text(entry["message"])) for entry in _listed(answer["problems"])
                ),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _failed("scanner.answer_invalid", f"The weight scanner's answer can't be read ({error!r}).")
        return status, summary, answer


def _paths(subject: Subject) -> dict[str, str]:
    """Files of the blobs that the manifest names, as far as the depot has them; the child reports what is missing."""
    found: dict[str, str] = {}
    try:
        manifest = json.loads(subject.manifest)
        digests = [d["digest"] for d in (manifest["config"], *manifest["layers"])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return found
    for digest in digests:
        try:
            path = subject.path_of(digest)
        except BerthError:
            continue
        if path.exists():
            found[digest] = str(path.absolute())
    return found


def _failed(code: str, message: str) -> tuple[Status, Summary, dict[str, Any]]:
    return "failed", Summary(problems=(Problem(code, message),)), {}


def _findings(entries: object) -> tuple[Finding, ...]:
    return tuple(Finding(_text(entry["path"]), _text(entry["what"])) for entry in _listed(entries))


def _listed(entries: object) -> list[dict[str, Any]]:
    if not isinstance(entries, list):
        raise TypeError("not a list")
    return entries[:LISTED_FINDINGS]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value[:_TEXT_LIMIT]


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "no message"
