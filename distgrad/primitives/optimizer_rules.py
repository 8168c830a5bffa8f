"""The rules by which optimizers change parameters.

Each is stated once, over a namespace `m`: NumPy in the kernel; `Compiled` where that is compiled, then on elements;
distgrad's own functions where a step is to be differentiated (`differentiable=True`), then on tensors. `p` is the
parameter, `g` its gradient, `h` the numbers that the step works with, `o` the options; then comes the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from distgrad.compiler.builder import Builder, Lanes
from distgrad.compiler.flat import Body

Numbers = Sequence[Any]
Options = frozenset[str]
Results = tuple[Any, ...]


class Rule(NamedTuple):
    """How one kind of optimizer changes a parameter."""

    step: Callable[..., Results]
    numbers: int  # the length of `h`
    options: Options
    states: Callable[[Options], int]  # how many tensors of state it has


RULES: dict[str, Rule] = {}


def _rule(
    numbers: int, options: str, states: Callable[[Options], int]
) -> Callable[[Callable[..., Results]], Callable[..., Results]]:
    def declare(step: Callable[..., Results]) -> Callable[..., Results]:
        RULES[step.__name__] = Rule(step, numbers, frozenset(options.split()), states)
        return step

    return declare


def _gradient(p: Any, g: Any, decay: Any, o: Options) -> Any:
    """The gradient of what is minimised: of the loss (its negative to maximise), with `decay` / 2 p² added."""
    g = -g if "maximize" in o else g
    return g + p * decay if "decay" in o else g


def _average(mean: Any, g: Any, weight: Any) -> Any:
    """mean + (g − mean) · weight."""
    return mean + (g - mean) * weight


@lru_cache(maxsize=256)
def options_of(text: str) -> Options:
    """The options that a string of words names."""
    return frozenset(text.split())


@_rule(5, "maximize decay momentum nesterov", lambda o: int("momentum" in o))
def sgd(m: Any, p: Any, g: Any, h: Numbers, o: Options, buffer: Any = None) -> Results:
    """b ← kept·b + weight·g; p ← p − lr·b, with Nesterov's momentum p − lr·(g + μ·b)."""
    lr, decay, momentum, kept, weight = h
    g = _gradient(p, g, decay, o)
    if "momentum" not in o:
        return (p - g * lr,)
    buffer = buffer * kept + g * weight
    g = g + buffer * momentum if "nesterov" in o else buffer
    return p - g * lr, buffer


@_rule(8, "maximize decay decoupled amsgrad", lambda o: 2 + ("amsgrad" in o))
def adam(
    m: Any, p: Any, g: Any, h: Numbers, o: Options, mean: Any, square: Any, largest: Any = None
) -> Results:
    """p ← p − size · m / (√v / root + ε), where size and root correct the bias of the averages m of g and v of g²."""
    size, root, weight, kept, fresh, eps, decay, shrink = h
    g = _gradient(p, g, decay, o)
    p = p * shrink if "decoupled" in o else p
    mean, square = _average(mean, g, weight), square * kept + g * g * fresh
    if "amsgrad" in o:
        largest = m.maximum(largest, square)
        return p - mean / (m.sqrt(largest) / root + eps) * size, mean, square, largest
    return p - mean / (m.sqrt(square) / root + eps) * size, mean, square


@_rule(9, "maximize decay decoupled", lambda o: 2)
def nadam(m: Any, p: Any, g: Any, h: Numbers, o: Options, mean: Any, square: Any) -> Results:
    """p ← p − (a·g + b·m) / (√(v / correction) + ε)."""
    a, b, correction, weight, kept, fresh, eps, decay, shrink = h
    g = _gradient(p, g, decay, o)
    p = p * shrink if "decoupled" in o else p
    mean, square = _average(mean, g, weight), square * kept + g * g * fresh
    denominator = m.sqrt(square / correction) + eps
    return p - g / denominator * a - mean / denominator * b, mean, square


@_rule(7, "maximize decay decoupled rectified", lambda o: 2)
def radam(m: Any, p: Any, g: Any, h: Numbers, o: Options, mean: Any, square: Any) -> Results:
    """p ← p − size · m, divided by √v + ε once its variance can be told."""
    size, weight, kept, fresh, eps, decay, shrink = h
    g = _gradient(p, g, decay, o)
    p = p * shrink if "decoupled" in o else p
    mean, square = _average(mean, g, weight), square * kept + g * g * fresh
    moved = mean / (m.sqrt(square) + eps) if "rectified" in o else mean
    return p - moved * size, mean, square


@_rule(5, "maximize decay", lambda o: 2)
def adamax(m: Any, p: Any, g: Any, h: Numbers, o: Options, mean: Any, norm: Any) -> Results:
    """u ← max(β₂·u, |g| + ε); p ← p − size · m / u."""
    size, weight, kept, eps, decay = h
    g = _gradient(p, g, decay, o)
    mean, norm = _average(mean, g, weight), m.maximum(norm * kept, m.abs(g) + eps)
    return p - mean / norm * size, mean, norm


@_rule(6, "maximize decay momentum centered", lambda o: 1 + ("momentum" in o) + ("centered" in o))
def rmsprop(m: Any, p: Any, g: Any, h: Numbers, o: Options, square: Any, *more: Any) -> Results:
    """v ← kept·v + (1 − kept)·g²; p ← p − lr · g / (√v + ε); centred: √(v − mean²)."""
    lr, kept, fresh, eps, momentum, decay = h
    g = _gradient(p, g, decay, o)
    square = square * kept + g * g * fresh
    if "centered" in o:
        mean = _average(more[-1], g, fresh)
        moved, rest = g / (m.sqrt(square - mean * mean) + eps), [mean]
    else:
        moved, rest = g / (m.sqrt(square) + eps), []
    if "momentum" in o:
        moved = more[0] * momentum + moved
        rest = [moved, *rest]
    return p - moved * lr, square, *rest


