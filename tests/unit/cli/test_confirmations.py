"""What cannot be taken back asks first, names what hangs on it, and does nothing where nobody answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from berth.cli.berth import COMMANDS
from berth.cli.lazy import Branch, Leaf
from tests.unit.cli.conftest import Ran, Service

Cli = Callable[..., Ran]
API = "/api/v1"
HARBOR = {
    "name": "harbor",
    "url": "https://h.example",
    "username": "robot$vision+ci",
    "has_secret": True,
    "has_hook": True,
}
ROBOTS = {"items": [{"id": 7, "name": "robot$vision+ci"}, {"id": 8, "name": "robot$vision+x"}], "next": None}
RULES = {
    "items": [
        {"name": "in", "source": "harbor", "target": "depot", "on_event": True},
        {"name": "out", "source": "depot", "target": "harbor", "on_event": False},
        {"name": "else", "source": "depot", "target": "hub", "on_event": False},
    ],
    "next": None,
}
TOKENS = {
    "items": [
        {"id": 17, "name": "ci", "user": "alice", "project": "vision", "role": "developer", "revoked_at": None},
        {"id": 18, "name": "", "user": "alice", "project": "vision", "role": "reader", "revoked_at": "2026-01-01"},
        {"id": 19, "name": "", "user": "alice", "project": None, "role": None, "revoked_at": None},
    ],
    "next": None,
}
KEYS = {"items": [{"name": "release", "key_id": "0123456789abcdef0123"}, {"name": "old", "key_id": "f"}], "next": None}
MEMBERS = {"items": [{"user": "alice", "role": "developer"}], "next": None}
RULE = {"name": "home", "source": "depot", "target": "harbor", "project": "vision"}
LOOKED_UP: dict[str, Any] = {
    f"GET {API}/registries/harbor": HARBOR,
    f"GET {API}/sync/rules": RULES,
    f"GET {API}/sync/rules/home": RULE,
    f"GET {API}/tokens": TOKENS,
    f"GET {API}/projects/vision/keys": KEYS,
    f"GET {API}/projects/vision/members": MEMBERS,
    f"GET {API}/projects/vision/models/net/aliases": {"items": [{"alias": "prod", "version": "1.2.0"}], "next": None},
    f"GET {API}/registries/harbor/projects/vision/robots": ROBOTS,
    f"GET {API}/registries/harbor/projects/vision": {"rules": [{"id": 3, "tags": "[0-9]*", "repositories": "**"}]},
}


@dataclass(frozen=True)
class Case:
    """A command, what its question names, and the one request that does it."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    does: str
    answer: tuple[int, Any] = (204, b"")


ROBOT = (200, {"id": 7, "name": "robot$vision+ci", "rights": [], "expires_at": None, "disabled": False, "secret": "s"})
HOOK = (200, {"address": "https://b.example/hooks/harbor", "secret": "s", "authorization": "Bearer s", "installed": []})
CASES = [
    Case(
        ("registry", "rm", "harbor"),
        ("https://h.example", "its password and its webhook's secret", "Used by 2 rules: in, out."),
        f"DELETE {API}/registries/harbor",
    ),
    Case(("registry", "unhook", "harbor"), ("They start 1 rule: in.",), f"DELETE {API}/registries/harbor/hook"),
    Case(("registry", "hook", "harbor", "--anew"), ("old one",), f"POST {API}/registries/harbor/hook", HOOK),
    Case(
        ("registry", "robot", "rm", "harbor", "vision", "7"),
        ("robot$vision+ci (which this service itself uses there)",),
        f"DELETE {API}/registries/harbor/projects/vision/robots/7",
    ),
    Case(
        ("registry", "robot", "renew", "harbor", "vision", "7"),
        ("robot$vision+ci (which this service itself uses there)",),
        f"POST {API}/registries/harbor/projects/vision/robots/7/secret",
        ROBOT,
    ),
    Case(
        ("registry", "unprotect", "harbor", "vision", "3"),
        ("tags [0-9]* in **",),
        f"DELETE {API}/registries/harbor/projects/vision/protected-tags/3",
    ),
    Case(("token", "revoke", "17"), ("'ci' of alice, developer in vision",), f"DELETE {API}/tokens/17"),
    Case(
        ("key", "untrust", "release", "--project", "vision"),
        ("0123456789abcdef…", "2 keys"),
        f"DELETE {API}/projects/vision/keys/release",
    ),
    Case(("sync", "rule", "rm", "home"), ("depot → harbor, project vision",), f"DELETE {API}/sync/rules/home"),
    Case(
        ("member", "rm", "alice", "--project", "vision"),
        ("developer", "ends 1 token"),
        f"DELETE {API}/projects/vision/members/alice",
    ),
    Case(("project", "rm", "vision"), ("1 role", "2 trusted keys"), f"DELETE {API}/projects/vision"),
    Case(
        ("alias", "rm", "vision/net", "prod"),
        ("1.2.0 now",),
        f"DELETE {API}/projects/vision/models/net/aliases/prod",
    ),
]


