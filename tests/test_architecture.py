"""The house's floors, held: who may import whom, which rooms do no I/O, and that everything public says what it is.

`FLOORS` is the table of `architecture.md`. A room that is in no row fails; so does an import that leads upwards.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"

FLOORS: dict[str, int] = {
    "errors": 0,
    "events": 0,
    "dsn": 0,
    "coalesce": 0,
    "deadlines": 0,
    "breaker": 1,
    "redis_wire": 1,
    "settings": 1,
    "connect": 1,
    "definitions": 1,
    "catalog": 2,
    "query": 3,
    "database": 4,
    "guards": 4,
    "cache": 4,
    "observability": 4,
    "revisions": 4,
    "reads": 5,
    "writes": 5,
    "reload": 5,
    "idempotency": 5,
    "fill": 5,
    "migrate": 5,
    "migration_watch": 6,
    "pipeline": 6,
    "http": 7,
    "app": 8,
    "embedded": 9,
    "terminal": 9,
    "access_report": 9,
    "dev": 9,
    "dev_welcome": 9,
    "dev_issuer": 9,
    "cli": 9,
    "__main__": 9,
    "": 9,
}
"""Each room below `gateway` (a module, or a package with all its modules) and its floor. "" is the package itself."""
TOP = 9

DRIVERS = frozenset({"asyncpg", "uvicorn", "starlette", "httptools", "uvloop", "redis", "socket", "asyncio", "alembic"})
"""What does input or output. The pure rooms import none of it."""
PURE = ("errors", "definitions", "catalog", "query")
FILE_READERS = frozenset({"definitions.load"})
SQLALCHEMY = ("catalog.reflect", "query.compile", "database", "migrate", "fill", "cli")
"""Where SQLAlchemy may be known: it reflects, quotes, and carries Alembic."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its name below `gateway`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


@cache
def imports(module: str) -> tuple[str, ...]:
    """The dotted names that a module imports, wherever in it the import stands."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import: write it whole"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("gateway.") in modules() else node.module


def own_imports(module: str) -> set[str]:
    """The modules of the gateway that a module imports, by their names below `gateway`."""
    return {
        name.removeprefix("gateway").removeprefix(".")
        for name in imports(module)
        if name == "gateway" or name.startswith("gateway.")
    }


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int:
    """The floor of a module's room; one that is in no row stands at the top, until it is."""
    return FLOORS.get(room(module), TOP)


MODULES = sorted(modules())


def test_every_module_has_a_floor() -> None:
    missing = {module for module in MODULES if room(module) not in FLOORS}
    assert missing == set(), "a new room needs a row in FLOORS, and in the table of architecture.md"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) < TOP])
def test_a_module_imports_lower_floors_or_its_own_room(module: str) -> None:
    """So rooms of one floor do not know each other; only the commands at the top do."""
    others = {name for name in own_imports(module) if room(name) != room(module)}
    assert {name for name in others if floor(name) >= floor(module)} == set()


def test_there_is_no_cycle_among_modules() -> None:
    graph = {module: own_imports(module) - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(f"modules import each other: {cycle.args[1]}")


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in PURE])
def test_a_pure_room_knows_no_driver_and_no_server(module: str) -> None:
    assert {name for name in imports(module) if name.partition(".")[0] in DRIVERS} == set()


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in PURE and name not in FILE_READERS])
def test_a_pure_room_opens_no_file_and_reads_no_clock(module: str) -> None:
    touched = {name.partition(".")[0] for name in imports(module)} & {"os", "io", "pathlib", "time", "random", "subprocess"}
    called = {node.func.id for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    asked = {
        node.attr
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
    }
    assert touched | (called & {"open", "print", "input"}) | asked == set()


@pytest.mark.parametrize("module", MODULES)
def test_sqlalchemy_is_known_only_where_it_reflects_and_compiles(module: str) -> None:
    knows = any(name.partition(".")[0] == "sqlalchemy" for name in imports(module))
    assert not knows or module in SQLALCHEMY or room(module) in SQLALCHEMY


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) < FLOORS["http"]])
def test_below_http_nothing_knows_the_web(module: str) -> None:
    assert {name for name in imports(module) if name.partition(".")[0] in ("starlette", "uvicorn", "httptools")} == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_middleware_is_built_on_base_http_middleware(module: str) -> None:
    names = {node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "BaseHTTPMiddleware" not in names | attributes | imported


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    assert list(_undocumented(module)) == []


def _undocumented(module: str) -> Iterator[str]:
    found = tree(module)
    if found.body and not ast.get_docstring(found):
        yield "the module"
    for node in found.body:
        if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and not _says_all_in_its_head(node):
                yield node.name
            yield from _undocumented_methods(node)


def _undocumented_methods(node: ast.stmt) -> Iterator[str]:
    """Methods of a class that stands on one of a library's are that library's, which says what they do."""
    if isinstance(node, ast.ClassDef) and all(ast.unparse(base) in ("msgspec.Struct", "Exception") for base in node.bases):
        for member in node.body:
            if isinstance(member, FUNCTION) and not member.name.startswith("_") and not ast.get_docstring(member):
                yield f"{node.name}.{member.name}"


def _says_all_in_its_head(node: ast.stmt) -> bool:
    """Whether a class is one row of a tree or a struct of a few plain members, which its name and base tell whole."""
    return isinstance(node, ast.ClassDef) and all(isinstance(member, ast.Assign | ast.AnnAssign) for member in node.body)


@pytest.mark.parametrize("module", MODULES)
def test_no_user_mistake_is_met_with_an_assertion(module: str) -> None:
    lines = [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_named_for_nothing(module: str) -> None:
    assert not {"utils", "common", "helpers", "manager", "service"} & set(module.split("."))
