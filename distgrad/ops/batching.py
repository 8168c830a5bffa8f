"""Into a `vmap` and out of it, as ops: a dimension becomes the batch of a level, and the other way round.

A gradient that is batched at a level at which the argument is not is summed over the samples, if the samples have come
in with the node that it comes from (`OpNode.levels`): there, each has used the argument.
"""

from __future__ import annotations

from distgrad import vmaps
from distgrad.ops.base import Tensor, Value, op
from distgrad.session import batching

__all__: list[str] = []


@op(
    name="BatchBackward0",
    input=lambda g, dim, level, size: leave_level(g, dim, level, size),
    method=False,
    listed=False,
)
def enter_level(input: Value, dim: int, level: int, size: int) -> Value:
    """Each sample of a level sees its own part of `input` along `dim`."""
    return vmaps.split(input, dim, level, size)


@op(
    name="UnbatchBackward0",
    input=lambda g, dim, level, size: enter_level(g, dim, level, size),
    method=False,
    listed=False,
)
def leave_level(input: Value, dim: int, level: int, size: int) -> Value:
    """The samples of a level, side by side along `dim`."""
    return vmaps.join(input, dim, level, size)


@op(
    name="ExpandBackward0",
    input=lambda g, level, size: sum_level(g, level, size),
    method=False,
    listed=False,
)
def mark_level(input: Value, level: int, size: int) -> Value:
    """`input`, the same for each sample of a level, but with a gradient of its own for each."""
    return vmaps.mark(input, level, size)


@op(
    name="SumBackward1",
    input=lambda g, level, size: mark_level(g, level, size),
    method=False,
    listed=False,
)
def sum_level(input: Value, level: int, size: int) -> Value:
    """The sum over the samples of a level."""
    return vmaps.summed(input, level, size)


def left(tensor: Tensor, dim: int, level: vmaps.Level) -> Tensor:
    """What comes out of a level; what all samples share is repeated."""
    made = mark_level(tensor, level.number, level.size) if not inside(tensor, level) else tensor
    return leave_level(made, dim, level.number, level.size)


def inside(tensor: Tensor, level: vmaps.Level) -> bool:
    """Whether a tensor is batched at a level."""
    return (level.number, level.size) in batching.levels(tensor._avals)
