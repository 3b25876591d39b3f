"""The recipes of docs/guides are YAML and shell that parse, and name commands and options that exist."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.authoring import templates
from berth.cli.berth import COMMANDS as BERTH
from berth.cli.main import run
from berth.cli.xumi import COMMANDS as XUMI

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
NAMES = ("first-model.md", "notebooks.md", "ci.md")
PROGRAMS = {"xumi": XUMI, "berth": BERTH}


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def steps(value: Any) -> list[str]:
    """Every shell text in a pipeline's YAML."""
    if isinstance(value, dict):
        own = [value[k] for k in ("run",) if isinstance(value.get(k), str)]
        listed = [s for k in ("script", "before_script") for s in value.get(k, ())]
        return own + listed + [s for k, v in value.items() if k not in ("run", "script") for s in steps(v)]
    if isinstance(value, list):
        return [s for item in value for s in steps(item)]
    return []


def commands() -> list[tuple[str, str]]:
    """(program, the rest of the line) of every command in the guides."""
    shell = [text for guide in NAMES for text in blocks(guide, "sh")]
    shell += [step for text in blocks("ci.md", "yaml") for step in steps(yaml.safe_load(text))]
    shell += re.findall(r"`((?:xumi|berth) [^`]+)`", "".join((GUIDES / name).read_text() for name in NAMES))
    lines = [line.split("  #")[0] for text in shell for line in text.splitlines()]
    found = [m for line in lines for m in re.finditer(r"(?:^|[\s(\"])(xumi|berth) ([a-z][^|)#]*)", line)]
    return sorted({(m[1], m[2].strip()) for m in found if m[2].split()[0] in PROGRAMS[m[1]].commands})


def test_the_guides_hold_commands() -> None:
    assert {line.split()[0] for _, line in commands()} >= {
        "init",
        "bump",
        "diff",
        "validate",
        "build",
        "push",
        "test",
        "sign",
    }


@pytest.mark.parametrize(("program", "line"), commands())
def test_every_command_and_option_exists(program: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    path = words[:2] if program == "berth" and len(words) > 1 and words[1].isalpha() else words[:1]
    assert run(program, PROGRAMS[program], [*path, "--help"]) == 0
    told = capsys.readouterr().out
    for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", line):
        assert re.search(rf"{option}(?![a-z-])", told), f"{program} {path} has no {option}"


@pytest.mark.parametrize("text", blocks("ci.md", "yaml"), ids=["github", "gitlab"])
def test_the_pipelines_are_yaml_with_the_whole_history_and_a_locked_build(text: str) -> None:
    read = yaml.safe_load(text)
    assert any(line.startswith("xumi build --locked") for line in steps(read))
    assert "fetch-depth: 0" in text or 'GIT_DEPTH: "0"' in text
    for step in steps(read):
        assert subprocess.run(["sh", "-n", "-c", step], check=False).returncode == 0, step


@pytest.mark.parametrize("guide", NAMES)
def test_shell_and_python_of_the_guides_parse(guide: str) -> None:
    for text in blocks(guide, "sh"):
        assert subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0, text
    for text in blocks(guide, "python"):
        ast.parse(text)


def test_the_list_of_templates_is_complete() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \|", (GUIDES / "first-model.md").read_text(), re.MULTILINE)
    assert sorted(rows) == templates.names()


STUB = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1" in validate) printf '{\\n  "version": "1.2.3"\\n}\\n' ;; esac
"""


@pytest.mark.parametrize(
    ("tag", "code", "first"),
    [(None, 0, "bump --pre auto"), ("v1.2.3", 0, "validate --file-only"), ("v2.0.0", 1, "validate --file-only")],
)
def test_the_shell_recipe_releases_tags_and_bumps_all_else(
    tmp_path: Path, tag: str | None, code: int, first: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "xumi").write_text(STUB)
    (tmp_path / "bin" / "xumi").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LOG": str(tmp_path / "log"), "HOME": str(tmp_path)}
    setup = "git init -q && git -c user.name=A -c user.email=a@example.org commit -q --allow-empty -m x"
    subprocess.run(["sh", "-c", setup + (f" && git tag {tag}" if tag else "")], cwd=work, env=environment, check=True)
    script = next(text for text in blocks("ci.md", "sh") if text.startswith("#!/bin/sh"))
    done = subprocess.run(["sh", "-c", script], cwd=work, env=environment, check=False, capture_output=True)
    assert done.returncode == code, done.stderr
    log = (tmp_path / "log").read_text().splitlines()
    assert log[0].startswith(first)
    if code == 0:
        assert [line.split()[0] for line in log[1:]] == ["validate", "test", "build", "push"]
    else:
        assert len(log) == 1
