"""Is the tree kept tidy? Docstrings, names, sorted `__all__`, no addresses, paths or secrets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.house.tree import ROOT, modules, report, tracked_files

NAMES_THAT_SAY_NOTHING = frozenset(
    {"utils", "util", "helpers", "helper", "common", "misc", "core", "base_utils", "lib"}
)
LOCK_FILES = frozenset({"uv.lock", "poetry.lock", "Pipfile.lock"})

# Written in two halves, so that this file is no finding of its own.
ADDRESSES = tuple(
    re.compile(a + b)
    for a, b in (
        (r"pypi\.org/", "simple"),
        (r"files\.python", r"hosted\.org"),
        (r"(--(extra-)?index", r"-url)[ =]\S*https?://"),
        (r"^\s*(extra-)?index", r"-url\s*=\s*\S*https?://"),
        (r"--find", r"-links[ =]\s*\S*/"),
        (r"registry\.npm", r"js\.org"),
        (r"deb\.deb", r"ian\.org"),
        (r'"resolved"', r':\s*"https?://'),
        (r"source = \{ regis", r"try"),
    )
)
PATHS = tuple(
    re.compile(a + b)
    for a, b in (
        (r"/work/", r"(main|shared)\b"),
        (r"/home/", r"[a-z][a-z0-9_-]*/"),
        (r"/Us", r"ers/[A-Za-z]"),
        (r"/opt/", r"wheels"),
        (r"/tmp/", r"berth/"),
    )
)
SECRETS = tuple(
    re.compile(a + b)
    for a, b in (
        (r"-----BEGIN [A-Z ]*PRIV", r"ATE KEY-----"),
        (r"\bAKIA", r"[0-9A-Z]{16}\b"),
        (r"\bghp_", r"[A-Za-z0-9]{36}\b"),
    )
)


# RFC 2606: names that belong to nobody may stand in examples and tests.
NOBODYS = re.compile(r"\bexample\.(com|org|net)\b|\.(example|invalid|test)\b")


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode("utf-8", errors="replace")


def matches(patterns: tuple[re.Pattern[str], ...], *, skip: tuple[str, ...] = ()) -> list[str]:
    findings = []
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(skip):
            continue
        for number, line in enumerate(text_of(path).splitlines(), start=1):
            findings += [f"{name}:{number}: {line.strip()[:160]}" for pattern in patterns if pattern.search(line)]
    return findings


def test_every_module_says_what_question_it_answers() -> None:
    findings = [
        f"src/{module.relative}"
        for module in (*modules(), *modules("xumi"))
        if module.tree.body and not ast.get_docstring(module.tree)
    ]
    assert not findings, "no module docstring:" + report(findings)


def test_no_drawer_for_everything() -> None:
    findings = [
        f"src/{module.relative}"
        for module in (*modules(), *modules("xumi"))
        if NAMES_THAT_SAY_NOTHING & set(Path(module.relative).with_suffix("").parts)
    ]
    assert not findings, "name it after its subject:" + report(findings)


def test_all_is_sorted() -> None:
    findings = []
    for module in (*modules(), *modules("xumi")):
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                if list(names) != sorted(names) or len(set(names)) != len(names):
                    findings.append(f"{module.at(node.lineno)}: __all__ is not sorted or holds a name twice")
    assert not findings, report(findings)


def test_no_package_index_addresses() -> None:
    findings = [finding for finding in matches(ADDRESSES) if not NOBODYS.search(finding)]
    assert not findings, report(findings)


def test_no_machine_paths() -> None:
    findings = matches(PATHS)
    here = str(ROOT)
    if here.count("/") > 1:
        findings += matches((re.compile(re.escape(here) + r"(?![\w.-])"),))
    assert not findings, report(findings)


def test_no_secrets() -> None:
    findings = matches(SECRETS, skip=("tests/",))
    assert not findings, report(findings)


def test_no_lock_files_with_addresses() -> None:
    findings = [path.name for path in tracked_files() if path.name in LOCK_FILES]
    assert not findings, report(findings)
