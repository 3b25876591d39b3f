"""Versions as one file: `/export` and `/import` of the REST API.

A download that broke off goes on where it stopped, in this process or the next. Of a file that is brought in, only the
blobs that the service lacks are sent; after a broken connection only those that it still lacks.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from berth.client.archive_file import ArchiveFile, open_archive
from berth.client.session import Json, Session
from berth.errors import ArchiveInvalid, BlobUnknownToManifest, Conflict, RangeInvalid, RemoteError, Unavailable
from berth.wire.transfer import Progress

ATTEMPTS = 5


@dataclass(frozen=True)
class Exported:
    """A file that is whole here. `bytes_transferred`: those that this call fetched."""

    path: Path
    plan: Json
    bytes_transferred: int


@dataclass(frozen=True)
class Imported:
    """`items`: one per version of the file, with what was done about it and why."""

    items: Sequence[Json]
    missing_bytes: int
    bytes_transferred: int
    dry_run: bool

    @property
    def problems(self) -> list[Json]:
        return [item for item in self.items if item["action"] in ("conflict", "failed")]


class Archives:
    def __init__(self, session: Session, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._session = session
        self._sleep = sleep

    def plan(self, refs: Sequence[str], *, since: Sequence[str] = ()) -> Json:
        """What a file with these versions would hold."""
        return self._session.get("/export/plan", ref=list(refs), since=list(since))

    def export(
        self,
        refs: Sequence[str],
        path: Path,
        *,
        since: Sequence[str] = (),
        force: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Writes versions with their evidence into one file, and compares every digest in it.

        Args:
            refs: `project/model:ref` or `@digest`; a range means all admitted versions in it.
            since: versions that the other side has; their blobs are left out.

        Raises:
            Conflict: the file exists, and `force` is not given. Denied, NotFound, Forbidden: as for a pull.
        """
        if path.exists() and not force:
            raise Conflict(f"{path} exists already.", hint="Name another file, or use --force to replace it.")
        for attempt in range(1, ATTEMPTS + 1):
            plan = self.plan(refs, since=since)
            # Named after the very bytes, so that what is left of another export is not taken for a part of this one.
            part = path.with_name(f".{path.name}.{plan['etag'][:16]}.part")
            for stale in path.parent.glob(f".{glob.escape(path.name)}.????????????????.part"):
                if stale != part:
                    stale.unlink(missing_ok=True)
            try:
                fetched = self._fetch(refs, since, part, path.name, plan, progress)
                break
            except Conflict:
                # A report or a signature has come meanwhile, so it is another file now.
                part.unlink(missing_ok=True)
                if attempt == ATTEMPTS:
                    raise
        found = open_archive(part)
        if sorted(version.digest for version in found.contents.versions) != sorted(
            v["digest"] for v in plan["versions"]
        ):
            raise RemoteError("The service sent other versions than it had announced.", hint="Try again.")
        try:
            found.verify()
        except ArchiveInvalid:
            part.unlink()
            raise
        os.replace(part, path)
        return Exported(path, plan, fetched)

    def _fetch(
        self,
        refs: Sequence[str],
        since: Sequence[str],
        part: Path,
        name: str,
        plan: Json,
        progress: Progress | None,
    ) -> int:
        size, etag = int(plan["size"]), str(plan["etag"])
        failures = 0
        with part.open("ab") as out:
            begun = out.tell()
            if progress is not None:
                progress.start(name, size)
                progress.advance(name, min(out.tell(), size))
            while out.tell() < size:
                before = out.tell()
                try:
                    self._fetch_rest(
                        refs, since, out, etag, (lambda n: progress.advance(name, n)) if progress else (lambda _: None)
                    )
                except (Unavailable, RangeInvalid) as error:
                    failures = 1 if out.tell() > before else failures + 1
                    if failures >= ATTEMPTS:
                        raise Unavailable(
                            f"The export keeps breaking off: {error.message}",
                            hint="Run the same command again: it goes on where this one stopped.",
                        ) from error
                    self._sleep(min(0.5 * 2**failures, 10))
            fetched = out.tell() - begun
            out.flush()
            os.fsync(out.fileno())
        if progress is not None:
            progress.finish(name, "exported")
        return fetched

    def _fetch_rest(
        self,
        refs: Sequence[str],
        since: Sequence[str],
        out: BinaryIO,
        etag: str,
        advance: Callable[[int], None],
    ) -> None:
        start = out.tell()
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": f'"{etag}"'}
        with self._session.streaming(
            "GET", "/export", query={"ref": list(refs), "since": list(since)}, headers=headers
        ) as response:
            if response.headers.get("etag") != f'"{etag}"':
                raise Conflict(
                    "What belongs to these versions has changed meanwhile, such as a new signature.",
                    hint="Run the same command again.",
                )
            if start and response.status_code != 206:
                raise RemoteError("The service did not go on where the download had stopped.", hint="Try again.")
            for chunk in response.iter_raw():
                out.write(chunk)
                advance(len(chunk))

    def import_(
        self,
        path: Path,
        *,
        project: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Imported:
        """Brings the versions of a file in. What the service has already is not sent.

        Args:
            project: bring all models into this project, whatever theirs was.
            dry_run: only say what would happen, and compare every digest in the file.

        Raises:
            ArchiveInvalid: the file is damaged or cut off; nothing of it can be seen.
            BlobUnknownToManifest: it leaves out what the service lacks too.
        """
        file = open_archive(path)
        failures = 0
        while True:
            planned = self._post(file, frozenset(), project=project, dry_run=True)
            missing = {str(blob["digest"]): int(blob["size"]) for blob in planned["missing"]}
            _require_present(file, missing)
            total = sum(missing.values())
            if dry_run:
                _verify(file, progress)
                return Imported(planned["items"], total, 0, True)
            if not any(item["action"] in ("import", "evidence") for item in planned["items"]):
                return Imported(planned["items"], 0, 0, False)
            if progress is not None:
                progress.start(path.name, file.part_size(missing))
            try:
                advance = (lambda count: progress.advance(path.name, count)) if progress else None
                done = self._post(file, frozenset(missing), project=project, dry_run=False, advance=advance)
            except Unavailable:
                # What had arrived whole waits there, so each try has less to send.
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                self._sleep(min(0.5 * 2**failures, 10))
                continue
            if progress is not None:
                progress.finish(path.name, "imported")
            return Imported(done["items"], total, int(done["bytes_transferred"]), False)

    def _post(
        self,
        file: ArchiveFile,
        wanted: frozenset[str],
        *,
        project: str | None,
        dry_run: bool,
        advance: Callable[[int], None] | None = None,
    ) -> Json:
        def body() -> Iterator[bytes]:
            for piece in file.part(wanted):
                yield piece
                if advance is not None:
                    advance(len(piece))

        with self._session.streaming(
            "POST",
            "/import",
            query={"project": project, "dry_run": "true" if dry_run else None},
            headers={"Content-Type": "application/x-tar", "Content-Length": str(file.part_size(wanted))},
            content=body(),
        ) as response:
            response.read()
            answer: Json = response.json()
        return answer


def _require_present(file: ArchiveFile, missing: dict[str, int]) -> None:
    absent = sorted(missing.keys() - file.sizes().keys())
    if absent:
        raise BlobUnknownToManifest(
            f"{file.path} leaves out {len(absent)} blobs that the service does not hold, such as {absent[0]}.",
            hint="Import what it builds on first, or export it again without --since.",
            detail={"missing": absent[:100]},
        )


def _verify(file: ArchiveFile, progress: Progress | None) -> None:
    name = file.path.name
    if progress is not None:
        progress.start(name, sum(file.sizes().values()))
    file.verify((lambda count: progress.advance(name, count)) if progress else (lambda _: None))
    if progress is not None:
        progress.finish(name, "checked")
