"""Places in the user's program: where ops were called."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Origin(NamedTuple):
    """Where an op was called: its name and the user's file and line."""

    op: str
    file: str
    line: int

    def __str__(self) -> str:
        return f'{self.op}, called at File "{self.file}", line {self.line}'


CallSite = tuple[str, Any, int]


def call_site(op: str, above: int = 1) -> CallSite:
    """The op and the first frame outside this package; cheap to take, made readable by `origin`.

    Each frame that is looked at costs 0.2 us: `above` says how far above this one the first can be.
    """
    frame: Any = sys._getframe(above)
    code = frame.f_code
    while _ours[code.co_filename] and frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
    return op, code, frame.f_lasti


class _Ours(dict[str, bool]):
    """Whether a file is one of this package's."""

    def __missing__(self, file: str) -> bool:
        found = self[file] = file.startswith(PACKAGE)
        return found


_ours = _Ours()


def origin(where: CallSite) -> Origin:
    """File and line of a call site."""
    op, code, instruction = where
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return Origin(op, code.co_filename, line)
