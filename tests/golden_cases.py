"""Small programs and what torch prints for them, kept in `golden/*.txt`.

A program is a run of lines that start with ">>> "; what it prints follows, up to a blank line and the next program.
Addresses are left out. An error that ends a program is printed as `!! Type: text`. With real torch at hand,
`python golden_cases.py golden/*.txt` writes what it prints into the files.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "golden"
PROMPT = ">>> "


class Case(NamedTuple):
    line: int
    program: str
    printed: str

    def text(self) -> str:
        return "".join(f"{PROMPT}{line}\n" for line in self.program.splitlines()) + f"{self.printed}\n"


def read(text: str) -> list[Case]:
    """The cases of a file."""
    found = []
    for match in re.finditer(r"((?:^>>> .*\n)+)((?:^(?!>>> ).*\n?)*)", text, re.MULTILINE):
        program = "".join(line.removeprefix(PROMPT) + "\n" for line in match[1].splitlines())
        found.append(Case(text.count("\n", 0, match.start()) + 1, program, match[2].rstrip("\n")))
    return found


def cases(name: str) -> list[Case]:
    """The cases of `golden/NAME.txt`."""
    return read((FOLDER / f"{name}.txt").read_text())


def run(program: str, torch: ModuleType) -> str:
    """What a program prints, without addresses and without what distgrad adds to torch's messages."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(program, "<golden>", "exec"), {"torch": torch, "np": np})
        except Exception as error:
            print(f"!! {type(error).__name__}: {error}")
    text = re.sub(r"0x[0-9a-f]+", "0x", out.getvalue())
    return re.sub(r"\n(Saved|Changed) by .*", "", text).rstrip("\n")


if __name__ == "__main__":
    real = importlib.import_module("torch")
    for path in map(Path, sys.argv[1:]):
        again = [case._replace(printed=run(case.program, real)) for case in read(path.read_text())]
        path.write_text("\n".join(case.text() for case in again))
