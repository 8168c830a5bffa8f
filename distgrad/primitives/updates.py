"""A step of an optimizer: one kernel with several results, new parameters and their new state.

Written as ops, a step of Adam is fourteen nodes for each parameter, and the driver pays for each of them. `update` is
one node for a parameter, however that is cut, and a worker goes through parameter, gradient and state once, tile by
tile. `update_all` is one node for all parameters that are not cut, `update_alike` for those of one shape that are cut
alike. The state of these is one tensor of each kind, flat or stacked, so that the driver has not to keep account of it
for each parameter, and for small ones the rule runs once on all.

Rules are in `optimizer_rules.py`. The numbers of a step are an operand and no attributes, because they change from step
to step (bias corrections, learning rates): the plan of a step is the plan of the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from distgrad.compiler import flat, switch
from distgrad.primitives.base import TABLE, Attrs, Aval, Labels, Primitive, expect, primitive
from distgrad.primitives.batching import Batch
from distgrad.primitives.optimizer_rules import (
    RULES,
    Options,
    Results,
    code_of,
    options_of,
)

FLOPS = 12.0  # of a step, for each element


def update(p: np.ndarray, g: np.ndarray, h: np.ndarray, *state: np.ndarray, rule: str, options: str) -> Any:
    """Parameter and state after a step. Python's floats leave float32 what it is."""
    chosen = options_of(options)
    if not _is_compiled(p):
        made = RULES[rule].step(np, p, g, h.tolist(), chosen, *state)
    else:
        made = tuple(np.empty(p.shape, p.dtype) for _ in (p, *state))
        step_into(rule, chosen, h, [a.reshape(-1) for a in (p, g, *state)], [m.reshape(-1) for m in made])
    return made if state else made[0]


def _is_compiled(p: np.ndarray) -> bool:
    return switch.on() and p.dtype.name in ("float32", "float64")


def step_into(
    rule: str, options: Options, h: np.ndarray, operands: Sequence[np.ndarray], out: Sequence[np.ndarray]
) -> None:
    """A step of flat arrays (parameter, gradient and state), whose results may lie where parameter and state do.

    A million parameters take Adam 1.5 ms if it is compiled, 10 by NumPy (one thread).
    """
    if _is_compiled(operands[0]):
        flat.apply(code_of(rule, options), operands, h, out)
        return
    numbers = h.tolist()
    for lo in range(0, out[0].size, CHUNK):
        part = slice(lo, lo + CHUNK)
        p, g, *state = [a[part] for a in operands]
        made = RULES[rule].step(np, p, g, numbers, options, *state)
        for target, array in zip(out, made, strict=True):
            target[part] = array


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
    """The same for several parameters whose state lies end to end, in whatever shape.

    The operands are the numbers, the state, the parameters and their gradients; the results are state and parameters,
    which may lie where the operands do.
    """
    chosen = options_of(options)
    count = RULES[rule].states(chosen)
    rest = arrays[count:]
    params, gradients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    out = tuple(np.empty(a.shape, a.dtype) for a in (*arrays[:count], *params)) if out is None else out
    out = (out,) if isinstance(out, np.ndarray) else out  # one parameter that has no state
    state, made = ([s.reshape(-1) for s in several] for several in (arrays[:count], out[:count]))
    moved = [p.reshape(-1) for p in out[count:]]
    at = 0
    for run in _runs([p.size for p in params]):
        ps, gs = [params[i].reshape(-1) for i in run], [gradients[i].reshape(-1) for i in run]
        p, g = (ps[0], gs[0]) if len(run) == 1 else (np.concatenate(ps), np.concatenate(gs))
        target, part = moved[run[0]] if len(run) == 1 else p, slice(at, at + p.size)
        mine, new = ([s[part] for s in several] for several in (state, made))
        step_into(rule, chosen, h, [p, g, *mine], [target, *new])
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


def _all_shapes(avals: Sequence[Aval], attrs: Attrs, stacked: bool = False) -> tuple[Aval, ...]:
    rule, options = RULES.get(attrs["rule"]), options_of(attrs["options"])
    count = 0 if rule is None else rule.states(options)
    h, state, rest = avals[0], avals[1 : 1 + count], avals[1 + count :]
    params = rest[: len(rest) // 2]
    expect(len(rest) == 2 * len(params) > 0, "{} parameters and gradients", len(rest))
    expect(params == rest[len(params) :], "gradients are not like the parameters")
    expect(all(p.dtype == params[0].dtype for p in params), "parameters of several dtypes")
    if stacked:
        expect(all(p == params[0] for p in params), "parameters of several shapes")
        form = (len(params), *params[0].shape)
    else:
        form = (sum(p.size for p in params),)
    together = Aval(form, params[0].dtype)
    _shapes((together, together, h, *state), attrs)
    return (*state, *params)


def _alike_shapes(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    return _all_shapes(avals, attrs, stacked=True)


def _all_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """Nothing is cut."""
    return _results_like([(None,) * len(a.shape) for a in avals], attrs)


def _alike_labels(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """All are cut as the parameters are: the numbers have no label, and state has one dimension more in front."""
    dims = (None, *range(len(avals[-1].shape)))
    return _results_like(
        [dims[len(dims) - len(a.shape) :] if i else (None,) for i, a in enumerate(avals)], attrs
    )


def _results_like(free: list[tuple[int | None, ...]], attrs: Attrs) -> Labels:
    """Each result has the labels of what it takes the place of."""
    outs = 1 + RULES[attrs["rule"]].states(options_of(attrs["options"]))
    return Labels(tuple(free), (*free[1:outs], *free[outs : outs + (len(free) - outs) // 2]))


def _all_batched(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """Parameter by parameter, with its part of the state."""
    count = RULES[attrs["rule"]].states(options_of(attrs["options"]))
    state, rest = batch.all_full(xs[1 : 1 + count], flags[1 : 1 + count]), xs[1 + count :]
    forms = [s.shape for s in state]
    state = [batch.emit("reshape", s, shape=(batch.size, math.prod(s.shape[1:]))) for s in state]
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
    joined = [batch.emit("cat", *part, dim=1, sizes=sizes) for part in parts]
    return (*(batch.emit("reshape", s, shape=form) for s, form in zip(joined, forms, strict=True)), *new)


_several: dict[str, Any] = {
    "batch": _all_batched,
    "attrs": {"rule": "str", "options": "str"},
    "traits": {"into", "over_next", "whole"},
    "flops": lambda ins, outs, attrs: FLOPS * sum(p.size for p in outs),
}
primitive("update_all", update_all, _all_shapes, labels=_all_labels, **_several)
primitive("update_alike", update_all, _alike_shapes, labels=_alike_labels, **_several)
