"""How is an object store spoken to? Opened by its URL through obstore; its failures become members of our family.

Requests go out from obstore's own client: an endpoint that somebody configured is judged by the address guard when it
is first used, but the name is looked up again for each connection (docs/decisions/0019).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from berth.adapters.registries.contract import RegistrySettings
from berth.adapters.registries.sdk import sdk
from berth.errors import BerthError, InvalidInput, RemoteAuthError, RemoteError, TooManyRequests, Unavailable
from berth.wire.addresses import AddressGuard, is_local_literal
from berth.wire.client import registry_origin
from berth.wire.urls import Url

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

    Store = AzureStore | GCSStore | MemoryStore | S3Store

TB: Final = 2**40
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@+-]*")
_ACCOUNT_PATH: Final = re.compile(r"/[a-z0-9]{3,24}/?")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
_BROKEN: Final = re.compile(r"HTTP error: ([a-z ]{1,80})")
_RETRIES: Final = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


@dataclass(frozen=True)
class Scheme:
    """One family of stores: the largest object it takes, and in how many parts."""

    title: str
    largest: int
    parts: int
    largest_copy: int


# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html, https://cloud.google.com/storage/quotas,
# https://learn.microsoft.com/azure/storage/blobs/scalability-targets
SCHEMES: Final = {
    "s3": Scheme("S3", 5 * TB, 10_000, 5 * 2**30),
    "gs": Scheme("Google Cloud Storage", 5 * TB, 10_000, 5 * TB),
    "az": Scheme("Azure Blob Storage", 190 * TB, 50_000, 256 * 2**20),
}


@dataclass(frozen=True)
class Place:
    """Where the layouts are: `scheme://bucket/prefix`."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def facts(self) -> Scheme:
        return SCHEMES[self.scheme]


def place_of(settings: RegistrySettings) -> Place:
    """Raises InvalidInput for a URL that is none, and for options that do not fit it."""
    parts = urlsplit(settings.url)
    prefix = parts.path.strip("/")
    usable = (
        parts.scheme in SCHEMES
        and _BUCKET.fullmatch(parts.netloc) is not None
        and all(_SEGMENT.fullmatch(part) for part in prefix.split("/") if prefix)
        and not parts.query
        and not parts.fragment
    )
    if not usable:
        raise InvalidInput(
            f"{settings.url!r} does not name a place in an object store.",
            hint="Write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.",
        )
    place = Place(parts.scheme, parts.netloc, prefix)
    endpoint_of(settings)
    if place.scheme == "s3" and settings.secret is not None and settings.username is None:
        raise InvalidInput(
            "An S3 secret needs its access key.", hint="Give the access key with --username, the secret as password."
        )
    if place.scheme == "az" and not (settings.username or settings.text("account")):
        raise InvalidInput(
            "The Azure storage account is not named.", hint="Write --option account=NAME, or --username NAME."
        )
    return place


def endpoint_of(settings: RegistrySettings) -> Url | None:
    """Origin of the configured endpoint. Azure's may have the account as its path (Azurite, Azure Stack).

    Raises: InvalidInput.
    """
    endpoint = settings.text("endpoint")
    if endpoint is None:
        return None
    path = urlsplit(endpoint).path
    if settings.url.startswith("az:") and _ACCOUNT_PATH.fullmatch(path):
        endpoint = endpoint.removesuffix(path)
    return registry_origin(endpoint, insecure=settings.flag("insecure"))


