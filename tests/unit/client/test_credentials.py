"""Where a client's token comes from, and who may read it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from berth.client import credentials
from berth.client.credentials import Login
from berth.client.keyfiles import read_private, read_public, write_pair
from berth.errors import Conflict, InvalidInput, SetupError
from berth.settings import ClientSettings
from berth.signing import keys


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BERTH_URL", "BERTH_TOKEN", "BERTH_USER", "XUMI_HOME"):
        monkeypatch.delenv(name, raising=False)


def settings(home: Path, **more: object) -> ClientSettings:
    return ClientSettings.model_validate({"home": home, **more})


def test_the_stored_login_is_used_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = credentials.store(tmp_path / "home", Login("https://berth.example", "secret", "alice"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert credentials.login_for(settings(tmp_path / "home")) == Login("https://berth.example", "secret", "alice")


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.store(tmp_path, Login("https://berth.example", "stored", "alice"))
    monkeypatch.setenv("BERTH_TOKEN", "given")
    monkeypatch.setenv("XUMI_HOME", str(tmp_path))
    assert credentials.login_for(credentials.environment()).token == "given"


def test_a_token_is_never_shown_to_another_service(tmp_path: Path) -> None:
    credentials.store(tmp_path, Login("https://berth.example", "secret", "alice"))
    found = credentials.login_for(settings(tmp_path, url="https://other.example"))
    assert found == Login("https://other.example", None, None)


def test_the_last_login_is_the_default_and_can_be_forgotten(tmp_path: Path) -> None:
    credentials.store(tmp_path, Login("https://one.example", "1"))
    credentials.store(tmp_path, Login("https://two.example", "2"))
    assert credentials.login_for(settings(tmp_path)).url == "https://two.example"
    assert credentials.forget(tmp_path, "https://two.example") is True
    assert credentials.forget(tmp_path, "https://two.example") is False
    assert credentials.login_for(settings(tmp_path)).token == "1"


def test_without_anything_the_local_service_is_used_anonymously(tmp_path: Path) -> None:
    assert credentials.login_for(settings(tmp_path)) == Login("http://127.0.0.1:8080", None, None)


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("{")
    with pytest.raises(SetupError):
        credentials.login_for(settings(tmp_path))


def test_a_login_does_not_show_its_token() -> None:
    assert "secret" not in repr(Login("https://berth.example", "secret"))
    assert "secret" not in repr(ClientSettings.model_validate({"token": SecretStr("secret")}))


def test_a_key_pair_is_written_for_its_owner_only_and_never_over_another(tmp_path: Path) -> None:
    private, public = keys.generate("ecdsa-p256", b"pw")
    key_file, public_file = write_pair(tmp_path / "release", private, public)
    assert (key_file.name, public_file.name) == ("release.key", "release.pub")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert read_private(key_file, b"pw").public == read_public(public_file)
    with pytest.raises(InvalidInput):
        read_private(key_file, b"wrong")
    with pytest.raises(Conflict):
        write_pair(tmp_path / "release", *keys.generate())
    assert key_file.read_bytes() == private
    (tmp_path / "other.pub").write_text("mine")
    with pytest.raises(Conflict):
        write_pair(tmp_path / "other", private, public)
    assert not (tmp_path / "other.key").exists()
