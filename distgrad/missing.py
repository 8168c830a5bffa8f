"""What a module says of a name that it has not: that it is not there yet, and what is nearest."""

from __future__ import annotations

import difflib
import dis
import sys
from types import CodeType, ModuleType
from typing import Any

HERE = "distgrad"


def announce(*modules: ModuleType) -> None:
    """Have these modules tell of names that they have not."""
    for module in modules:
        module.__dict__["__getattr__"] = _teller(module)


def _teller(module: ModuleType) -> Any:
    def __getattr__(name: str) -> Any:
        if name.startswith("__"):  # of Python's own, asked for by its machinery
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=None)
        caller = sys._getframe(1)
        text = told(module, name)
        if _imports(caller.f_code, caller.f_lasti):
            raise ImportError(text, name=name) from None
        # Python adds a guess of its own to errors that say which object lacks the name.
        raise AttributeError(text, name=name, obj=None)

    return __getattr__


def _imports(code: CodeType, at: int) -> bool:
    """Whether the instruction is that of `from module import name`."""
    return 0 <= at < len(code.co_code) and dis.opname[code.co_code[at]] == "IMPORT_FROM"


def told(module: ModuleType, name: str) -> str:
    """The text of the error: with the names that are like it, here and one folder up and down."""
    path = "torch" + module.__name__.removeprefix(HERE)
    text = f"{HERE} has no {path}.{name} yet"
    names = [n for n in vars(module) if not n.startswith("_")]
    near = difflib.get_close_matches(name, names, 3, 0.75)
    return f"{text}; near it: {', '.join(f'{path}.{n}' for n in near)}" if near else text
