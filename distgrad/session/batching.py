"""Values for `vmap`: one value that stands for many samples, so that ops need not know of them.

A `Batched` result has the shape of one sample, and a physical value with the batch dimension in front: `apply` has the
primitive's batching rule say what to do with that. So every op, its formulas and its views are batched for free. What
is the same for all samples need not be repeated (`spread` is false): it is marked as belonging to each of them, which
is all that a gradient asks for.

Levels are numbered as they are entered (`distgrad/vmaps.py`). A physical value may be batched in its turn, at a lower
level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.caching import remembered
from distgrad.graph import Result, Spec, Value
from distgrad.primitives import Aval, Primitive
from distgrad.primitives.batching import Batch
from distgrad.sharding import Cut, Sharding

Dispatch = Callable[[str, Sequence[Value], dict[str, Any]], Sequence[Value]]


class Below(NamedTuple):
    """What the door does with values of lower levels."""

    dispatch: Dispatch
    shard_bytes: int


Levels = tuple[tuple[int, int], ...]  # numbers and sizes, rising
NO_LEVELS: Levels = ()

used = False  # whether there was ever a batched value: else nothing looks for one


class BatchedSpec(Spec):
    """What is known of each sample, and the levels at which there are many."""

    __slots__ = ("levels",)

    def __init__(self, aval: Aval, sharding: Sharding, levels: Levels):
        super().__init__(aval, sharding)
        self.levels = levels


@remembered(4 << 20, lambda _, made: 600 + 60 * len(made.aval.shape))
def _spec(aval: Aval, sharding: Sharding, levels: Levels) -> BatchedSpec:
    return BatchedSpec(aval, sharding, levels)


class Batched(Result):
    """The result for each sample of `level`, of which there are `size`. `physical` has them in front if `spread`."""

    __slots__ = ("level", "physical", "size", "spread")

    def __init__(self, physical: Value, level: int, size: int, spread: bool):
        found, inner = physical.result.spec, levels(physical)
        aval, cuts = found.aval, found.sharding
        if spread:
            aval, cuts = Aval(aval.shape[1:], aval.dtype), Sharding(cuts.cuts[1:])
        super().__init__(_spec(aval, cuts, (*inner, (level, size))))
        self.physical, self.level, self.size, self.spread = physical, level, size, spread


def is_batched(value: Value) -> bool:
    """Whether a value stands for many."""
    return type(value.result) is Batched


def levels(value: Value) -> Levels:
    """The levels at which a value is batched."""
    return levels_of(value.result.spec)


def levels_of(spec: Spec) -> Levels:
    """The same of what is known of one."""
    return spec.levels if type(spec) is BatchedSpec else NO_LEVELS


def innermost(value: Value) -> Value:
    """The value that all samples of all levels are found in."""
    while type(value.result) is Batched:
        value = value.result.physical
    return value


def wrapped(physical: Value, level: int, size: int, spread: bool) -> Value:
    """A value for each sample of a level."""
    return Value(Batched(physical, level, size, spread))


def apply_batched(
    primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any], below: Below
) -> Sequence[Value]:
    """The results of a primitive, some of whose operands are batched: by its rule at the highest level."""
    level, size = max(levels(v)[-1] for v in inputs if type(v.result) is Batched)
    operands, flags = _stripped(inputs, level)
    if True not in flags:
        outs = below.dispatch(primitive.name, operands, attrs)
        return tuple([wrapped(out, level, size, False) for out in outs])
    if primitive.batch is None:
        raise NotImplementedError(f"vmap: there is no batching rule for {primitive.name} yet")
    outs = primitive.batch(_batch(size, operands, flags, below), primitive, operands, flags, attrs)
    return tuple([wrapped(out, level, size, True) for out in outs])


def _stripped(inputs: Sequence[Value], level: int) -> tuple[list[Value], list[bool]]:
    """Values without a level, and which of them have its batch in front."""
    operands, flags = [], []
    for value in inputs:
        result = value.result
        if type(result) is Batched and result.level == level:
            operands.append(result.physical)
            flags.append(result.spread)
        else:
            operands.append(value)
            flags.append(False)
    return operands, flags


def _batch(size: int, operands: Sequence[Value], flags: Sequence[bool], below: Below) -> Batch:
    cut = Cut(size)
    for value, flag in zip(operands, flags, strict=True):
        if flag and value.sharding.cuts[0].count > 1:
            cut = value.sharding.cuts[0]
            break
    return Batch(size, cut, below.dispatch, _number, below.shard_bytes)


def repeated(value: Value, size: int, below: Below) -> Value:
    """A value with so many samples in front, which are all the same."""
    return _batch(size, [value], [False], below).full(value, False)


def _number(number: Any, dtype: np.dtype) -> Value:
    return Value.known(np.array(number, dtype))


def put_batched(
    base: Value, source: Value, slices: Any, put: Callable[[Value, Value, Any], Value], below: Below
) -> Value:
    """`put` of batched values: writes wait for others as they do where nothing is batched."""
    level, size = max(levels(v)[-1] for v in (base, source) if type(v.result) is Batched)
    (old, new), flags = _stripped((base, source), level)
    if True not in flags:
        return wrapped(put(old, new, slices), level, size, False)
    batch = _batch(size, (old, new), flags, below)
    if flags[1] and not source.shape and slices:
        new = batch.by("expand", (new,), (True,), shape=tuple(n for _, n, _ in slices), cuts=None)
    elif new.shape:
        new = batch.full(new, flags[1])
    return wrapped(put(batch.full(old, flags[0]), new, ((0, size, 1), *slices)), level, size, True)


NO_ITEM = (
    "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over calling .item() on a Tensor, "
    "please try to rewrite what you're doing with other operations. If error is occurring somewhere inside PyTorch "
    "internals, please file a bug report."
)
