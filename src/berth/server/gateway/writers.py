"""Who is writing to which upload in this process? A client that reconnects takes over from its own dead connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from berth.errors import Conflict
from berth.server.gateway.exchange import Exchange, SenderGone

TAKE_OVER_SECONDS = 10.0


class Writer:
    """One request's hold on an upload; `chunks` ends with SenderGone when a newer request asks for it."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self._replaced = False
        self._receiving = False
        self._task = asyncio.current_task()

    def replace(self) -> None:
        """Ask this writer to stop. It is only ever interrupted while it waits for bytes, never while it stores them."""
        self._replaced = True
        if self._receiving and self._task is not None:
            self._task.cancel()

    def replaced(self) -> bool:
        """True once a newer request asked for the upload."""
        return self._replaced

    async def chunks(self, exchange: Exchange) -> AsyncIterator[bytes]:
        """The body of the request. Raises SenderGone when the client goes away or this writer is replaced."""
        source = exchange.chunks()
        while not self.replaced():
            self._receiving = True
            try:
                chunk = await anext(source, None)
            except asyncio.CancelledError:
                if not self.replaced() or self._task is None:
                    raise
                self._task.uncancel()
                break
            finally:
                self._receiving = False
            if chunk is None:
                return
            yield chunk
        raise SenderGone("another request took this upload over")


class Writers:
    """At most one writer per upload in this process."""

    def __init__(self) -> None:
        self._active: dict[str, Writer] = {}

    @asynccontextmanager
    async def hold(self, upload_id: str) -> AsyncIterator[Writer]:
        """Become the writer of an upload. Raises Conflict when the former one does not let go in time."""
        writer = Writer()
        while (former := self._active.get(upload_id)) is not None:
            former.replace()
            try:
                await asyncio.wait_for(former.done.wait(), TAKE_OVER_SECONDS)
            except TimeoutError:
                raise Conflict("Another request is writing to this upload.", hint="Wait a little and retry.") from None
        self._active[upload_id] = writer
        try:
            yield writer
        finally:
            del self._active[upload_id]
            writer.done.set()


WRITERS = Writers()
