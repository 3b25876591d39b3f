"""What came of checking one signature? One verdict, one reason code, the key and what it signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["cosign-classic", "sigstore-bundle", "attestation", "notation"]
Verdict = Literal["valid", "invalid", "untrusted", "unsupported"]
Reason = Literal[
    "",
    "bad_signature",
    "digest_mismatch",
    "identity_mismatch",
    "wrong_predicate",
    "unknown_key",
    "expired",
    "chain_invalid",
    "bad_format",
    "blob_missing",
]

MAX_SIGNATURES = 100
MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_ATTESTATION_BYTES = 16 * 1024 * 1024
# Longer than base64 of any signature we accept (RSA 8192: 1368 characters); also fits a database index.
MAX_SIGNATURE_TEXT = 2048


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict about one signature.

    `reason` is empty exactly when the verdict is `valid`. `key_id` names the key that made the signature, or for
    Notation the leaf's subject. `annotations` and `predicate` are signed facts and only filled when `valid`;
    `predicate_type` and `signature` (base64) are also given for the others, to be shown.
    """

    verdict: Verdict
    reason: Reason = ""
    key_id: str | None = None
    predicate_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    predicate: Mapping[str, Any] | None = None
    signature: str = ""