@pytest.fixture
def scripted(service: Service) -> Service:
    service.answers |= {line: (200, found) for line, found in LOOKED_UP.items()}
    return service


def did(service: Service) -> list[str]:
    return [line for line, _, _ in service.asked if not line.startswith("GET ")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.words[:3]))
class TestWhatCannotBeTakenBack:
    def test_nobody_answers_and_nothing_is_done(self, cli: Cli, scripted: Service, case: Case) -> None:
        scripted.answers[case.does] = case.answer
        ran = cli("berth", *case.words, "-o", "json")
        assert ran.code != 0
        assert did(scripted) == []
        assert ran.out == "", "with -o json nothing but JSON reaches stdout"
        for name in case.names:
            assert name in ran.err
        assert "--yes" in ran.error["hint"]

    def test_a_no_changes_nothing_and_a_yes_does_it(
        self, cli: Cli, scripted: Service, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scripted.answers[case.does] = case.answer
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        assert cli("berth", *case.words).code != 0
        assert did(scripted) == []
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        ran = cli("berth", *case.words)
        assert (ran.code, did(scripted)) == (0, [case.does]), ran.err

    def test_scripts_say_yes_and_get_json(self, cli: Cli, service: Service, case: Case) -> None:
        service.answers[case.does] = case.answer
        ran = cli("berth", *case.words, "--yes", "-o", "json")
        assert ran.code == 0, ran.err
        assert isinstance(ran.json, dict)
        assert [line for line, _, _ in service.asked] == [case.does], "nothing is looked up that is not asked about"


def test_a_robot_that_is_adopted_or_anothers_is_not_warned_of(cli: Cli, scripted: Service) -> None:
    renewed = cli("berth", "registry", "robot", "renew", "harbor", "vision", "7", "--adopt")
    other = cli("berth", "registry", "robot", "rm", "harbor", "vision", "8")
    unknown = cli("berth", "registry", "robot", "rm", "harbor", "vision", "9")
    assert [("itself uses" in ran.err) for ran in (renewed, other, unknown)] == [False] * 3
    assert "robot 9" in unknown.err


def test_a_first_hook_is_made_without_a_question(cli: Cli, scripted: Service) -> None:
    scripted.answers[f"GET {API}/registries/harbor"] = (200, {**HARBOR, "has_hook": False})
    scripted.answers[f"POST {API}/registries/harbor/hook"] = HOOK
    assert cli("berth", "registry", "hook", "harbor", "--anew").code == 0


def leaves(branch: Branch, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, entry in branch.commands.items():
        words = (*before, name)
        found += [words] if isinstance(entry, Leaf) else leaves(entry, words)
    return found


def test_every_command_that_removes_is_under_this_suite() -> None:
    removing = {words for words in leaves(COMMANDS) if words[-1] in ("rm", "revoke", "untrust", "unhook", "unprotect")}
    asked = {case.words[: len(words)] for words in removing for case in CASES}
    assert removing - asked == {("version", "rm")}, "which test_commands.py holds"
