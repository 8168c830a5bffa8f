"""A step of an optimizer: one kernel with several results, new parameters and their new state.

Written as ops, a step of Adam is fourteen nodes for each parameter, and the driver pays for each of them. `update` is
one node for a parameter, however that is cut, and a worker goes through parameter, gradient and state once, tile by
tile. `update_all` is one node for all parameters that are not cut. The state of these is one flat tensor of each kind,
so that the driver has not to keep account of it for each parameter, and for small ones the rule runs once on all.

Each rule is stated once, over a namespace `m`: NumPy in the kernel; distgrad's own functions where a step is to be
differentiated (`differentiable=True`), then on tensors. `p` is the parameter, `g` its gradient, `h` the numbers that
the step works with, `o` the options; then comes the state. Numbers are an operand and no attributes, because they
change from step to step (bias corrections, learning rates): the plan of a step is the plan of the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from distgrad.primitives.base import TABLE, Attrs, Aval, Labels, Primitive, expect, primitive
from distgrad.primitives.batching import Batch

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


def adam_into(
    p: np.ndarray,
    g: np.ndarray,
    h: Numbers,
    o: Options,
    state: Sequence[np.ndarray],
    out: Sequence[np.ndarray],
) -> None:
    """`adam` without AMSGrad, to the last bit, with one temporary. `out` may be parameter and state themselves.

    Of 1.3 million parameters it takes 6 ms where the rule took 14, and torch's loop over parameters 7 (one thread).
    """
    size, root, weight, kept, fresh, eps, decay, shrink = h
    (mean, square), (moved, new_mean, new_square) = state, out
    t = np.empty_like(moved)
    if "maximize" in o or "decay" in o:
        g = _gradient(p, g, decay, o)
    np.subtract(g, mean, out=t)
    np.multiply(t, weight, out=t)
    np.add(mean, t, out=new_mean)
    np.multiply(g, g, out=t)
    np.multiply(t, fresh, out=t)
    np.multiply(square, kept, out=new_square)
    np.add(new_square, t, out=new_square)
    np.sqrt(new_square, out=t)
    np.divide(t, root, out=t)
    np.add(t, eps, out=t)
    np.divide(new_mean, t, out=t)
    np.multiply(t, size, out=t)
    if "decoupled" in o:
        p = np.multiply(p, shrink, out=moved)
    np.subtract(p, t, out=moved)


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


FLOPS = 12.0  # of a step, for each element


@lru_cache(maxsize=256)
def options_of(text: str) -> Options:
    """The options that a string of words names."""
    return frozenset(text.split())


def update(p: np.ndarray, g: np.ndarray, h: np.ndarray, *state: np.ndarray, rule: str, options: str) -> Any:
    """Parameter and state after a step. Python's floats leave float32 what it is."""
    made = RULES[rule].step(np, p, g, h.tolist(), options_of(options), *state)
    return made if state else made[0]


def _shapes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    p, g, h, *state = avals
    rule, options = RULES.get(attrs["rule"]), options_of(attrs["options"])
    expect(rule is not None, "there is no rule {}", attrs["rule"])
    assert rule is not None
    expect(options <= rule.options, "{} are not all options of {}", attrs["options"], attrs["rule"])
    expect(p.dtype.kind == "f", "a step of {}", p.dtype)
    expect(
        h == Aval((rule.numbers,), np.dtype("float64")), "{} takes other numbers than {}", attrs["rule"], h
    )
    expect(len(state) == rule.states(options), "{} tensors of state", len(state))
    expect(all(a == p for a in (g, *state)), "gradient and state are not like the parameter")
    return (p,) * (1 + len(state))


CHUNK = 32 << 10  # elements for which a rule runs at a time: what it makes stays in the cache


