"""Imports go one way: a module imports from its own floor or lower ones, and never in a circle."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {  # the longest name that fits counts
    11: ["distgrad"],
    10: [f"distgrad.{name}" for name in ("nn", "optim", "utils", "distributions", "serialization")],
    9: [f"distgrad.{name}" for name in ("autograd", "func", "functional", "linalg", "random", "special")]
    + [f"distgrad.{name}" for name in ("amp", "backends", "cuda", "jit", "modes")],
    8: ["distgrad.ops"],
    7: [
        f"distgrad.{name}"
        for name in (
            "tensor",
            "contents",
            "storage",
            "recording",
            "record",
            "viewing",
            "printing",
            "dual",
            "saving",
            "restoring",
            "vmaps",
            "profiling",
        )
    ],
    6: ["distgrad.session"],
    5: ["distgrad.plan", "distgrad.cluster"],
    4: ["distgrad.worker"],
    3: ["distgrad.exchange", "distgrad.wire"],
    2: ["distgrad.fields", "distgrad.graph", "distgrad.program"],
    1: ["distgrad.primitives"],
    0: [
        f"distgrad.{name}"
        for name in (
            "caching",
            "callsites",
            "compiler",
            "checks",
            "cutting",
            "sharding",
            "states",
            "strided",
            "dtype",
            "scalars",
        )
    ]
    + [
        f"distgrad.{name}"
        for name in ("errors", "arguments", "handles", "interrupts", "missing", "warned", "formats")
    ],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
OTHERS = {
    "numpy",
    "scipy",
    "msgpack",
    "threadpoolctl",
    "llvmlite",
}  # what may be imported beside the standard library
DOOR = ("distgrad.session.door", "distgrad.cluster")  # the one import by name, and what it reaches
# What runs programs. Planner and session only tell what it will do; one module has workers in the driver's process, and
# one runs what is pending there.
EXECUTOR = (
    "distgrad.worker.execute",
    "distgrad.worker.loops",
    "distgrad.worker.worker",
    "distgrad.worker.inproc",
)
RUNNING = ("distgrad.session.door", "distgrad.session.driver")
BY_VALUE = "distgrad.cluster.actor"  # its class is sent to machines that may lack distgrad


class Import(NamedTuple):
    by: str
    name: str
    line: int
    inside: bool  # in a function


def sources() -> dict[str, Path]:
    """All modules by name. The folder `cluster` is `distgrad.cluster`."""
    found = {}
    for folder, prefix in (("distgrad", "distgrad"), ("cluster", "distgrad.cluster")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((prefix, *(p for p in parts if p != "__init__")))] = path
    return found


SOURCES = sources()


def statements(block: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All statements, and whether each is in a function. Expressions, which are most of a tree, hold none."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(block, field, []):
            yield node, inside
            yield from statements(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports(module: str, text: str, package: bool) -> Iterator[Import]:
    """What a module imports by statement; `from package import module` names the module."""
    for node, inside in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + package]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(module, full if full in SOURCES else base, node.lineno, inside)


@functools.cache
def all_imports() -> list[Import]:
    return [
        found
        for module, path in SOURCES.items()
        for found in imports(module, path.read_text(), path.name == "__init__.py")
    ]


def floor(module: str) -> int | None:
    """The floor of the longest prefix; a module directly in `distgrad` must be named itself."""
    parts = module.split(".")
    if len(parts) <= 2:
        return FLOOR.get(module)
    return next(
        (FLOOR[name] for n in range(len(parts), 1, -1) if (name := ".".join(parts[:n])) in FLOOR), None
    )


def wrong(found: Import) -> str | None:
    """What is wrong with an import, if anything."""
    top = found.name.partition(".")[0]
    if found.inside:
        return "inside a function"
    if top == "distgrad":
        ours, theirs = floor(found.by), floor(found.name)
        if ours is None or theirs is None or theirs > ours:
            return "from a higher floor"
        if found.name in EXECUTOR and (ours or 0) >= 5 and found.by not in RUNNING:
            return "of the executor"
        if found.name.startswith(DOOR[1]) and not found.by.startswith(DOOR[1]):
            return "of the cluster"
    elif top == "ray":
        if not found.by.startswith(DOOR[1]):
            return "of Ray outside the cluster"
    elif top not in sys.stdlib_module_names and top not in OTHERS:
        return "of a package that is not required"
    return None


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing: modules without imports are taken away until none is left."""
    left = {module: set(names) for module, names in edges.items()}
    while left:
        free = [module for module, names in left.items() if names.isdisjoint(left)]
        if not free:
            return sorted(left)
        for module in free:
            del left[module]
    return []


def test_every_module_stands_on_a_floor() -> None:
    assert {"distgrad.sharding", "distgrad.session.core", "distgrad.cluster.actor"} <= set(SOURCES)
    assert [module for module in SOURCES if floor(module) is None] == []


def test_imports_go_down() -> None:
    assert len(all_imports()) > 200
    assert [(i.by, i.line, i.name, text) for i in all_imports() if (text := wrong(i))] == []


def test_imports_make_no_circle() -> None:
    edges: dict[str, set[str]] = {module: set() for module in SOURCES}
    for found in all_imports():
        if found.name in SOURCES and found.name != found.by:
            edges[found.by].add(found.name)
    # A package hands on names of its modules, and so comes after them.
    assert circle(edges) == []


def test_one_door_leads_to_the_cluster() -> None:
    calls = []
    for module, path in SOURCES.items():
        text = path.read_text()
        if not re.search(r"import_module|__import__|exec|eval", text):
            continue  # which spares most of the time
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in ("import_module", "__import__", "exec", "eval"):
                    calls.append((module, name, ast.unparse(node.args[0])))
    assert sorted(c for c in calls if c[0] != BY_VALUE) == [
        ("distgrad.compiler.machine", "import_module", repr("distgrad.compiler.engine")),  # once it is needed
        (DOOR[0], "import_module", repr(DOOR[1])),
    ]


def test_importing_distgrad_does_not_import_ray() -> None:
    code = "import sys, distgrad; sys.exit(any(m.partition('.')[0] == 'ray' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# The checker itself, with planted faults.


@pytest.mark.parametrize(
    ("by", "text", "expected"),
    [
        ("distgrad.worker.pool", "from distgrad import tensor", "from a higher floor"),
        ("distgrad.worker.pool", "import distgrad.plan.build", "from a higher floor"),
        ("distgrad.worker.pool", "from ..plan import build", "from a higher floor"),
        ("distgrad.worker.pool", "from .pool import Pool", None),
        ("distgrad.primitives.base", "from distgrad import float32", "from a higher floor"),
        ("distgrad.session.core", "from distgrad.cluster import start", "of the cluster"),
        ("distgrad.plan.memory", "from distgrad.worker.execute import Runner", "of the executor"),
        ("distgrad.plan.memory", "from distgrad.worker.analysis import Analysis", None),
        ("distgrad.session.core", "import ray", "of Ray outside the cluster"),
        ("distgrad.cluster.actor", "import ray", None),
        ("distgrad.session.core", "def f():\n    import json", "inside a function"),
        ("distgrad.session.core", "async def f():\n    from distgrad import errors", "inside a function"),
        ("distgrad.session.core", "import torch", "of a package that is not required"),
        ("distgrad.session.core", "import json, numpy as np", None),
        ("distgrad.stray", "from distgrad import errors", "from a higher floor"),
    ],
)
def test_a_planted_import_is_caught(by: str, text: str, expected: str | None) -> None:
    assert {wrong(i) for i in imports(by, text, package=False)} == {expected}


def test_a_planted_circle_is_caught() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
