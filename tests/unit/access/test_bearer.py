"""Bearer tokens: at most five minutes, one algorithm, one audience, nothing accepted that we did not sign."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from berth.access import bearer
from berth.errors import SetupError, Unauthenticated

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SECRET = bytes(range(32))


def issued(**changes: Any) -> str:
    values: dict[str, Any] = {
        "name": "alice",
        "principal_id": 7,
        "epoch": 3,
        "token_id": 11,
        "repositories": {"vision/detector": ["push", "pull"]},
        "now": NOW,
    }
    return bearer.issue(SECRET, **{**values, **changes})


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(claims: dict[str, Any], *, header: dict[str, Any] | None = None, secret: bytes = SECRET) -> str:
    """A compact JWS built here, after RFC 7515, without the library under test."""
    signed = f"{segment(header or {'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}"
    return f"{signed}.{segment(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def good_claims(**changes: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    claims: dict[str, Any] = {
        "aud": "berth",
        "sub": "alice",
        "pid": 7,
        "epoch": 3,
        "tid": 11,
        "repositories": {"vision/detector": ["pull"]},
        "catalog": False,
        "iat": at,
        "exp": at + 300,
    }
    return {**claims, **changes}


def test_what_was_issued_is_verified() -> None:
    claims = bearer.verify(issued(), SECRET, NOW)
    assert (claims.name, claims.principal_id, claims.epoch, claims.token_id) == ("alice", 7, 3, 11)
    assert claims.repositories == {"vision/detector": ("pull", "push")}
    assert claims.catalog is False


def test_the_signature_is_the_one_of_rfc_7515() -> None:
    head, body, signature = issued().split(".")
    assert signature == segment(hmac.new(SECRET, f"{head}.{body}".encode(), hashlib.sha256).digest())
    assert bearer.verify(handmade(good_claims()), SECRET, NOW).name == "alice"


def test_it_lives_five_minutes_and_not_a_second_longer() -> None:
    text = issued(lifetime=timedelta(days=1))
    assert bearer.verify(text, SECRET, NOW + timedelta(seconds=299)).expires_at == NOW + timedelta(minutes=5)
    with pytest.raises(Unauthenticated):
        bearer.verify(text, SECRET, NOW + timedelta(seconds=300))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "elsewhere"},
        {"aud": None},
        {"aud": ["berth"]},
        {"exp": int(NOW.timestamp()) + 301},
        {"exp": int(NOW.timestamp()) - 1},
        {"exp": "later"},
        {"exp": None},
        {"exp": 1e300},
        {"iat": int(NOW.timestamp()) + 3600, "exp": int(NOW.timestamp()) + 3700},
        {"sub": ""},
        {"sub": 5},
        {"pid": "7"},
        {"pid": True},
        {"epoch": None},
        {"tid": "x"},
        {"repositories": ["vision/detector"]},
        {"repositories": {"vision/detector": "pull"}},
        {"repositories": {"vision/detector": [1]}},
    ],
)
def test_a_well_signed_token_with_odd_claims_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        bearer.verify(handmade(good_claims(**changes)), SECRET, NOW)


@pytest.mark.parametrize("missing", sorted(good_claims()))
def test_a_token_without_a_claim_is_refused_or_means_no(missing: str) -> None:
    claims = good_claims()
    del claims[missing]
    with pytest.raises(Unauthenticated):
        bearer.verify(handmade(claims), SECRET, NOW)


def test_another_secret_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        bearer.verify(handmade(good_claims(), secret=b"x" * 32), SECRET, NOW)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "RS256", ""])
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    header = {"alg": algorithm, "typ": "JWT"}
    unsigned = f"{segment(header)}.{segment(good_claims())}."
    for text in (unsigned, handmade(good_claims(), header=header)):
        with pytest.raises(Unauthenticated):
            bearer.verify(text, SECRET, NOW)


def test_changed_claims_are_refused() -> None:
    head, _, signature = issued().split(".")
    forged = f"{head}.{segment(good_claims(sub='admin'))}.{signature}"
    with pytest.raises(Unauthenticated):
        bearer.verify(forged, SECRET, NOW)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "é.é.é", "berth_abc", "x" * 20_000, segment([1]) + "." + segment([2]) + ".x"]
)
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        bearer.verify(text, SECRET, NOW)


def test_claims_that_are_not_an_object_are_refused() -> None:
    with pytest.raises(Unauthenticated):
        bearer.verify(handmade([1, 2]), SECRET, NOW)  # type: ignore[arg-type]


def test_a_short_secret_is_a_mistake_of_the_set_up() -> None:
    with pytest.raises(SetupError):
        bearer.issue(b"short", name="a", principal_id=1, epoch=0, token_id=None, repositories={}, now=NOW)