def update_all(
    h: np.ndarray, *arrays: np.ndarray, rule: str, options: str, out: Results | np.ndarray | None = None
) -> Results:
    """The same for several parameters whose state lies end to end.

    The operands are the numbers, the flat state, the parameters and their gradients; the results are state and
    parameters, which may lie where the operands do: of two workers that each go through 1.3 million parameters at a
    time, Adam takes 15 ms so, and 24 where it writes elsewhere.
    """
    step, numbers, chosen = RULES[rule].step, h.tolist(), options_of(options)
    count = RULES[rule].states(chosen)
    state, rest = arrays[:count], arrays[count:]
    params, gradients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    out = tuple(np.empty(a.shape, a.dtype) for a in (*state, *params)) if out is None else out
    out = (out,) if isinstance(out, np.ndarray) else out  # one parameter that has no state
    made, moved = out[:count], [p.reshape(-1) for p in out[count:]]
    at = 0
    for run in _runs([p.size for p in params]):
        ps, gs = [params[i].reshape(-1) for i in run], [gradients[i].reshape(-1) for i in run]
        p, g = (ps[0], gs[0]) if len(run) == 1 else (np.concatenate(ps), np.concatenate(gs))
        target = moved[run[0]] if len(run) == 1 else p
        for lo in range(0, p.size, CHUNK):
            hi = min(lo + CHUNK, p.size)
            part = slice(at + lo, at + hi)
            mine, targets = [s[part] for s in state], [target[lo:hi], *[s[part] for s in made]]
            if step is adam and "amsgrad" not in chosen:
                adam_into(p[lo:hi], g[lo:hi], numbers, chosen, mine, targets)
                continue
            for result, array in zip(
                targets, step(np, p[lo:hi], g[lo:hi], numbers, chosen, *mine), strict=True
            ):
                result[:] = array
        at += p.size
        lo = 0
        for i in run if len(run) > 1 else ():
            moved[i][:] = p[lo : lo + moved[i].size]
            lo += moved[i].size
    return out


def _runs(sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Neighbours that are small enough to be put together, in order; each of the others alone."""
    together: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if together and total + size > CHUNK:
            yield together
            together, total = [], 0
        together.append(i)
        total += size
    if together:
        yield together


@lru_cache(maxsize=1024)
def _aligned(ndim: int, states: int) -> Labels:
    dims = tuple(range(ndim))
    return Labels((dims, dims, (None,), *(dims,) * states), (dims,) * (1 + states))


def _labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    return _aligned(len(avals[0].shape), len(avals) - 3)


def _batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """Each sample has a parameter and a state of its own; the numbers of the step are the same for all."""
    if flags[2]:
        raise RuntimeError("vmap: the options of an optimizer cannot differ between the samples")
    full = [x if i == 2 else batch.full(x, flags[i]) for i, x in enumerate(xs)]
    return batch.apply(made.name, full, attrs)


primitive(
    "update",
    update,
    _shapes,
    labels=_labels,
    batch=_batched,
    attrs={"rule": "str", "options": "str"},
    flops=lambda ins, outs, attrs: FLOPS * ins[0].size,
)


def _all_shapes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    rule, options = RULES.get(attrs["rule"]), options_of(attrs["options"])
    count = 0 if rule is None else rule.states(options)
    h, state, rest = avals[0], avals[1 : 1 + count], avals[1 + count :]
    params = rest[: len(rest) // 2]
    expect(len(rest) == 2 * len(params) > 0, "{} parameters and gradients", len(rest))
    expect(params == rest[len(params) :], "gradients are not like the parameters")
    expect(all(p.dtype == params[0].dtype for p in params), "parameters of several dtypes")
    flat = Aval((sum(p.size for p in params),), params[0].dtype)
    _shapes((flat, flat, h, *state), attrs)
    return (*state, *params)


def _all_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """Nothing is cut: who wants parameters cut has them moved one by one."""
    free = [(None,) * len(a.shape) for a in avals]
    outs = 1 + RULES[attrs["rule"]].states(options_of(attrs["options"]))
    return Labels(tuple(free), (*free[1:outs], *free[outs : outs + (len(free) - outs) // 2]))


def _all_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """Parameter by parameter, with its part of the state."""
    count = RULES[attrs["rule"]].states(options_of(attrs["options"]))
    state, rest = batch.all_full(xs[1 : 1 + count], flags[1 : 1 + count]), xs[1 + count :]
    half, at = len(rest) // 2, 0
    new: list[Any] = []
    parts: list[list[Any]] = [[] for _ in state]
    for i in range(half):
        p, g = (batch.full(rest[k], flags[1 + count + k]) for k in (i, half + i))
        n = math.prod(p.shape[1:])
        own = [batch.emit("slice", s, slices=((0, batch.size, 1), (at, n, 1))) for s in state]
        own = [batch.emit("reshape", s, shape=p.shape) for s in own]
        each = (True, True, flags[0], *(True,) * count)
        moved, *kept = _batched(batch, TABLE["update"], (p, g, xs[0], *own), each, attrs)
        new.append(moved)
        for part, s in zip(parts, kept, strict=True):
            part.append(batch.emit("reshape", s, shape=(batch.size, n)))
        at += n
    sizes = tuple(math.prod(p.shape[1:]) for p in new)
    return (*(batch.emit("cat", *part, dim=1, sizes=sizes) for part in parts), *new)


primitive(
    "update_all",
    update_all,
    _all_shapes,
    labels=_all_labels,
    batch=_all_batched,
    attrs={"rule": "str", "options": "str"},
    traits={"into", "over_next", "whole"},
    flops=lambda ins, outs, attrs: FLOPS * sum(p.size for p in outs),
)
