"""The house rules that no tool checks: who may import whom, what the pure floors do without, and that a reader can take things in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import replkv

ROOT = Path(replkv.__file__).parent

Floor: TypeAlias = dict[str, set[str]]

# Floor by floor: each module, and its helpers on the same floor, the only ones there that it may import.
HOUSE: list[Floor] = [
    {
        "values": set(),
        "errors": {"values"},
        "config": {"address", "errors"},
        "messages": {"errors"},
        "compression": set(),
        "codec": {"address", "compression", "errors", "messages"},
        "refusals": {"errors", "values"},
        "wire": {"characters", "codec", "errors", "refusals", "values"},
        "ops": {"values", "wire"},
        "member_ops": {"address", "codec", "wire"},
        "valuecodec": {"errors"},
        "typedcodec": {"valuecodec"},
        "address": {"characters", "errors"},
        "characters": set(),
        "complaints": set(),
        "faults": {"codec", "errors", "values", "wire"},
        "letters": {"codec", "config", "errors", "faults", "values", "wire"},
        "parts": {"codec", "letters"},
        "features": {"errors", "messages", "wire"},
        "auth_ops": {"values", "wire"},
        "passwords": set(),
    },
    {
        "quorum": set(),
        "cluster_time": set(),
        "caution": {"quorum"},
        "progress": set(),
        "entries": set(),
        "raftlog": {"entries"},
        "patience": set(),
        "ready": set(),
        "leadership": {"quorum", "progress", "raftlog", "ready"},
        "raft": {"quorum", "cluster_time", "caution", "progress", "raftlog", "patience", "ready", "leadership"},
        "history": set(),
        "kv": {"history"},
        "lease": set(),
        "txn": {"kv", "lease"},
        "session": set(),
        "roster": set(),
        "steering": {"roster"},
        "preference": set(),
        "auth": {"lease"},
    },
    {
        "machine": set(),
        "watch": set(),
    },
    {
        "disk": set(),
        "snapshot": {"disk"},
        "wal_format": {"disk", "snapshot"},
        "recovery": {"disk", "snapshot", "wal_format"},
        "salvage": {"disk", "snapshot", "wal_format", "recovery"},
        "log": {"disk", "snapshot", "wal_format", "recovery", "salvage"},
        "fork": set(),
        "tls": set(),
        "secure": {"tls"},
        "diagnosis": {"fork", "secure", "tls"},
        "doorstep": set(),
        "bell": set(),
        "transport": {"bell", "diagnosis", "doorstep", "fork", "secure"},
        "address_book": set(),
        "links": {"address_book", "transport"},
        "tunnel": {"tls"},
        "stream": {"tunnel"},
        "whereabouts": set(),
    },
    {
        "founding": set(),
        "upgrading": {"proposals"},
        "membership": {"founding", "upgrading", "proposals", "succession"},
        "housekeeper": set(),
        "admission": set(),
        "proposals": {"admission"},
        "guests": {"admission"},
        "reads": {"proposals"},
        "keeper": {"proposals"},
        "snapshotting": {"housekeeper", "status"},
        "compaction": set(),
        "verification": set(),
        "upkeep": {"housekeeper", "proposals", "snapshotting", "compaction", "verification", "upgrading"},
        "space": {"proposals"},
        "succession": {"proposals", "space"},
        "status": set(),
        "metrics": {"admission", "snapshotting"},
        "notices": set(),
        "outgoing": {"proposals", "guests", "space"},
        "described": {"guests", "metrics", "proposals", "snapshotting", "space", "status"},
        "node": {
            *("founding", "housekeeper", "admission", "proposals", "guests", "reads", "keeper", "snapshotting", "upkeep", "space"),
            *("notices", "outgoing", "status", "metrics", "membership", "described", "succession"),
        },
    },
    {
        "plans": set(),
        "feed": set(),
        "judged": {"plans"},
        "engine": {"plans", "feed", "judged"},
        "backup": {"plans"},
        "targets": set(),
        "line": {"targets"},
        "pulse": set(),
        "questions": {"plans", "line"},
        "pulling": {"feed", "line"},
        "badge": set(),
        "remote": {"plans", "feed", "engine", "line", "targets", "pulse", "questions", "pulling", "badge"},
        "sockets": {"line"},
        "errands": {"auth_calls", "backup", "plans", "engine", "judged"},
        "login": {"engine", "errands"},
        "door": {"engine", "errands", "login"},
        "serving": {"engine", "door", "login"},
        "waiting": {"plans", "engine"},
        "mapping": {"immediate"},
        "watching": {"plans", "feed", "engine", "waiting"},
        "view": {"plans", "engine", "mapping", "watching"},
        "surface": {"engine", "plans"},
        "administration": {"plans", "surface"},
        "auth_calls": {"plans", "surface"},
        "lifeline": {"engine", "waiting"},
        "leasing": {"engine", "plans", "waiting", "surface", "lifeline"},
        "immediate": {"feed", "engine", "plans", "surface", "watching", "leasing"},
    },
    {
        "recipes": set(),
    },
    {
        "blocking": set(),
        "awaiting": set(),
        "facade": {"blocking", "awaiting"},
        "acting": {"facade"},
        "replica": {"facade", "acting"},
        "client": {"facade", "replica"},
        "aio": {"facade", "acting", "replica", "client"},
        "new_cluster": set(),
        "sigterm": set(),
        "demo": {"replica", "aio"},
        "cli": {"replica", "aio", "new_cluster", "demo", "sigterm"},
        "__main__": {"cli"},
    },
]
BESIDE = {"testing", "__init__"}  # may import everything; nothing but each other may import them
PURE_FLOORS = range(3)
IMPURE = {"time", "random", "os", "threading", "logging", "socket", "asyncio", "datetime", "uuid"}
# What is allowed of them: to everybody, or to some.
PURE_PARTS: dict[tuple[str, str], set[str] | None] = {("random", "Random"): None, ("threading", "Lock"): {"kv", "watch"}}
FUNCTION_LINES = 60
FILE_LINES = 700

FLOOR_OF = {module: number for number, floor in enumerate(HOUSE) for module in floor}
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def module_of(path: Path) -> str:
    """The name in the table: a package counts as one module."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def each(*paths: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths or FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every (module, name) that is imported anywhere, for type checking too; the name is empty where the whole module is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules of replkv that are imported, by their names in the table."""
    found = set()
    for module, name in imports(tree):
        if module == "replkv":
            found.add(name if name in FLOOR_OF or name in BESIDE else "__init__")
        elif module.startswith("replkv."):
            found.add(module.split(".")[1])
    return found


