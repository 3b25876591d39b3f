"""How is a Harbor project made fit for models? Settings, quota, robots, webhooks; its rules are in harbor_rules.py.

Harbor's metadata are texts, `"true"` and `"false"` (docs/guides/registries.md). Everything here can be said again:
what is there already is changed or left, never doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from berth.adapters.registries.contract import ProjectPlan, Robot, Usage
from berth.adapters.registries.rest import Rest, segment
from berth.errors import InvalidInput, NotFound, RemoteAuthError, RemoteError

SEVERITIES = ("none", "low", "medium", "high", "critical")
# Least rights of a robot that publishes: push needs pull, and withdrawing a tag needs to delete it.
PUBLISH = (
    ("repository", "pull"),
    ("repository", "push"),
    ("repository", "list"),
    ("artifact", "read"),
    ("artifact", "list"),
    ("tag", "create"),
    ("tag", "list"),
    ("tag", "delete"),
)
READ = (("repository", "pull"), ("repository", "list"), ("artifact", "read"), ("artifact", "list"), ("tag", "list"))
HOOKED = ("PUSH_ARTIFACT", "DELETE_ARTIFACT", "SCANNING_COMPLETED", "SCANNING_FAILED", "SCANNING_STOPPED")
# What Harbor calls a state of any job → ours.
RUNNING = frozenset({"Pending", "Scheduled", "Running", "InProgress"})
DONE = frozenset({"Success", "Succeed"})
AS_IT_IS = ProjectPlan()
_PAGE = 100


def state_of(status: object) -> str:
    """running | done | failed"""
    return "running" if status in RUNNING else "done" if status in DONE else "failed"


def metadata_of(plan: ProjectPlan) -> dict[str, str]:
    """A plan in Harbor's words. Raises InvalidInput for an unknown severity."""
    if plan.severity is not None and plan.severity not in SEVERITIES:
        raise InvalidInput(f"There is no severity '{plan.severity}'.", hint=f"Write one of {', '.join(SEVERITIES)}.")
    flags = {
        "public": plan.public,
        "auto_scan": plan.auto_scan,
        "auto_sbom_generation": plan.auto_sbom,
        "prevent_vul": plan.prevent_vulnerable,
        "enable_content_trust_cosign": plan.cosign_trust,
    }
    found = {key: str(value).lower() for key, value in flags.items() if value is not None}
    return found | ({"severity": plan.severity} if plan.severity is not None else {})


