"""May we connect there? Names are resolved once, each address is judged, and exactly that address is connected.

So no redirect, `Location`, token realm or re-bound DNS name can make this process reach a private service
(design §5 "guarded client"; RFC 6890 special-purpose addresses).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from berth.errors import RemoteError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_READ_BYTES = 256 * 1024
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressGuard:
    """The rule about addresses.

    Args:
        allow_private: any loopback or private address may be reached (an explicit setting).
        private_hosts: host names and literals that may be private: those a person configured.
    """

    def __init__(self, *, allow_private: bool = False, private_hosts: Collection[str] = ()) -> None:
        self._allow_private = allow_private
        self._private_hosts = frozenset(normal_host(host) for host in private_hosts)

    def check(self, host: str, address: str) -> None:
        """Raises RemoteError when `address`, which `host` resolved to, must not be connected."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if any(a.is_multicast or a.is_unspecified for a in _embedded(ip)):
            raise _refusal(host, ip)
        if self._allow_private or normal_host(host) in self._private_hosts:
            return
        if not all(a.is_global for a in _embedded(ip)):
            raise _refusal(host, ip)


def is_local_literal(host: str) -> bool:
    """Whether a person who configured `host` said by its very form that it is not on the public internet."""
    host = normal_host(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its very form; a name is never looked up."""
    host = normal_host(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def normal_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _embedded(ip: IpAddress) -> Iterable[IpAddress]:
    """The address itself and every IPv4 address that packets to it would reach."""
    yield ip
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            yield ip.ipv4_mapped
        if ip.sixtofour is not None:
            yield ip.sixtofour
        if ip.teredo is not None:
            yield from ip.teredo
        if ip in _NAT64:
            yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


def _refusal(host: str, ip: IpAddress) -> RemoteError:
    return RemoteError(
        f"{host} is at {ip}, an address that must not be reached from here.",
        hint="Private and loopback addresses are only used for a registry that is configured with one.",
        detail={"host": host, "address": str(ip)},
    )


class LargeReads(httpcore.AsyncNetworkStream):
    """A connection that is read as much at once as the event loop hands out; httpcore asks for a quarter of that."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        return await self._inner.read(max(max_bytes, _READ_BYTES), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        return LargeReads(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


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
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved ({error})") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # All are judged before one is tried: a name with a public and a private address is a trick.
        for address in addresses:
            self._guard.check(host, address)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
                return LargeReads(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("unix sockets are not used here")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool that connects through the guard; no proxies, nothing from the environment."""

    def __init__(self, guard: AddressGuard, *, connections: int = 20, tls: ssl.SSLContext | None = None) -> None:
        context = tls or httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=15.0,
            network_backend=GuardedBackend(guard),
        )


def guarded_client(
    guard: AddressGuard, *, connections: int = 20, tls: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """An httpx client for any address a stranger may have named; redirects are for the caller to follow.

    It keeps no cookies: a session that a server starts by itself would bring rules against forged requests (Harbor).
    """
    return httpx.AsyncClient(
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        transport=GuardedTransport(guard, connections=connections, tls=tls),
        timeout=httpx.Timeout(60.0, connect=10.0, pool=None),
        follow_redirects=False,
        trust_env=False,
    )
