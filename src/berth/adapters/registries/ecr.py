"""Amazon ECR: a password of 12 hours from AWS, repositories made before the first push, deletion by AWS's own calls.

Facts: docs/guides/registries.md. Chunked uploads are broken there; POST and one PUT, which is all we send, works.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
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
    RepositoryUsage,
    Retained,
    RetentionChange,
    ScanState,
    Usage,
)
from berth.adapters.registries.distribution import COMMON_OPTIONS, DistributionRegistry
from berth.adapters.registries.ecr_lifecycle import EcrRetention
from berth.adapters.registries.sdk import in_sdk_thread, sdk
from berth.errors import (
    BerthError,
    InvalidInput,
    RemoteAuthError,
    RemoteError,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from berth.oci import media_types as types
from berth.oci import reference as references
from berth.wire.auth import Credential, CredentialSource
from berth.wire.retry import RetryPolicy

_HOST = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_EARLY_SECONDS = 600.0
_DENIED = frozenset({"AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"})
_BUSY = frozenset({"ThrottlingException", "LimitExceededException", "TooManyRequestsException"})
_STATES = {
    "IN_PROGRESS": "running",
    "PENDING": "running",
    "COMPLETE": "done",
    "ACTIVE": "done",
    "FAILED": "failed",
    "UNSUPPORTED_IMAGE": "unsupported",
}


class EcrRegistry(DistributionRegistry):
    """A `Registry` at AWS. With user and password they are an access key; without, boto3 finds credentials itself.

    Args:
        api: gives boto3's client of the service `ecr`.
    """

    KIND: ClassVar[Kind] = Kind(
        "ecr",
        "Amazon Elastic Container Registry",
        Capabilities(
            mount=False,  # an account's setting, off unless somebody switched it on
            scan=True,
            largest_blob=52_000 * 2**20,
            last_tag_takes_content=True,
            chunked_upload=False,
            notes=("chunked uploads are not used: ECR loses count of them",),
        ),
        {
            **COMMON_OPTIONS,
            "region": "AWS region, where the address does not say it.",
            "account": "AWS account (12 digits), where the address does not say it.",
        },
        notifies=True,
    )

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        retry: RetryPolicy | None = None,
        api: Callable[[RegistrySettings], Any] | None = None,
    ) -> None:
        self._api_of = api or boto_client
        self._api: Any = None
        self._held: tuple[Credential, float] | None = None
        self._made: set[str] = set()
        self.retention = EcrRetention(self._call)
        super().__init__(settings, retry=retry)

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        place_of(settings)

    def credential_source(self) -> CredentialSource | None:
        return self._password

    async def _password(self, refused: Credential | None) -> Credential:
        held = self._held
        if held is not None and held[0] is not refused and held[1] - _EARLY_SECONDS > time.time():
            return held[0]
        answer = await self._call("get_authorization_token", registry=False)
        data = (answer.get("authorizationData") or [{}])[0]
        user, _, password = base64.b64decode(data.get("authorizationToken", "")).decode().partition(":")
        if not password:
            raise RemoteAuthError("AWS gave no password for ECR.")
        self._held = (Credential(username=user, password=password), data["expiresAt"].timestamp())
        return self._held[0]

    async def _call(self, operation: str, *, registry: bool = True, **parameters: Any) -> dict[str, Any]:
        """One call of AWS's API. Raises what its error code stands for."""
        if self._api is None:
            self._api = await in_sdk_thread(self._api_of, self.settings)
        if registry:
            parameters["registryId"] = place_of(self.settings)[0]
        failures = sdk("botocore.exceptions", extra="aws")
        try:
            found = await in_sdk_thread(getattr(self._api, operation), **parameters)
        except failures.ClientError as error:
            raise _failure(error.response.get("Error") or {}, operation) from error
        except failures.NoCredentialsError as error:
            raise RemoteAuthError("This machine has no AWS credentials.", hint="Give an access key.") from error
        except failures.BotoCoreError as error:
            raise Unavailable(f"AWS does not answer {operation}: {error}.") from error
        return dict(found)

    # ---- lists and pushing

    async def repositories(self, *, after: str | None = None, limit: int = 100) -> Page[str]:
        more: dict[str, Any] = {"nextToken": after} if after else {}
        found = await self._call("describe_repositories", maxResults=min(limit, 1000), **more)
        names = (self.names.inward(item["repositoryName"]) for item in found.get("repositories", []))
        return Page(sorted(name for name in names if name is not None), found.get("nextToken"))

    async def push_blob(self, repository: str, digest: str, *, size: int, chunks: AsyncIterable[bytes]) -> None:
        await self._ensure(self.names.outward(repository))
        await super().push_blob(repository, digest, size=size, chunks=chunks)

    async def push_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        await self._ensure(self.names.outward(repository))
        return await super().push_manifest(repository, reference, media_type=media_type, body=body)

    async def _ensure(self, name: str) -> None:
        if name in self._made:
            return
        try:
            await self._call("create_repository", repositoryName=name)
        except RemoteError as error:
            if error.detail.get("code") != "RepositoryAlreadyExistsException":
                raise
        self._made.add(name)

    # ---- removing

    async def delete_tag(self, repository: str, tag: str) -> bool:
        """DESTRUCTIVE for the last tag of an image: ECR removes the image with it."""
        references.check_tag(tag)
        return await self._delete(self.names.outward(repository), {"imageTag": tag})

    async def _delete_content(self, name: str, digest: str) -> bool:
        return await self._delete(name, {"imageDigest": digest})

    async def _delete(self, name: str, image: Mapping[str, str]) -> bool:
        try:
            answer = await self._call("batch_delete_image", repositoryName=name, imageIds=[dict(image)])
        except RemoteError as error:
            if error.detail.get("code") == "RepositoryNotFoundException":
                return False
            raise
        for failure in answer.get("failures", []):
            if failure.get("failureCode") == "ImageNotFound":
                return False
            raise RemoteError(f"ECR keeps {name} {image}: {failure.get('failureReason')}.")
        return True

    # ---- Measured, Retaining

    async def _repositories_of(self, project: str) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            page = await self.repositories(after=after, limit=1000)
            found += [name for name in page.items if name.startswith(f"{project}/")]
            if page.after is None:
                return sorted(found)
            after = page.after

    async def usage(self, project: str) -> Usage:
        """Sizes as AWS gives them: by image, so that layers which images share count in each."""
        found = [await self._usage_of(name) for name in await self._repositories_of(project)]
        return Usage(sum(usage.used or 0 for usage in found), None, found)

    async def _usage_of(self, repository: str) -> RepositoryUsage:
        name, size, images, tags = self.names.outward(repository), 0, 0, 0
        more: dict[str, Any] = {}
        while True:
            found = await self._call("describe_images", repositoryName=name, maxResults=1000, **more)
            for image in found.get("imageDetails", []):
                images += 1
                tags += len(image.get("imageTags") or [])
                # Of an index AWS gives the size of its largest image, which is in the list itself.
                if image.get("imageManifestMediaType") not in types.INDEX_TYPES:
                    size += int(image.get("imageSizeInBytes") or 0)
            if not found.get("nextToken"):
                return RepositoryUsage(repository, size, images, tags)
            more = {"nextToken": found["nextToken"]}

    async def retained(self, project: str) -> Sequence[Retained]:
        return [await self.retention.shown(self.names.outward(name)) for name in await self._repositories_of(project)]

    async def retain(self, project: str, count: int, *, schedule: str | None, dry_run: bool) -> RetentionChange:
        """In every repository that the project has now."""
        if schedule is not None:
            raise InvalidInput("ECR removes what is not kept within 24 hours.", hint="Leave the schedule away.")
        names = [self.names.outward(name) for name in await self._repositories_of(project)]
        return RetentionChange(*await self.retention.retain(names, count, dry_run=dry_run))

    # ---- Scanning

    async def start_scan(self, repository: str, digest: str) -> bool:
        try:
            await self._call(
                "start_image_scan", repositoryName=self.names.outward(repository), imageId={"imageDigest": digest}
            )
        except TooManyRequests:  # one scan of an image in 24 hours
            return False
        except RemoteError as error:
            if error.detail.get("code") == "UnsupportedImageTypeException":
                raise Unsupported("ECR does not scan content of this type.") from error
            raise
        return True

    async def scan_state(self, repository: str, digest: str) -> ScanState:
        found = await self.scan_report(repository, digest)
        if found is None:
            return ScanState("none")
        status = (found.get("imageScanStatus") or {}).get("status", "")
        counts = (found.get("imageScanFindings") or {}).get("findingSeverityCounts") or {}
        order = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED")
        return ScanState(
            _STATES.get(status, "failed"),
            severity=next((level for level in order if counts.get(level)), None),
            counts={level.lower(): int(count) for level, count in counts.items()},
        )

    async def scan_report(self, repository: str, digest: str) -> Mapping[str, Any] | None:
        name = self.names.outward(repository)
        try:
            return await self._call(
                "describe_image_scan_findings", repositoryName=name, imageId={"imageDigest": digest}
            )
        except RemoteError as error:
            if error.detail.get("code") in ("ScanNotFoundException", "ImageNotFoundException"):
                return None
            raise

    # ---- Notifying

    @classmethod
    def events(cls, delivery: Delivery, *, inward: Inward) -> Sequence[RemoteEvent]:
        """An event of EventBridge each, from a rule whose target is an API destination
        (docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html)."""
        found = notifications.document(delivery.body, "Amazon EventBridge")
        detail, kind = found.get("detail"), found.get("detail-type")
        if not isinstance(detail, dict) or not isinstance(kind, str) or found.get("source") != "aws.ecr":
            hint = 'Let the rule of EventBridge match {"source": ["aws.ecr"]}.'
            raise InvalidInput("This is not an event of Amazon ECR.", hint=hint)
        if not isinstance(detail.get("repository-name"), str):
            return []  # about something else than a repository's images
        return [
            RemoteEvent(
                action=_action(kind, detail),
                repository=notifications.ours(detail["repository-name"], inward),
                digest=notifications.text(detail.get("image-digest")),
                tag=notifications.text(detail.get("image-tag")),
                at=notifications.moment(found.get("time")),
                id=notifications.text(found.get("id")),
            )
        ]


