"""How are a registry's lists read page by page? By `Link`, by `last`, or whole where a registry knows neither."""

from __future__ import annotations

import json
from collections.abc import Collection
from urllib.parse import urlencode

from berth.errors import RemoteError
from berth.wire.client import RegistryClient
from berth.wire.tags import bounded_body, next_link
from berth.wire.urls import Url

_LIST_LIMIT = 32 * 1024 * 1024
_LISTS_KEPT = 16


class Lists:
    """The lists of one registry: `_catalog` and `<name>/tags/list`."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._left: dict[tuple[str, str], list[str]] = {}

    async def page(
        self, path: str, key: str, scopes: Collection[str], *, after: str | None, limit: int
    ) -> tuple[list[str], str | None]:
        """One page and what continues it: a link, or the last name where a registry knows only `last`.

        Args:
            path: below `/v2/`.
            key: the member of the answer that holds the names.
        Raises:
            NotFound: there is no such list. RemoteError: it is unreadable.
        """
        place = (path, after or "")
        if place in self._left:
            return self._portion(path, self._left.pop(place), limit)
        url = self._url(path, after=after, limit=limit)
        async with self._client.exchange("GET", url, expect=(200,), scopes=scopes) as response:
            found = _names_in(await bounded_body(response, _LIST_LIMIT), key, self._client.host)
            link = next_link(self._client, response)
        # Old registries know neither `n` nor `last` and answer everything each time (Distribution 2.8 for tags).
        if after in found:
            found = found[found.index(after) + 1 :]
        if link is not None and len(found) <= limit:
            return found, link.target.decode("ascii")
        if len(found) > limit:
            return self._portion(path, found, limit)
        return found, found[-1] if found and len(found) == limit else None

    def _url(self, path: str, *, after: str | None, limit: int) -> Url:
        origin = self._client.origin
        if after is not None and after.startswith("/"):  # where the page before said that it goes on
            return origin.at(after)
        query = urlencode({"n": str(limit), **({"last": after} if after is not None else {})})
        return origin.at(f"/v2/{path}?{query}")

    def _portion(self, path: str, found: list[str], limit: int) -> tuple[list[str], str | None]:
        """A page of a list that came whole; the rest is kept, so that the next page does not ask for it again."""
        if len(found) <= limit:
            return found, None
        while len(self._left) >= _LISTS_KEPT:
            self._left.pop(next(iter(self._left)))
        self._left[path, found[limit - 1]] = found[limit:]
        return found[:limit], found[limit - 1]


def _names_in(body: bytes, key: str, host: str) -> list[str]:
    try:
        found = json.loads(body).get(key) or []
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise ValueError(f"{key} is not a list of texts")
    except (ValueError, AttributeError) as error:
        raise RemoteError(f"The list of {key} of {host} is unreadable: {error}.") from error
    return list(dict.fromkeys(found))
