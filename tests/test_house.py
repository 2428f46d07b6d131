"""The house's own rules, read from its code: who may import whom, sizes, money without floats, lint and types."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cardcore", "keys", "readers", "clearing", "simulators", "onecard")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Whom a package may import besides itself and the standard library; a longer path overrides its parent.
LAW: dict[str, set[str]] = {
    "cardcore": set(),
    "keys": {"cardcore", "cryptography", "numpy", "pkcs11", "cyclopts", "rich"},
    "readers": {"cardcore", "cyclopts", "rich"},
    "readers/pcsc/scard.py": {"cardcore", "smartcard"},
    "readers/counter": {"cardcore", "aiohttp", "jinja2", "cyclopts", "rich"},
    "clearing": {
        "cardcore",
        "keys",
        "aiohttp",
        "numpy",
        "pydantic",
        "pydantic_settings",
        "structlog",
        "cyclopts",
        "rich",
    },
    "clearing/store": {"cardcore", "asyncpg", "numpy"},
    "simulators": {"cryptography"},
    "simulators/cli.py": {"cryptography", "cyclopts", "rich"},
    "onecard": {"cardcore", "keys", "readers", "clearing", "simulators", "cyclopts", "rich", "aiohttp"},
}
# Of cardcore, clearing sees records and what surrounds them, never a command to a card.
CARD_SIDE = {
    "cardcore.apdu",
    "cardcore.commands",
    "cardcore.status",
    "cardcore.script",
    "cardcore.card_map",
    "cardcore.tlv",
    "cardcore.purse",
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _law_of(path: Path) -> set[str]:
    name = path.relative_to(ROOT).as_posix()
    return LAW[max((rule for rule in LAW if name == rule or name.startswith(rule + "/")), key=len)]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_where_the_design_says(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in _imports(path)}
    foreign = roots - set(sys.stdlib_module_names) - {own} - _law_of(path)
    assert not foreign, f"{_name(path)} may not import {sorted(foreign)}"
    if own == "clearing":
        assert not CARD_SIDE & set(_imports(path)), "clearing never sees an APDU"


def test_single_doors() -> None:
    doors = {"smartcard": "readers/pcsc/scard.py", "asyncpg": "clearing/store", "numpy": ("keys", "clearing")}
    for path in MODULES:
        for library, door in doors.items():
            if any(name.split(".")[0] == library for name in _imports(path)):
                assert _name(path).startswith(door), f"{_name(path)} imports {library}"


def test_no_import_cycles() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph = {
        name: {other for other in _imports(path) if other in names and other != name} for name, path in names.items()
    }
    # A package's __init__ may name its own modules; that is a map, not a dependency of them on it.
    for name in graph:
        graph[name] = {other for other in graph[name] if not name.startswith(other + ".")}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"import cycle: {' → '.join((*way, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{_name(path)} is too long for one purpose"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 70, f"{node.name} in {_name(path)} does not fit a screen"


def _is_money(node: ast.AST) -> bool:
    name = getattr(node, "attr", None) or getattr(node, "id", None) or ""
    return name.endswith("_fen")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_float_touches_money(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            assert not any(map(_is_money, ast.walk(node))), f"{_name(path)}:{node.lineno} divides money with /"
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else ast.Name(node.arg)
            assert not (_is_money(target) and "float" in ast.unparse(node.annotation)), f"{_name(path)}:{node.lineno}"


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "--quiet", "."), ("mypy",)],
    ids=["lint", "format", "types"],
)
def test_lint_and_types(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
