"""What is pip told about package indexes here? Its configuration files and environment, read without starting pip.

The places, their order and the form are those of https://pip.pypa.io/en/stable/topics/configuration/. Asking `pip
config list` takes longer than the rest of a build in which only code changed, and uv works without pip.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from berth.errors import InvalidInput
from berth.settings import environment_of_installers

_NAME = "pip.conf"
# What `pip install` takes, from the weakest to the strongest; the environment is stronger than both.
_SECTIONS = ("global", "install")
_NO_SETTINGS = frozenset({"version", "help"})


def read(environment: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """The settings that hold for `pip install`: long option without dashes → its words.

    Args:
        environment: default: this process's.
    Raises:
        InvalidInput: a configuration file cannot be read, or is damaged.
    """
    environment = environment_of_installers() if environment is None else environment
    found: dict[tuple[str, str], str] = {}
    for path in _files(environment):
        parser = _parsed(path)
        for section in _SECTIONS:
            if parser.has_section(section):
                found |= {(section, _option(name)): value or "" for name, value in parser.items(section)}
    told = {name: value for section in _SECTIONS for (of, name), value in found.items() if of == section and value}
    for name, value in environment.items():
        option = _option(name[4:])
        if name.startswith("PIP_") and value and option not in _NO_SETTINGS:
            told[option] = value
    return {option: value.split() for option, value in told.items()}


def _files(environment: Mapping[str, str]) -> Sequence[Path]:
    """The configuration files that may be there, from the weakest to the strongest."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return ()
    home = Path(environment.get("HOME") or "~").expanduser()
    if sys.platform == "darwin":
        # pip takes this folder when it is there, and else the one that Linux has.
        own = home / "Library/Application Support/pip"
        machine = [Path("/Library/Application Support/pip")]
        user = own if own.is_dir() else home / ".config/pip"
    else:
        folders = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
        machine = [*(Path(folder).expanduser() / "pip" for folder in folders if folder.strip()), Path("/etc")]
        user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config").expanduser() / "pip"
    # A file that is named takes the place of the user's own.
    theirs = [] if named and Path(named).exists() else [home / ".pip", user]
    files = [folder / _NAME for folder in (*machine, *theirs, Path(sys.prefix))]
    return [*files, Path(named)] if named else files


def _parsed(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="locale"), source=str(path))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The error's text may quote a line, and a line may hold a password.
        line = getattr(error, "lineno", None) or next((n for n, _ in getattr(error, "errors", ())), None)
        where = f"{path}, line {line}" if line else str(path)
        raise InvalidInput(
            f"pip's settings cannot be read: {where} ({type(error).__name__}).", hint="`pip config debug` lists them."
        ) from None
    return parser


def _option(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")
