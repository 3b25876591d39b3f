"""How do key files come to and from the disk? Private ones readable by their owner only, none ever overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from berth.errors import Conflict, InvalidInput
from berth.signing.keys import MAX_PEM_BYTES, PrivateKey, PublicKey, load_private, load_public


def write_pair(base: Path, private: bytes, public: bytes) -> tuple[Path, Path]:
    """Writes BASE.key (0600) and BASE.pub; returns both paths. Raises Conflict when either is there already."""
    key_file, public_file = base.with_name(base.name + ".key"), base.with_name(base.name + ".pub")
    for file in (key_file, public_file):
        if file.exists() or file.is_symlink():
            raise Conflict(f"{file} exists already.", hint="Choose another name; keys are never overwritten.")
    _create(key_file, private, 0o600)
    try:
        _create(public_file, public, 0o644)
    except BaseException:
        key_file.unlink(missing_ok=True)
        raise
    return key_file, public_file


def read_private(file: Path, password: bytes | None) -> PrivateKey:
    """Raises InvalidInput for anything but a private key of ours that `password` opens."""
    return load_private(_read(file), password)


def read_public(file: Path) -> PublicKey:
    """Raises InvalidInput for anything but a public key we accept."""
    return load_public(_read(file))


def _create(file: Path, content: bytes, mode: int) -> None:
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise Conflict(f"{file} exists already.", hint="Choose another name; keys are never overwritten.") from error
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from error
