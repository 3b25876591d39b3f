"""Where is something at a registry? What a request needs of a URL (RFC 3986), and no more.

Most requests go to addresses that we make, or that a registry made of plain characters: these are taken apart here at a
twentieth of the price of a full parser. Whatever else stands in an address, httpx reads it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import httpx

_PORTS: Final = {"http": 80, "https": 443}
# What no parser changes: no dot segments, nothing to be quoted, no fragment.
_PLAIN: Final = r"/(?:[A-Za-z0-9_~:@!$&()*+,;=/?-]|(?<!/)\.|%[0-9A-Fa-f]{2})*"
_TARGET: Final = re.compile(_PLAIN)
_NUMBER: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# A name whose last part begins with a letter, or an IPv4 address.
_HOST: Final = rf"(?:[a-z0-9-]+\.)*[a-z][a-z0-9-]*|{_NUMBER}(?:\.{_NUMBER}){{3}}"
_WHOLE: Final = re.compile(rf"(https?)://({_HOST})(?::([1-9][0-9]{{0,3}}|[1-5][0-9]{{4}}))?({_PLAIN})")


class Url(NamedTuple):
    """One address.

    Attributes:
        scheme: in lower case.
        host: in lower case, an IPv6 address without its brackets.
        port: also where it goes without saying.
        target: path and query as they are sent.
    """

    scheme: str
    host: str
    port: int
    target: bytes = b""

    @property
    def origin(self) -> tuple[str, str, int]:
        """What is the same for all that one server says."""
        return self[:3]

    @property
    def netloc(self) -> str:
        """`host[:port]`, as references and the header `Host` have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """Without the query, which may hold secrets."""
        return f"{self.scheme}://{self.netloc}{self.target.partition(b'?')[0].decode('ascii')}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.target.decode('ascii')}"

    def at(self, target: str) -> Url:
        """Something else there: a path, perhaps with a query, that begins with a slash."""
        if _TARGET.fullmatch(target) is None:
            return of(httpx.URL(str(self._replace(target=b""))).copy_with(raw_path=target.encode("ascii")))
        return Url(self.scheme, self.host, self.port, target.encode("ascii"))

    def join(self, location: str) -> Url:
        """Where a `Location` or a link that was found here points. Raises httpx.InvalidURL."""
        if _TARGET.fullmatch(location) is not None and not location.startswith("//"):
            return self.at(location)
        return parse(location, base=self)


def parse(text: str, *, base: Url | None = None) -> Url:
    """An address in writing. Raises httpx.InvalidURL."""
    found = _WHOLE.fullmatch(text)
    if found is not None:
        scheme, host, port, target = found.groups()
        return Url(scheme, host, int(port) if port else _PORTS[scheme], target.encode("ascii"))
    read = httpx.URL(text)
    return of(read if base is None or read.is_absolute_url else httpx.URL(str(base)).join(read))


def of(url: httpx.URL) -> Url:
    """The same, from httpx."""
    return Url(url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0), url.raw_path)
