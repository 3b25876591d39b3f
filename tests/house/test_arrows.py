"""Which way do the imports point? The ladder of ARCHITECTURE.md, checked over every import of every file."""

from __future__ import annotations

import ast

from tests.house.tree import STDLIB, Module, modules, modules_in, report

LADDER = (
    ("errors",),
    ("settings",),
    ("telemetry",),
    ("oci",),
    ("signing",),
    ("wire",),
    ("authoring",),
    ("db",),
    ("adapters",),
    ("access",),
    ("catalog",),
    ("gates",),
    ("sync",),
    ("cleanup",),
    ("server", "jobs"),
    ("wiring",),
)
RANK = {room: rank for rank, step in enumerate(LADDER) for room in step}
CLIENT_SIDE = frozenset({"errors", "settings", "oci", "signing", "wire", "authoring"})
# The commands that start or prepare the service itself stand above everything; no other command may see its inside.
SERVICE_COMMANDS = frozenset({"up", "serve", "worker", "migrate"})
PURE = (
    "access/decide.py",
    "catalog/intake.py",
    "catalog/lifecycle.py",
    "catalog/resolve.py",
    "gates/decide.py",
    "wire/plan.py",
    "cleanup/select.py",
    "cleanup/rules.py",
)
# What a pure file may name besides the standard library.
PURE_MAY_IMPORT = ("berth.oci", "berth.errors", "berth.gates.policies", "berth.access.roles")
CLOCKS = frozenset({"now", "utcnow", "today", "time", "monotonic", "time_ns", "sleep", "perf_counter"})
OUTSIDE_WORLD = frozenset({"asyncio", "os", "socket", "subprocess", "sqlite3", "threading", "random", "secrets"})


def allowed_rooms(module: Module) -> set[str]:
    room = module.room
    if room == "client":
        return {*CLIENT_SIDE, "client"}
    if room == "cli":
        service = set(RANK) if module.path.stem in SERVICE_COMMANDS else set()
        return {*CLIENT_SIDE, "client", "cli", *service}
    return {other for other, rank in RANK.items() if rank < RANK[room]} | {room}


def test_every_room_is_on_the_ladder() -> None:
    rooms = {module.room for module in modules()} - {""}
    assert rooms <= {*RANK, "client", "cli"}, "a new room needs its place in LADDER and in ARCHITECTURE.md"


def test_a_room_imports_only_from_lower_rooms() -> None:
    findings = []
    for module in modules():
        if not module.room:
            continue
        for imported in module.imports:
            parts = imported.name.split(".")
            if parts[0] == "berth" and len(parts) > 1 and parts[1] not in allowed_rooms(module):
                findings.append(f"{module.at(imported.line)}: {module.room} must not import {imported.name}")
    assert not findings, report(findings)


def test_adapters_are_seen_only_through_their_contract() -> None:
    findings = []
    for module in modules():
        if module.room in ("adapters", "wiring"):
            continue
        for imported in module.imports:
            if imported.under("berth.adapters") and imported.name.split(".")[3:] != ["contract"]:
                findings.append(f"{module.at(imported.line)}: {imported.name} is concrete; only wiring.py names it")
    assert not findings, report(findings)


def test_adapter_kinds_know_neither_each_other_nor_the_database() -> None:
    findings = []
    for module in modules_in("adapters"):
        kind = ".".join(module.name.split(".")[:3])
        for imported in module.imports:
            stranger = (
                imported.under("berth.adapters") and not imported.under(kind) and imported.name != "berth.adapters"
            )
            if stranger or imported.under("berth.db"):
                findings.append(f"{module.at(imported.line)}: {module.name} must not import {imported.name}")
    assert not findings, report(findings)


def test_api_gateway_and_pages_are_siblings() -> None:
    findings = []
    doors = ("berth.server.api", "berth.server.gateway", "berth.server.ui")
    for module in modules_in("server"):
        own = next((door for door in doors if module.name == door or module.name.startswith(door + ".")), None)
        if own is None:
            continue
        for imported in module.imports:
            if any(imported.under(door) for door in doors if door != own):
                findings.append(f"{module.at(imported.line)}: {module.name} must not import {imported.name}")
    assert not findings, report(findings)


def test_oci_is_standard_library_only() -> None:
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules_in("oci")
        for i in module.imports
        if i.top not in STDLIB and not i.under("berth.oci") and not i.under("berth.errors")
    ]
    assert not findings, report(findings)


def test_signing_needs_only_oci_and_cryptography() -> None:
    allowed = ("berth.oci", "berth.errors", "berth.signing", "cryptography")
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules_in("signing")
        for i in module.imports
        if i.top not in STDLIB and not any(i.under(package) for package in allowed)
    ]
    assert not findings, report(findings)


def test_the_runtime_in_containers_is_standard_library_only() -> None:
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules("xumi")
        for i in module.imports
        if i.top not in STDLIB and i.top != "xumi"
    ]
    assert not findings, report(findings)


def test_the_runtime_in_containers_is_python_3_9() -> None:
    findings = []
    for module in modules("xumi"):
        ast.parse(module.path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in module.walk():
            if isinstance(node, ast.Match):
                findings.append(f"{module.at(node.lineno)}: match came with 3.10")
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                newer = {"dataclass": {"slots", "kw_only"}, "zip": {"strict"}}.get(name, set())
                used = newer & {keyword.arg for keyword in node.keywords}
                if used:
                    findings.append(f"{module.at(node.lineno)}: {name}({used.pop()}=) came with 3.10")
                union = len(node.args) > 1 and isinstance(node.args[1], ast.BinOp)
                if name in ("isinstance", "issubclass") and union:
                    findings.append(f"{module.at(node.lineno)}: {name} with X | Y came with 3.10")
    assert not findings, report(findings)


def test_pure_files_import_facts_only() -> None:
    findings = []
    pure_modules = ["berth." + path.removesuffix(".py").replace("/", ".") for path in PURE]
    for module in modules():
        if module.relative.removeprefix("berth/") not in PURE:
            continue
        for imported in module.imports:
            standard = imported.top in STDLIB and imported.top not in OUTSIDE_WORLD
            ours = any(imported.under(package) for package in (*PURE_MAY_IMPORT, *pure_modules))
            if not standard and not ours:
                findings.append(f"{module.at(imported.line)}: a pure file must not import {imported.name}")
    assert not findings, report(findings)


def test_pure_files_have_no_clock_and_wait_for_nothing() -> None:
    findings = []
    for module in modules():
        if module.relative.removeprefix("berth/") not in PURE:
            continue
        for node in module.walk():
            if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                findings.append(f"{module.at(node.lineno)}: a pure file awaits nothing")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
                owner = ast.unparse(node.func.value)
                if owner in ("datetime", "datetime.datetime", "date", "time", "dt", "dt.datetime"):
                    findings.append(f"{module.at(node.lineno)}: the time comes in as `now`, not from {owner}")
    assert not findings, report(findings)
