"""Files and functions stay short enough to be read: a file has at most 400 lines, a function 60."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE, FUNCTION = 400, 60
DEF = re.compile(r"( *)(?:async )?def (\w+)")


def sources() -> Iterator[tuple[str, list[str]]]:
    for folder in ("distgrad", "cluster"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text().splitlines()


def functions(lines: list[str]) -> Iterator[tuple[str, int]]:
    """The name and the number of lines of each function, told by how far lines are indented: parsing all is slow."""
    opened: list[
        tuple[int, str, int]
    ] = []  # functions that have begun: indentation, name, number of the line
    last, quoted = 0, False
    for number, line in enumerate([*lines, "end"]):
        depth = len(line) - len(line.lstrip())
        if line.strip() and not quoted and not line.lstrip().startswith((")", "]", "}")):
            while opened and depth <= opened[-1][0]:
                _, name, first = opened.pop()
                yield name, last - first + 1
            if found := DEF.match(line):
                opened.append((depth, found[2], number))
        quoted ^= line.count('"""') % 2
        last = number if line.strip() else last


def test_files_are_short() -> None:
    assert not {name for name, lines in sources() if len(lines) > FILE}


def test_functions_are_short() -> None:
    found = {f"{at}: {name}" for at, lines in sources() for name, n in functions(lines) if n > FUNCTION}
    assert not found


def test_lines_are_counted() -> None:
    source = '@f\ndef g(\n  x,\n) -> int:\n    """Of\n\nx."""\n    def h():\n        pass\n\n    return h\n\n\ny = 1\n'
    assert list(functions(source.splitlines())) == [("h", 2), ("g", 10)]
    assert "cluster/actor.py" in dict(sources())
