"""How is a Harbor project made fit for models? Settings, quota, robots, immutable tags, retention, webhooks.

Harbor's metadata are texts, `"true"` and `"false"` (docs/guides/registries.md). Everything here can be said again:
what is there already is changed or left, never doubled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from berth.adapters.registries.contract import Usage
from berth.adapters.registries.rest import Rest, segment
from berth.errors import InvalidInput, NotFound, RemoteError

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
HOOKED = ("PUSH_ARTIFACT", "DELETE_ARTIFACT", "SCANNING_COMPLETED", "SCANNING_FAILED", "SCANNING_STOPPED")
READ = (("repository", "pull"), ("repository", "list"), ("artifact", "read"), ("artifact", "list"), ("tag", "list"))


@dataclass(frozen=True)
class ProjectPlan:
    """What a project is to be like; None = as it is (for a new one: Harbor's default).

    Attributes:
        severity: at or over it, `prevent_vulnerable` refuses pulls.
        storage_limit: bytes, -1 = none. Harbor takes it from system administrators only.
    """

    public: bool | None = None
    auto_scan: bool | None = None
    auto_sbom: bool | None = None
    prevent_vulnerable: bool | None = None
    severity: str | None = None
    cosign_trust: bool | None = None
    storage_limit: int | None = None

    def metadata(self) -> dict[str, str]:
        """Raises InvalidInput for an unknown severity."""
        if self.severity is not None and self.severity not in SEVERITIES:
            raise InvalidInput(
                f"There is no severity '{self.severity}'.", hint=f"Write one of {', '.join(SEVERITIES)}."
            )
        flags = {
            "public": self.public,
            "auto_scan": self.auto_scan,
            "auto_sbom_generation": self.auto_sbom,
            "prevent_vul": self.prevent_vulnerable,
            "enable_content_trust_cosign": self.cosign_trust,
        }
        found = {key: str(value).lower() for key, value in flags.items() if value is not None}
        return found | ({"severity": self.severity} if self.severity is not None else {})


@dataclass(frozen=True)
class Robot:
    """A robot as Harbor made it; its secret is shown this one time."""

    id: int
    name: str
    secret: str = field(repr=False)


class HarborProjects:
    """Harbor's projects. Every method raises RemoteAuthError when our account may not do it."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def exists(self, project: str) -> bool:
        answer = await self._rest.ask("HEAD", "/projects", query={"project_name": project}, expect=(200, 404))
        return answer.status == 200

    async def show(self, project: str) -> dict[str, Any]:
        """Raises NotFound."""
        answer = await self._rest.ask("GET", f"/projects/{segment(project)}", expect=(200, 403, 404))
        if answer.status != 200:  # a project that we may not see is answered 403
            raise NotFound(f"There is no Harbor project '{project}', or it is not for us.")
        return answer.object()

    async def ensure(self, project: str, plan: ProjectPlan = ProjectPlan()) -> bool:
        """Make the project, or bring it in line with `plan`; whether it was made."""
        metadata = plan.metadata()
        if not await self.exists(project):
            body: dict[str, Any] = {"project_name": project, "metadata": {"public": "false", **metadata}}
            if plan.storage_limit is not None:
                body["storage_limit"] = plan.storage_limit
            headers = {"X-Resource-Name-In-Location": "true"}
            made = await self._rest.ask("POST", "/projects", body=body, expect=(201, 409), headers=headers)
            if made.status == 201:
                return True
        found = await self.show(project)
        if any((found.get("metadata") or {}).get(key) != value for key, value in metadata.items()):
            # Metadata that are left out stay as they are.
            await self._rest.ask("PUT", f"/projects/{segment(project)}", body={"metadata": metadata})
        if plan.storage_limit is not None:
            await self.set_quota(project, plan.storage_limit)
        return False

    # ---- how full it is

    async def usage(self, project: str) -> Usage:
        answer = await self._rest.ask("GET", f"/projects/{segment(project)}/summary")
        quota = answer.object().get("quota") or {}
        used, hard = ((quota.get(key) or {}).get("storage") for key in ("used", "hard"))
        limit = hard if isinstance(hard, int) and hard >= 0 else None
        return Usage(used if isinstance(used, int) else None, limit)

    async def set_quota(self, project: str, storage: int) -> None:
        """Bytes, -1 = none. System administrators only."""
        query = {"reference": "project", "reference_id": await self._id(project)}
        found = (await self._rest.ask("GET", "/quotas", query=query)).objects()
        if not found:
            raise RemoteError(f"Harbor has no quota for '{project}'.")
        if ((found[0].get("hard") or {}).get("storage")) != storage:
            body = {"hard": {"storage": storage}}
            await self._rest.ask("PUT", f"/quotas/{found[0]['id']}", body=body)

    # ---- robots

    async def add_robot(
        self, project: str, name: str, *, rights: Sequence[tuple[str, str]] = PUBLISH, days: int = -1
    ) -> Robot:
        """A robot of this project with exactly these rights. Raises Conflict when there is one of that name."""
        body = {
            "name": name,
            "description": "made by Berth",
            "duration": days,
            "level": "project",
            "permissions": [
                {
                    "kind": "project",
                    "namespace": project,
                    "access": [{"resource": resource, "action": action} for resource, action in rights],
                }
            ],
        }
        made = (await self._rest.ask("POST", "/robots", body=body, expect=(201,))).object()
        if not isinstance(made.get("secret"), str) or not isinstance(made.get("id"), int):
            raise RemoteError("Harbor made a robot without telling its secret.")
        return Robot(made["id"], str(made.get("name")), made["secret"])

    async def robots(self, project: str) -> list[dict[str, Any]]:
        """Robots of this project; without the query Harbor lists the system's only."""
        query = {"q": f"Level=project,ProjectID={await self._id(project)}", "page_size": 100}
        return (await self._rest.ask("GET", "/robots", query=query)).objects()

    async def remove_robot(self, robot_id: int) -> bool:
        return (await self._rest.ask("DELETE", f"/robots/{robot_id}", expect=(200, 404))).status == 200

    # ---- rules

    async def ensure_immutable(self, project: str, *, tags: str = "**", repositories: str = "**") -> bool:
        """Tags that match cannot be moved or removed; whether a rule was added (Harbor takes 15)."""
        path = f"/projects/{segment(project)}/immutabletagrules"
        tag_selectors = [{"kind": "doublestar", "decoration": "matches", "pattern": tags}]
        scope = {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": repositories}]}
        for rule in (await self._rest.ask("GET", path, query={"page_size": 100})).objects():
            same = [_selector(s) for s in rule.get("tag_selectors") or []] == [_selector(s) for s in tag_selectors]
            scopes = [_selector(s) for s in (rule.get("scope_selectors") or {}).get("repository") or []]
            if same and scopes == [_selector(s) for s in scope["repository"]] and not rule.get("disabled"):
                return False
        body = {
            "action": "immutable",
            "template": "immutable_template",
            "disabled": False,
            "priority": 0,
            "tag_selectors": tag_selectors,
            "scope_selectors": scope,
        }
        await self._rest.ask("POST", path, body=body, expect=(201,))
        return True

    async def ensure_retention(self, project: str, *, keep_newest: int, cron: str = "0 0 0 * * *") -> int:
        """Keep the newest pushed artifacts of each repository, delete the others by schedule; the policy's id."""
        found = await self.show(project)
        known = (found.get("metadata") or {}).get("retention_id")
        selector = {"kind": "doublestar", "decoration": "matches", "pattern": "**", "extras": '{"untagged":false}'}
        policy = {
            "algorithm": "or",
            "scope": {"level": "project", "ref": found["project_id"]},
            "trigger": {"kind": "Schedule", "settings": {"cron": cron}, "references": {}},
            "rules": [
                {
                    "action": "retain",
                    "template": "latestPushedK",
                    "params": {"latestPushedK": keep_newest},
                    "disabled": False,
                    "tag_selectors": [selector],
                    "scope_selectors": {
                        "repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]
                    },
                }
            ],
        }
        if known:
            await self._rest.ask("PUT", f"/retentions/{int(known)}", body={"id": int(known), **policy})
            return int(known)
        answer = await self._rest.ask("POST", "/retentions", body=policy, expect=(201,))
        made = answer.headers.get("location", "").rpartition("/")[2]
        if not made.isdigit():
            raise RemoteError("Harbor made a retention policy without telling its number.")
        return int(made)

    async def start_retention(self, policy_id: int, *, dry_run: bool = True) -> None:
        """Run a retention policy now; a dry run deletes nothing."""
        await self._rest.ask("POST", f"/retentions/{policy_id}/executions", body={"dry_run": dry_run}, expect=(201,))

    # ---- webhooks

    async def ensure_webhook(self, project: str, name: str, *, address: str, secret: str, pulls: bool = False) -> bool:
        """Have Harbor tell `address` what happens; `secret` comes back verbatim as `Authorization`. Whether added."""
        path = f"/projects/{segment(project)}/webhook/policies"
        known = (await self._rest.ask("GET", path, query={"page_size": 100})).objects()
        target = {"type": "http", "address": address, "auth_header": secret, "skip_cert_verify": False}
        body: Mapping[str, Any] = {
            "name": name,
            "enabled": True,
            "event_types": [*HOOKED, *(["PULL_ARTIFACT"] if pulls else [])],
            "targets": [{**target, "payload_format": "Default"}],
        }
        for policy in known:
            if policy.get("name") == name:
                await self._rest.ask("PUT", f"{path}/{policy['id']}", body={**body, "id": policy["id"]})
                return False
        await self._rest.ask("POST", path, body=body, expect=(201,))
        return True

    async def _id(self, project: str) -> int:
        return int((await self.show(project))["project_id"])


def _selector(selector: Mapping[str, Any]) -> tuple[object, object]:
    return selector.get("decoration"), selector.get("pattern")
