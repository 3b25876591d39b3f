"""How are secrets kept that we have to show to others again? Sealed with AES-256-GCM; the key is not in the database.

A sealed value is bound to its purpose (the row it belongs to), so that one row's secret cannot be moved to another.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from berth.errors import SetupError
from berth.settings import ServiceSettings

KEY_FILE = "secret.key"
FEWEST_CHARACTERS = 32
_FORM = b"\x01"
_NONCE = 12


class Sealer:
    """Seals and opens with one key.

    Args:
        material: the content of the key file; any 32 random characters or more.
    """

    def __init__(self, material: bytes) -> None:
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"berth sealed secrets").derive(material)
        self._cipher = AESGCM(derived)

    def __repr__(self) -> str:
        return "Sealer(…)"

    def seal(self, text: str, *, purpose: str) -> bytes:
        """The text, readable only with this key and for this purpose."""
        nonce = secrets.token_bytes(_NONCE)
        return _FORM + nonce + self._cipher.encrypt(nonce, text.encode(), purpose.encode())

    def open(self, sealed: bytes, *, purpose: str) -> str:
        """Raises SetupError when the value was sealed with another key, for something else, or is damaged."""
        try:
            if sealed[:1] != _FORM:
                raise InvalidTag
            nonce, rest = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
            return self._cipher.decrypt(nonce, rest, purpose.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise SetupError(
                f"The stored secret of {purpose} cannot be read with this key.",
                hint="Give the key that it was stored with (BERTH_SECRET_KEY_FILE), or store the secret again.",
            ) from error


def sealer(settings: ServiceSettings) -> Sealer:
    """The sealer of this installation; makes DATA/secret.key (0600) when no key file is set and none is there.

    Raises SetupError when the key cannot be read or is too short.
    """
    path = settings.secret_key_file or settings.data_dir / KEY_FILE
    if settings.secret_key_file is None:
        _ensure(path)
    try:
        material = path.read_bytes().strip()
    except OSError as error:
        raise SetupError(f"The key file {path} cannot be read: {error.strerror}.") from error
    if len(material) < FEWEST_CHARACTERS:
        raise SetupError(
            f"The key in {path} is too short.", hint=f"Write at least {FEWEST_CHARACTERS} random characters into it."
        )
    return Sealer(material)


def _ensure(path: Path) -> None:
    """Several processes may start at once: the first link wins, and nobody ever reads half a key."""
    if path.exists():
        return
    temporary = path.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, secrets.token_urlsafe(48).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError as error:
        raise SetupError(f"The key file {path} cannot be made: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)
