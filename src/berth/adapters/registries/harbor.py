"""Harbor: plain OCI plus its REST interface `/api/v2.0` (docs/guides/registries.md; Harbor 2.8 or newer).

The first component of a name there is a Harbor project, which must exist (harbor_projects.py makes one). Repository
names in REST paths are encoded twice, and project names are marked as names (an all-digit one would be an id). Our own
manifest GETs count as pulls at Harbor, so checks are HEADs.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import (
    Accessory,
    Artifact,
    Capabilities,
    Delivery,
    Health,
    Inward,
    Kind,
    Page,
    RegistrySettings,
    RemoteEvent,
    Retained,
    RetentionChange,
    ScanState,
    Stat,
    Usage,
)
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.harbor_projects import state_of
from berth.adapters.registries.harbor_rules import NIGHTLY, HarborAdministration
from berth.adapters.registries.rest import Rest, segment
from berth.errors import Conflict, InvalidInput, NotFound, RemoteAuthError, RemoteError, StorageFull, Unsupported
from berth.oci import reference as references
from berth.wire import manifests as wire_manifests
from berth.wire.retry import RetryPolicy

REPORTS = (
    "application/vnd.security.vulnerability.report; version=1.1, "
    "application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0"
)
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
    """A `Registry` with scanning, usage, clean-up, webhooks and projects that are looked after from here."""

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
        self.administration = HarborAdministration(self.rest, self.there)
        self._made: set[str] = set()

    def there(self, project: str) -> str:
        """The Harbor project that one of ours is in."""
        return self.names.outward(f"{project}/any").partition("/")[0]

    async def _sign_in(self) -> Mapping[str, str]:
        basic = self.credential().basic()
        return {"X-Is-Resource-Name": "true", **({"Authorization": basic} if basic else {})}

    # ---- pushing

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        await self._ensure(repository)
        with _quota():
            await super().push_blob(repository, digest, size=size, chunks=chunks)

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        with _quota():
            return await super().push_manifest(repository, reference, media_type=media_type, body=body)

    async def mount_blob(self, repository: str, digest: str, *, source: str) -> bool:
        await self._ensure(repository)
        return await super().mount_blob(repository, digest, source=source)

    async def _ensure(self, repository: str) -> None:
        """Content always comes before its manifest, so this is where a missing project shows first."""
        project = self.names.outward(repository).partition("/")[0]
        if project not in self._made and self.settings.flag("create_projects"):
            if not await self.administration.exists(project):
                await self.administration.ensure(project)
            self._made.add(project)

    # ---- reading

    async def stat(self, repository: str, reference: str) -> Stat | None:
        """Harbor's policies refuse a HEAD like a GET, but only the answer to a GET says why (Denied)."""
        try:
            return await super().stat(repository, reference)
        except Conflict as error:
            if error.detail.get("status") != 412:
                raise
            return await self._refused(repository, reference, error)

    async def _refused(self, repository: str, reference: str, error: Conflict) -> Stat:
        found = await wire_manifests.get(self.client, self.names.outward(repository), reference)
        raise RemoteError(f"{self.settings.name} refuses to say what {found.digest} is.", detail=error.detail)

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

    async def raw_artifact(self, repository: str, reference: str, **options: bool) -> dict[str, Any]:
        """As Harbor shows it: `type` (`CNAI` for models), `extra_attrs`, `addition_links`, … Raises NotFound.

        `options` are Harbor's `with_…` switches.
        """
        query = {"with_tag": "true", "with_accessory": "false", **{k: str(v).lower() for k, v in options.items()}}
        headers = {"X-Accept-Vulnerabilities": REPORTS}
        path = _artifact(self.names.outward(repository), reference)
        return (await self.rest.ask("GET", path, query=query, headers=headers)).object()

    async def artifact(self, repository: str, reference: str) -> Artifact:
        found = await self.raw_artifact(repository, reference)
        digest = str(found.get("digest"))
        place = (await self.rest.ask("GET", _repository(self.names.outward(repository)))).object()
        hung = await self.accessories(repository, digest)
        return Artifact(
            digest=digest,
            type=str(found.get("type")),
            size=int(found.get("size") or 0),
            tags=[str(tag.get("name")) for tag in found.get("tags") or []],
            pushed_at=self._time(found.get("push_time")),
            pulled_at=self._time(found.get("pull_time")),
            repository_pulls=int(place.get("pull_count") or 0),
            accessories=[Accessory(str(a.get("type")), str(a.get("digest")), int(a.get("size") or 0)) for a in hung],
            tabs=sorted(found.get("addition_links") or {}),
        )

    def _time(self, value: object) -> datetime | None:
        """Harbor's word for never is the year 1; a pull shows about 10 s late."""
        text = str(value or "0001")
        if text.startswith("0001"):
            return None
        try:
            return datetime.fromisoformat(text)
        except ValueError as error:
            raise RemoteError(f"{self.settings.name} answered a time that is none: {text[:40]}.") from error

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
            artifact = await self.raw_artifact(repository, digest, with_scan_overview=True)
        except NotFound:
            return ScanState("none")
        overview = artifact.get("scan_overview") or {}
        if not isinstance(overview, dict) or not overview:
            return ScanState("none")
        summary = next(iter(overview.values()))
        state = state_of(summary.get("scan_status"))
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
        return await self.administration.usage(project)

    async def retained(self, project: str) -> Sequence[Retained]:
        found = await self.administration.show(project)
        if found.retention is None:
            return [Retained(found.name, None, None)]
        kept = found.retention
        words = "other rules, made there" if kept.keep_newest is None else f"the newest {kept.keep_newest} by push"
        return [Retained(found.name, kept.keep_newest, kept.schedule, (words,))]

    async def retain(self, project: str, count: int, *, schedule: str | None, dry_run: bool) -> RetentionChange:
        """`schedule` is Harbor's cron of six fields."""
        return RetentionChange(
            await self.administration.keep_newest(project, count, schedule=schedule or NIGHTLY, dry_run=dry_run)
        )

    async def collect_garbage(self, *, dry_run: bool = False) -> str:
        """System administrators only; space of deleted content returns with it. Blobs younger than 2 h are kept."""
        newest = await self._newest_collection()
        if newest is not None and state_of(newest.get("job_status")) == "running":
            raise Conflict(f"A clean-up of {self.settings.name} is running: {newest['id']}.", hint="Wait for its end.")
        parameters = {"delete_untagged": False, "dry_run": dry_run, "workers": 1}
        body = {"schedule": {"type": "Manual", "cron": ""}, "parameters": parameters}
        try:
            answer = await self.rest.ask("POST", "/system/gc/schedule", body=body, expect=(201,))
        except Conflict as error:
            raise Conflict(
                f"{self.settings.name} starts no clean-up now.",
                hint="Harbor starts at most one a minute.",
                detail=error.detail,
            ) from error
        run = str(answer.headers.get("location", "")).rstrip("/").rpartition("/")[2]
        if run.isdigit():
            return run
        newest = await self._newest_collection()
        if newest is None:
            raise RemoteError(f"{self.settings.name} started no clean-up.")
        return str(newest["id"])

    async def _newest_collection(self) -> dict[str, Any] | None:
        found = (await self.rest.ask("GET", "/system/gc", query={"page_size": 1, "sort": "-id"})).objects()
        return found[0] if found else None

    async def garbage_state(self, run: str) -> str:
        return state_of((await self.rest.ask("GET", f"/system/gc/{_number(run)}")).object().get("job_status"))

    async def garbage_log(self, run: str) -> str:
        answer = await self.rest.ask("GET", f"/system/gc/{_number(run)}/log", headers={"Accept": "text/plain"})
        return answer.body.decode("utf-8", "replace")

    async def health(self) -> Health:
        """Asked of every component (`core`, `database`, `registry`, …); version and mode only where we may know."""
        found = (await self.rest.ask("GET", "/health")).object()
        about = (await self.rest.ask("GET", "/systeminfo")).object()
        components = {str(c.get("name")): str(c.get("error") or c.get("status")) for c in found.get("components") or []}
        version, read_only = about.get("harbor_version"), about.get("read_only")
        return Health(
            healthy=found.get("status") == "healthy",
            components=components,
            version=version if isinstance(version, str) else None,
            read_only=read_only if isinstance(read_only, bool) else None,
        )

    # ---- Notifying, Hooking

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        return list(_events(delivery.body, inward))

    async def ensure_hook(self, project: str, *, address: str, authorization: str, pulls: bool) -> bool:
        name = f"berth-{self.settings.name}"
        return await self.administration.ensure_webhook(
            project, name, address=address, secret=authorization, pulls=pulls
        )

    async def close(self) -> None:
        await self.rest.close()
        await super().close()


@contextmanager
def _quota() -> Iterator[None]:
    """A full project is answered like missing rights (403 DENIED); its words tell them apart."""
    try:
        yield
    except RemoteAuthError as error:
        if "DENIED" in error.detail.get("codes", ()) and "exceed" in error.message:
            raise StorageFull(
                error.message, hint="Give the project there more storage, or remove content.", detail=error.detail
            ) from error
        raise


def _repository(name: str) -> str:
    """The path of a repository: its name without the project, encoded twice."""
    project, _, repository = name.partition("/")
    return f"/projects/{segment(project)}/repositories/{segment(segment(repository))}"


def _artifact(name: str, reference: str) -> str:
    """The path of an artifact, whose reference is encoded once."""
    return f"{_repository(name)}/artifacts/{segment(reference)}"


def _number(run: str) -> str:
    if not (run.isascii() and run.isdigit()):
        raise NotFound(f"There was no clean-up '{run[:40]}'.", hint="berth registry gc NAME starts one.")
    return run


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
