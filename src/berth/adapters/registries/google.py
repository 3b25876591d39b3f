"""Google Artifact Registry: an access token as password, tags removed before content (docs/guides/registries.md).

With a user name (`_json_key`, `_json_key_base64`, `oauth2accesstoken`) the pair is used as it is. Without, the
machine's Google identity gives a token of an hour, renewed before it ends. The prefix names the project and the
repository there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote

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
from berth.adapters.registries.sdk import in_sdk_thread, sdk
from berth.errors import InvalidInput, NotFound, RemoteAuthError, RemoteError, Unsupported
from berth.wire import blobs
from berth.wire import manifests as wire_manifests
from berth.wire.auth import Credential, CredentialSource
from berth.wire.retry import RetryPolicy
from berth.wire.tags import bounded_body

TOKEN_USER = "oauth2accesstoken"
API = "https://artifactregistry.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LIST_LIMIT = 64 * 1024 * 1024

# Gives an access token; told whether the one before was refused.
GoogleToken = Callable[[bool], Awaitable[str]]


class GoogleRegistry(DistributionRegistry):
    """A `Registry` at Google.

    Args:
        token: gives an access token; default: the machine's Google identity.
    """

    KIND: ClassVar[Kind] = Kind(
        "google",
        "Google Artifact Registry",
        Capabilities(notes=("lists repositories only with the machine's Google identity",)),
        {
            **COMMON_OPTIONS,
            "prefix": "Google project and repository: PROJECT/REPOSITORY.",
            "location": "Location of the repository, where the address does not say it.",
            "api_url": f"Address of Google's interface; default {API}.",
        },
        notifies=True,
        proven_by="address",
    )

    def __init__(
        self, settings: RegistrySettings, *, retry: RetryPolicy | None = None, token: GoogleToken | None = None
    ) -> None:
        self._token = token or GoogleIdentity()
        self._held: Credential | None = None
        super().__init__(settings, retry=retry)
        self._rest = Rest(settings.text("api_url") or API, settings, sign_in=self._sign_in, retry=self.retry)

    def credential_source(self) -> CredentialSource | None:
        return self._fresh if self.settings.username is None else None

    async def _fresh(self, refused: Credential | None) -> Credential:
        token = await self._token(refused is not None and refused is self._held)
        if self._held is None or self._held.password != token:
            self._held = Credential(username=TOKEN_USER, password=token)
        return self._held

    async def _sign_in(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {await self._token(False)}"}

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        if self.settings.username is not None:
            raise Unsupported("Repositories are listed by Google's own interface, which takes no registry password.")
        host = self.client.origin.host
        project, repository = self.names.prefix.split("/")[:2]
        location = self.settings.text("location") or host.removesuffix("-docker.pkg.dev")
        path = (
            f"/v1/projects/{segment(project)}/locations/{segment(location)}/repositories/{segment(repository)}/packages"
        )
        query = {"pageSize": min(limit, 1000), **({"pageToken": after} if after else {})}
        found = (await self._rest.ask("GET", path, query=query)).object()
        names = []
        for package in found.get("packages") or []:
            image = unquote(str(package.get("name", "")).rpartition("/packages/")[2])
            name = self.names.inward(f"{project}/{repository}/{image}")
            names += [name] if name is not None else []
        return Page(names, found.get("nextPageToken") or None)

    async def _delete_content(self, name: str, digest: str) -> bool:
        """A digest that has tags is refused (GOOGLE_MANIFEST_DANGLING_TAG): they go first."""
        for tag in await self._tags_of(name, digest):
            await wire_manifests.delete(self.client, name, tag)
        return await wire_manifests.delete(self.client, name, digest)

    async def _tags_of(self, name: str, digest: str) -> list[str]:
        """From Google's addition to tags/list; incomplete above 10,000 tags, where the deletion is then refused."""
        url = self.client.url(name, "tags", "list")
        try:
            async with self.client.exchange("GET", url, expect=(200,), scopes=blobs.pull_scope(name)) as response:
                found: Any = json.loads(await bounded_body(response, _LIST_LIMIT))
                return [str(tag) for tag in (found.get("manifest", {}).get(digest) or {}).get("tag") or []]
        except NotFound:
            return []
        except (ValueError, AttributeError) as error:
            raise RemoteError(f"{self.client.host} answered an unreadable list of tags.") from error

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """A message of the topic `gcr`, pushed by Pub/Sub: a digest, a digest with its new tag, or a tag that went
        (cloud.google.com/artifact-registry/docs/configure-notifications, cloud.google.com/pubsub/docs/push)."""
        message = notifications.document(delivery.body, "Pub/Sub").get("message")
        try:
            data = base64.b64decode(str(notifications.member(message, "data") or ""), validate=True)
        except ValueError as error:
            raise InvalidInput("This message of Pub/Sub cannot be read.") from error
        found = notifications.document(data, "Artifact Registry")
        if not isinstance(found.get("action"), str):
            raise InvalidInput("This is not a notification of Artifact Registry.")
        # The topic is one for a whole Google project: repositories at other locations are none of this registry's.
        place, digest = _parted(found.get("digest"), "@", delivery.host)
        tagged, tag = _parted(found.get("tag"), ":", delivery.host)
        return [
            RemoteEvent(
                action={"INSERT": "pushed", "DELETE": "deleted"}.get(found["action"], "other"),
                repository=notifications.ours(place or tagged, inward),
                digest=digest,
                tag=tag,
                at=notifications.moment(notifications.member(message, "publishTime")),
                id=notifications.text(notifications.member(message, "messageId")),
            )
        ]

    async def close(self) -> None:
        await self._rest.close()
        await super().close()


def _parted(value: object, mark: str, host: str) -> tuple[str | None, str | None]:
    """(name, digest or tag) of `HOST/name@digest` or `HOST/name:tag`; another host stays in the name: none of ours."""
    name, _, last = (notifications.text(value) or "").removeprefix(f"{host}/").partition(mark)
    return name or None, last or None


class GoogleIdentity:
    """Access tokens of this machine's Google identity (application default credentials)."""

    def __init__(self) -> None:
        self._credentials: Any = None

    async def __call__(self, refused: bool) -> str:
        auth = sdk("google.auth", extra="google")
        failures = sdk("google.auth.exceptions", extra="google")
        requests = sdk("google.auth.transport.requests", extra="google")
        try:
            if self._credentials is None:
                self._credentials, _ = await in_sdk_thread(auth.default, scopes=[_SCOPE])
            if refused or not self._credentials.valid:  # not valid: missing, or about to end
                await in_sdk_thread(self._credentials.refresh, requests.Request())
        except failures.GoogleAuthError as error:
            raise RemoteAuthError(
                "This machine has no Google identity that works.",
                hint="Give --username _json_key and the key file as password.",
            ) from error
        return str(self._credentials.token)