@each()
def test_a_module_imports_from_lower_floors_and_from_its_helpers_only(path: Path) -> None:
    module = module_of(path)
    if module in BESIDE:
        return
    assert module in FLOOR_OF, f"give {module} its place in HOUSE"
    floor = FLOOR_OF[module]
    below = {name for name, number in FLOOR_OF.items() if number < floor}
    allowed = below | HOUSE[floor][module] | {module}
    if module in {"cli", "demo"}:
        allowed.add("__init__")  # they use what everybody can use
    too_high = sorted(imported_modules(TREES[path]) - allowed)
    assert not too_high, f"{module} must not know {too_high}"


def test_the_page_on_the_architecture_names_every_module_on_its_floor() -> None:
    page = (ROOT.parent / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [set(re.findall(r"`(\w+)/?`", row)) for row in re.findall(r"^\| \d \S+ \| .+? \| (.+) \|$", page, re.MULTILINE)]
    assert rows == [set(floor) for floor in HOUSE]


def test_helpers_do_not_import_in_circles() -> None:
    for floor in HOUSE:
        done: set[str] = set()
        while ready := {module for module, helpers in floor.items() if module not in done and helpers <= done}:
            done |= ready
        assert done == set(floor)


@each(*(path for path in FILES if FLOOR_OF.get(module_of(path)) in PURE_FLOORS))
def test_the_pure_floors_know_no_clock_no_chance_no_threads_no_input_or_output(path: Path) -> None:
    def allowed(module: str, name: str) -> bool:
        return (module, name) in PURE_PARTS and ((who := PURE_PARTS[module, name]) is None or module_of(path) in who)

    for module, name in imports(TREES[path]):
        package = module.split(".")[0]
        if package in IMPURE and name:
            assert allowed(package, name), f"{path.name} imports {name} of {package}"
        elif package in IMPURE:
            used = {
                node.attr
                for node in ast.walk(TREES[path])
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == package
            }
            assert used, f"{path.name} imports {package} under another name, or for nothing"
            assert all(allowed(package, attribute) for attribute in used), f"{path.name} uses {sorted(used)} of {package}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@each()
def test_a_function_fits_a_screen_and_a_file_can_be_read_in_one_go(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= FILE_LINES
    for function in functions(TREES[path]):
        assert (function.end_lineno or 0) - function.lineno < FUNCTION_LINES, function.name


def undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public names without a docstring, in public classes too; further definitions of a name (overloads, setters) need none."""
    seen: set[str] = set()
    for node in scope.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            is_overload = any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)
            if not is_overload and node.name not in seen and not ast.get_docstring(node):
                yield node.name
            if not is_overload:
                seen.add(node.name)
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in undocumented(node))


@each()
def test_every_public_name_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(TREES[path]), f"{path} has no docstring"
    assert list(undocumented(TREES[path])) == []
