"""Harbor: plain OCI plus its REST interface `/api/v2.0` (docs/guides/registries.md; Harbor 2.8 or newer).

The first component of a name there is a Harbor project, which must exist (harbor_projects.py makes one). Repository
names in REST paths are encoded twice, and project names are marked as names (an all-digit one would be an id). Our own
manifest GETs count as pulls at Harbor, so checks are HEADs.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import (
    Capabilities,
    Inward,
    Kind,
    Page,
    RegistrySettings,
    RemoteEvent,
    ScanState,
    Usage,
)
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.harbor_projects import HarborProjects
from berth.adapters.registries.rest import Rest, segment
from berth.errors import Conflict, InvalidInput, NotFound, RemoteError, Unsupported
from berth.oci import reference as references
from berth.wire.retry import RetryPolicy

REPORTS = (
    "application/vnd.security.vulnerability.report; version=1.1, "
    "application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0"
)
# A GC run's and a scan's words → ours.
_RUNNING = frozenset({"Pending", "Scheduled", "Running"})
_EVENTS = {
    "PUSH_ARTIFACT": "pushed",
    "PULL_ARTIFACT": "pulled",
    "DELETE_ARTIFACT": "deleted",
    "SCANNING_COMPLETED": "scanned",
    "SCANNING_FAILED": "scanned",
    "SCANNING_STOPPED": "scanned",
    "harbor.artifact.pushed": "pushed",
    "harbor.artifact.pulled": "pulled",
    "harbor.artifact.deleted": "deleted",
    "harbor.scan.completed": "scanned",
    "harbor.scan.failed": "scanned",
    "harbor.scan.stopped": "scanned",
}
_PAGE = 100  # Harbor answers 422 to more


class HarborRegistry(DistributionRegistry):
    """A `Registry` with scanning, usage, clean-up and webhooks; `projects` administers Harbor's projects."""

    KIND: ClassVar[Kind] = Kind(
        "harbor",
        "Harbor 2.8 or newer",
        Capabilities(scan=True, largest_manifest=4 * 2**20),
        {
            **COMMON_OPTIONS,
            "prefix": "Harbor project, and perhaps a path below it; without it projects have the same names there.",
            "create_projects": "true: a Harbor project that is missing is made, private, before the first push.",
        },
        notifies=True,
    )

    def __init__(self, settings: RegistrySettings, *, retry: RetryPolicy | None = None) -> None:
        super().__init__(settings, retry=retry)
        self.rest = Rest(f"{settings.url.rstrip('/')}/api/v2.0", settings, sign_in=self._sign_in, retry=self.retry)
        self.projects = HarborProjects(self.rest)
        self._made: set[str] = set()

    async def _sign_in(self) -> Mapping[str, str]:
        basic = self.credential().basic()
        return {"X-Is-Resource-Name": "true", **({"Authorization": basic} if basic else {})}

    # ---- pushing

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        await self._ensure(repository)
        await super().push_blob(repository, digest, size=size, chunks=chunks)

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        await self._ensure(repository)
        return await super().mount_blob(repository, digest, source=source)

    async def _ensure(self, repository: str) -> None:
        """Content always comes before its manifest, so this is where a missing project shows first."""
        project = self.names.outward(repository).partition("/")[0]
        if project not in self._made and self.settings.flag("create_projects"):
            if not await self.projects.exists(project):
                await self.projects.ensure(project)
            self._made.add(project)

    # ---- lists

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        size, number = min(limit, _PAGE), int(after) if after is not None and after.isdigit() else 1
        project = self.names.prefix.partition("/")[0]
        path = f"/projects/{segment(project)}/repositories" if project else "/repositories"
        query = {"page": number, "page_size": size, "sort": "name"}
        found = (await self.rest.ask("GET", path, query=query)).objects()
        names = (self.names.inward(str(item.get("name", ""))) for item in found)
        return Page([name for name in names if name is not None], str(number + 1) if len(found) == size else None)

    # ---- removing (v2 refuses tags, and takes hard-linked accessories for strangers)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        references.check_tag(tag)
        name = self.names.outward(repository)
        path = f"{_artifact(name, tag)}/tags/{segment(tag)}"
        return (await self.rest.ask("DELETE", path, expect=(200, 404))).status == 200

    async def _delete_content(self, name: str, digest: str) -> bool:
        return (await self.rest.ask("DELETE", _artifact(name, digest), expect=(200, 404))).status == 200

    # ---- what Harbor knows about an artifact

    async def artifact(self, repository: str, reference: str, **options: bool) -> dict[str, Any]:
        """Harbor's own view: type (`CNAI` for models), tags, push_time, pull_time, extra_attrs, addition_links.

        `options` are Harbor's `with_…` switches. Raises NotFound.
        """
        query = {"with_tag": "true", "with_accessory": "false", **{k: str(v).lower() for k, v in options.items()}}
        headers = {"X-Accept-Vulnerabilities": REPORTS}
        path = _artifact(self.names.outward(repository), reference)
        return (await self.rest.ask("GET", path, query=query, headers=headers)).object()

    async def last_pull(self, repository: str, reference: str) -> datetime | None:
        """When it was last pulled, about 10 s late; None for never."""
        text = str((await self.artifact(repository, reference)).get("pull_time") or "0001")
        if text.startswith("0001"):
            return None
        try:
            return datetime.fromisoformat(text)
        except ValueError as error:
            raise RemoteError(f"{self.settings.name} answered a pull time that is no time: {text[:40]}.") from error

    async def accessories(self, repository: str, digest: str) -> list[dict[str, Any]]:
        """Signatures, SBOMs and other content hung onto an artifact; Harbor never lists these as artifacts."""
        path = f"{_artifact(self.names.outward(repository), digest)}/accessories"
        found: list[dict[str, Any]] = []
        while True:
            query = {"page": len(found) // _PAGE + 1, "page_size": _PAGE}
            page = (await self.rest.ask("GET", path, query=query)).objects()
            found += page
            if len(page) < _PAGE:
                return found

    async def addition(self, repository: str, digest: str, name: str) -> bytes | None:
        """What Harbor shows in a tab: `readme.md`, `license`, `files` of a model; None when it has none."""
        path = f"{_artifact(self.names.outward(repository), digest)}/additions/{segment(name)}"
        # 400: this type of artifact has no such tab
        answer = await self.rest.ask("GET", path, expect=(200, 400, 404), headers={"Accept": "*/*"})
        return answer.body if answer.status == 200 else None

    # ---- Scanning

    async def start_scan(self, repository: str, digest: str) -> bool:
        path = f"{_artifact(self.names.outward(repository), digest)}/scan"
        try:
            await self.rest.ask("POST", path, body={"scan_type": "vulnerability"}, expect=(202,))
        except Conflict as error:
            if error.detail.get("status") == 409:
                return False
            raise Unsupported(
                f"{self.settings.name} has no scanner that is switched on.", hint="Choose one in the Harbor project."
            ) from error
        except (InvalidInput, RemoteError) as error:
            if error.detail.get("status") != 400:
                raise
            raise Unsupported(f"{self.settings.name} does not scan content of this type.") from error
        return True

    async def scan_state(self, repository: str, digest: str) -> ScanState:
        try:
            artifact = await self.artifact(repository, digest, with_scan_overview=True)
        except NotFound:
            return ScanState("none")
        overview = artifact.get("scan_overview") or {}
        if not isinstance(overview, dict) or not overview:
            return ScanState("none")
        summary = next(iter(overview.values()))
        status = str(summary.get("scan_status", ""))
        state = "running" if status in _RUNNING else "done" if status == "Success" else "failed"
        counts = (summary.get("summary") or {}).get("summary") or {}
        return ScanState(
            state,
            severity=summary.get("severity"),
            counts={str(key).lower(): int(value) for key, value in counts.items()},
            report_id=summary.get("report_id"),
            scanner=(summary.get("scanner") or {}).get("name"),
        )

    async def scan_report(self, repository: str, digest: str) -> Mapping[str, Any] | None:
        path = f"{_artifact(self.names.outward(repository), digest)}/additions/vulnerabilities"
        answer = await self.rest.ask("GET", path, expect=(200, 404), headers={"X-Accept-Vulnerabilities": REPORTS})
        return (answer.object() or None) if answer.status == 200 else None

    async def scan_log(self, repository: str, digest: str, report_id: str) -> str:
        """The log of one scan. Raises NotFound."""
        path = f"{_artifact(self.names.outward(repository), digest)}/scan/{segment(report_id)}/log"
        answer = await self.rest.ask("GET", path, headers={"Accept": "text/plain"})
        return answer.body.decode("utf-8", "replace")

    # ---- Measured, Housekeeping, health

    async def usage(self, project: str) -> Usage:
        outward = self.names.outward(f"{project}/any").partition("/")[0]
        return await self.projects.usage(outward)

    async def collect_garbage(self, *, dry_run: bool = False) -> str:
        """System administrators only; space of deleted content returns with it. Blobs younger than 2 h are kept."""
        parameters = {"delete_untagged": False, "dry_run": dry_run, "workers": 1}
        body = {"schedule": {"type": "Manual", "cron": ""}, "parameters": parameters}
        answer = await self.rest.ask("POST", "/system/gc/schedule", body=body, expect=(201,))
        run = str(answer.headers.get("location", "")).rstrip("/").rpartition("/")[2]
        if run.isdigit():
            return run
        newest = (await self.rest.ask("GET", "/system/gc", query={"page_size": 1, "sort": "-id"})).objects()
        if not newest:
            raise RemoteError(f"{self.settings.name} started no clean-up.")
        return str(newest[0]["id"])

    async def garbage_state(self, run: str) -> str:
        status = str((await self.rest.ask("GET", f"/system/gc/{segment(run)}")).object().get("job_status", ""))
        if status in _RUNNING:
            return "running"
        return "done" if status == "Success" else "failed"

    async def health(self) -> Mapping[str, str]:
        """Status by component (`core`, `database`, `registry`, …): healthy or what is wrong."""
        found = (await self.rest.ask("GET", "/health")).object()
        components = found.get("components") or []
        return {str(c.get("name")): str(c.get("error") or c.get("status")) for c in components}

    async def version(self) -> str | None:
        """Harbor's version; None where it does not tell us."""
        found = (await self.rest.ask("GET", "/systeminfo")).object()
        version = found.get("harbor_version")
        return version if isinstance(version, str) else None

    # ---- Notifying, Hooking

    @classmethod
    def events(cls, body: bytes, *, inward: Inward) -> Sequence[RemoteEvent]:
        return list(_events(body, inward))

    async def ensure_hook(self, project: str, *, address: str, authorization: str, pulls: bool) -> bool:
        there = self.names.outward(f"{project}/any").partition("/")[0]
        return await self.projects.ensure_webhook(
            there, f"berth-{self.settings.name}", address=address, secret=authorization, pulls=pulls
        )

    async def close(self) -> None:
        await self.rest.close()
        await super().close()


def _artifact(name: str, reference: str) -> str:
    """The path of an artifact: the repository without its project, encoded twice; the reference once."""
    project, _, repository = name.partition("/")
    return f"/projects/{segment(project)}/repositories/{segment(segment(repository))}/artifacts/{segment(reference)}"


def _events(body: bytes, inward: Inward) -> Iterable[RemoteEvent]:
    """Both payload forms: Harbor's own, and CloudEvents with the same content in `data`."""
    found = notifications.document(body, "Harbor")
    data = found.get("event_data") or found.get("data")
    if not isinstance(found.get("type"), str) or not isinstance(data, dict):
        raise InvalidInput("This is not a notification of Harbor.")
    place, resources = data.get("repository"), data.get("resources")
    full = place.get("repo_full_name") if isinstance(place, dict) else None
    at = notifications.moment(found.get("occur_at", found.get("time")))
    for resource in resources if isinstance(resources, list) and resources else [{}]:
        named = resource if isinstance(resource, dict) else {}
        digest, tag = notifications.text(named.get("digest")), notifications.text(named.get("tag"))
        yield RemoteEvent(
            action=_EVENTS.get(found["type"], "other"),
            repository=notifications.ours(full, inward),
            digest=digest,
            tag=tag if tag != digest else None,  # the digest stands there when no tag was named
            at=at,
        )
