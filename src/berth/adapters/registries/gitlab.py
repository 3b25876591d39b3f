"""GitLab's registry: tokens from GitLab itself, tags removed by its REST interface (docs/guides/registries.md).

The prefix is the path of a GitLab project; models are two levels below it, which is the most that GitLab allows. Tokens
live 5 to 15 minutes, so the client renews them between requests. Referrers are filed under the fallback tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from berth.adapters.registries.contract import Capabilities, Kind, Page, RegistrySettings
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.rest import Rest, segment
from berth.errors import InvalidInput
from berth.oci import reference as references
from berth.wire.client import registry_origin
from berth.wire.retry import RetryPolicy

_PAGE = 100


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
    def _repositories(self) -> str:
        return f"/projects/{segment(self.names.prefix)}/registry/repositories"

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
