"""Which known vulnerabilities are in an image? Asked of the real Trivy program (design §6 "Scanning").

Trivy sees exactly one leaf manifest, through a temporary OCI layout whose blobs are hard links into the depot (it
refuses symbolic links). It runs in an empty folder with an environment of its own, so that no ignore file, no
`trivy.yaml` and no `TRIVY_*` variable of anybody can weaken the scan; no path is ever skipped.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from berth.adapters.scanners import trivy_report
from berth.adapters.scanners.contract import Problem, ScanResult, Status, Subject, Summary
from berth.adapters.scanners.programs import Finished, run
from berth.adapters.scanners.trivy_database import Database, TrivyDatabases, last_words
from berth.errors import BerthError, Unavailable
from berth.oci import digest as digests
from berth.oci import media_types

_IMAGE_CONFIGS = frozenset({media_types.OCI_CONFIG, media_types.DOCKER_CONFIG})
_REPORT_LIMIT = 256 << 20
_LOG_LIMIT = 64 << 10
_GRACE_SECONDS = 2.0
_STALE_WORK = timedelta(days=1)
_OPTIONS = (
    "--cache-backend=memory",  # the default one is a locked file: of four scans at once three would fail
    "--scanners=vuln,secret,license",
    "--skip-db-update",
    "--skip-java-db-update",
    "--skip-check-update",
    "--skip-vex-repo-update",
    "--skip-version-check",
    "--disable-telemetry",
    "--offline-scan",
    "--no-progress",
    "--ignorefile=",
    "--config=",
    "--secret-config=",
    "--format=json",
    "--output=report.json",
    "--input=layout",
)


class _CannotScanError(Exception):
    """Ends a scan early with a status. Never leaves this module."""

    def __init__(self, status: Status, code: str, message: str, log: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code, message)
        self.log = log


@dataclass
class _Outcome:
    status: Status = "failed"
    summary: Summary = field(default_factory=Summary)
    database: dict[str, Any] = field(default_factory=dict)
    report: bytes = b"{}"
    tool_version: str = ""
    log: str = ""


class TrivyScanner:
    """Runs Trivy.

    Args:
        program: path of `trivy`; None = the one beside our Python, else the one on PATH.
        cache: folder for databases and work files; must be on the depot's filesystem (hard links).
        db_repository: OCI reference of the vulnerability database; None = Trivy's own public one.
        username, password: for that repository only; a scan never sees them.
        timeout: seconds after which a scan is killed.
        environment: further variables, e.g. HTTPS_PROXY or SSL_CERT_FILE; `TRIVY_*` are dropped.
    """

    def __init__(
        self,
        program: str | None,
        cache: Path,
        db_repository: str | None,
        username: str | None,
        password: str | None,
        timeout: float,
        *,
        environment: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._given = program
        self._cache = cache.absolute()
        self._timeout = timeout
        self._environment = {k: v for k, v in (environment or {}).items() if not k.upper().startswith("TRIVY_")}
        self._now = now
        self._databases = TrivyDatabases(
            self._cache / "databases",
            run=self._download,
            repository=db_repository,
            username=username,
            password=password,
            now=now,
        )

    async def scan(self, subject: Subject) -> ScanResult:
        """Scan one image manifest. Never raises for bad content or a broken Trivy."""
        started = self._now()
        outcome = _Outcome()
        try:
            await self._scan(subject, outcome)
        except _CannotScanError as stop:
            outcome.status = stop.status
            outcome.summary = Summary(problems=(stop.problem,))
            outcome.log = outcome.log or stop.log
        return ScanResult(
            kind="vulnerabilities",
            status=outcome.status,
            summary=outcome.summary,
            tool="trivy",
            tool_version=outcome.tool_version,
            database=outcome.database,
            report=outcome.report,
            report_media_type=media_types.REPORT_TRIVY,
            log=outcome.log,
            started_at=started,
            finished_at=self._now(),
        )

    async def version(self) -> dict[str, Any]:
        """Tool, its version ("" if it does not run) and the database, brought up to date first if that is due."""
        answer: dict[str, Any] = {"tool": "trivy", "version": "", "database": {}}
        try:
            program = self._program()
            with self._work() as work:
                finished = await self._run(work, [program, "version", "--format=json", "--config="], seconds=30)
            document = json.loads(finished.stdout)
            answer["version"] = str(document["Version"]) if isinstance(document, dict) else ""
            database, _ = await self._databases.refresh()
            answer["database"] = database.to_json() if database else {}
        except (_CannotScanError, OSError, ValueError, KeyError):
            pass  # the empty version says it
        return answer

    async def refresh_database(self) -> dict[str, Any]:
        """Download the database now, due or not; what is in use afterwards, {} if there is none."""
        database, _ = await self._databases.refresh(force=True)
        return database.to_json() if database else {}

    async def _scan(self, subject: Subject, outcome: _Outcome) -> None:
        blobs = _blobs_of(subject)
        program = self._program()
        try:
            async with self._databases.held() as (database, trouble):
                outcome.database = database.to_json()
                with self._work() as work:
                    await asyncio.to_thread(_write_layout, work / "layout", subject, blobs)
                    finished = await self._run(
                        work,
                        [program, "image", *_OPTIONS, f"--cache-dir={database.folder}", f"--timeout={self._timeout}s"],
                        seconds=self._timeout + _GRACE_SECONDS,
                    )
                    outcome.log = _log_of(finished, trouble)
                    _check_ending(finished, self._timeout)
                    body = await asyncio.to_thread(_read_report, work / "report.json")
        except Unavailable as error:
            raise _CannotScanError(
                "inconclusive",
                "database.unavailable",
                f"No vulnerability database: {error.message} "
                "Set BERTH_TRIVY_DB_REPOSITORY to one that this host reaches.",
            ) from error
        except OSError as error:
            raise _CannotScanError("failed", "trivy.unusable", f"Trivy could not be run: {error}") from error
        await asyncio.to_thread(_judge, body, database, outcome)
        if trouble:
            stale = Problem(
                "database.not_refreshed",
                f"The vulnerability database of {database.to_json()['updated_at']} was used, "
                f"a newer one could not be had: {trouble}",
            )
            outcome.summary = _with_problem(outcome.summary, stale)

    def _program(self) -> str:
        if self._given is not None:
            found = shutil.which(self._given)
            where = self._given
        else:
            beside = Path(sys.executable).parent / "trivy"
            found = str(beside) if os.access(beside, os.X_OK) else shutil.which("trivy")
            where = f"{beside} or PATH"
        if found is None:
            raise _CannotScanError(
                "failed",
                "trivy.missing",
                f"There is no trivy program at {where}. "
                "Install it (pip install 'berth[server]') or set BERTH_TRIVY_PATH.",
            )
        return os.path.abspath(found)

    def _work(self) -> _Work:
        return _Work(self._cache / "work", self._now())

    async def _run(self, work: Path, argv: Sequence[str], *, seconds: float, **extra: str) -> Finished:
        empty, scratch = work / "empty", work / "tmp"
        empty.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **self._environment}
        env |= {"HOME": str(empty), "TMPDIR": str(scratch), "XDG_CONFIG_HOME": str(empty), **extra}
        return await run(argv, cwd=work, env=env, seconds=seconds)

    async def _download(self, arguments: Sequence[str], login: Mapping[str, str]) -> Finished:
        with self._work() as work:
            return await self._run(work, [self._program(), *arguments], seconds=self._timeout, **login)


class _Work:
    """A scratch folder for one run. Leftovers of killed workers are removed when a new one is made."""

    def __init__(self, parent: Path, now: datetime) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        oldest = (now - _STALE_WORK).timestamp()
        for leftover in parent.iterdir():
            try:
                if leftover.stat().st_mtime < oldest:
                    shutil.rmtree(leftover, ignore_errors=True)
            except FileNotFoundError:
                continue  # another worker was quicker
        self._folder = tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _blobs_of(subject: Subject) -> list[str]:
    """Digests of config and layers; refuses what Trivy could not see in full."""
    try:
        manifest = json.loads(subject.manifest)
        config = manifest["config"]
        layers = manifest["layers"]
        blobs = [str(descriptor["digest"]) for descriptor in (config, *layers)]
        config_type = config["mediaType"]
        foreign = [layer["digest"] for layer in layers if layer.get("urls")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _CannotScanError(
            "inconclusive", "manifest.unreadable", f"{subject.digest} is not an image manifest ({error!r})."
        ) from error
    if config_type not in _IMAGE_CONFIGS:
        raise _CannotScanError(
            "inconclusive",
            "manifest.not_an_image",
            f"{subject.digest} has a config of type {config_type}, not an image's.",
        )
    if foreign:
        raise _CannotScanError(
            "inconclusive",
            "layer.foreign",
            f"Layer {foreign[0]} lies at a URL outside the registry; push it as a normal layer.",
        )
    if not all(digests.is_digest(blob) for blob in blobs):
        raise _CannotScanError("inconclusive", "manifest.unreadable", f"{subject.digest} names a malformed digest.")
    return blobs


def _write_layout(folder: Path, subject: Subject, blobs: Sequence[str]) -> None:
    """An OCI layout of one manifest. The blobs are hard links: nothing is copied, and clean-up of the depot can't
    take them away during the scan."""
    for blob in blobs:
        target = _place(folder, blob)
        if target.exists():
            continue
        try:
            source = subject.path_of(blob)
            os.link(source, target)
        except (BerthError, FileNotFoundError) as error:
            raise _CannotScanError(
                "inconclusive", "layer.missing", f"Blob {blob} is not in the depot: {error}"
            ) from error
        except OSError as error:
            advice = "Set BERTH_TRIVY_CACHE to a folder on the depot's filesystem."
            if error.errno not in (errno.EXDEV, errno.EPERM):
                advice = "Check the rights on the depot."
            raise _CannotScanError(
                "failed", "depot.no_hard_links", f"Trivy's work folder can't link blobs of the depot: {error}. {advice}"
            ) from error
    _place(folder, subject.digest).write_bytes(subject.manifest)
    descriptor = {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.manifest)}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))


def _place(folder: Path, digest: str) -> Path:
    algorithm, _, encoded = digest.partition(":")
    path = folder / "blobs" / algorithm / encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _log_of(finished: Finished, trouble: str) -> str:
    log = finished.stderr.decode("utf-8", "replace")[-_LOG_LIMIT:]
    return f"database not refreshed: {trouble}\n{log}" if trouble else log


def _check_ending(finished: Finished, timeout: float) -> None:
    if finished.timed_out:
        raise _CannotScanError(
            "failed",
            "trivy.timeout",
            f"Trivy did not finish within {timeout:g} s and was killed. "
            "Raise BERTH_SCAN_TIMEOUT_SECONDS if the image is large.",
        )
    if finished.code != 0:
        raise _CannotScanError("failed", "trivy.crashed", f"Trivy {finished.ending}: {last_words(finished.stderr)}")


def _read_report(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(_REPORT_LIMIT + 1)
    except FileNotFoundError as error:
        raise _CannotScanError("failed", "trivy.no_report", "Trivy reported success but wrote no report.") from error
    if len(body) > _REPORT_LIMIT:
        raise _CannotScanError("failed", "trivy.report_too_large", f"Trivy's report exceeds {_REPORT_LIMIT >> 20} MiB.")
    return body


def _judge(body: bytes, database: Database, outcome: _Outcome) -> None:
    try:
        document = json.loads(body)
        reading = trivy_report.read(document)
    except (ValueError, RecursionError) as error:
        # Kept as text, so that people can look at what came instead of a report.
        outcome.report = json.dumps({"unreadable": body[:4096].decode("utf-8", "replace")}).encode()
        raise _CannotScanError(
            "failed", "trivy.report_invalid", f"Trivy's report can't be read ({error}); check the version of Trivy."
        ) from error
    document["Berth"] = {"Database": database.to_json()}
    outcome.report = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    outcome.summary = reading.summary
    outcome.tool_version = reading.tool_version
    outcome.status = "ok" if reading.looked else "inconclusive"


def _with_problem(summary: Summary, problem: Problem) -> Summary:
    return Summary(
        severities=summary.severities,
        malicious=summary.malicious,
        suspicious=summary.suspicious,
        problems=(*summary.problems, problem),
        top=summary.top,
    )
