"""`berth registry`: what it asks the service and what it prints; the password comes from standard input only."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from tests.unit.cli.conftest import Ran, Service

Cli = Callable[..., Ran]
ROW = {
    "name": "harbor",
    "kind": "harbor",
    "url": "https://harbor.example",
    "username": "robot",
    "has_secret": True,
    "options": {},
    "capabilities": {"referrers": True, "largest_blob": None, "notes": ["no repository to look at"]},
    "probed_at": None,
}
ADD = ("berth", "registry", "add", "harbor", "--kind", "harbor", "--url", "https://harbor.example")


def test_add_sends_the_password_from_standard_input(
    cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["POST /api/v1/registries"] = (201, ROW)
    monkeypatch.setattr("sys.stdin", io.StringIO("pass word\n"))
    more = ("--prefix", "ml", "--insecure", "--option", 'realm_hosts=["auth.example"]', "--option", "api_url=x")
    ran = cli(*ADD, "--username", "robot", "--password-stdin", *more)
    assert (ran.code, ran.out) == (0, "Added registry harbor.\n")
    assert "pass word" not in ran.err
    assert service.asked[0][1] == {
        "name": "harbor",
        "kind": "harbor",
        "url": "https://harbor.example",
        "username": "robot",
        "secret": "pass word",
        "options": {"realm_hosts": ["auth.example"], "api_url": "x", "prefix": "ml", "insecure": True},
        "takes_open": False,
    }


def test_set_changes_only_what_is_given(cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answers["GET /api/v1/registries/harbor"] = (200, {**ROW, "options": {"prefix": "ml", "flat": True}})
    service.answers["PATCH /api/v1/registries/harbor"] = (200, ROW)
    monkeypatch.setattr("sys.stdin", io.StringIO("next"))
    assert cli("berth", "registry", "set", "harbor", "--password-stdin").code == 0
    assert cli("berth", "registry", "set", "harbor", "--option", "flat=", "--option", "prefix=new").code == 0
    assert [body for line, body, _ in service.asked if line.startswith("PATCH")] == [
        {"secret": "next"},
        {"options": {"prefix": "new"}},
    ]


def test_an_empty_password_is_refused_before_anything_is_sent(
    cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli(*ADD, "--password-stdin").code == 1
    assert cli(*ADD, "--option", "no-value").code == 1
    assert service.asked == []


def test_probe_prints_what_it_found_and_the_notes_apart(cli: Cli, service: Service) -> None:
    service.answers["POST /api/v1/registries/harbor/probe"] = (200, ROW)
    ran = cli("berth", "registry", "probe", "harbor", "--repository", "lab/probe")
    assert [line.split(": ", 1)[0].strip() for line in ran.out.splitlines()] == ["largest_blob", "referrers"]
    assert [line.split()[-1] for line in ran.out.splitlines()] == ["-", "yes"]
    assert ran.err == "note: no repository to look at\n"
    assert service.asked[0][1] == {"repository": "lab/probe"}


def test_lists_and_removal(cli: Cli, service: Service) -> None:
    service.answers["GET /api/v1/registries"] = (200, {"items": [ROW], "next": None})
    service.answers["GET /api/v1/registries/harbor"] = (200, ROW)
    service.answers["DELETE /api/v1/registries/harbor"] = (204, b"")
    service.answers["GET /api/v1/registry-kinds"] = (
        200,
        {"items": [{"name": "quay", "title": "Quay", "options": {"prefix": "…"}, "capabilities": {}}]},
    )
    assert "harbor" in cli("berth", "registry", "ls").out
    assert cli("berth", "registry", "show", "harbor", "-o", "json").json == ROW
    assert cli("berth", "registry", "rm", "harbor", "--yes").code == 0
    assert "prefix" in cli("berth", "registry", "kinds").out
