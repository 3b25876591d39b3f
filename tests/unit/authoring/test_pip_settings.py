"""pip's settings are read as pip itself reads them: pip is the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from berth.authoring import pip_settings
from berth.errors import InvalidInput

ASK = """
import json
from pip._internal.commands import create_command
found, _ = create_command("install").parser.parse_args([])
names = {"index_url": "index-url", "extra_index_urls": "extra-index-url", "find_links": "find-links",
         "trusted_hosts": "trusted-host", "no_index": "no-index", "keyring_provider": "keyring-provider"}
default = create_command("install").parser.get_option("--index-url").default
print(json.dumps({"default": default} | {shown: getattr(found, name) for name, shown in names.items()}))
"""
SPREAD = """\
[global]
index-url = https://one.example/simple
extra_index_url =
    https://two.example/simple
    https://three.example/simple
--trusted-host = a.example b.example
[install]
no-index = yes
find-links =
[freeze]
index-url = https://never.example/simple
"""

Case = tuple[Mapping[str, str], Mapping[str, str]]
# Path below the home folder → text, and the environment; {home} stands for the folder.
CASES: dict[str, Case] = {
    "nothing": ({}, {}),
    "the environment alone": ({}, {"PIP_INDEX_URL": "https://env.example/simple", "PIP_EXTRA_INDEX_URL": "x  y"}),
    "the user's file": ({".config/pip/pip.conf": SPREAD}, {}),
    "another config folder": ({"own/pip/pip.conf": SPREAD}, {"XDG_CONFIG_HOME": "{home}/own"}),
    "the old place": ({".pip/pip.conf": SPREAD}, {}),
    "the new place over the old": (
        {
            ".pip/pip.conf": "[global]\nindex-url = https://old.example\n",
            ".config/pip/pip.conf": "[global]\nindex-url = https://new.example\n",
        },
        {},
    ),
    "the machine's folders": (
        {"a/pip/pip.conf": "[global]\nindex-url = https://a.example\n", "b/pip/pip.conf": SPREAD},
        {"XDG_CONFIG_DIRS": "{home}/a:{home}/b"},
    ),
    "a named file replaces the user's": (
        {".config/pip/pip.conf": SPREAD, "named": "[global]\nindex-url = https://named.example\n"},
        {"PIP_CONFIG_FILE": "{home}/named"},
    ),
    "a named file that is not there": ({".config/pip/pip.conf": SPREAD}, {"PIP_CONFIG_FILE": "{home}/named"}),
    "no files at all": ({".config/pip/pip.conf": SPREAD}, {"PIP_CONFIG_FILE": os.devnull}),
    "install over global, whatever file": (
        {
            "a/pip/pip.conf": "[install]\nindex-url = https://install.example\n",
            ".config/pip/pip.conf": "[global]\nindex-url = https://global.example\n",
        },
        {"XDG_CONFIG_DIRS": "{home}/a"},
    ),
    "the environment over the files": (
        {".config/pip/pip.conf": SPREAD},
        {"PIP_INDEX_URL": "https://env.example/simple", "PIP_NO_INDEX": "0", "PIP_EXTRA_INDEX_URL": ""},
    ),
    "signs that other readers expand": (
        {".config/pip/pip.conf": "[global]\nindex-url = https://ada:%40p%%q@one.example/simple\n"},
        {},
    ),
    "key rings": ({".config/pip/pip.conf": "[global]\nkeyring-provider = import\n"}, {}),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith(("PIP_", "XDG_CONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def answer_of_pip() -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return {name: value if isinstance(value, list) else [str(value)] for name, value in found.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="the cases name Linux's folders")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_pip_would_use_is_what_is_read(case: Case, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, environment = case
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("{home}", str(home)))
    ours, theirs = pip_settings.read(), answer_of_pip()
    assert ours.get("index-url", theirs["default"]) == theirs["index-url"]
    assert ours.get("keyring-provider", ["auto"]) == theirs["keyring-provider"]
    for name in ("extra-index-url", "find-links", "trusted-host"):
        assert ours.get(name, []) == theirs[name]
    assert (ours.get("no-index", ["0"])[0] in ("yes", "1")) is (theirs["no-index"][0] in ("True", "1"))


def test_a_damaged_file_is_named_and_no_password_is_quoted(home: Path) -> None:
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text("[global]\nthe password is hunter2\n")
    with pytest.raises(InvalidInput) as raised:
        pip_settings.read()
    assert "pip.conf, line 2" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None
