"""A step length that satisfies the strong Wolfe conditions, as `minFunc` and torch find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ARMIJO, CURVATURE = 1e-4, 0.9
NARROW = 1e-9  # a bracket in which no element moves by more is not searched


class Point(NamedTuple):
    """What is known at step length `t`: the function, its gradient, and the slope along the direction."""

    t: float
    f: float
    gradient: Any
    slope: float


def interpolate(a: Point, b: Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through both points, with their slopes, is least: between them, or within `bounds`.

    With d₁ = a' + b' − 3 (f_a − f_b) / (a − b) and d₂ = √(d₁² − a' b'), where b is the farther point, it is
    b − (b − a) (b' + d₂ − d₁) / (b' − a' + 2 d₂) (Nocedal and Wright, equation 3.59).
    """
    low, high = bounds or (min(a.t, b.t), max(a.t, b.t))
    with np.errstate(all="ignore"):
        d1 = a.slope + b.slope - 3 * np.divide(a.f - b.f, a.t - b.t)
        square = d1 * d1 - a.slope * b.slope
        if not square >= 0:
            return (low + high) / 2.0
        near, far = (a, b) if a.t <= b.t else (b, a)
        d2 = np.sqrt(square)
        part = np.divide(far.slope + d2 - d1, far.slope - near.slope + 2 * d2)
    return min(max(float(far.t - (far.t - near.t) * part), low), high)


class Search:
    """The search along one direction.

    Args:
        at: gives the point at a step length; each call counts as one of `most` after the first.
        start: the point at 0.
        largest: the largest element of the direction.
    """

    def __init__(self, at: Callable[[float], Point], start: Point, largest: float, most: int):
        self.at, self.start, self.largest, self.most = at, start, largest, most
        self.evaluations = 0

    def run(self, t: float) -> Point:
        """The point that is found, from a first guess at the length."""
        found, bracket = self._bracket(t)
        return found if bracket is None else self._zoom(bracket)

    def _point(self, t: float) -> Point:
        self.evaluations += 1
        return self.at(t)

    def _too_high(self, point: Point) -> bool:
        return point.f > self.start.f + ARMIJO * point.t * self.start.slope

    def _flat(self, point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * self.start.slope

    def _bracket(self, t: float) -> tuple[Point, list[Point] | None]:
        """A point that satisfies both conditions, or two with such a point between them."""
        before, new = self.start, self._point(t)
        for count in range(self.most):
            if self._too_high(new) or (count > 1 and new.f >= before.f):
                return new, [before, new]
            if self._flat(new):
                return new, None
            if new.slope >= 0:
                return new, [before, new]
            bounds = new.t + 0.01 * (new.t - before.t), new.t * 10
            before, new = new, self._point(interpolate(before, new, bounds))
        return new, [self.start, new]

    def _zoom(self, bracket: list[Point]) -> Point:
        """The lower end of the bracket, made narrower until that satisfies both conditions."""
        low, high = (0, 1) if bracket[0].f <= bracket[1].f else (1, 0)
        stuck = False
        while self.evaluations <= self.most and abs(bracket[1].t - bracket[0].t) * self.largest >= NARROW:
            t, stuck = self._trial(bracket, stuck)
            new = self._point(t)
            if self._too_high(new) or new.f >= bracket[low].f:
                bracket[high] = new
                low, high = (0, 1) if bracket[0].f <= bracket[1].f else (1, 0)
                continue
            if self._flat(new):
                return new
            if new.slope * (bracket[high].t - bracket[low].t) >= 0:
                bracket[high] = bracket[low]
            bracket[low] = new
        return bracket[low]

    @staticmethod
    def _trial(bracket: list[Point], stuck: bool) -> tuple[float, bool]:
        """The next length; away from the ends of the bracket if the one before was near one too."""
        t = interpolate(bracket[0], bracket[1])
        least, most = min(p.t for p in bracket), max(p.t for p in bracket)
        margin = 0.1 * (most - least)
        if min(most - t, t - least) >= margin:
            return t, False
        if not stuck and least < t < most:
            return t, True
        return (most - margin if abs(t - most) < abs(t - least) else least + margin), False