@_rule(4, "maximize", lambda o: 2)
def rprop(m: Any, p: Any, g: Any, h: Numbers, o: Options, before: Any, size: Any) -> Results:
    """Where g keeps its sign, longer steps; where it changes, shorter ones, and none at once. p ← p − sign(g)·size."""
    shorter, longer, least, most = h
    g = _gradient(p, g, 0, o)
    agree = m.sign(g * before)
    factor = m.where(
        agree > 0, m.full_like(g, longer), m.where(agree < 0, m.full_like(g, shorter), m.ones_like(g))
    )
    size = m.clip(size * factor, least, most)
    g = m.where(agree < 0, m.zeros_like(g), g)
    return p - m.sign(g) * size, g, size


@_rule(3, "maximize decay", lambda o: 1)
def adagrad(m: Any, p: Any, g: Any, h: Numbers, o: Options, total: Any) -> Results:
    """s ← s + g²; p ← p − lr · g / (√s + ε)."""
    lr, eps, decay = h
    g = _gradient(p, g, decay, o)
    total = total + g * g
    return p - g / (m.sqrt(total) + eps) * lr, total


@_rule(5, "maximize decay", lambda o: 2)
def adadelta(m: Any, p: Any, g: Any, h: Numbers, o: Options, square: Any, moves: Any) -> Results:
    """d = √(u + ε) / √(v + ε) · g, with averages v of g² and u of d²; p ← p − lr·d."""
    lr, kept, fresh, eps, decay = h
    g = _gradient(p, g, decay, o)
    square = square * kept + g * g * fresh
    moved = m.sqrt(moves + eps) / m.sqrt(square + eps) * g
    return p - moved * lr, square, moves * kept + moved * moved * fresh


@_rule(4, "maximize decay averaged", lambda o: 1)
def asgd(m: Any, p: Any, g: Any, h: Numbers, o: Options, mean: Any) -> Results:
    """p ← shrink·p − η·g; the average of p, once it is `averaged`: mean + (p − mean)·μ."""
    eta, shrink, mu, decay = h
    g = _gradient(p, g, decay, o)
    p = p * shrink - g * eta
    return p, _average(mean, p, mu) if "averaged" in o else p * 1


class Element:
    """One lane of a value while a rule is written down as code: what rules do with arrays, it does with lanes."""

    __slots__ = ("b", "x")

    def __init__(self, b: Builder, x: Lanes):
        self.b, self.x = b, x

    def _with(self, make: Callable[[Lanes, Lanes], Lanes], other: Any) -> Element:
        return Element(self.b, make(self.x, self.other(other)))

    def other(self, other: Any) -> Lanes:
        """The lanes of an element, or of a number that the rule itself names."""
        return other.x if isinstance(other, Element) else self.b.like(self.x, other)

    def __add__(self, other: Any) -> Element:
        return self._with(self.b.add, other)

    def __sub__(self, other: Any) -> Element:
        return self._with(self.b.subtract, other)

    def __mul__(self, other: Any) -> Element:
        return self._with(self.b.multiply, other)

    def __truediv__(self, other: Any) -> Element:
        return self._with(self.b.divide, other)

    def __gt__(self, other: Any) -> Element:
        return self._with(self.b.greater, other)

    def __lt__(self, other: Any) -> Element:
        return self._with(self.b.less, other)

    def __neg__(self) -> Element:
        return Element(self.b, self.b.negative(self.x))


class Compiled:
    """The functions of which rules are made, on elements; with NumPy's results, for NaN too."""

    @staticmethod
    def sqrt(x: Element) -> Element:
        """√x."""
        return Element(x.b, x.b.sqrt(x.x))

    @staticmethod
    def abs(x: Element) -> Element:
        """|x|."""
        return Element(x.b, x.b.absolute(x.x))

    @staticmethod
    def sign(x: Element) -> Element:
        """-1, 0 or 1; NaN of NaN."""
        return Element(x.b, x.b.select(x.b.isnan(x.x), x.x, x.b.sign(x.x)))

    @staticmethod
    def maximum(x: Element, y: Element) -> Element:
        """The larger."""
        return Element(x.b, x.b.maximum(x.x, y.x))

    @staticmethod
    def clip(x: Element, least: Element, most: Element) -> Element:
        """Not below the one, nor above the other."""
        return Element(x.b, x.b.minimum(x.b.maximum(x.x, least.x), most.x))

    @staticmethod
    def where(mask: Element, x: Element, y: Element) -> Element:
        """x where the mask is true, else y."""
        return Element(x.b, x.b.select(mask.x, x.x, y.x))

    @staticmethod
    def full_like(x: Element, number: Element) -> Element:
        """The number."""
        return number

    @staticmethod
    def zeros_like(x: Element) -> Element:
        """0."""
        return Element(x.b, x.b.like(x.x, 0))

    @staticmethod
    def ones_like(x: Element) -> Element:
        """1."""
        return Element(x.b, x.b.like(x.x, 1))


@lru_cache(maxsize=256)
def code_of(rule: str, options: Options) -> Body:
    """A rule as it is written down: of parameter, gradient and state, and of its numbers."""

    def body(b: Builder, arrays: Sequence[Lanes], numbers: Sequence[Lanes]) -> list[Lanes]:
        p, g, *state = [Element(b, x) for x in arrays]
        made = RULES[rule].step(Compiled, p, g, [Element(b, x) for x in numbers], options, *state)
        return [element.x for element in made]

    return body
