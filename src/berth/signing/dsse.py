"""What is a DSSE envelope and which bytes does it sign? (DSSE v1.0 protocol, signing rules sections 3 and 4.)"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from berth.errors import InvalidInput
from berth.oci.media_types import IN_TOTO
from berth.signing.classic import decode_signature
from berth.signing.keys import PrivateKey

# An envelope may carry several signatures; a sane one has a handful.
MAX_ENVELOPE_SIGNATURES = 10


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded envelope; `signatures` holds (raw bytes, base64 text), raw None where the text is malformed."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[bytes | None, str], ...]

    @property
    def signed_bytes(self) -> bytes:
        """The pre-authentication encoding of type and payload."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """`DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload`, lengths in decimal bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: PrivateKey, payload_type: str = IN_TOTO) -> dict[str, Any]:
    """The envelope as a JSON object, in the field order that cosign writes, with one signature and no keyid."""
    signature = key.sign(pae(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [{"sig": base64.b64encode(signature).decode("ascii")}],
    }


def read(value: object) -> Envelope:
    """Decode an envelope from parsed JSON; `keyid` is tolerated and ignored.

    Raises:
        InvalidInput: a field is missing or malformed.
    """
    if not isinstance(value, dict):
        raise InvalidInput("The envelope is not an object.")
    payload_type, payload, entries = value.get("payloadType"), value.get("payload"), value.get("signatures")
    if not isinstance(payload_type, str) or not isinstance(payload, str):
        raise InvalidInput("The envelope has no payloadType or payload.")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_ENVELOPE_SIGNATURES:
        raise InvalidInput(f"The envelope has not between 1 and {MAX_ENVELOPE_SIGNATURES} signatures.")
    try:
        decoded = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("The envelope's payload is not base64.") from None
    return Envelope(payload_type, decoded, tuple(_signature(entry) for entry in entries))


def _signature(entry: Any) -> tuple[bytes | None, str]:
    text = entry.get("sig") if isinstance(entry, dict) else None
    return (decode_signature(text), text) if isinstance(text, str) else (None, "")
