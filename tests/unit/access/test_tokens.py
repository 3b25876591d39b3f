"""API tokens: enough randomness, a known shape, only the hash kept. Authorization headers: what is read or refused."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from berth.access.authenticate import Credentials, parse_authorization
from berth.access.tokens import hash_token, is_token, new_token
from berth.errors import Unauthenticated


def test_a_token_is_berth_and_43_url_safe_characters() -> None:
    text, _ = new_token()
    assert re.fullmatch(r"berth_[A-Za-z0-9_-]{43}", text)
    assert is_token(text)


def test_the_stored_hash_is_sha256_of_the_text() -> None:
    text, hashed = new_token()
    assert hashed == hashlib.sha256(text.encode()).digest() == hash_token(text)


def test_tokens_do_not_repeat() -> None:
    assert len({new_token()[0] for _ in range(1000)}) == 1000


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer berth_x", Credentials(None, "berth_x")),
        ("bearer   berth_x ", Credentials(None, "berth_x")),
        (basic("alice:berth_x"), Credentials("alice", "berth_x")),
        (basic("alice:with:colon"), Credentials("alice", "with:colon")),
        (basic("jörg:berth_x"), Credentials("jörg", "berth_x")),
        (None, None),
        ("", None),
        ("  ", None),
    ],
)
def test_headers_that_are_read(header: str | None, expected: Credentials | None) -> None:
    assert parse_authorization(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Basic",
        "Basic ???",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b":no user").decode(),
        "Basic " + base64.b64encode(b"no secret:").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(b"a\0b:x").decode(),
        "Digest username=alice",
        "berth_x",
    ],
)
def test_headers_that_are_refused(header: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_authorization(header)


def test_credentials_never_show_their_secret() -> None:
    assert "berth_x" not in repr(Credentials("alice", "berth_x"))
