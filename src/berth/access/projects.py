"""How does a project come, change and go? Its policy is handed in ready-made: only `gates` knows what one means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from berth.access import audit, queries
from berth.access.decide import Actor
from berth.access.queries import AsyncConnection, ProjectRow
from berth.adapters.registries.contract import Kind
from berth.db import registries as stored
from berth.errors import Conflict, InvalidInput, NameInvalid
from berth.oci.reference import check_project

# First path parts that mean something else on this host, now or soon.
RESERVED_NAMES: Final[frozenset[str]] = frozenset(
    {"api", "v1", "v2", "docs", "redoc", "openapi.json", "healthz", "readyz", "metrics", "static", "assets"}
    | {"ui", "login", "logout", "auth", "token", "oauth", "admin", "library", "latest", "favicon.ico"}
)
# Where published versions can live. The depot is the service's own store.
HOMES: Final = ("depot",)


def check_new_project(name: str) -> None:
    """May a project have this name?

    Raises:
        NameInvalid: it breaks the naming rule or is reserved.
    """
    check_project(name)
    if name in RESERVED_NAMES:
        raise NameInvalid(f"The project name '{name}' is reserved.", hint="Choose another name.")


async def create_project(
    conn: AsyncConnection,
    actor: Actor,
    *,
    name: str,
    policy: Mapping[str, Any],
    policy_hash: str,
    trust_hash: str,
    description: str = "",
) -> ProjectRow:
    """Create a project whose policy is `policy` as `gates` wrote it, with the hashes of policy and (empty) trust set.

    Raises:
        NameInvalid: the name breaks the rule or is reserved.
        Conflict: the name is taken.
    """
    check_new_project(name)
    row = await queries.insert_project(
        conn, name=name, description=description, policy=policy, policy_hash=policy_hash, trust_hash=trust_hash
    )
    if row is None:
        raise Conflict(f"There is a project '{name}' already.", hint="Choose another name.")
    await audit.record(
        conn, actor=actor, action="project.create", project=name, object=name, detail={"policy": dict(policy)}
    )
    return row


async def update_project(
    conn: AsyncConnection,
    actor: Actor,
    project: ProjectRow,
    *,
    description: str | None = None,
    home: str | None = None,
    kinds: Sequence[Kind] = (),
    publishing: Mapping[str, Any] | None = None,
) -> ProjectRow:
    """Change what is given; the policy is changed by `gates.set_policy`. `publishing` is what sync/rules.py checked.

    Args:
        kinds: the kinds of registries, as `RegistryFactory` tells them.

    Raises:
        InvalidInput: there is no such home, or it changes what it is given.
    """
    if home is not None and home not in HOMES:
        known = await stored.registry_named(conn, home)
        if known is None:
            raise InvalidInput(
                f"There is no registry '{home}'.",
                hint="'depot' is our own store; berth registry add makes others known.",
            )
        if any(kind.name == known.kind and kind.capabilities.repacks for kind in kinds):
            raise InvalidInput(
                f"'{home}' is a container daemon, which repacks images: it keeps no version unchanged.",
                hint=f"Make it a copy instead: berth sync rule add NAME --source depot --target {home} --on-admission.",
            )
    given: dict[str, Any] = {"description": description, "home": home, "publishing": publishing}
    values = {key: value for key, value in given.items() if value is not None}
    if not values:
        return project
    row = await queries.update_project(conn, project.id, values=values)
    await audit.record(
        conn, actor=actor, action="project.configure", project=project.name, object=project.name, detail=values
    )
    return row


async def check_places(conn: AsyncConnection, project: ProjectRow) -> None:
    """Versions of open projects live only in the depot and at registries that are marked for them (design §6).

    Asked at the end of a transaction that changed policy or home.

    Raises:
        Conflict: the project is open, and an unmarked registry is its home or holds versions of it.
    """
    if project.policy.get("preset") != "open":
        return
    unmarked = await stored.not_for_open(conn, project.id, project.home)
    if unmarked:
        raise Conflict(
            f"'{project.name}' is an open project, and {', '.join(unmarked)} takes no versions of open projects.",
            hint=f"berth registry set {unmarked[0]} --takes-open allows it; 'depot' is always a home.",
            detail={"registries": unmarked},
        )


async def delete_project(conn: AsyncConnection, actor: Actor, project: ProjectRow) -> None:
    """Remove an empty project, with its members, keys and tokens.

    Raises:
        Conflict: it holds content, or version numbers that must stay burnt.
    """
    await queries.project_by_name(conn, project.name, lock=True)
    if await queries.project_holds_content(conn, project.id):
        raise Conflict(
            f"Project '{project.name}' is not empty.",
            hint="A project that ever received a version is kept, because its version numbers stay taken.",
        )
    await queries.delete_project(conn, project.id)
    await audit.record(conn, actor=actor, action="project.delete", project=project.name, object=project.name)
