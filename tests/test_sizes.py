"""Files and functions stay short enough to be read: none has more than 400 lines, or 60."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE, FUNCTION = 400, 60
# What is longer still. Nothing is added here.
LONG_FILES = {
    "distgrad/graph.py",
    "distgrad/worker/loops.py",
}
LONG_FUNCTIONS = {"distgrad/worker/loops.py: _by_tiles"}


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("distgrad", "cluster"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def functions(source: str) -> Iterator[tuple[str, int]]:
    """The name and the number of lines of each function, decorators aside."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_are_short() -> None:
    assert {name for name, source in sources() if len(source.splitlines()) > FILE} <= LONG_FILES


def test_functions_are_short() -> None:
    found = {
        f"{at}: {name}" for at, source in sources() for name, lines in functions(source) if lines > FUNCTION
    }
    assert found <= LONG_FUNCTIONS


def test_lines_are_counted() -> None:
    assert list(functions("@f\ndef g():\n    def h():\n        pass\n    return h\n")) == [("g", 4), ("h", 2)]
    assert "cluster/actor.py" in dict(sources())