def _action(kind: str, detail: Mapping[str, Any]) -> str:
    if kind == "ECR Image Scan":
        return "scanned"
    if kind != "ECR Image Action" or detail.get("result") != "SUCCESS":
        return "other"
    return {"PUSH": "pushed", "DELETE": "deleted"}.get(str(detail.get("action-type")), "other")


def place_of(settings: RegistrySettings) -> tuple[str, str]:
    """(account, region) of an ECR address. Raises InvalidInput."""
    found = _HOST.fullmatch(settings.url.rpartition("//")[2].rstrip("/"))
    account = settings.text("account") or (found["account"] if found else None)
    region = settings.text("region") or (found["region"] if found else None)
    if account is None or region is None:
        raise InvalidInput(
            f"{settings.url} is not an address of ECR.",
            hint="Write https://ACCOUNT.dkr.ecr.REGION.amazonaws.com, or set the options account and region.",
        )
    return account, region


def boto_client(settings: RegistrySettings) -> Any:
    """boto3's client of `ecr`."""
    boto3 = sdk("boto3", extra="aws")
    keys = {}
    if settings.username is not None:
        keys = {"aws_access_key_id": settings.username, "aws_secret_access_key": settings.secret}
    return boto3.client("ecr", region_name=place_of(settings)[1], **keys)


def _failure(said: Mapping[str, Any], operation: str) -> BerthError:
    code = str(said.get("Code", ""))
    kind: type[BerthError] = RemoteError
    if code in _DENIED:
        kind = RemoteAuthError
    elif code in _BUSY:
        kind = TooManyRequests
    return kind(f"AWS answered {code} to {operation}: {said.get('Message', '')}", detail={"code": code})
