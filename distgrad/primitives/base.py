"""What a primitive is: a NumPy kernel with a name, the types of its attributes, its shape rule and its shard rule.

Primitives are declared with `primitive(...)` in the files beside this one; `TABLE` holds them by name. They are not
differentiable by themselves: the ops are, which are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from distgrad.sharding import Region, Sharding, sharding_from_wire

Attrs = dict[str, Any]
Shape = tuple[int, ...]
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")}


class Aval(NamedTuple):
    """What is known of a value before it is computed."""

    shape: Shape
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class Labels(NamedTuple):
    """A shard rule as data: a label for each dimension of each operand and result, as in an einsum.

    Dimensions with the same label have the same length and are cut alike. A dimension labelled None is never cut
    (or has length 1 and is broadcast). A label that stands in operands but in no result is reduced: each shard gives
    a partial result, and these are put together by `merge`, a key of `MERGES`, in the fixed tree.
    """

    ins: tuple[tuple[int | None, ...], ...]
    outs: tuple[tuple[int | None, ...], ...]
    merge: str | None = None


class Place(NamedTuple):
    """Where the pieces that a kernel is given lie in their tensors: a region for each operand and result."""

    ins: tuple[Region, ...]
    outs: tuple[Region, ...]
    shapes: tuple[Shape, ...] = ()  # of the whole operands; not told of a tile


class Layout(NamedTuple):
    """How a node runs shard by shard: what the planner gets from a shard rule.

    `grid` cuts the node's labels (or, for a regrouping, numbers its shards) in the order of the shard numbers. `needs`
    holds, for each operand, the sharding it must have: as many shards as the node has (`shards`), or one shard, in
    which case the whole operand is at hand on every worker. `outs` are the shardings of the results. If `merged` is
    true the shards give partial results, which an exchange merges into `outs`.
    """

    shards: int
    needs: tuple[Sharding, ...]
    outs: tuple[Sharding, ...]
    labels: Labels | None = None
    grid: tuple[tuple[int, Any], ...] = ()  # (label, Cut), in the order of the shard numbers
    sizes: tuple[tuple[int, int], ...] = ()  # (label, length)
    merged: bool = False


# How partial results are put together: elementwise functions that take out=.
def _bits(a: np.ndarray) -> np.ndarray:
    return a if a.dtype.kind in "bi" else a.view(f"i{a.dtype.itemsize}")


def merge_disjoint(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Bitwise or: exact for every dtype where at most one of the two is not all zero bits."""
    if out is None:
        out = np.empty(np.broadcast(a, b).shape, a.dtype)
    np.bitwise_or(_bits(np.asarray(a)), _bits(np.asarray(b)), out=_bits(out))
    return out


MERGES: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "or": np.logical_or,
    "and": np.logical_and,
    "disjoint": merge_disjoint,
}


def expect(good: bool, text: str, *values: Any) -> None:
    """For shape rules, which also judge what comes over the wire. Raises ValueError, with `values` in its text."""
    if not good:
        raise ValueError(text.format(*values))


def expect_dims(dims: Sequence[int], ndim: int) -> None:
    """Dimensions are numbered from the front, and rise. Raises ValueError."""
    good = all(0 <= d < ndim for d in dims) and all(a < b for a, b in pairwise(dims))
    expect(good, "{} are not dimensions of {}, in order", list(dims), ndim)


def expect_cuts(cuts: Sharding | None, shape: Shape) -> None:
    """Cuts are those of a tensor of this shape. Raises ValueError."""
    expect(cuts is None or cuts.shape == shape, "cuts for another shape than {}", shape)


# Types of attributes: a check that also restores what msgpack changed (tuples come back as lists).
def _int(x: Any) -> int:
    if type(x) is not int:
        raise TypeError
    return x


def _bool(x: Any) -> bool:
    if type(x) is not bool:
        raise TypeError
    return x


def _float(x: Any) -> float:
    if type(x) not in (int, float):
        raise TypeError
    return float(x)


def _str(x: Any) -> str:
    if type(x) is not str:
        raise TypeError
    return x


def _ints(x: Any) -> tuple[int, ...]:
    if type(x) not in (list, tuple):
        raise TypeError
    return tuple(_int(i) for i in x)


def _shape(x: Any) -> Shape:
    if any(n < 0 for n in _ints(x)):
        raise TypeError
    return _ints(x)


def _slices(x: Any) -> tuple[tuple[int, int, int], ...]:
    """For each dimension (start, length, step)."""
    if type(x) not in (list, tuple):
        raise TypeError
    triples = tuple(_ints(s) for s in x)
    if any(len(s) != 3 or s[0] < 0 or s[1] < 0 or s[2] == 0 for s in triples):
        raise TypeError
    return triples  # type: ignore[return-value]


def _parts(x: Any) -> tuple[Any, ...]:
    """Several slices, one at least."""
    if type(x) not in (list, tuple) or not x:
        raise TypeError
    return tuple(_slices(s) for s in x)


def _dtype(x: Any) -> str:
    if _str(x) not in DTYPES:
        raise TypeError
    return x


def _cuts(x: Any) -> Sharding | None:
    """None or a `Sharding`, which travels as lists of integers."""
    if x is None or isinstance(x, Sharding):
        return x
    if type(x) is not list or any(type(c) is not list for c in x):
        raise TypeError
    return sharding_from_wire(x)


ATTR_TYPES: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "bool": _bool,
    "float": _float,
    "str": _str,
    "ints": _ints,
    "shape": _shape,
    "slices": _slices,
    "parts": _parts,
    "dtype": _dtype,
    "cuts": _cuts,
}


