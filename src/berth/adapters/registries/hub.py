"""Docker Hub: names of exactly two components, lists and tag removal by Hub's own interface, pulls counted.

Facts: docs/guides/registries.md. HEAD is free, so checks are HEADs; a manifest GET beyond the limit is 429. Content
is not deleted by anybody but Hub. There is no referrers API; the fallback tag is kept. Its webhooks take an address
and nothing else, so our secret is in that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import (
    Capabilities,
    Delivery,
    Inward,
    Kind,
    Page,
    RegistrySettings,
    RemoteEvent,
)
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.rest import Rest, segment
from berth.errors import InvalidInput, RemoteAuthError, Unsupported
from berth.oci import reference as references
from berth.wire.retry import RetryPolicy

API = "https://hub.docker.com"
_TOKEN_SECONDS = 480.0  # Hub's live about ten minutes
_PAGE = 100


class HubRegistry(DistributionRegistry):
    """A `Registry` at Docker Hub; its address is https://registry-1.docker.io."""

    KIND: ClassVar[Kind] = Kind(
        "hub",
        "Docker Hub",
        Capabilities(referrers=False, oci_subject=False, content_delete=False),
        {
            **COMMON_OPTIONS,
            "prefix": "Namespace, together with flat; without it projects are namespaces.",
            "api_url": f"Address of Hub's interface; default {API}.",
        },
        notifies=True,
        proven_by="address",
    )

    def __init__(self, settings: RegistrySettings, *, retry: RetryPolicy | None = None) -> None:
        super().__init__(settings, retry=retry)
        base = settings.text("api_url") or API
        self._rest = Rest(base, settings, sign_in=self._sign_in, retry=self.retry)
        self._entry = Rest(base, settings, sign_in=_nothing, retry=self.retry)
        self._token: tuple[str, float] | None = None

    def realm_hosts(self) -> Sequence[str]:
        return ("auth.docker.io",)

    async def _sign_in(self) -> Mapping[str, str]:
        if self.settings.username is None:
            return {}
        if self._token is None or self._token[1] < time.monotonic():
            body = {"identifier": self.settings.username, "secret": self.settings.secret or ""}
            token = (await self._entry.ask("POST", "/v2/auth/token", body=body)).object().get("access_token")
            if not isinstance(token, str):
                raise RemoteAuthError("Docker Hub signed us in without a token.")
            self._token = (token, time.monotonic() + _TOKEN_SECONDS)
        return {"Authorization": f"Bearer {self._token[0]}"}

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        namespace = self.names.prefix or self.settings.username
        if not namespace:
            raise Unsupported("Without a prefix it is not known whose repositories to list.")
        page, size = int(after) if after is not None and after.isdigit() else 1, min(limit, _PAGE)
        path = f"/v2/namespaces/{segment(namespace)}/repositories"
        found = (await self._rest.ask("GET", path, query={"page": page, "page_size": size})).object()
        names = (self.names.inward(f"{namespace}/{item.get('name', '')}") for item in found.get("results") or [])
        return Page([name for name in names if name is not None], str(page + 1) if found.get("next") else None)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        references.check_tag(tag)
        namespace, _, name = self.names.outward(repository).partition("/")
        path = f"/v2/repositories/{segment(namespace)}/{segment(name)}/tags/{segment(tag)}/"
        return (await self._rest.ask("DELETE", path, expect=(200, 202, 204, 404))).status != 404

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """A push each, without its digest (docs.docker.com/docker-hub/repos/manage/webhooks). Its `callback_url`, of
        which that page says that it is no longer supported, is never asked."""
        found = notifications.document(delivery.body, "Docker Hub")
        pushed, place = found.get("push_data"), found.get("repository")
        if not isinstance(pushed, dict) or not isinstance(place, dict):
            raise InvalidInput("This is not a notification of Docker Hub.")
        return [
            RemoteEvent(
                action="pushed",
                repository=notifications.ours(place.get("repo_name"), inward),
                digest=None,
                tag=notifications.text(pushed.get("tag")),
                at=notifications.moment(pushed.get("pushed_at")),
            )
        ]

    async def close(self) -> None:
        await self._rest.close()
        await self._entry.close()
        await super().close()


async def _nothing() -> Mapping[str, str]:
    return {}
