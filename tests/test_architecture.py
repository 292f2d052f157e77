"""The house's floors, held: who may import whom, which rooms do no I/O, and that everything public says what it is.

`FLOORS` is the table of `architecture.md`. A module that is in no row fails; so does an import that leads upwards.
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
    "coalesce": 0,
    "settings": 1,
    "definitions": 1,
    "definitions.model": 1,
    "definitions.nodes": 1,
    "definitions.schema": 1,
    "definitions.load": 1,
    "catalog": 2,
    "catalog.types": 2,
    "catalog.model": 2,
    "catalog.reflect": 2,
    "catalog.build": 2,
    "query": 3,
    "query.ast": 3,
    "query.operators": 3,
    "query.syntax": 3,
    "query.syntax.brackets": 3,
    "query.syntax.json": 3,
    "query.cursor": 3,
    "query.strict_json": 3,
    "query.payload": 3,
    "query.plan": 3,
    "query.compile": 3,
    "query.statements": 3,
    "database": 4,
    "database.pool": 4,
    "database.execute": 4,
    "database.sqlstate": 4,
    "database.inspect": 4,
    "guards": 4,
    "guards.admission": 4,
    "guards.breaker": 4,
    "guards.caller": 4,
    "guards.grants": 4,
    "guards.jwks": 4,
    "guards.keys": 4,
    "guards.policy": 4,
    "guards.ratelimit": 4,
    "guards.tokens": 4,
    "cache": 4,
    "cache.keys": 4,
    "cache.memory": 4,
    "cache.redis": 4,
    "observability": 4,
    "observability.metrics": 4,
    "observability.logs": 4,
    "observability.traces": 4,
    "pipeline": 5,
    "fill": 5,
    "fill.checks": 5,
    "fill.expressions": 5,
    "fill.facts": 5,
    "fill.keys": 5,
    "fill.order": 5,
    "fill.patterns": 5,
    "fill.plan": 5,
    "fill.spaces": 5,
    "fill.values": 5,
    "fill.words": 5,
    "fill.write": 5,
    "migrate": 5,
    "http": 6,
    "http.requests": 6,
    "http.responses": 6,
    "http.problems": 6,
    "http.middleware": 6,
    "http.routes": 6,
    "http.openapi": 6,
    "http.operations": 6,
    "http.docs": 6,
    "http.value_schemas": 6,
    "http.digit_patterns": 6,
    "app": 7,
    "dev_issuer": 8,
    "embedded": 8,
    "cli": 8,
    "__main__": 8,
    "": 8,
}
"""Each module below `gateway`, and the floor of its room. "" is the package itself, which holds nothing."""
TOP = 8

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


MODULES = sorted(modules())


def test_every_module_has_a_floor() -> None:
    assert set(MODULES) <= set(FLOORS), "a new module needs a row in FLOORS, and the table of architecture.md its room"


def test_a_room_has_one_floor() -> None:
    floors: dict[str, set[int]] = {}
    for module, floor in FLOORS.items():
        floors.setdefault(room(module), set()).add(floor)
    assert {name: found for name, found in floors.items() if len(found) > 1} == {}


@pytest.mark.parametrize("module", [name for name in MODULES if FLOORS.get(name, TOP) < TOP])
def test_a_module_imports_lower_floors_or_its_own_room(module: str) -> None:
    """So rooms of one floor do not know each other; only the commands at the top do."""
    others = {name for name in own_imports(module) if room(name) != room(module)}
    assert {name for name in others if FLOORS[name] >= FLOORS[module]} == set()


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


@pytest.mark.parametrize("module", [name for name in MODULES if FLOORS.get(name, TOP) < FLOORS["http"]])
def test_below_http_nothing_knows_the_web(module: str) -> None:
    assert {name for name in imports(module) if name.partition(".")[0] in ("starlette", "uvicorn", "httptools")} == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_middleware_is_built_on_base_http_middleware(module: str) -> None:
    names = {node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "BaseHTTPMiddleware" not in names | attributes | imported


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    assert list(_undocumented(module)) == []


def _undocumented(module: str) -> Iterator[str]:
    found = tree(module)
    if found.body and not ast.get_docstring(found):
        yield "the module"
    for node in found.body:
        if _is_public(node):
            if not ast.get_docstring(node) and not _says_all_in_its_head(node):  # type: ignore[arg-type]
                yield node.name  # type: ignore[attr-defined]
            yield from _undocumented_methods(node)


def _undocumented_methods(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if _is_public(member) and not isinstance(member, ast.ClassDef) and not ast.get_docstring(member):  # type: ignore[arg-type]
                yield f"{node.name}.{member.name}"  # type: ignore[attr-defined]


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")


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