@dataclass(frozen=True)
class Lower:
    """How a compiled loop makes an element: `code(builder, *operands, **attrs)`, for dtypes of these `kinds`.

    The builder is `compiler.builder.Builder`; the kernel is the reference. `light`: it is one cheap instruction.
    """

    code: Callable[..., Any]
    kinds: str = "f"
    light: bool = False


@dataclass(frozen=True)
class Fold:
    """A reduction that a compiled loop can do: how parts are merged; of two operands it is a sum of products."""

    how: str
    kinds: str = "f"


@dataclass(frozen=True)
class Rows:
    """A step that takes rows of a table: a compiled loop reads them where they lie.

    `check(indices, **attrs)` gives the numbers of the rows, or raises. `along(**attrs)`: whether rows are taken.
    Operand `index` are the indices.
    """

    check: Callable[..., np.ndarray]
    along: Callable[..., bool]
    index: int = 1


@dataclass(frozen=True)
class Pick:
    """A step that, along the dimension `dim` among its attributes, has one element of each row apart from the others.

    Operand `index` tells which, `check(indices, **attrs)` as in `Rows`. The result is that element of the first operand
    or, with `code`, has an element `code(builder, whether it is that one, *other operands)` everywhere.
    """

    check: Callable[..., np.ndarray]
    index: int
    code: Callable[..., Any] | None = None
    kinds: str = "fib"


@dataclass(frozen=True)
class Offset:
    """A regrouping that a compiled loop does by reading elsewhere: element i is element `i + by(dims, **attrs)`.

    `dims`: how many dimensions there are; None: not so. `zeros`: where the operand has no such element, there is 0.
    """

    by: Callable[..., tuple[int, ...] | None]
    zeros: bool = False


Lowering = Lower | Fold | Offset | Rows | Pick
ShapeRule = Callable[[Sequence[Aval], Attrs], tuple[Aval, ...]]
LabelRule = Callable[[Sequence[Aval], Attrs], Labels]
Fit = Callable[[Layout, Sequence[Aval], Attrs], bool]
RegroupRule = Callable[[Sequence[Aval], Sequence[Sharding], Attrs, int], Layout]
BatchRule = Callable[[Any, "Primitive", Sequence[Any], Sequence[bool], Attrs], Sequence[Any]]

# What may be known of a primitive, beside its rules. Of the kernel:
Trait = Literal[
    "into",  # takes `out=`, an array of the right shape and dtype or, of a "whole" one, a tuple of them; returns it
    "over",  # with "into": `out` may be any of the operands
    "over_first",  # with "into": `out` may be the first operand
    "over_next",  # with "into": what is taken for result k may be operand k + 1
    "onto",  # takes `onto=`, an array in C order, and merges its partial result ("add", "disjoint") with that: cheaper
    "placed",  # takes `at=`, a `Place`
    "view",  # may return a view of an operand; no other may, and none keeps an operand
    # Of the results:
    "exact",  # element by element, and of one element the bits that it has in an array: constants are folded
    "rounds",  # floats differ by the order of additions when operands are cut otherwise
    "source",  # made of no more than numbers, a seed or a file, and not made again
    "lazy",  # the same bits wherever it runs: large, of small operands, it waits until somebody works with it
    # Of how it runs:
    "whole",  # on whole shards, never tile by tile
    "heavy",  # large work on operands of one shard is cut by the result, so that all workers take part
    "shifts",  # a regrouping of one operand, on any pieces that lie where they are needed; so tile by tile as well
]
TRAITS: frozenset[Trait] = frozenset(get_args(Trait))


@dataclass(frozen=True, eq=False)
class Primitive:
    """One kernel with its rules.

    `kernel(*arrays, **attrs)` gives the result (a tuple where there are several). It never writes to its operands,
    unless they are `out`. What else holds of it stands in `traits`. Of a regrouping, `fits` tells
    whether a layout, which may have come over the wire, is one that its rule can have made. `flops` is the number of
    operations for each element of the result or, where it is a function of (avals in, avals out, attrs), in
    all. `batch(batch, primitive, operands, which of them are batched, attrs)` is its rule for `vmap`, see
    `batching.py`.
    """

    name: str
    kernel: Callable[..., Any]
    shape: ShapeRule
    labels: LabelRule | None = None
    regroup: RegroupRule | None = None
    fits: Fit | None = None
    attrs: dict[str, str] = field(default_factory=dict)
    traits: frozenset[Trait] = frozenset()
    flops: Callable[[Sequence[Aval], Sequence[Aval], Attrs], float] | float = 1.0
    batch: BatchRule | None = None
    lower: Lowering | None = None

    def operations(self, ins: Sequence[Aval], outs: Sequence[Aval], attrs: Attrs) -> float:
        """The number of operations for operands and results like these."""
        return (
            self.flops(ins, outs, attrs) if callable(self.flops) else self.flops * sum(o.size for o in outs)
        )


TABLE: dict[str, Primitive] = {}


def primitive(
    name: str, kernel: Callable[..., Any], shape: ShapeRule, *, traits: Iterable[Trait] = (), **rest: Any
) -> Primitive:
    """Declare a primitive; its arguments are the fields of `Primitive`."""
    if name in TABLE:
        raise ValueError(f"primitive {name!r} is declared twice")
    made = Primitive(name, kernel, shape, traits=frozenset(traits), **rest)
    if unknown := made.traits - TRAITS:
        raise ValueError(f"primitive {name!r} has traits that there are not: {sorted(unknown)}")
    if (made.labels is None) == (made.regroup is None) or (made.regroup is None) != (made.fits is None):
        raise ValueError(f"primitive {name!r} needs a label rule, or a regroup rule and its `fits`")
    TABLE[name] = made
    return made
