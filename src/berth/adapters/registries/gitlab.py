"""GitLab's registry: tokens from GitLab itself, tags removed by its REST interface (docs/guides/registries.md).

The prefix is the path of a GitLab project; models are two levels below it, which is the most that GitLab allows. Tokens
live 5 to 15 minutes, so the client renews them between requests. Referrers are filed under the fallback tag.

Sizes: docs.gitlab.com/api/container_registry; clean-up policies, of which a GitLab project has one:
docs.gitlab.com/user/packages/container_registry/reduce_container_registry_storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from berth.adapters.registries.contract import (
    Capabilities,
    Kind,
    Page,
    RegistrySettings,
    RepositoryUsage,
    Retained,
    RetentionChange,
    Usage,
)
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.rest import Rest, segment
from berth.errors import InvalidInput
from berth.oci import reference as references
from berth.wire.client import registry_origin
from berth.wire.retry import RetryPolicy

_PAGE = 100
KEEP = (1, 5, 10, 25, 50, 100)
CADENCES = ("1d", "7d", "14d", "1month", "3month")
# What may go: tags that are versions. Referrers live under the tags sha256-…
VERSIONS = r"[0-9]+\.[0-9]+\.[0-9]+.*"


class GitLabRegistry(DistributionRegistry):
    """A `Registry` at GitLab; the password is a personal, project or group access token."""

    KIND: ClassVar[Kind] = Kind(
        "gitlab",
        "GitLab container registry",
        Capabilities(referrers=False, oci_subject=False),
        {
            **COMMON_OPTIONS,
            "prefix": "Path of the GitLab project, group/project.",
            "api_url": "Address of GitLab, e.g. https://gitlab.example; it also issues the registry's tokens.",
        },
        notifies=True,  # GitLab's registry is a Distribution: `notifications` in its own configuration
    )

    def __init__(self, settings: RegistrySettings, *, retry: RetryPolicy | None = None) -> None:
        self.check(settings)
        super().__init__(settings, retry=retry)
        base = (settings.text("api_url") or "").rstrip("/")
        self._rest = Rest(f"{base}/api/v4", settings, sign_in=self._sign_in, retry=self.retry)

    def realm_hosts(self) -> Sequence[str]:
        """GitLab itself issues the registry's tokens, mostly on another host."""
        return (registry_origin(self.settings.text("api_url") or "", insecure=self.settings.flag("insecure")).host,)

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        if settings.text("api_url") is None:
            raise InvalidInput("GitLab's own address is missing.", hint="Set the option api_url.")
        registry_origin(settings.text("api_url") or "", insecure=settings.flag("insecure"))

    async def _sign_in(self) -> Mapping[str, str]:
        return {"PRIVATE-TOKEN": self.settings.secret} if self.settings.secret else {}

    @property
    def _project(self) -> str:
        return f"/projects/{segment(self.names.prefix)}"

    @property
    def _repositories(self) -> str:
        return f"{self._project}/registry/repositories"

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        page = after if after is not None and after.isdigit() else "1"
        query = {"page": page, "per_page": min(limit, _PAGE)}
        answer = await self._rest.ask("GET", self._repositories, query=query)
        names = (self.names.inward(str(item.get("path", ""))) for item in answer.objects())
        return Page([name for name in names if name is not None], answer.headers.get("x-next-page") or None)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        references.check_tag(tag)
        found = await self._repository(self.names.outward(repository))
        if found is None:
            return False
        path = f"{self._repositories}/{found['id']}/tags/{segment(tag)}"
        return (await self._rest.ask("DELETE", path, expect=(200, 202, 204, 404))).status != 404

    # ---- Measured, Retaining

    async def usage(self, project: str) -> Usage:
        """Sizes without what images of a repository share; GitLab knows them with its metadata database only."""
        found: list[RepositoryUsage] = []
        page: str | None = "1"
        while page is not None:
            answer = await self._rest.ask("GET", self._repositories, query={"page": page, "per_page": _PAGE})
            for item in answer.objects():
                name = self.names.inward(str(item.get("path", "")))
                if name is not None and name.startswith(f"{project}/"):
                    found.append(await self._usage_of(name, item["id"]))
            page = answer.headers.get("x-next-page") or None
        sizes = [one.used for one in found if one.used is not None]
        found.sort(key=lambda one: one.repository)
        return Usage(sum(sizes) if len(sizes) == len(found) else None, None, found)

    async def _usage_of(self, repository: str, number: int) -> RepositoryUsage:
        query = {"size": "true", "tags_count": "true"}
        item = (await self._rest.ask("GET", f"/registry/repositories/{int(number)}", query=query)).object()
        size, tags = item.get("size"), item.get("tags_count")
        return RepositoryUsage(
            repository, size if isinstance(size, int) else None, tags=tags if isinstance(tags, int) else None
        )

    async def _policy(self) -> dict[str, Any]:
        found = (await self._rest.ask("GET", self._project)).object().get("container_expiration_policy")
        return found if isinstance(found, dict) else {}

    async def retained(self, project: str) -> Sequence[Retained]:
        """Of the whole GitLab project, in which all of ours are."""
        policy = await self._policy()
        if not policy.get("enabled"):
            return [Retained(self.names.prefix, None, None)]
        shown = ("name_regex", "name_regex_keep", "older_than", "next_run_at")
        rules = [f"{key}: {policy[key]}" for key in shown if policy.get(key)]
        return [Retained(self.names.prefix, policy.get("keep_n"), policy.get("cadence"), rules)]

    async def retain(self, project: str, count: int, *, schedule: str | None, dry_run: bool) -> RetentionChange:
        """Of the whole GitLab project. What it says of age and of tags to keep stays as it is."""
        if count not in KEEP:
            raise InvalidInput(f"GitLab cannot keep {count}.", hint=f"Write one of {', '.join(map(str, KEEP))}.")
        if schedule is not None and schedule not in CADENCES:
            raise InvalidInput(f"GitLab has no schedule {schedule[:40]!r}.", hint=f"One of {', '.join(CADENCES)}.")
        before = await self._policy()
        wanted = {
            "enabled": True,
            "keep_n": count,
            "cadence": schedule or before.get("cadence") or CADENCES[0],
            "name_regex": VERSIONS,
        }
        changes = [
            f"{self.names.prefix}: {key}: {before.get(key)} → {value}"
            for key, value in wanted.items()
            if before.get(key) != value
        ]
        if changes and not dry_run:
            await self._rest.ask("PUT", self._project, body={"container_expiration_policy_attributes": wanted})
        return RetentionChange(changes)

    async def _repository(self, name: str) -> dict[str, Any] | None:
        page: str | None = "1"
        while page is not None:
            answer = await self._rest.ask("GET", self._repositories, query={"page": page, "per_page": _PAGE})
            for item in answer.objects():
                if item.get("path") == name:
                    return item
            page = answer.headers.get("x-next-page") or None
        return None

    async def close(self) -> None:
        await self._rest.close()
        await super().close()
