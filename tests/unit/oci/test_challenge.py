"""Challenges as registries really send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.oci import challenge
from berth.oci.challenge import Challenge, Scope

SCOPE = "repository:library/x:pull,push"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="%s"' % SCOPE],
            [("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": SCOPE})],
        ),
        (['BASIC REALM="My Registry, inc."'], [("basic", {"realm": "My Registry, inc."})]),
        (
            ['Bearer realm="r" , service = s, Basic realm="b"'],
            [("bearer", {"realm": "r", "service": "s"}), ("basic", {"realm": "b"})],
        ),
        (["Basic", "Bearer realm=r"], [("basic", {}), ("bearer", {"realm": "r"})]),
        (["Negotiate YII+/=, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([r'Bearer realm="a \"b\" \\c"'], [("bearer", {"realm": r'a "b" \c'})]),
        (["Bearer realm=https://x/y?a=b"], [("bearer", {"realm": "https://x/y?a=b"})]),
        (['Bearer realm="1",realm="2"'], [("bearer", {"realm": "1"})]),
        ([""], []),
        ([], []),
        (['Bearer realm="open'], [("bearer", {"realm": "open"})]),
    ],
)
def test_challenges_are_read(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert challenge.parse(values) == [Challenge(scheme, params) for scheme, params in expected]


def test_our_own_challenge_has_the_form_of_the_token_specification() -> None:
    assert (
        challenge.bearer("https://h/token", "h", [Scope("repository", "a/b", ("pull", "push"))], "insufficient_scope")
        == 'Bearer realm="https://h/token",service="h",scope="repository:a/b:pull,push",error="insufficient_scope"'
    )
    assert challenge.bearer("r", "s") == 'Bearer realm="r",service="s"'
    assert challenge.bearer("r", "s", ["x:y:z", "a:b:c"]).endswith('scope="x:y:z a:b:c"')


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_value_can_end_the_header_line_or_add_a_parameter(realm: str, service: str) -> None:
    line = challenge.bearer(realm, service)
    assert "\n" not in line
    assert "\r" not in line
    [parsed] = challenge.parse([line])
    assert parsed.params.keys() == {"realm", "service"}
    assert parsed.params["realm"] == "".join(char for char in realm if char.isprintable())


@given(st.lists(st.text('Bb= ",\\\t/x', max_size=40), max_size=3))
def test_any_header_is_read_without_an_error(values: list[str]) -> None:
    challenge.parse(values)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("repository:a/b:pull,push", Scope("repository", "a/b", ("pull", "push"))),
        ("repository:host:5000/a/b:pull", Scope("repository", "host:5000/a/b", ("pull",))),
        ("registry:catalog:*", Scope("registry", "catalog", ("*",))),
        ("repository:a/b:", Scope("repository", "a/b", ())),
    ],
)
def test_scopes_split_from_both_ends(text: str, scope: Scope) -> None:
    assert Scope.parse(text) == scope
    assert str(scope) == text


@pytest.mark.parametrize("text", ["", "repository", "repository:a/b", ":a:pull", "repository::pull"])
def test_a_malformed_scope_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Scope.parse(text)
