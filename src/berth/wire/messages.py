"""What does a registry answer? Status, headers, and a body that is read while it comes."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

import httpx

from berth.wire.urls import Url

_GZIP_OR_ZLIB: Final = 47
_STEP_BYTES: Final = 1024 * 1024


class Headers(Mapping[str, str]):
    """An answer's headers. Names are found in any case; several of one name are joined (RFC 9110 section 5.3)."""

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            self._values.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return _text(b", ".join(self._values[name.lower().encode("latin-1", "replace")]))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode("latin-1", "replace") in self._values

    def __iter__(self) -> Iterator[str]:
        return map(_text, self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get_list(self, name: str) -> list[str]:
        """Each value of its own, in order."""
        return [_text(value) for value in self._values.get(name.lower().encode("latin-1", "replace"), ())]


class Body(Protocol):
    """The bytes of an answer, once; a connection is used again only when they were read to their end."""

    @property
    def is_empty(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Answer:
    """One answer. Close it.

    Attributes:
        method, url: of the request.
        signed_in: whether the request carried credentials.
    """

    __slots__ = ("_body", "headers", "is_read", "method", "signed_in", "status", "url")

    def __init__(
        self,
        method: str,
        url: Url,
        status: int,
        headers: Headers,
        body: Body,
        *,
        signed_in: bool,
    ) -> None:
        self.method = method
        self.url = url
        self.status = status
        self.headers = headers
        self.signed_in = signed_in
        self.is_read = body.is_empty
        self._body = body

    async def raw(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises httpx.TransportError."""
        self.is_read = True
        async for piece in self._body:
            yield piece

    async def decoded(self) -> AsyncIterator[bytes]:
        """The body without its content coding: we ask for none, and some proxies use one nevertheless.

        Raises httpx.TransportError, httpx.DecodingError.
        """
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding in ("", "identity"):
            async for piece in self.raw():
                yield piece
            return
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise httpx.DecodingError(f"the answer is coded as {coding[:40]!r}, which nobody asked for")
        decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        async for piece in self.raw():
            rest = piece
            while rest:
                try:
                    yield decoder.decompress(rest, _STEP_BYTES)
                except zlib.error as error:
                    raise httpx.DecodingError(f"the answer is not {coding}: {error}") from error
                rest = decoder.unconsumed_tail

    async def whole(self, limit: int, *, too_long: Callable[[], Exception], decoded: bool = True) -> bytes:
        """All of the body.

        Args:
            limit: bytes; of a longer body no more is read, and what `too_long` makes is raised.
            decoded: without its content coding; False gives the bytes as they were sent, which digests are made of.
        Raises: httpx.TransportError; httpx.DecodingError where it is decoded.
        """
        body = bytearray()
        async for piece in self.decoded() if decoded else self.raw():
            body += piece
            if len(body) > limit:
                raise too_long()
        return bytes(body)

    async def aclose(self) -> None:
        await self._body.aclose()


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
