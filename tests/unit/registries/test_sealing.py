"""Stored credentials are unreadable without the key, for another purpose, or after a change."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from berth.db.sealing import KEY_FILE, Sealer, sealer
from berth.errors import SetupError
from berth.settings import ServiceSettings

KEY = b"k" * 32


def test_a_sealed_secret_is_read_with_the_same_key_and_purpose_only() -> None:
    sealed = Sealer(KEY).seal("s3cret", purpose="registry a")
    assert b"s3cret" not in sealed
    assert Sealer(KEY).open(sealed, purpose="registry a") == "s3cret"
    for other, purpose in ((Sealer(KEY), "registry b"), (Sealer(b"q" * 32), "registry a")):
        with pytest.raises(SetupError) as failed:
            other.open(sealed, purpose=purpose)
        assert "s3cret" not in str(failed.value)


@pytest.mark.parametrize("place", [0, 1, 14, -1])
def test_a_changed_byte_is_noticed(place: int) -> None:
    sealed = bytearray(Sealer(KEY).seal("s3cret", purpose="p"))
    sealed[place] ^= 1
    with pytest.raises(SetupError):
        Sealer(KEY).open(bytes(sealed), purpose="p")


def test_the_same_secret_is_never_sealed_to_the_same_bytes() -> None:
    one = Sealer(KEY)
    assert one.seal("x", purpose="p") != one.seal("x", purpose="p")


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = ServiceSettings(data=tmp_path / "data")
    sealed = sealer(settings).seal("x", purpose="p")
    key = tmp_path / "data" / KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sealer(settings).open(sealed, purpose="p") == "x"
    assert [p.name for p in key.parent.iterdir()] == [KEY_FILE]


def test_a_key_file_that_is_set_is_used_and_never_made(tmp_path: Path) -> None:
    file = tmp_path / "outside" / "key"
    settings = ServiceSettings(data=tmp_path / "data", secret_key_file=file)
    with pytest.raises(SetupError):
        sealer(settings)
    file.parent.mkdir()
    file.write_bytes(b"short")
    with pytest.raises(SetupError, match="too short"):
        sealer(settings)
    file.write_bytes(KEY + b"\n")
    assert sealer(settings).open(Sealer(KEY).seal("x", purpose="p"), purpose="p") == "x"
    assert not (tmp_path / "data").exists()


def test_no_sealer_shows_its_key() -> None:
    assert repr(Sealer(KEY)) == "Sealer(…)"
