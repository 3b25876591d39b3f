"""How does a large blob get into a registry so that a break costs little? PATCH by PATCH, on from where it broke off.

After a failure the registry is asked how far it got (end-13). With a keeper that also works in another process: what is
at the registry already is read again from the source and hashed, but not sent (docs/decisions/0027).
"""

from __future__ import annotations

import asyncio

from berth.errors import BerthError, TooManyRequests, Unavailable
from berth.wire import blobs, sessions
from berth.wire.client import RegistryClient
from berth.wire.sending import Sending
from berth.wire.urls import Url, parse

# Answers that do not speak against chunks: rights, sizes, and what waiting cures.
_OTHER_REASONS = frozenset({401, 403, 408, 413, 429})


async def send(client: RegistryClient, repository: str, source: Sending, location: Url | None) -> bool:
    """Uploads the blob; False when the registry refuses chunks and the upload may go in one PUT instead.

    Args:
        location: a session that has been begun, if there is one.

    Raises: as `uploads.put`. A session that a keeper knows is left open when the failure may pass.
    """
    upload, keeper = source.upload, source.upload.keeper
    offset = furthest = failures = fewest = 0
    # Whether all that this session was asked went well: then a refusal means the chunks, and not a lost session.
    clean = True
    if keeper is not None and (known := await keeper.find()) is not None:
        found, offset = await _left_at(client, repository, parse(known))
        if found is None:
            await keeper.forget()
        else:
            await sessions.cancel(client, repository, location)
            location, clean = found, False
    while True:
        if location is None:
            location, fewest = await sessions.start(client, repository)
            offset, clean = 0, True
        try:
            await source.skip(offset)
            while offset < upload.size:
                end = min(offset + max(upload.chunk_bytes or upload.size, fewest), upload.size)
                location = await _chunk(client, repository, source, location, offset, end)
                offset = end
                if offset > furthest:
                    furthest, failures = offset, 0
            source.check()
            await sessions.close(client, repository, location, upload.digest)
            await _forget(source)
            return True
        except asyncio.CancelledError:
            if keeper is None:
                await sessions.abandon(client, repository, location)
            raise
        except BerthError as error:
            failures += 1
            if clean and upload.or_whole and _refused(error):
                await sessions.cancel(client, repository, location)
                await _forget(source)
                return False
            passing = sessions.may_pass(error)
            if not upload.restartable or not passing or failures >= client.retry.attempts:
                if keeper is None or not passing:
                    await sessions.cancel(client, repository, location)
                    await _forget(source)
                raise
            await client.sleep(client.retry.wait(failures, error.detail.get("retry_after")))
            if offset >= upload.size and await blobs.head(client, repository, upload.digest) is not None:
                await _forget(source)
                return True
            location, offset = await sessions.where(client, repository, location)
            clean = False
            if location is None:
                await _forget(source)


async def _left_at(client: RegistryClient, repository: str, known: Url) -> tuple[Url | None, int]:
    """As `sessions.where`. Sessions may be on another host, which may be gone for ever while the registry is here."""
    try:
        return await sessions.where(client, repository, known)
    except (Unavailable, TooManyRequests):
        if client.is_own(known):
            raise
        return None, 0


async def _chunk(client: RegistryClient, repository: str, source: Sending, location: Url, start: int, end: int) -> Url:
    """One PATCH. Whoever limits the rate is asked before it, so that it is short: Distribution before 3.0 loses a
    session whose PATCH breaks, and keeps one that breaks between two of them."""
    keeper = source.upload.keeper
    if keeper is not None:
        await keeper.let(end - start)
    location = await sessions.patch(
        client, repository, location, start=start, end=end, body=lambda: source.pieces(start, end)
    )
    if keeper is not None:
        await keeper.keep(str(location), end)
    return location


async def _forget(source: Sending) -> None:
    if source.upload.keeper is not None:
        await source.upload.keeper.forget()


def _refused(error: BerthError) -> bool:
    """Whether the registry answered, and not what an upload in chunks needs."""
    status = error.detail.get("status")
    return isinstance(status, int) and (status < 500 or status == 501) and status not in _OTHER_REASONS
