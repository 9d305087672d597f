from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptd

PACKAGE = Path(ckptd.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of the package; the first match of a module's path counts.
MAY_IMPORT = {
    "core": {"core"},
    "shell": {"core", "shell", "errors"},
    "worker": set(),
    "config": {"core", "config", "errors"},
    "reconcile": {"core", "shell", "reconcile", "errors"},
    "service": {"core", "shell", "config", "reconcile", "service", "errors"},
    "cli": {"core", "shell", "config", "reconcile", "service", "errors", "cli"},
    "errors": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
# What the pure part must not reach for: files, clocks, the environment, processes, logs.
IMPURE = {
    "os",
    "io",
    "time",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "logging",
    "structlog",
    "tempfile",
    "random",
}


def part_of(module: str) -> str:
    """The part of the package that a dotted module below `ckptd` belongs to."""
    return module.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def module_of(path: Path) -> str:
    """The dotted name below `ckptd` of a file of the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_inwards(path):
    """Each part imports only what lies further in: cli, service, reconcile, shell, core."""
    part = part_of(module_of(path))

    inner = {name.removeprefix("ckptd.") for name in imports_of(path) if name.startswith("ckptd.")}
    assert set() == {name for name in inner if part_of(name) not in MAY_IMPORT[part]}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(module_of(path)) == "core"], ids=module_of
)
def test_core_reaches_for_no_effect(path):
    """The pure part imports nothing that reads a file, a clock or the environment."""
    assert set() == {name for name in imports_of(path) if part_of(name) in IMPURE}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(module_of(path)) != "worker"], ids=module_of
)
def test_daemon_imports_neither_paddle_nor_an_unpickler(path):
    """Nothing but the workers may import Paddle, and nothing at all a library that unpickles."""
    assert set() == {name for name in imports_of(path) if part_of(name) in {"paddle", "dill", "cloudpickle"}}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(module_of(path)) != "worker"], ids=module_of
)
def test_nothing_of_pickle_is_used_but_its_opcodes(path):
    """The scanner knows opcodes by the names that `pickle` gives them, and calls nothing of it."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    used = [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle"
    ]
    imported = [
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "pickle"
        for alias in node.names
    ]
    assert [] == [name for name in used + imported if not name.isupper()]


def test_whole_daemon_runs_without_paddle():
    """Importing every module of the daemon leaves Paddle out of the process."""
    modules = [
        f"ckptd.{module_of(path)}"
        for path in MODULES
        if part_of(module_of(path)) not in {"worker", "__main__"}
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('paddle' in sys.modules)"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "False" == printed.strip()
