"""What is an API token? 256 random bits behind a recognisable prefix; only its SHA-256 is ever stored."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

PREFIX: Final = "berth_"
_RANDOM_BYTES: Final = 32  # 43 characters of URL-safe base64


def new_token() -> tuple[str, bytes]:
    """A fresh token: its text, to be shown once, and the hash to store."""
    text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return text, hash_token(text)


def hash_token(text: str) -> bytes:
    """SHA-256 of a token's text. Tokens hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def is_token(text: str) -> bool:
    """Does the text look like one of our API tokens (as opposed to a signed bearer token)?"""
    return text.startswith(PREFIX)
