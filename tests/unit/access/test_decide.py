"""Who may do what: the table of design §2, written out by hand, against `decide`."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.access.decide import ANONYMOUS, Actor, decide, may_grant, within_claims
from berth.access.roles import ACTIONS, PROJECT_ACTIONS, PROJECT_ROLES, SELF_ACTIONS, SERVICE_ACTIONS, actions_of
from berth.errors import InvalidInput, SetupError

# One line per action, one column per role: guest reader developer reviewer maintainer admin.
TABLE = """
project.read              yes yes yes yes yes yes
model.read                yes yes yes yes yes yes
version.pull              no  yes yes yes yes yes
evidence.read             no  yes yes yes yes yes
version.push              no  no  yes yes yes yes
quarantine.manifest.read  no  no  yes yes yes yes
model.edit                no  no  yes yes yes yes
quarantine.read           no  no  no  yes yes yes
version.approve           no  no  no  yes yes yes
alias.move                no  no  no  yes yes yes
scan.start                no  no  no  yes yes yes
version.delete            no  no  no  no  yes yes
version.edit              no  no  no  no  yes yes
key.trust                 no  no  no  no  yes yes
project.configure         no  no  no  no  yes yes
member.manage             no  no  no  no  yes yes
token.manage              no  no  no  no  yes yes
audit.read                no  no  no  no  yes yes
project.delete            no  no  no  no  no  yes
"""
ROLES = ("guest", "reader", "developer", "reviewer", "maintainer", "admin")
CELLS = [
    (role, line.split()[0], cell == "yes")
    for line in TABLE.strip().splitlines()
    for role, cell in zip(ROLES, line.split()[1:], strict=True)
]
AUDITOR_MAY = {"project.read", "model.read", "evidence.read", "audit.read", "user.read", "service.observe"}


def member(role: str, *, kind: str = "user", global_role: str | None = None) -> Actor:
    return Actor(name="m", principal_id=1, kind=kind, global_role=global_role, roles={"vision": role})


def scoped(role: str, *, global_role: str | None = None, kind: str = "user") -> Actor:
    """A token limited to `role` in "vision", of somebody who is admin of "other" too."""
    return Actor(
        name="t",
        principal_id=2,
        kind=kind,
        global_role=global_role,
        roles={"vision": "admin", "other": "admin"},
        token_project="vision",
        token_role=role,
    )


def test_the_table_names_every_project_action_and_role() -> None:
    assert {action for _, action, _ in CELLS} == PROJECT_ACTIONS
    assert ROLES == PROJECT_ROLES


@pytest.mark.parametrize(("role", "action", "allowed"), CELLS)
def test_each_role_holds_exactly_what_the_table_says(role: str, action: str, allowed: bool) -> None:
    assert decide(member(role), action, "vision").allowed is allowed


@pytest.mark.parametrize(("role", "action", "allowed"), CELLS)
def test_a_scoped_token_holds_exactly_its_role_in_its_project(role: str, action: str, allowed: bool) -> None:
    assert decide(scoped(role), action, "vision").allowed is allowed
    assert decide(scoped(role, global_role="admin"), action, "vision").allowed is allowed


@pytest.mark.parametrize("action", sorted(PROJECT_ACTIONS | SERVICE_ACTIONS))
@pytest.mark.parametrize("project", ["other", "unheard-of", None])
def test_a_scoped_token_holds_nothing_elsewhere(action: str, project: str | None) -> None:
    decision = decide(scoped("admin", global_role="admin"), action, project)
    assert not decision.allowed
    assert decision.visible is (project is None or action in SERVICE_ACTIONS)


@pytest.mark.parametrize("action", sorted(PROJECT_ACTIONS))
def test_a_role_holds_nothing_in_another_project(action: str) -> None:
    decision = decide(member("admin"), action, "other")
    assert not decision.allowed
    assert not decision.visible


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("project", ["vision", None])
def test_nobody_signed_in_may_nothing(action: str, project: str | None) -> None:
    assert not decide(ANONYMOUS, action, project).allowed
    assert decide(ANONYMOUS, action, project).visible is (project is None)


@pytest.mark.parametrize("action", sorted(ACTIONS - SELF_ACTIONS))
@pytest.mark.parametrize("project", ["vision", None])
def test_a_global_admin_may_everything(action: str, project: str | None) -> None:
    actor = Actor(name="root", principal_id=3, kind="user", global_role="admin")
    assert decide(actor, action, project).allowed


@pytest.mark.parametrize("action", sorted(ACTIONS - SELF_ACTIONS))
@pytest.mark.parametrize("project", ["vision", None])
def test_a_global_auditor_reads_and_changes_nothing(action: str, project: str | None) -> None:
    actor = Actor(name="audit", principal_id=4, kind="user", global_role="auditor")
    assert decide(actor, action, project).allowed is (action in AUDITOR_MAY)


def test_a_role_in_a_project_gives_no_right_on_the_service() -> None:
    for action in ACTIONS - SELF_ACTIONS:
        assert not decide(member("admin"), action, None).allowed


@pytest.mark.parametrize("action", sorted(SELF_ACTIONS))
def test_everyone_signed_in_may_act_on_their_own_account(action: str) -> None:
    stranger = Actor(name="new", principal_id=5, kind="user", global_role=None)
    assert decide(stranger, action, None).allowed


def test_a_scanner_looks_into_quarantine_where_it_has_a_role_and_nowhere_else() -> None:
    for role in ROLES:
        for action in ("quarantine.read", "version.pull"):
            assert decide(member(role, kind="scanner"), action, "vision").allowed
            assert not decide(member(role, kind="scanner"), action, "other").allowed
    assert decide(scoped("guest", kind="scanner"), "quarantine.read", "vision").allowed
    assert not decide(member("guest", kind="scanner"), "version.push", "vision").allowed


@pytest.mark.parametrize("kind", ["user", "robot", "sync", "ci"])
def test_no_other_kind_adds_a_right(kind: str) -> None:
    assert not decide(member("guest", kind=kind), "quarantine.read", "vision").allowed


@pytest.mark.parametrize("action", ["", "version.pul", "VERSION.PULL", "version.pull ", "*", "admin"])
@pytest.mark.parametrize("who", [ANONYMOUS, member("admin", global_role="admin")])
def test_an_unknown_action_is_an_error_and_never_an_answer(action: str, who: Actor) -> None:
    with pytest.raises(SetupError):
        decide(who, action, "vision")


def test_an_unknown_role_in_the_database_gives_nothing() -> None:
    assert not decide(member("owner"), "project.read", "vision").allowed
    assert not decide(member("owner"), "project.read", "vision").visible


def test_an_unknown_global_role_gives_nothing() -> None:
    actor = Actor(name="x", principal_id=1, kind="user", global_role="superuser")
    assert not decide(actor, "project.read", "vision").allowed


@given(st.sampled_from(list(itertools.combinations(ROLES, 2))))
def test_a_role_includes_all_below_it(pair: tuple[str, str]) -> None:
    lower, higher = pair
    assert actions_of(lower) < actions_of(higher)


@given(
    st.one_of(st.none(), st.sampled_from([*ROLES, "owner"])),
    st.one_of(st.none(), st.sampled_from(["auditor", "admin"])),
    st.one_of(st.none(), st.sampled_from(ROLES)),
    st.sampled_from(sorted(ACTIONS)),
    st.sampled_from(["vision", "other", None]),
)
def test_an_invisible_project_allows_nothing(
    role: str | None, global_role: str | None, token_role: str | None, action: str, project: str | None
) -> None:
    actor = Actor(
        name="x",
        principal_id=1,
        kind="user",
        global_role=global_role,
        roles={"vision": role} if role else {},
        token_project="vision" if token_role else None,
        token_role=token_role,
    )
    decision = decide(actor, action, project)
    assert not (decision.allowed and not decision.visible)


def test_actions_of_an_unknown_role_is_an_error() -> None:
    with pytest.raises(InvalidInput):
        actions_of("owner")


@pytest.mark.parametrize("granted", ROLES)
@pytest.mark.parametrize("held", ROLES)
def test_nobody_grants_more_than_they_hold(held: str, granted: str) -> None:
    assert may_grant(member(held), role=granted, project="vision") is (ROLES.index(granted) <= ROLES.index(held))
    assert not may_grant(member(held), role=granted, project="other")


def test_a_global_admin_grants_any_role_and_an_auditor_none() -> None:
    admin = Actor(name="root", principal_id=3, kind="user", global_role="admin")
    auditor = Actor(name="audit", principal_id=4, kind="user", global_role="auditor")
    assert all(may_grant(admin, role=role, project="vision") for role in ROLES)
    assert not any(may_grant(auditor, role=role, project="vision") for role in ROLES if role != "guest")
    assert not may_grant(admin, role="owner", project="vision")


def with_claims(**repositories: tuple[str, ...]) -> Actor:
    named = {name.replace("__", "/"): actions for name, actions in repositories.items()}
    return Actor(
        name="x", principal_id=1, kind="user", global_role="admin", roles={"vision": "admin"}, repositories=named
    )


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_a_registry_token_only_reads_about_repositories_it_may_pull(action: str) -> None:
    actor = with_claims(vision__a=("pull", "push"), vision__b=("push",))
    reads = {"project.read", "model.read", "version.pull", "evidence.read", "quarantine.manifest.read"}
    assert within_claims(actor, action, "vision/a") is (action in reads or action == "self.read")
    assert within_claims(actor, action, "vision/b") is (action == "self.read")
    assert within_claims(actor, action, "vision/c") is (action == "self.read")
    assert within_claims(actor, action, None) is (action == "self.read")


def test_an_actor_with_an_api_token_is_not_bound_by_claims() -> None:
    assert within_claims(member("guest"), "project.delete", None)
