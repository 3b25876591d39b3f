"""How is a configured registry opened? By its kind in the index; vendors' SDKs are imported only when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from berth.adapters.registries import REGISTRIES
from berth.adapters.registries.contract import (
    Capabilities,
    Delivery,
    Health,
    Kind,
    Probing,
    Registry,
    RegistrySettings,
    RemoteEvent,
)
from berth.adapters.registries.distribution import DistributionRegistry, capabilities_of
from berth.adapters.registries.folder import FolderRegistry
from berth.adapters.registries.health import health_of
from berth.adapters.registries.names import RULES, Names
from berth.adapters.registries.probe import probe_registry
from berth.adapters.registries.rest import place_of as interface_of
from berth.errors import InvalidInput, RemoteError, Unsupported
from berth.wire.client import registry_origin
from berth.wire.retry import RetryPolicy

FOLDER = Kind("folder", "A folder of OCI image layouts", FolderRegistry.capabilities)
OWN = frozenset({"depot"})
FLAGS = frozenset({"flat", "insecure", "allow_private", "create_projects", "redirect", "single_writer"})
NUMBERS = frozenset({"chunk"})
_ONCE = RetryPolicy(attempts=1)


class Adapter(Protocol):
    """What the class of a kind has; those of the distribution specification take a retry policy besides."""

    KIND: ClassVar[Kind]

    @classmethod
    def check(cls, settings: RegistrySettings) -> None:
        """Raises InvalidInput for settings that this kind cannot work with. Asks nobody."""
        ...

    def __init__(self, settings: RegistrySettings) -> None: ...


class Registries:
    """Opens registries by kind (`RegistryFactory`).

    Args:
        retry: how patiently requests are repeated; default: the client's own.
    """

    def __init__(self, *, retry: RetryPolicy | None = None) -> None:
        self._retry = retry

    def kinds(self) -> Sequence[Kind]:
        return [FOLDER if name == "folder" else _class(name).KIND for name in sorted(set(REGISTRIES) - OWN)]

    def check(self, settings: RegistrySettings) -> None:
        if settings.kind not in REGISTRIES or settings.kind in OWN:
            raise InvalidInput(
                f"There is no kind of registry '{settings.kind}'.",
                hint=f"Kinds are: {', '.join(kind.name for kind in self.kinds())}.",
            )
        if settings.kind == "folder":
            _folder(settings)
            return
        found = _class(settings.kind)
        unknown = sorted(set(settings.options) - set(found.KIND.options))
        if unknown:
            raise InvalidInput(
                f"{settings.kind} knows no option '{unknown[0]}'.",
                hint=f"Options are: {', '.join(found.KIND.options)}.",
            )
        for option in settings.options:
            if option in FLAGS:
                settings.flag(option)
            elif option in NUMBERS:
                settings.number(option)
            elif option == "realm_hosts":
                settings.words(option)
            elif option != "capabilities":
                settings.text(option)
        capabilities_of(found.KIND, settings)
        if issubclass(found, DistributionRegistry):
            if (api := settings.text("api_url")) is not None:
                interface_of(api, settings)
            registry_origin(settings.url, insecure=settings.flag("insecure"))
            Names(RULES[settings.kind], settings.text("prefix") or "", settings.flag("flat"))
        found.check(settings)

    def open(self, settings: RegistrySettings) -> Registry:
        self.check(settings)
        if settings.kind == "folder":
            return FolderRegistry(_folder(settings))
        found: Any = _class(settings.kind)
        more = {"retry": self._retry} if issubclass(found, DistributionRegistry) else {}
        registry: Registry = found(settings, **more)
        return registry

    def events(self, settings: RegistrySettings, delivery: Delivery) -> Sequence[RemoteEvent]:
        found: Any = None if settings.kind == "folder" else _class(settings.kind)
        if found is None or not found.KIND.notifies:
            raise Unsupported(
                f"The kind {settings.kind} tells us nothing by webhook.", hint="Give its sync rules a schedule."
            )
        names = Names(RULES[settings.kind], settings.text("prefix") or "", settings.flag("flat"))
        about = replace(delivery, host=registry_origin(settings.url, insecure=True).netloc)
        told: Sequence[RemoteEvent] = found.events(about, inward=names.inward)
        return told

    async def health(self, settings: RegistrySettings) -> Health:
        registry = Registries(retry=_ONCE).open(settings)
        try:
            return await health_of(registry)
        finally:
            await registry.close()

    async def probe(self, settings: RegistrySettings, *, repository: str | None = None) -> Capabilities:
        # From the defaults on: what one probe was not allowed to see, the next one asks again.
        registry = self.open(replace(settings, capabilities=None))
        try:
            if isinstance(registry, DistributionRegistry):
                return await probe_registry(registry, repository=repository)
            if isinstance(registry, Probing):
                return await registry.probe(repository)
            await registry.repositories(limit=1)
            return registry.capabilities
        except Unsupported as error:
            raise RemoteError(error.message, hint=error.hint, detail=error.detail) from error
        finally:
            await registry.close()


@cache
def _class(kind: str) -> type[Adapter]:
    module, _, name = REGISTRIES[kind].partition(":")
    found: type[Adapter] = getattr(import_module(module), name)
    return found


def _folder(settings: RegistrySettings) -> Path:
    path = Path(settings.url.removeprefix("file://"))
    if not path.is_absolute():
        raise InvalidInput(f"{settings.url!r} is not an absolute path.", hint="Write file:///srv/models.")
    return path
