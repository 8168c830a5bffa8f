"""Numbers times a logarithm, where 0 times whatever but NaN is 0, as SciPy has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.maths.logarithm import log, log1p


def _times(b: Builder, x: Lanes, y: Lanes, of: Callable[[Builder, Lanes], Lanes]) -> Lanes:
    nothing = b.logical_and(b.equal(x, b.like(x, 0)), b.logical_not(b.isnan(y)))
    return b.select(nothing, b.like(x, 0), b.multiply(x, of(b, y)))


def xlogy(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x log y."""
    return _times(b, x, y, log)


def xlog1py(b: Builder, x: Lanes, y: Lanes) -> Lanes:
    """x log(1 + y)."""
    return _times(b, x, y, log1p)


def entr(b: Builder, x: Lanes) -> Lanes:
    """-x log x; -inf below 0."""
    made = b.negative(_times(b, x, x, log))
    return b.select(b.less(x, b.like(x, 0)), b.like(x, -np.inf), made)
