"""May we connect there? Names are resolved once, each address is judged, and exactly that address is connected.

So no redirect, `Location`, token realm or re-bound DNS name can make this process reach a private service
(design §5 "guarded client"; RFC 6890 special-purpose addresses).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable

from berth.errors import RemoteError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
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


async def connect(guard: AddressGuard, host: str, port: int, *, seconds: float) -> socket.socket:
    """A TCP connection to an address of `host` that the guard has judged. Raises OSError, TimeoutError, RemoteError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise OSError(f"the name {host} cannot be resolved ({error})") from error
    # All are judged before one is tried: a name with a public and a private address is a trick.
    for entry in found:
        guard.check(host, str(entry[4][0]))
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            async with asyncio.timeout(seconds):
                await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure
