"""GitHub's registry: content is removed by GitHub's packages interface, tags not at all (docs/guides/registries.md).

A package version there is one digest with all its tags: a tag can be moved, not removed. Uploads go in one PUT, since
chunks over 4 MiB are refused. There is no referrers API; the fallback tag is kept. Webhooks are those of GitHub's
repositories and organisations, signed with our secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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
from berth.errors import InvalidInput, Unsupported
from berth.oci import digest as digests
from berth.wire import manifests as wire_manifests
from berth.wire.retry import RetryPolicy

API = "https://api.github.com"
_PAGE = 100


class GhcrRegistry(DistributionRegistry):
    """A `Registry` at GitHub; the password is a classic token with the packages scopes."""

    # It takes 4 MiB at a time, so a large blob would be thousands of requests.
    RESUMES: ClassVar[bool] = False

    KIND: ClassVar[Kind] = Kind(
        "ghcr",
        "GitHub Container Registry",
        Capabilities(referrers=False, oci_subject=False, tag_delete=False, largest_blob=10 * 1000**3),
        {
            **COMMON_OPTIONS,
            "prefix": "Owner, and perhaps a path below it; without it projects are owners.",
            "owner_type": "orgs (default) or users.",
            "api_url": f"Address of GitHub's interface; default {API}.",
        },
        notifies=True,
        proven_by="signature",
    )

    def __init__(self, settings: RegistrySettings, *, retry: RetryPolicy | None = None) -> None:
        super().__init__(settings, retry=retry)
        self._owners = settings.text("owner_type") or "orgs"
        self._rest = Rest(settings.text("api_url") or API, settings, sign_in=self._sign_in, retry=self.retry)

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        if settings.text("owner_type") not in (None, "orgs", "users"):
            raise InvalidInput("The option owner_type is orgs or users.")

    async def _sign_in(self) -> Mapping[str, str]:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        return {**headers, "Authorization": f"Bearer {self.settings.secret}"} if self.settings.secret else headers

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        owner = self.names.prefix.partition("/")[0]
        if not owner:
            raise Unsupported("Without a prefix it is not known whose packages to list.", hint="Set the option prefix.")
        page, size = int(after) if after is not None and after.isdigit() else 1, min(limit, _PAGE)
        query = {"package_type": "container", "per_page": size, "page": page}
        found = (await self._rest.ask("GET", f"/{self._owners}/{segment(owner)}/packages", query=query)).objects()
        names = (self.names.inward(f"{owner}/{item.get('name', '')}") for item in found)
        return Page([name for name in names if name is not None], str(page + 1) if len(found) == size else None)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        if await wire_manifests.head(self.client, self.names.outward(repository), tag) is None:
            return False
        raise Unsupported(
            "GitHub removes no single tags.", hint="Move the tag to another version, or delete the content."
        )

    async def _delete_content(self, name: str, digest: str) -> bool:
        """The package version of that digest, with every tag on it."""
        owner, _, package = name.partition("/")
        path = f"/{self._owners}/{segment(owner)}/packages/container/{segment(package)}/versions"
        page = 1
        while True:
            answer = await self._rest.ask("GET", path, query={"per_page": _PAGE, "page": page}, expect=(200, 404))
            found = answer.objects() if answer.status == 200 else []
            for version in found:
                if version.get("name") == digest:
                    await self._rest.ask("DELETE", f"{path}/{version['id']}", expect=(204, 404))
                    return True
            if len(found) < _PAGE:
                return False
            page += 1

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """`package` and `registry_package` say the same of a container that was published or updated
        (docs.github.com/webhooks/webhook-events-and-payloads; examples in octokit/webhooks)."""
        if delivery.body.startswith(b"payload="):
            raise InvalidInput("GitHub sent a form.", hint="Choose the content type application/json at that webhook.")
        found = notifications.document(delivery.body, "GitHub")
        kind = delivery.headers.get("x-github-event")
        package = found.get("registry_package", found.get("package"))
        if kind not in (None, "package", "registry_package") or (package is None and "zen" in found):
            return []  # a ping, or an event that was chosen besides
        version = notifications.member(package, "package_version")
        if not isinstance(version, dict):
            raise InvalidInput("This is not a notification of GitHub's about a package.")
        if not _is_container(package):
            return []
        name, tag = _named(version)
        digests_told = (version.get("version"), notifications.member(version, "container_metadata", "tag", "digest"))
        known = (notifications.text(value) for value in digests_told)
        return [
            RemoteEvent(
                action="pushed" if found.get("action") in ("published", "updated") else "other",
                repository=notifications.ours(name, inward),
                digest=next((value for value in known if value is not None and digests.is_digest(value)), None),
                tag=tag,
                at=notifications.moment(notifications.member(package, "updated_at")),
                id=notifications.text(delivery.headers.get("x-github-delivery")),
            )
        ]

    async def close(self) -> None:
        await self._rest.close()
        await super().close()


def _is_container(package: object) -> bool:
    """GitHub writes CONTAINER, container, or docker for an ecosystem of both its registries."""
    said = [notifications.member(package, "package_type"), notifications.member(package, "registry", "type")]
    return any(isinstance(word, str) and word.lower() == "container" for word in said)


def _named(version: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(owner/name, tag) of `ghcr.io/OWNER/NAME:TAG`; GitHub leaves the tag empty where there is none."""
    url = notifications.text(version.get("package_url")) or ""
    _, _, place = url.partition("/")
    name, _, tag = place.partition(":")
    told = notifications.member(version, "container_metadata", "tag", "name")
    return name.lower() or None, notifications.text(tag) or notifications.text(told)