def opened(settings: RegistrySettings) -> Store:
    """The store, with our credentials, or with what environment and machine offer. Raises InvalidInput, SetupError."""
    stores = sdk("obstore.store", extra="server")
    place = place_of(settings)
    endpoint = settings.text("endpoint")
    config: dict[str, Any] = {}
    client: dict[str, Any] = {
        # A whole request: a blob of terabytes takes its time. What stalls is found by the read timeout.
        "timeout": timedelta(days=2),
        "read_timeout": timedelta(seconds=60),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
    }
    if (bundle := settings.text("ca_file")) is not None:
        client["root_certificate"] = _certificates(bundle)
    common = {"client_options": client, "retry_config": _RETRIES}
    try:
        store: Store
        if place.scheme == "s3":
            if endpoint is not None:
                config["endpoint"] = endpoint
            if settings.secret is not None:
                config |= {"access_key_id": settings.username, "secret_access_key": settings.secret}
            config["region"] = settings.text("region") or "us-east-1"
            # One DELETE a time; the bulk form is missing at some stores that speak S3.
            config["disable_bulk_delete"] = True
            store = stores.S3Store(place.bucket, **config, **common)
        elif place.scheme == "gs":
            if endpoint is not None:
                config["base_url"] = endpoint
            if settings.secret is not None:
                config["service_account_key"] = settings.secret
            store = stores.GCSStore(place.bucket, **config, **common)
        else:
            if endpoint is not None:
                config["endpoint"] = endpoint
            if settings.secret is not None:
                config["account_key"] = settings.secret
            account = settings.username or settings.text("account")
            store = stores.AzureStore(place.bucket, account_name=account, **config, **common)
    except (errors().BaseError, ValueError) as error:
        # Its text may hold the key that it could not read.
        raise InvalidInput(
            f"The credentials or options of registry '{settings.name}' do not fit {place.facts.title}.",
            hint="For Google Cloud Storage the password is the service account's key file, for Azure the account key.",
        ) from error
    return store


class Door:
    """Judges the configured endpoint's addresses once, before the first request."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._origin = endpoint_of(settings)
        host = self._origin.host if self._origin is not None else ""
        chosen = {host} if is_local_literal(host) else set()
        self._guard = AddressGuard(allow_private=settings.flag("allow_private"), private_hosts=chosen)
        self._passed = self._origin is None

    async def passed(self) -> None:
        """Raises RemoteError for an address that must not be reached, Unavailable when there is none."""
        if self._passed or self._origin is None:
            return
        host, port = self._origin.host, self._origin.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"The name {host} cannot be resolved.") from error
        for entry in found:
            self._guard.check(host, str(entry[4][0]))
        self._passed = True


@contextmanager
def told(what: str) -> Iterator[None]:
    """Failures of the store as ours; a missing object stays FileNotFoundError, a lost race its own error."""
    known = errors()
    try:
        yield
    except (known.PreconditionError, known.AlreadyExistsError, known.NotModifiedError, FileNotFoundError):
        raise
    except known.BaseError as error:
        raise _translated(what, str(error), error) from error


def _translated(what: str, text: str, error: Exception) -> BerthError:
    known = errors()
    found, code = _STATUS.search(text), _CODE.search(text)
    status = int(found[1]) if found else None
    broken = _BROKEN.search(text)
    said = " ".join(match[1] for match in (found, code, broken) if match is not None) or "no answer"
    if isinstance(error, known.PermissionDeniedError | known.UnauthenticatedError) or status in (401, 403):
        return RemoteAuthError(
            f"The object store refuses our credentials for {what} ({said}).",
            hint="Check the access key, its secret and what they may do in that bucket.",
        )
    if code is not None and code[1] in ("NoSuchBucket", "ContainerNotFound"):
        return RemoteError(f"There is no such bucket for {what} ({said}).", hint="Make it first; Berth does not.")
    if status in (429, 503) or (code is not None and code[1] == "SlowDown"):
        return TooManyRequests(f"The object store asks us to slow down ({said}).")
    if isinstance(error, known.NotSupportedError):
        return RemoteError(f"The object store cannot do this for {what}.")
    if status is None or status >= 500:
        return Unavailable(f"The object store cannot be used for {what} ({said}).")
    return RemoteError(f"The object store refuses {what} ({said}).", detail={"status": status})


def library() -> Any:
    """obstore, imported when it is first needed. Raises SetupError without it."""
    return sdk("obstore", extra="server")


@cache
def errors() -> Any:
    """obstore's exceptions."""
    return sdk("obstore.exceptions", extra="server")


def _certificates(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"The certificates {path} cannot be read: {error.strerror}.") from error
