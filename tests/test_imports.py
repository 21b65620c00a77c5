"""Imports point one way, and what is heavy is not imported before it is needed."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "compress"

HEIGHT = {
    "graph": 0,
    "evidence": 1,
    "execute": 1,
    "hardware": 1,
    "passes": 2,
    "frontends": 3,
    "report": 3,
    "check": 3,
    "backends": 3,
    "stages": 4,
    "api": 5,
    "": 5,  # the package itself, which offers what api.py has
    "cli": 6,
}
"""cli -> api -> stages -> {frontends, report, check, backends} -> passes
-> {evidence, execute, hardware} -> graph"""

IMPORTABLE_BY_ALL = {"errors", "progress"}
FRONT_DOORS = {"__init__", "__main__"}
"""compress/__init__.py offers what api.py has, and compress/__main__.py starts cli."""

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "pulp", "rich", "jinja2", "pydantic")


def part_of(module: str) -> str:
    """ "compress.graph.layers" -> "graph"; "compress" alone -> ""."""
    return module.partition(".")[2].partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, is_package: bool) -> list[tuple[int, str]]:
    """(line, module) of everything of this package that the source imports, wherever it does."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - (node.level - 1)]
                base = ".".join([*package, *([base] if base else [])])
            # `from compress import graph` imports a part, not the front door
            found += [
                (node.lineno, f"{base}.{alias.name}" if base == "compress" else base)
                for alias in node.names
            ]
    return sorted({(line, name) for line, name in found if name.split(".")[0] == "compress"})


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the module imports although it is above it, or no part at all."""
    own = part_of(module)
    wrong = []
    for line, name in imported_modules(source, module, is_package):
        part = part_of(name)
        if part in IMPORTABLE_BY_ALL:
            continue
        if own in IMPORTABLE_BY_ALL or HEIGHT.get(part, 99) > HEIGHT[own]:
            wrong.append(f"{module}, line {line}: imports {name}")
    return wrong


MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem not in FRONT_DOORS
]


def test_every_part_has_its_place() -> None:
    parts = {part_of(module_name(path)) for path in MODULES}
    assert parts <= HEIGHT.keys() | IMPORTABLE_BY_ALL


def test_no_module_imports_upward() -> None:
    found = [
        wrong
        for path in MODULES
        for wrong in violations(path.read_text(), module_name(path), path.name == "__init__.py")
    ]
    assert found == []


def test_parts_of_equal_height_do_not_import_in_circles() -> None:
    imports: dict[str, set[str]] = {}
    for path in MODULES:
        module = module_name(path)
        own = part_of(module)
        for _, name in imported_modules(path.read_text(), module, path.name == "__init__.py"):
            if part_of(name) != own:
                imports.setdefault(own, set()).add(part_of(name))
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from compress.passes.base import Option", "compress.graph.layers"),
        ("def f():\n    import compress.api", "compress.report.html"),
        ("from compress import cli", "compress.api"),
        ("from compress import run", "compress.passes.select"),
        ("from ..backends import lower", "compress.passes.quantize"),
        ("from compress.graph import layers", "compress.errors"),
    ],
)
def test_an_upward_import_is_found(source: str, module: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from compress.graph.layers import Layer", "compress.passes.select"),
        ("from compress.execute.session import Runner", "compress.evidence.statistics"),
        ("from compress.errors import ModelError", "compress.graph.validate"),
        ("from .base import Pass", "compress.passes.select"),
        ("import numpy as np", "compress.graph.layers"),
    ],
)
def test_a_downward_import_is_allowed(source: str, module: str) -> None:
    assert violations(source, module) == []


def loaded_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*(m for m in {HEAVY!r} if m in sys.modules), sep=chr(10))"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-len(HEAVY) :]) & set(HEAVY)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import compress") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    run = f"from compress.cli import main\nmain({arguments!r}, standalone_mode=False)"
    assert loaded_after(run) == set()
