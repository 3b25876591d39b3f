"""Which actions does a role hold? The one table of design §2, in code.

Project actions belong to a project and come from a role in it. Service actions belong to no project.
`self.read`, `self.browse` (lists of what one may see) and `self.manage` are about the caller's own account: everyone
who is signed in holds them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from berth.errors import InvalidInput

# Lowest first; each role holds what it adds here and everything of the roles before it.
_ADDED: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("guest", ("project.read", "model.read")),
    ("reader", ("version.pull", "evidence.read")),
    ("developer", ("version.push", "quarantine.manifest.read", "model.edit")),
    ("reviewer", ("quarantine.read", "version.approve", "alias.move", "scan.start")),
    (
        "maintainer",
        (
            "version.delete",
            "version.edit",
            "key.trust",
            "project.configure",
            "member.manage",
            "token.manage",
            "audit.read",
        ),
    ),
    ("admin", ("project.delete",)),
)

PROJECT_ROLES: Final[tuple[str, ...]] = tuple(role for role, _ in _ADDED)
GLOBAL_ROLES: Final[tuple[str, ...]] = ("auditor", "admin")
PRINCIPAL_KINDS: Final[tuple[str, ...]] = ("user", "robot", "scanner", "sync", "ci")

PROJECT_ACTIONS: Final[frozenset[str]] = frozenset(action for _, added in _ADDED for action in added)
SERVICE_ACTIONS: Final[frozenset[str]] = frozenset(
    {"project.create", "user.read", "user.manage", "registry.manage", "service.observe"}
)
SELF_ACTIONS: Final[frozenset[str]] = frozenset({"self.read", "self.browse", "self.manage"})
ACTIONS: Final[frozenset[str]] = PROJECT_ACTIONS | SERVICE_ACTIONS | SELF_ACTIONS

# What a global role may do in every project and on the service itself.
GLOBAL_ACTIONS: Final[MappingProxyType[str, frozenset[str]]] = MappingProxyType(
    {
        "auditor": frozenset(
            {"project.read", "model.read", "evidence.read", "audit.read", "user.read", "service.observe"}
        ),
        "admin": PROJECT_ACTIONS | SERVICE_ACTIONS,
    }
)

# A scanner looks at quarantined bytes of the projects in which it has any role (design §6 "Reads in quarantine").
KIND_ACTIONS: Final[MappingProxyType[str, frozenset[str]]] = MappingProxyType(
    {"scanner": frozenset({"quarantine.read", "version.pull"})}
)


def _cumulate() -> dict[str, frozenset[str]]:
    table: dict[str, frozenset[str]] = {}
    held: frozenset[str] = frozenset()
    for role, added in _ADDED:
        held |= frozenset(added)
        table[role] = held
    return table


ROLE_ACTIONS: Final[MappingProxyType[str, frozenset[str]]] = MappingProxyType(_cumulate())


def actions_of(role: str) -> frozenset[str]:
    """All project actions that `role` holds in its project.

    Raises:
        InvalidInput: there is no such project role.
    """
    held = ROLE_ACTIONS.get(role)
    if held is None:
        raise InvalidInput(f"There is no role '{role}'.", hint=f"Roles are: {', '.join(PROJECT_ROLES)}.")
    return held
