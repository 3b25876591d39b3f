"""The Python SDK of a Berth service.

    with Berth("https://berth.example", token="…") as berth:
        berth.versions.verdict("ml/demo:1.0.0").allowed
        berth.pull("ml/demo:production", into="model")

Each attribute mirrors a resource of the REST API (`/api/v1`); bytes move through the registry API (`/v2/`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from berth.client import credentials
from berth.client.address import Address, parse_version
from berth.client.archives import Archives
from berth.client.models import Aliases, Models
from berth.client.people import Audit, Tokens, Users
from berth.client.projects import Keys, Members, Projects
from berth.client.registries import Registries
from berth.client.running import run
from berth.client.session import Json, Session
from berth.client.sync import Sync
from berth.client.versions import Versions
from berth.errors import RemoteError
from berth.oci.digest import is_digest
from berth.oci.version import to_tag
from berth.settings import ClientSettings
from berth.wire.auth import ANONYMOUS, Credential
from berth.wire.client import RegistryClient
from berth.wire.transfer import PARALLEL, Progress

if TYPE_CHECKING:
    # With all that builds and checks models: a third of a second that most commands do not need.
    from berth.client.pulling import Pulled
    from berth.client.pushing import Pushed
    from berth.client.signing import Checked, Signed
    from berth.signing.keys import PrivateKey, PublicKey


class Berth:
    """A connection to one service, acting with one token.

    Args:
        url: http(s)://host[:port] of the service.
        token: a Berth token; without it only what everyone may see.
        user: owner of the token; kept for programs that need Basic authentication.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        user: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = credentials.normal_url(url)
        self.user = user
        self._token = token
        self._session = Session(self.url, token, transport=transport)
        self.projects = Projects(self._session)
        self.members = Members(self._session)
        self.keys = Keys(self._session)
        self.users = Users(self._session)
        self.tokens = Tokens(self._session)
        self.models = Models(self._session)
        self.versions = Versions(self._session)
        self.aliases = Aliases(self._session)
        self.sync = Sync(self._session)
        self.archives = Archives(self._session)
        self.audit = Audit(self._session)
        self.registries = Registries(self._session)

    @classmethod
    def from_settings(cls, settings: ClientSettings | None = None) -> Berth:
        """The service that the environment or the last `xumi login` names."""
        login = credentials.login_for(settings or credentials.environment())
        return cls(login.url, login.token, login.user)

    @property
    def host(self) -> str:
        """`host[:port]`, the first part of references that stock clients use."""
        return self._session.host

    def whoami(self) -> Json:
        return self._session.get("/whoami")

    def registry(self) -> RegistryClient:
        """A client of the service's `/v2/`; use it with `async with`."""
        return RegistryClient(
            self.url,
            credential=Credential(token=self._token) if self._token else ANONYMOUS,
            # Whoever wrote http:// into the address, or a name in their own network, chose it.
            insecure=self.url.startswith("http://"),
            private_hosts=(urlsplit(self.url).hostname or "",),
        )

    def push(
        self, ref: str, *, home: Path | None = None, progress: Progress | None = None, parallel: int = PARALLEL
    ) -> Pushed:
        """Pushes a version from the local repository `home` (default: XUMI_HOME)."""
        from berth.authoring.repository import LocalRepository
        from berth.client import pushing

        local = LocalRepository(home or credentials.environment().home)

        async def work() -> Pushed:
            async with self.registry() as client:
                return await pushing.push(local, client, ref, progress=progress, parallel=parallel)

        return run(work())

    def pull(
        self,
        ref: str,
        into: Path | str,
        *,
        force: bool = False,
        weights: bool = True,
        progress: Progress | None = None,
        parallel: int = PARALLEL,
    ) -> Pulled:
        """Pulls an admitted version into a new folder; raises Denied, with every reason, for any other.

        `into` gets `xumi.yaml`, `code/` and, unless `weights` is False, `weights/`; Conflict is raised when it exists
        and is not empty, unless `force` lets it be replaced.
        """
        from berth.client import pulling

        pulling.check_destination(Path(into), force=force)
        address, digest, _ = self._located(ref)

        async def work() -> Pulled:
            async with self.registry() as client:
                return await pulling.pull(
                    client,
                    address.repository,
                    digest,
                    Path(into),
                    force=force,
                    weights=weights,
                    parallel=parallel,
                    progress=progress,
                )

        return run(work())

    def sign(
        self,
        ref: str,
        key: PrivateKey,
        *,
        formats: Collection[str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> list[Signed]:
        """Signs a pushed version and its runnable images, as `signing.FORMATS` if nothing else is said.

        Trust is given apart: `keys.trust`.
        """
        from berth.client import signing

        address, digest, tag = self._located(ref)

        async def work() -> list[Signed]:
            async with self.registry() as client:
                return await signing.sign(
                    client,
                    address.repository,
                    digest,
                    tag=tag,
                    key=key,
                    formats=signing.FORMATS if formats is None else formats,
                    annotations=annotations,
                )

        return run(work())

    def verify(self, ref: str, keys: Sequence[PublicKey]) -> Checked:
        """Checks, here and not on the service, the signatures of a version with these keys."""
        from berth.client import signing

        address, digest, _ = self._located(ref)

        async def work() -> Checked:
            async with self.registry() as client:
                return await signing.verify(client, address.repository, digest, keys=keys)

        return run(work())

    def _located(self, ref: str) -> tuple[Address, str, str]:
        """The model, digest and tag of a version that may still be in quarantine."""
        address, _ = parse_version(ref, default="latest")
        version = self.versions.show(ref)
        digest, number = version.get("digest"), version.get("version")
        if not isinstance(digest, str) or not is_digest(digest) or not isinstance(number, str):
            raise RemoteError(f"The service answered something that is not a version to {ref}.")
        return address, digest, to_tag(number)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Berth:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
