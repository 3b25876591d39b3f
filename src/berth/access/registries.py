"""Which other registries are known here, and as whom do we use them? Only global admins say (`registry.manage`)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from berth.access import audit
from berth.access.decide import Actor
from berth.access.queries import AsyncConnection
from berth.adapters.registries.contract import Capabilities, Registry, RegistryFactory, RegistrySettings
from berth.db import registries as stored
from berth.db.engine import Database
from berth.db.registries import RegistryRow
from berth.db.sealing import Sealer
from berth.errors import Conflict, InvalidInput, NameInvalid, NotFound

ACTION: Final = "registry.manage"
# `depot` is our own store; the words of references (`:`, `/`) cannot be in a name.
_NAME: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
# Options that say where the credentials go besides the URL.
_ADDRESSES: Final = ("endpoint", "api_url")
_RESERVED: Final = frozenset({"depot", "folder"})


def check_name(name: str) -> None:
    """Raises NameInvalid."""
    if len(name) > 128 or _NAME.fullmatch(name) is None:
        raise NameInvalid(
            f"'{name[:80]}' is not a name for a registry.",
            hint="Use at most 128 lower-case letters and digits, with single . _ - between them.",
        )
    if name in _RESERVED:
        raise NameInvalid(f"The registry name '{name}' is reserved.", hint="Choose another name.")


async def add_registry(
    conn: AsyncConnection,
    actor: Actor,
    factory: RegistryFactory,
    sealer: Callable[[], Sealer],
    *,
    name: str,
    kind: str,
    url: str,
    username: str | None = None,
    secret: str | None = None,
    options: Mapping[str, Any] | None = None,
    takes_open: bool = False,
) -> RegistryRow:
    """Make a registry known. Its secret is sealed before it is stored, and never shown again.

    Raises:
        NameInvalid, InvalidInput: what was given cannot work. Conflict: the name is taken.
    """
    check_name(name)
    if username is not None and secret is None:
        raise InvalidInput("A user name without a password is of no use.", hint="Give both, or neither.")
    factory.check(RegistrySettings(name, kind, url, username, secret, options or {}))
    row = await stored.insert_registry(
        conn,
        name=name,
        kind=kind,
        url=url,
        username=username,
        secret=None if secret is None else sealer().seal(secret, purpose=_purpose(name)),
        options=options or {},
        created_by=actor.name or "anonymous",
        takes_open=takes_open,
    )
    if row is None:
        raise Conflict(f"There is a registry '{name}' already.", hint="Choose another name, or remove that one first.")
    detail = {"added": True, "kind": kind, "url": url, "username": username, "options": dict(options or {})}
    detail |= {"takes_open": takes_open}
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=name, detail=detail)
    return row


async def registry_named(conn: AsyncConnection, name: str) -> RegistryRow:
    """Raises NotFound."""
    row = await stored.registry_named(conn, name)
    if row is None:
        raise NotFound(f"There is no registry '{name}'.", hint="berth registry ls shows those that are known.")
    return row


async def change_registry(
    conn: AsyncConnection,
    actor: Actor,
    factory: RegistryFactory,
    sealer: Callable[[], Sealer],
    *,
    name: str,
    url: str | None = None,
    username: str | None = None,
    secret: str | None = None,
    options: Mapping[str, Any] | None = None,
    takes_open: bool | None = None,
) -> RegistryRow:
    """Change what is given; `options` replaces all of them. What a probe found has to be found again.

    Raises:
        NotFound. InvalidInput: it cannot work, or a stored secret would be shown to another address.
        Conflict: the mark for open projects is to go, while one relies on it.
    """
    row = await stored.registry_named(conn, name, lock=True)
    if row is None:
        raise NotFound(f"There is no registry '{name}'.", hint="berth registry ls shows those that are known.")
    chosen = row.options if options is None else options
    moved = (url is not None and url != row.url) or any(chosen.get(o) != row.options.get(o) for o in _ADDRESSES)
    if moved and row.secret is not None and secret is None:
        raise InvalidInput(
            "The stored password belongs to the address it was given for.", hint="Give the password with the new one."
        )
    user = row.username if username is None else username
    if user is not None and secret is None and row.secret is None:
        raise InvalidInput("A user name without a password is of no use.", hint="Give both.")
    factory.check(RegistrySettings(name, row.kind, url or row.url, user, secret, chosen))
    if takes_open is False and row.takes_open and (relying := await stored.open_projects_at(conn, name)):
        raise Conflict(
            f"The open projects {', '.join(relying[:3])} are published to '{name}'.",
            hint="Give them another home and remove their versions there, or another policy, first.",
            detail={"used_by": relying},
        )
    values: dict[str, Any] = {"url": url, "username": username, "options": None if options is None else dict(options)}
    values |= {"takes_open": takes_open if takes_open != row.takes_open else None}
    given: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    sealed = {} if secret is None else {"secret": sealer().seal(secret, purpose=_purpose(name))}
    if not given and not sealed:
        return row
    changed = await stored.update_registry(conn, row.id, values={**given, **sealed})
    detail = {"changed": given, "secret": "given anew" if sealed else "kept"}
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=name, detail=detail)
    return changed


async def remove_registry(conn: AsyncConnection, actor: Actor, name: str) -> None:
    """Forget a registry; what lives there stays there. Raises NotFound, Conflict while something relies on it."""
    await stored.registry_named(conn, name, lock=True)  # whoever counts on its copies waits, or is seen here
    relying = await stored.users_of(conn, name)
    if relying:
        raise Conflict(
            f"The registry '{name}' is in use by {', '.join(relying[:3])}.",
            hint="Give the project another home (berth project set --home), or remove the rule first.",
            detail={"used_by": relying},
        )
    blobs, size = await stored.only_copies_at(conn, name)
    if blobs:
        raise Conflict(
            f"The registry '{name}' holds the only copy of {blobs} blobs ({size} bytes) of versions here.",
            hint="Publish them elsewhere first (berth project set --home), or delete those versions.",
            detail={"blobs": blobs, "bytes": size},
        )
    if not await stored.delete_registry(conn, name):
        raise NotFound(f"There is no registry '{name}'.")
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=name, detail={"removed": True})


async def record_probe(
    conn: AsyncConnection, actor: Actor, row: RegistryRow, found: Capabilities, *, now: datetime
) -> RegistryRow:
    """Keep what a probe found. Raises NotFound when the registry was removed meanwhile."""
    changed = await stored.set_capabilities(conn, row.id, capabilities=found.to_json(), now=now)
    if changed is None:
        raise NotFound(f"There is no registry '{row.name}'.")
    await audit.record(conn, actor=actor, action=ACTION, project=None, object=row.name, detail={"probed": True})
    return changed


def settings_of(row: RegistryRow, sealer: Callable[[], Sealer]) -> RegistrySettings:
    """What `RegistryFactory.open` needs, with the secret in the clear: it must not be kept or shown.

    Raises SetupError when the secret was sealed with another key.
    """
    secret = None if row.secret is None else sealer().open(row.secret, purpose=_purpose(row.name))
    return RegistrySettings(row.name, row.kind, row.url, row.username, secret, row.options, row.capabilities)


def opener(
    db: Database, factory: RegistryFactory, sealer: Callable[[], Sealer]
) -> Callable[[str], Awaitable[Registry | None]]:
    """A function that opens a known registry by its name; None when there is none of that name."""

    async def opened(name: str) -> Registry | None:
        async with db.reading() as conn:
            row = await stored.registry_named(conn, name)
        return None if row is None else factory.open(settings_of(row, sealer))

    return opened


def _purpose(name: str) -> str:
    return f"registry {name}"
