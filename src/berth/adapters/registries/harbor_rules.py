"""What stays at a Harbor project, and what goes? Immutable tags and retention, and the project seen whole.

Facts: docs/guides/registries.md. A retention run deletes by artifact what no rule keeps; immutable tags survive it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from berth.adapters.registries.contract import ManagedProject, Retention, RetentionRun, Rule
from berth.adapters.registries.harbor_projects import HarborProjects, state_of
from berth.errors import NotFound, RemoteError

NIGHTLY = "0 0 0 * * *"
_NEWEST = "latestPushedK"


class HarborAdministration(HarborProjects):
    """Harbor's projects, whole (`Administration`)."""

    async def show(self, project: str) -> ManagedProject:
        found = await self.raw(project)
        metadata = {str(k): str(v) for k, v in (found.get("metadata") or {}).items()}
        usage = await self.usage(project)
        return ManagedProject(
            name=str(found.get("name")),
            settings={key: value for key, value in sorted(metadata.items()) if key != "retention_id"},
            used=usage.used,
            limit=usage.limit,
            rules=await self.rules(project),
            retention=await self._retention(metadata),
        )

    # ---- tags that stay

    async def rules(self, project: str) -> list[Rule]:
        return [_rule(rule) for rule in await self.every(f"{self.path(project)}/immutabletagrules", {})]

    async def protect(self, project: str, *, tags: str = "**", repositories: str = "**", dry_run: bool = False) -> bool:
        """Harbor takes 15 rules."""
        for rule in await self.rules(project):
            if (rule.tags, rule.repositories, rule.enabled) == (tags, repositories, True):
                return False
        if dry_run:
            return True
        body = {
            "action": "immutable",
            "template": "immutable_template",
            "disabled": False,
            "priority": 0,
            "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": tags}],
            "scope_selectors": _scope(repositories),
        }
        await self.rest.ask("POST", f"{self.path(project)}/immutabletagrules", body=body, expect=(201,))
        return True

    async def unprotect(self, project: str, rule_id: int) -> bool:
        if rule_id not in {rule.id for rule in await self.rules(project)}:
            return False
        await self.rest.ask("DELETE", f"{self.path(project)}/immutabletagrules/{rule_id}")
        return True

    # ---- what is kept

    async def _retention(self, metadata: Mapping[str, Any]) -> Retention | None:
        known = str(metadata.get("retention_id") or "")
        if not known.isdigit():
            return None
        found = (await self.rest.ask("GET", f"/retentions/{int(known)}")).object()
        rules = found.get("rules") or []
        count = (rules[0].get("params") or {}).get(_NEWEST) if len(rules) == 1 else None
        cron = ((found.get("trigger") or {}).get("settings") or {}).get("cron")
        return Retention(int(known), count if isinstance(count, int) else None, cron or None)

    async def keep_newest(
        self, project: str, count: int, *, schedule: str = NIGHTLY, dry_run: bool = False
    ) -> list[str]:
        """`schedule` is Harbor's cron of six fields. Immutable tags survive; an artifact goes with all its tags."""
        found = await self.raw(project)
        before = await self._retention(found.get("metadata") or {})
        kept = (
            "everything" if before is None else "by other rules" if before.keep_newest is None else before.keep_newest
        )
        changes = [f"kept: {kept} → {count}"] if before is None or before.keep_newest != count else []
        if (before.schedule if before else None) != schedule:
            changes.append(f"schedule: {before.schedule if before else None} → {schedule}")
        if dry_run or not changes:
            return changes
        selector = {"kind": "doublestar", "decoration": "matches", "pattern": "**", "extras": '{"untagged":false}'}
        rule = {
            "action": "retain",
            "template": _NEWEST,
            "params": {_NEWEST: count},
            "disabled": False,
            "tag_selectors": [selector],
            "scope_selectors": _scope("**"),
        }
        policy = {
            "algorithm": "or",
            "scope": {"level": "project", "ref": found["project_id"]},
            "trigger": {"kind": "Schedule", "settings": {"cron": schedule}, "references": {}},
            "rules": [rule],
        }
        if before is not None:
            await self.rest.ask("PUT", f"/retentions/{before.id}", body={"id": before.id, **policy})
        else:
            await self.rest.ask("POST", "/retentions", body=policy, expect=(201,))
        return changes

    async def start_retention(self, project: str, *, dry_run: bool = True) -> int:
        policy = await self._policy(project)
        path = f"/retentions/{policy}/executions"
        answer = await self.rest.ask("POST", path, body={"dry_run": dry_run}, expect=(201,))
        run = answer.headers.get("location", "").rstrip("/").rpartition("/")[2]
        if not run.isdigit():
            raise RemoteError("Harbor started a retention run without telling its number.")
        return int(run)

    async def retention_run(self, project: str, run: int) -> RetentionRun:
        policy = await self._policy(project)
        runs = await self.every(f"/retentions/{policy}/executions", {})
        found = next((r for r in runs if r.get("id") == run), None)
        if found is None:
            raise NotFound(f"The Harbor project '{self.there(project)}' had no retention run {run}.")
        tasks = await self.every(f"/retentions/{policy}/executions/{run}/tasks", {})
        repositories = {
            str(task.get("repository")): (int(task.get("total") or 0), int(task.get("retained") or 0)) for task in tasks
        }
        return RetentionRun(run, state_of(found.get("status")), bool(found.get("dry_run")), repositories)

    async def _policy(self, project: str) -> int:
        known = str(((await self.raw(project)).get("metadata") or {}).get("retention_id") or "")
        if not known.isdigit():
            raise NotFound(
                f"The Harbor project '{self.there(project)}' keeps everything.",
                hint="berth registry retention set NAME PROJECT --keep N changes that.",
            )
        return int(known)


def _scope(repositories: str) -> dict[str, Any]:
    return {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": repositories}]}


def _rule(raw: Mapping[str, Any]) -> Rule:
    scopes = (raw.get("scope_selectors") or {}).get("repository") or []
    return Rule(
        id=int(raw["id"]),
        tags=_pattern(raw.get("tag_selectors") or [], "matches"),
        repositories=_pattern(scopes, "repoMatches"),
        enabled=not raw.get("disabled"),
    )


def _pattern(selectors: Sequence[Mapping[str, Any]], plain: str) -> str:
    words = [str(s.get("pattern")) if s.get("decoration") == plain else f"not {s.get('pattern')}" for s in selectors]
    return ", ".join(words)
