"""Which tags does a repository have? Page after page (distribution-spec end-8)."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx

from berth.errors import RemoteError
from berth.wire.blobs import pull_scope
from berth.wire.client import RegistryClient
from berth.wire.messages import Answer
from berth.wire.urls import Url

PAGE = 1000
_PAGE_LIMIT = 32 * 1024 * 1024
_MAX_PAGES = 10_000
_LINK = re.compile(r'<([^>]*)>\s*;[^,]*\brel\s*=\s*"?next"?', re.IGNORECASE)


async def ls(client: RegistryClient, repository: str, *, page: int = PAGE) -> AsyncIterator[str]:
    """Every tag, in the registry's order; none of them twice. Raises NameUnknown for a missing repository."""
    seen: set[str] = set()
    url: Url | None = client.url(repository, "tags", "list", query=f"n={page}")
    for _ in range(_MAX_PAGES):
        if url is None:
            return
        async with client.exchange("GET", url, expect=(200,), scopes=pull_scope(repository)) as response:
            tags = _tags(await bounded_body(response, _PAGE_LIMIT))
            following = next_link(client, response)
        fresh = [tag for tag in dict.fromkeys(tags) if tag not in seen]
        seen.update(fresh)
        for tag in fresh:
            yield tag
        if following is None and fresh and len(tags) >= page:
            # A full page without a link: some registries only understand `last`.
            following = client.url(repository, "tags", "list", query=f"n={page}&last={quote(tags[-1], safe='')}")
        url = following if fresh else None


def next_link(client: RegistryClient, response: Answer) -> Url | None:
    """Where a `Link: <…>; rel="next"` header points; only the registry's own origin is accepted."""
    for value in response.headers.get_list("link"):
        match = _LINK.search(value)
        if match:
            url = client.resolve(response.url, match.group(1))
            if not client.is_own(url):
                raise RemoteError(f"{client.host} continues a list on another host, {url.host}.")
            return url
    return None


async def bounded_body(response: Answer, limit: int) -> bytes:
    """The whole body; raises RemoteError when it is longer than `limit` bytes or breaks off."""
    host = response.url.host
    try:
        return await response.whole(
            limit, too_long=lambda: RemoteError(f"{host} sends a list of more than {limit} bytes.")
        )
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise RemoteError(f"{host} broke off its answer: {error}.") from error


def _tags(body: bytes) -> list[str]:
    try:
        answer = json.loads(body)
        tags = answer.get("tags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise ValueError("tags is not a list of strings")
    except (ValueError, AttributeError) as error:
        raise RemoteError(f"The registry's list of tags is unreadable: {error}.") from error
    return tags
