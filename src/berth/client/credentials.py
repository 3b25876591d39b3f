"""Where does a client keep the token of a service? In `XUMI_HOME/credentials`, a file only its owner can read.

Settings of the environment win over the file; the file is written by `xumi login`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from berth.errors import InvalidInput, SetupError
from berth.settings import ClientSettings

FILE = "credentials"


@dataclass(frozen=True)
class Login:
    """A service and how to act on it."""

    url: str
    token: str | None = field(default=None, repr=False)
    user: str | None = None


def normal_url(url: str) -> str:
    """`url` without a trailing slash, path or query; raises InvalidInput when it is not http(s)://host[:port]."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == -1
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise InvalidInput(f"{url!r} is not the address of a service.", hint="Write https://host or http://host:port.")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def environment() -> ClientSettings:
    """The client's settings as the environment gives them."""
    return ClientSettings.model_validate({})


def login_for(settings: ClientSettings) -> Login:
    """The service to use: environment first, then the file's entry for that address, then the last login."""
    stored = _read(settings.home / FILE)
    url = normal_url(settings.url if "url" in settings.model_fields_set else stored.get("default") or settings.url)
    entry = stored.get("services", {}).get(url, {})
    token = settings.token.get_secret_value() if settings.token else entry.get("token")
    return Login(url=url, token=token or None, user=settings.user or entry.get("user"))


def store(home: Path, login: Login) -> Path:
    """Keeps `login` and makes it the default; returns the file. The file is readable by its owner only (0600)."""
    file = home / FILE
    stored = _read(file)
    stored.setdefault("services", {})[login.url] = {"token": login.token, "user": login.user}
    stored["default"] = login.url
    _write(file, stored)
    return file


def forget(home: Path, url: str) -> bool:
    """Removes the entry of `url`; False when there was none."""
    file = home / FILE
    stored = _read(file)
    if stored.get("services", {}).pop(url, None) is None:
        return False
    if stored.get("default") == url:
        stored["default"] = next(iter(stored["services"]), None)
    _write(file, stored)
    return True


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read: {error}.", hint="Repair or remove it, then `xumi login`.") from error
    if not isinstance(content, dict) or not isinstance(content.get("services", {}), dict):
        raise SetupError(f"{file} is not a credentials file.", hint="Remove it, then `xumi login`.")
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{FILE}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
