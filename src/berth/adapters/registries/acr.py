"""Azure Container Registry: Entra sign-in by exchange, and tags removed at `/acr/v1` (docs/guides/registries.md).

With user and password (service principal, admin user, scope-map token) the registry's own token endpoint takes Basic.
Without, the machine's Azure identity is exchanged for a refresh token, which is a password for the null user.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

from berth.adapters.registries import notifications
from berth.adapters.registries.contract import Capabilities, Delivery, Inward, Kind, RegistrySettings, RemoteEvent
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.rest import Rest
from berth.adapters.registries.sdk import in_sdk_thread, sdk
from berth.errors import InvalidInput, NotFound, RemoteAuthError
from berth.oci import reference as references
from berth.wire.auth import Credential, CredentialSource
from berth.wire.blobs import delete_scope
from berth.wire.retry import RetryPolicy

NULL_USER = "00000000-0000-0000-0000-000000000000"
AUDIENCE = "https://containerregistry.azure.net/.default"
_EARLY_SECONDS = 300.0

EntraToken = Callable[[], Awaitable[str]]


class AcrRegistry(DistributionRegistry):
    """A `Registry` at Azure.

    Args:
        entra: gives an Entra access token; default: the machine's Azure identity.
    """

    KIND: ClassVar[Kind] = Kind(
        "acr",
        "Azure Container Registry",
        Capabilities(largest_blob=200 * 2**30, largest_manifest=4 * 2**20),
        {**COMMON_OPTIONS, "tenant": "Entra tenant of the identity; without user and password."},
        notifies=True,
    )

    def __init__(
        self, settings: RegistrySettings, *, retry: RetryPolicy | None = None, entra: EntraToken | None = None
    ) -> None:
        self._entra = entra or azure_identity
        self._held: tuple[Credential, float] | None = None
        super().__init__(settings, retry=retry)
        self._rest = Rest(settings.url, settings, sign_in=_anonymous, retry=self.retry)

    def credential_source(self) -> CredentialSource | None:
        return self._exchanged if self.settings.username is None else None

    async def _exchanged(self, refused: Credential | None) -> Credential:
        held = self._held
        if held is not None and held[0] is not refused and held[1] - _EARLY_SECONDS > time.time():
            return held[0]
        form = {
            "grant_type": "access_token",
            "service": self.client.host,
            "access_token": await self._entra(),
            **({"tenant": tenant} if (tenant := self.settings.text("tenant")) else {}),
        }
        token = (await self._rest.ask("POST", "/oauth2/exchange", form=form)).object().get("refresh_token")
        if not isinstance(token, str):
            raise RemoteAuthError(f"{self.client.host} exchanged our Azure identity for nothing.")
        self._held = (Credential(username=NULL_USER, password=token), expiry_of(token))
        return self._held[0]

    async def delete_tag(self, repository: str, tag: str) -> bool:
        """Only `/acr/v1` untags; a v2 DELETE of a tag may take the content, or be refused."""
        references.check_tag(tag)
        name = self.names.outward(repository)
        url = self.client.origin.at(f"/acr/v1/{name}/_tags/{tag}")
        try:
            async with self.client.exchange("DELETE", url, expect=(200, 202), scopes=delete_scope(name)):
                return True
        except NotFound:
            return False

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """One event each, like Distribution's without an envelope (Azure: container-registry-webhook-reference)."""
        found = notifications.document(delivery.body, "Azure Container Registry")
        if found.get("action") == "ping":
            return []
        target = found.get("target")
        if not isinstance(target, dict) or not isinstance(found.get("action"), str):
            raise InvalidInput("This is not a notification of Azure Container Registry.")
        return [
            RemoteEvent(
                action=notifications.ACTIONS.get(found["action"], "other"),
                repository=notifications.ours(target.get("repository"), inward),
                digest=notifications.text(target.get("digest")),
                tag=notifications.text(target.get("tag")),
                at=notifications.moment(found.get("timestamp")),
                id=notifications.text(found.get("id")),
            )
        ]

    async def close(self) -> None:
        await self._rest.close()
        await super().close()


async def azure_identity() -> str:
    """An access token of this machine's Azure identity. Raises SetupError, RemoteAuthError."""
    identity, core = sdk("azure.identity", extra="azure"), sdk("azure.core.exceptions", extra="azure")
    try:
        found = await in_sdk_thread(lambda: identity.DefaultAzureCredential().get_token(AUDIENCE))
    except core.ClientAuthenticationError as error:
        raise RemoteAuthError(
            "This machine has no Azure identity that works.", hint="Give user and password, or sign in with az login."
        ) from error
    return str(found.token)


def expiry_of(token: str) -> float:
    """Seconds since the epoch at which a JWT ends; now when it does not say. Not verified: it is the peer's own."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (ValueError, KeyError, IndexError, TypeError):
        return time.time()


async def _anonymous() -> Mapping[str, str]:
    return {}