class HarborProjects:
    """Harbor's projects. Every method raises RemoteAuthError when our account may not do it.

    Args:
        there: the Harbor project of one of ours.
    """

    def __init__(self, rest: Rest, there: Callable[[str], str] = str) -> None:
        self.rest = rest
        self.there = there

    # ---- the project itself

    async def exists(self, project: str) -> bool:
        query = {"project_name": self.there(project)}
        answer = await self.rest.ask("HEAD", "/projects", query=query, expect=(200, 404))
        return answer.status == 200

    async def raw(self, project: str) -> dict[str, Any]:
        """As Harbor shows it. Raises NotFound."""
        answer = await self.rest.ask("GET", self.path(project), expect=(200, 403, 404))
        if answer.status != 200:  # a project that we may not see is answered 403
            raise NotFound(
                f"There is no Harbor project '{self.there(project)}', or it is not for us.",
                hint="berth registry project set NAME PROJECT makes it.",
            )
        return answer.object()

    async def ensure(self, project: str, plan: ProjectPlan = AS_IT_IS, *, dry_run: bool = False) -> list[str]:
        metadata = metadata_of(plan)
        if not await self.exists(project):
            changes = [f"project {self.there(project)}: none → made", *_changes({}, {"public": "false", **metadata})]
            changes += [f"storage: default → {_bytes(plan.storage_limit)}"] if plan.storage_limit is not None else []
            if dry_run or await self._create(project, plan, metadata):
                return changes
        before = {str(k): str(v) for k, v in ((await self.raw(project)).get("metadata") or {}).items()}
        changes = _changes(before, metadata)
        if changes and not dry_run:
            # Metadata that are left out stay as they are.
            await self.rest.ask("PUT", self.path(project), body={"metadata": metadata})
        if plan.storage_limit is not None:
            limit = (await self.usage(project)).limit
            limit = -1 if limit is None else limit
            if limit != plan.storage_limit:
                changes.append(f"storage: {_bytes(limit)} → {_bytes(plan.storage_limit)}")
                if not dry_run:
                    await self.set_quota(project, plan.storage_limit)
        return changes

    async def _create(self, project: str, plan: ProjectPlan, metadata: Mapping[str, str]) -> bool:
        """False when somebody else made it meanwhile."""
        name = self.there(project)
        body: dict[str, Any] = {"project_name": name, "metadata": {"public": "false", **metadata}}
        if plan.storage_limit is not None:
            body["storage_limit"] = plan.storage_limit
        headers = {"X-Resource-Name-In-Location": "true"}
        made = await self.rest.ask("POST", "/projects", body=body, expect=(201, 409), headers=headers)
        if made.status == 409:
            return False
        if plan.storage_limit is not None:
            # From whoever is no administrator Harbor takes the project and its own default, without a word.
            limit = (await self.usage(project)).limit
            if (-1 if limit is None else limit) != plan.storage_limit:
                await self._insist(project, plan.storage_limit)
        return True

    async def _insist(self, project: str, storage: int) -> None:
        try:
            await self.set_quota(project, storage)
        except RemoteAuthError as error:
            raise RemoteAuthError(
                f"Harbor made the project '{self.there(project)}' with its own default storage limit.",
                hint="Only a system administrator of Harbor sets another one.",
                detail=error.detail,
            ) from error

    # ---- how full it is

    async def usage(self, project: str) -> Usage:
        answer = await self.rest.ask("GET", f"{self.path(project)}/summary")
        quota = answer.object().get("quota") or {}
        used, hard = ((quota.get(key) or {}).get("storage") for key in ("used", "hard"))
        limit = hard if isinstance(hard, int) and hard >= 0 else None
        return Usage(used if isinstance(used, int) else None, limit)

    async def set_quota(self, project: str, storage: int) -> None:
        """Bytes, -1 = none. System administrators only."""
        query = {"reference": "project", "reference_id": await self._id(project)}
        found = (await self.rest.ask("GET", "/quotas", query=query)).objects()
        if not found:
            raise RemoteError(f"Harbor has no quota for '{self.there(project)}'.")
        if ((found[0].get("hard") or {}).get("storage")) != storage:
            body = {"hard": {"storage": storage}}
            await self.rest.ask("PUT", f"/quotas/{found[0]['id']}", body=body)

    # ---- robots

    async def add_robot(self, project: str, name: str, *, publishes: bool = True, days: int = -1) -> Robot:
        rights = PUBLISH if publishes else READ
        body = {
            "name": name,
            "description": "made by Berth",
            "duration": days,
            "level": "project",
            "permissions": [
                {
                    "kind": "project",
                    "namespace": self.there(project),
                    "access": [{"resource": resource, "action": action} for resource, action in rights],
                }
            ],
        }
        made = (await self.rest.ask("POST", "/robots", body=body, expect=(201,))).object()
        if not isinstance(made.get("secret"), str) or not isinstance(made.get("id"), int):
            raise RemoteError("Harbor made a robot without telling its secret.")
        words = tuple(f"{resource} {action}" for resource, action in rights)
        ends = _moment(made.get("expires_at"))
        return Robot(made["id"], str(made.get("name")), words, ends, secret=made["secret"])

    async def robots(self, project: str) -> list[Robot]:
        """Of this project; without the query Harbor lists the system's only."""
        query = {"q": f"Level=project,ProjectID={await self._id(project)}"}
        found = await self.every("/robots", query)
        return [_robot(robot) for robot in found]

    async def renew_robot(self, project: str, robot_id: int) -> Robot:
        robot = await self._of_project(project, robot_id)
        # An empty secret asks for a new one; a value would be set, and answered with nothing.
        answer = (await self.rest.ask("PATCH", f"/robots/{robot_id}", body={"secret": ""})).object()
        if not isinstance(answer.get("secret"), str) or not answer["secret"]:
            raise RemoteError("Harbor gave a robot a new secret without telling it.")
        return Robot(robot.id, robot.name, robot.rights, robot.expires_at, secret=answer["secret"])

    async def remove_robot(self, project: str, robot_id: int) -> bool:
        try:
            await self._of_project(project, robot_id)
        except NotFound:
            return False
        return (await self.rest.ask("DELETE", f"/robots/{robot_id}", expect=(200, 404))).status == 200

    async def _of_project(self, project: str, robot_id: int) -> Robot:
        """Numbers are Harbor's own over all projects: another project's robot is none of this one's."""
        for robot in await self.robots(project):
            if robot.id == robot_id:
                return robot
        raise NotFound(f"The Harbor project '{self.there(project)}' has no robot {robot_id}.")

    # ---- webhooks

    async def ensure_webhook(self, project: str, name: str, *, address: str, secret: str, pulls: bool = False) -> bool:
        """Have Harbor tell `address` what happens; `secret` comes back verbatim as `Authorization`. Whether added."""
        path = f"{self.path(project)}/webhook/policies"
        target = {"type": "http", "address": address, "auth_header": secret, "skip_cert_verify": False}
        body: Mapping[str, Any] = {
            "name": name,
            "enabled": True,
            "event_types": [*HOOKED, *(["PULL_ARTIFACT"] if pulls else [])],
            "targets": [{**target, "payload_format": "Default"}],
        }
        for policy in await self.every(path, {}):
            if policy.get("name") == name:
                await self.rest.ask("PUT", f"{path}/{policy['id']}", body={**body, "id": policy["id"]})
                return False
        await self.rest.ask("POST", path, body=body, expect=(201,))
        return True

    # ----

    def path(self, project: str) -> str:
        return f"/projects/{segment(self.there(project))}"

    async def _id(self, project: str) -> int:
        return int((await self.raw(project))["project_id"])

    async def every(self, path: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every page of a list; Harbor's own links are not used, since it writes them un-escaped."""
        found: list[dict[str, Any]] = []
        while True:
            more = {**query, "page": len(found) // _PAGE + 1, "page_size": _PAGE}
            page = (await self.rest.ask("GET", path, query=more)).objects()
            found += page
            if len(page) < _PAGE:
                return found


def _changes(before: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'default')} → {value}" for key, value in wanted.items() if before.get(key) != value
    ]


def _bytes(limit: int | None) -> str:
    return "none" if limit is None or limit < 0 else f"{limit} bytes"


def _robot(raw: Mapping[str, Any]) -> Robot:
    access = [a for p in raw.get("permissions") or [] for a in p.get("access") or []]
    return Robot(
        id=int(raw["id"]),
        name=str(raw.get("name")),
        rights=tuple(f"{a.get('resource')} {a.get('action')}" for a in access),
        expires_at=_moment(raw.get("expires_at")),
        disabled=bool(raw.get("disable")),
    )


def _moment(seconds: object) -> datetime | None:
    """-1 = never."""
    return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) and seconds > 0 else None
