"""How does a blob get from one registry to another? It is there, or is mounted, or is sent; at most once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from berth.adapters.registries.contract import LARGE_BYTES, Registry, Telling
from berth.errors import DigestInvalid
from berth.oci.descriptor import Descriptor
from berth.sync.flow import Flow, Journal, Progress, go_on
from berth.sync.large import LargeBlob, bytes_of
from berth.sync.trying import again
from berth.wire.parallel import each

T = TypeVar("T")


@dataclass
class Copied:
    """What a copy did.

    Attributes:
        bytes_sent: of blobs, as they went to the target.
        notes: evidence that the target did not take, in words.
    """

    digest: str
    bytes_sent: int = 0
    blobs_sent: int = 0
    blobs_mounted: int = 0
    blobs_present: int = 0
    manifests_sent: int = 0
    tagged: bool = False
    notes: list[str] = field(default_factory=list)


class Carrier:
    """Brings blobs of one repository to another, and counts them in `copied`."""

    def __init__(
        self,
        source: Registry,
        target: Registry,
        source_repository: str,
        target_repository: str,
        *,
        flow: Flow,
        journal: Journal,
        progress: Progress = lambda _: None,
    ) -> None:
        self.source = source
        self.target = target
        self.source_repository = source_repository
        self.target_repository = target_repository
        self.flow = flow
        self.journal = journal
        self.progress = progress
        self.copied = Copied("")
        self._same_place = source is target
        self._telling = target if isinstance(target, Telling) else None

    async def bring_all(self, blobs: Sequence[Descriptor]) -> None:
        """Have each of them at the target, a few at once."""

        async def bring(blob: Descriptor) -> None:
            # In this order: one who waits for another's blob keeps nobody else from moving.
            async with self.flow.alone(blob.digest), self.flow.slots:
                await go_on(self.journal)
                await self._bring(blob)

        # Largest first: the last one to finish is then a small one.
        await each(sorted(blobs, key=lambda blob: -blob.size), bring, at_once=self.flow.limits.blobs)

    async def _bring(self, blob: Descriptor) -> None:
        digest, repository = blob.digest, self.target_repository
        sent = 0
        # Of a large blob the end of a broken upload may be all that is missing: that is another way in.
        tells = self._telling is not None and self._telling.tells_on_upload and 0 < blob.size < LARGE_BYTES
        if not tells and await self._try(lambda: self.target.blob_size(repository, digest)) is not None:
            self.copied.blobs_present += 1
        elif await self._mounted(digest):
            self.copied.blobs_mounted += 1
        elif (sent := await self._bring_over(blob)) or not tells:
            self.copied.blobs_sent += 1
            self.copied.bytes_sent += sent
        else:
            self.copied.blobs_present += 1
        self.flow.remember(digest, repository)
        await self.journal.whole(digest, size=blob.size, sent=sent)

    async def _mounted(self, digest: str) -> bool:
        if not self.target.capabilities.mount:
            return False
        origin = self.source_repository if self._same_place else self.flow.holder(digest)
        if origin is None or origin == self.target_repository:
            return False
        return await self._try(lambda: self.target.mount_blob(self.target_repository, digest, source=origin))

    async def _bring_over(self, blob: Descriptor) -> int:
        """Send it; how many bytes went, of a large one also those of broken tries."""
        try:
            return await self._send_any(blob)
        except DigestInvalid as error:
            if "status" in error.detail:
                raise  # the target says so; here the bytes were right
            raise DigestInvalid(
                f"The source gives other bytes than {blob.digest} ({blob.size} bytes); nothing of them was kept.",
                hint="What it stores is damaged, or something on the way is. Push the version there again.",
                detail=error.detail,
            ) from error

    async def _send_any(self, blob: Descriptor) -> int:
        if blob.size < LARGE_BYTES:
            return await self._try(lambda: self._send(blob))
        large = LargeBlob(
            self.source,
            self.source_repository,
            self.target_repository,
            blob,
            flow=self.flow,
            journal=self.journal,
            progress=self.progress,
        )
        await self._try(lambda: large.send(self.target))
        return large.bytes_sent

    async def _send(self, blob: Descriptor) -> int:
        moved = 0

        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal moved
            async with aclosing(bytes_of(self.source, self.source_repository, blob, journal=self.journal)) as read:
                async for piece in read:
                    moved += len(piece)
                    await self.flow.pass_bytes(len(piece))
                    self.progress(len(piece))
                    yield piece

        async with aclosing(pieces()) as stream:
            await self.target.push_blob(self.target_repository, blob.digest, size=blob.size, chunks=stream)
        return moved

    async def _try(self, do: Callable[[], Awaitable[T]]) -> T:
        return await again(do, flow=self.flow)
