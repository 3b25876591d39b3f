"""How is a daemon reached? With httpx's own transport; over TCP through addresses that were judged (wire/addresses.py).

A daemon answers while it still reads an image, which the client of registries takes for a refusal.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
import httpx

from berth.adapters.registries.contract import RegistrySettings
from berth.errors import InvalidInput, RemoteError, Unavailable
from berth.wire.addresses import AddressGuard, is_local_literal, is_loopback

# A daemon is silent while it unpacks or packs an image of many gigabytes.
PATIENCE: Final = httpx.Timeout(60.0, connect=10.0, read=3600.0, write=600.0, pool=None)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects TCP only to addresses the guard has judged; TLS still checks the host's name."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._inner: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved ({error})") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            self._guard.check(host, address)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool that connects through the guard; no proxies, nothing from the environment."""

    def __init__(self, guard: AddressGuard, *, tls: ssl.SSLContext | None = None) -> None:
        context = tls or httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=context, network_backend=GuardedBackend(guard))


def address(settings: RegistrySettings) -> tuple[str, str]:
    """("unix", path) or ("http" | "https", origin). Raises InvalidInput."""
    parts = urlsplit(settings.url)
    bare = not parts.query and not parts.fragment and parts.username is None
    if parts.scheme == "unix" and bare and not parts.netloc and parts.path.startswith("/"):
        return "unix", parts.path
    try:
        usable = bare and bool(parts.hostname) and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("tcp", "https"):
        raise InvalidInput(
            f"{settings.url!r} is not the address of a daemon.",
            hint="Write unix:///run/docker.sock, https://host:port (TLS), or tcp://host:port with insecure.",
        )
    if parts.scheme == "tcp" and not settings.flag("insecure") and not is_loopback(parts.hostname or ""):
        raise InvalidInput(
            f"{settings.url} is a daemon without TLS: who reaches it is root there.",
            hint="Use https with a certificate, or say with --insecure that this is meant.",
        )
    scheme = "https" if parts.scheme == "https" else "http"
    return scheme, f"{scheme}://{parts.netloc.lower()}"


def client(settings: RegistrySettings) -> httpx.AsyncClient:
    """For requests to the daemon that the settings name; to be closed. Raises InvalidInput."""
    scheme, where = address(settings)
    if scheme == "unix":
        transport = httpx.AsyncHTTPTransport(uds=where, trust_env=False)
        return httpx.AsyncClient(base_url="http://daemon", transport=transport, timeout=PATIENCE, trust_env=False)
    host = urlsplit(where).hostname or ""
    guard = AddressGuard(
        allow_private=settings.flag("allow_private"), private_hosts={host} if is_local_literal(host) else set()
    )
    transport = GuardedTransport(guard, tls=_tls(settings) if scheme == "https" else None)
    return httpx.AsyncClient(base_url=where, transport=transport, timeout=PATIENCE, trust_env=False)


def _tls(settings: RegistrySettings) -> ssl.SSLContext:
    authority, own, key = (settings.text(option) for option in ("ca_file", "cert_file", "key_file"))
    try:
        context = ssl.create_default_context(cafile=authority)
        if own is not None and key is not None:
            context.load_cert_chain(Path(own), Path(key))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"The certificates of registry '{settings.name}' cannot be used: {error}.") from error
    return context


def failure(error: Exception, url: str) -> RemoteError | Unavailable:
    """Why no answer came. With TLS 1.3 a daemon refuses a certificate only after the connection was made."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RemoteError(
            f"The certificate of {url} is not to be trusted: {cause.verify_message}.",
            hint="Set the option ca_file to the certificates of who signed it.",
        )
    if cause is not None and "CERTIFICATE" in str(cause.reason):
        return RemoteError(
            f"The daemon at {url} refuses our certificate ({str(cause.reason).replace('_', ' ').lower()}).",
            hint="Set the options cert_file and key_file to a certificate that it knows.",
        )
    if isinstance(error, httpx.ConnectError):
        return Unavailable(f"No daemon answers at {url}.", hint="Is it running, and may Berth use its socket?")
    return Unavailable(f"The connection to the daemon broke: {type(error).__name__}.")
