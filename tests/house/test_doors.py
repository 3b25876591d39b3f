"""Where may the environment, HTTP, SQL and a broad `except` be touched?"""

from __future__ import annotations

import ast
import re

from tests.house.tree import Module, modules, report

HTTP = frozenset({"httpx", "requests", "urllib3", "aiohttp", "urllib.request", "http.client"})
HTTP_ROOMS = frozenset({"wire", "adapters", "client"})
SQL_PACKAGES = frozenset({"sqlalchemy", "psycopg", "psycopg_pool", "alembic", "asyncpg"})
SQL_TEXT = re.compile(
    r"^\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|WITH\s+\S+\s+AS\s|(CREATE|ALTER|DROP)\s+(TABLE|INDEX)\s)"
)
BROAD = frozenset({"Exception", "BaseException"})
DOORS = frozenset({"berth/server/app.py", "berth/jobs/runner.py", "berth/cli/main.py"})
# The runtime in a container has doors of its own: a model's code may raise anything, when imported and when called.
RUNTIME_DOORS = frozenset({"xumi/__main__.py", "xumi/server.py"})


def reads_environment(module: Module) -> list[int]:
    lines = []
    for node in module.walk():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            if node.attr in ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"):
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            if {alias.name for alias in node.names} & {"environ", "environb", "getenv", "putenv"}:
                lines.append(node.lineno)
    return lines


def test_the_environment_is_read_in_settings_only() -> None:
    findings = [
        module.at(line)
        for module in (*modules(), *modules("xumi"))
        if module.relative not in ("berth/settings.py", "xumi/settings.py")
        for line in reads_environment(module)
    ]
    assert not findings, "make it an option in settings.py:" + report(findings)


def test_raw_http_only_in_wire_adapters_and_client() -> None:
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules()
        if module.room not in HTTP_ROOMS
        for i in module.imports
        if any(i.under(package) for package in HTTP)
    ]
    assert not findings, report(findings)


def may_hold_sql(module: Module) -> bool:
    return module.room == "db" or module.path.name == "queries.py"


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the constants that are docstrings: they may talk about SQL."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }


def connection_types(module: Module) -> set[int]:
    """Lines that import nothing but the type of the connection that a caller hands on to queries."""
    return {
        node.lineno
        for node in module.walk()
        if isinstance(node, ast.ImportFrom)
        and node.module == "sqlalchemy.ext.asyncio"
        and [alias.name for alias in node.names] == ["AsyncConnection"]
    }


def test_sql_packages_only_in_db_and_queries() -> None:
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules()
        if not may_hold_sql(module)
        for i in module.imports
        if i.top in SQL_PACKAGES and i.line not in connection_types(module)
    ]
    assert not findings, report(findings)


def test_sql_text_only_in_db_and_queries() -> None:
    findings = []
    for module in modules():
        if may_hold_sql(module):
            continue
        spoken = docstrings(module.tree)
        for node in module.walk():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
                if SQL_TEXT.match(node.value):
                    findings.append(f"{module.at(node.lineno)}: {node.value.strip().splitlines()[0][:60]}")
    assert not findings, report(findings)


def test_tables_are_named_only_in_db_and_queries() -> None:
    findings = [
        f"{module.at(i.line)}: {i.name}"
        for module in modules()
        if not may_hold_sql(module)
        for i in module.imports
        if i.under("berth.db.tables")
    ]
    assert not findings, report(findings)


def broad_handlers(module: Module) -> list[int]:
    """Lines that swallow anything. A handler that ends in a bare `raise` only tidies up and passes the error on."""
    lines = []
    for node in module.walk():
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(c is None or ast.unparse(c).rpartition(".")[2] in BROAD for c in caught)
            last = node.body[-1]
            if broad and not (isinstance(last, ast.Raise) and last.exc is None):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
            if any(ast.unparse(argument) in BROAD for argument in node.args):
                lines.append(node.lineno)
    return lines


def test_broad_except_only_at_the_three_doors() -> None:
    findings = [
        module.at(line)
        for module in (*modules(), *modules("xumi"))
        if module.relative not in DOORS | RUNTIME_DOORS
        for line in broad_handlers(module)
    ]
    assert not findings, "name the errors you expect:" + report(findings)


def test_only_members_of_the_error_family_are_raised_by_rooms_below_the_doors() -> None:
    """A plain Exception or RuntimeError reaches a user as `internal error` without a next step."""
    findings = []
    for module in modules():
        for node in module.walk():
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                if name in ("Exception", "BaseException", "RuntimeError"):
                    findings.append(f"{module.at(node.lineno)}: raise {name}")
    assert not findings, report(findings)
