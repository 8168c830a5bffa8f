"""Samples of the ops as calls on arrays, and the ways to cut their operands."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import elementwise_cases  # noqa: F401
import numpy as np
import reduction_cases  # noqa: F401
import references_conv  # noqa: F401
import references_index  # noqa: F401  (enters its part of them)
import references_nn  # noqa: F401
import references_recurrent  # noqa: F401
import references_shape  # noqa: F401
import references_vision  # noqa: F401
import row_cases  # noqa: F401
from references import REFERENCES

import distgrad as torch
from distgrad import ops
from distgrad.nn import functional
from distgrad.ops.table import OPS
from distgrad.session import door
from distgrad.sharding import Cut, Sharding
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

for _module in pkgutil.iter_modules(ops.__path__):  # which fills the table
    importlib.import_module(f"{ops.__name__}.{_module.name}")

Array = np.ndarray
Cutter = Callable[[int, tuple[int, ...]], Sharding]  # from an operand's number and shape


# Cuts.
def _at(size: int, *points: int) -> Cut:
    return Cut.at(size, [0, *(min(p, size) for p in points), size])


def whole(number: int, shape: tuple[int, ...]) -> Sharding:
    return Sharding.whole(shape)


def even(number: int, shape: tuple[int, ...]) -> Sharding:
    """Pieces of one length along dimension 0."""
    return _cut(shape, {0: lambda n: Cut.even(n, max(1, n // 2))})


def uneven(number: int, shape: tuple[int, ...]) -> Sharding:
    """One element, none, and the rest along dimension 0."""
    return _cut(shape, {0: lambda n: _at(n, 1, 1)})


def last(number: int, shape: tuple[int, ...]) -> Sharding:
    """Cut along the last dimension."""
    return _cut(shape, {len(shape) - 1: lambda n: _at(n, max(1, n // 3))})


def grid(number: int, shape: tuple[int, ...]) -> Sharding:
    """Cut along all dimensions, with empty shards at an end."""
    return _cut(shape, dict.fromkeys(range(len(shape)), lambda n: _at(n, n // 2, n)))


def mixed(number: int, shape: tuple[int, ...]) -> Sharding:
    """Each operand otherwise."""
    return (last, uneven, whole, grid)[(number + len(shape)) % 4](number, shape)


CUTS: dict[str, Cutter] = {f.__name__: f for f in (whole, even, uneven, last, grid, mixed)}


def _cut(shape: tuple[int, ...], how: dict[int, Callable[[int], Cut]]) -> Sharding:
    return Sharding(tuple(how[d](n) if d in how else Cut(n) for d, n in enumerate(shape)))


@contextlib.contextmanager
def workers(inline_bytes: int = 0, shard_bytes: int = 1 << 20) -> Iterator[None]:
    """There are two workers in this process; they compute what is larger than `inline_bytes`."""
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=inline_bytes, shard_bytes=shard_bytes)
    try:
        yield
    finally:
        door.shutdown()


# Samples.
class Call(NamedTuple):
    """One call of an op, with arrays in place of tensors; `text` says which.

    With `method` this method of the first argument is called, one that ends in "_" on a clone, which it changes.
    """

    name: str
    tree: Any
    text: str
    method: str = ""

    def arrays(self) -> list[Array]:
        return arrays_of(self.tree)

    def with_arrays(self, arrays: Sequence[Any]) -> Call:
        return self._replace(tree=replaced(self.tree, iter(arrays)))

    def argument(self, number: int) -> str:
        """The name of the argument that has array `number`."""
        args, keywords = self.tree
        parameters = itertools.chain(OPS[self.name].names, itertools.repeat("further tensors"))
        names = [name for name, item in zip(parameters, args, strict=False) for _ in arrays_of(item)]
        return [*names, *(name for name, item in keywords.items() for _ in arrays_of(item))][number]

    def run(self, tensors: Sequence[Tensor]) -> list[Any]:
        args, keywords = replaced(self.tree, iter(tensors))
        if not self.method:
            return leaves(OPS[self.name].function(*args, **keywords))
        first, *rest = args
        if not self.method.endswith("_"):
            return leaves(getattr(first, self.method)(*rest, **keywords))
        changed = first.clone()
        assert getattr(changed, self.method)(*rest, **keywords) is changed, (
            f"{self.text}: gives another tensor"
        )
        return [changed]

    def reference(self, arrays: Sequence[Array]) -> list[Array]:
        args, keywords = replaced(self.tree, iter(arrays))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the mean of nothing
            return [np.asarray(out) for out in leaves(REFERENCES[self.name](*args, **keywords))]


def leaves(tree: Any) -> list[Any]:
    """What stands in tuples, lists and dicts, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree]


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with the function applied to each leaf."""
    if isinstance(tree, dict):
        return {key: mapped(item, function) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)([mapped(item, function) for item in tree])
    return function(tree)


def replaced(tree: Any, new: Iterator[Any]) -> Any:
    """The tree with the next of `new` in place of each array."""
    return mapped(tree, lambda leaf: next(new) if isinstance(leaf, Array) else leaf)


def arrays_of(tree: Any) -> list[Array]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Array)]


def calls(name: str) -> list[Call]:
    """The samples of an op."""
    found = []
    for number, (args, keywords) in enumerate(OPS[name].examples()):
        if not all(isinstance(key, str) for key in keywords):
            args, keywords = (*args, keywords), {}
        tree = mapped((args, keywords), lambda leaf: leaf.numpy() if isinstance(leaf, Tensor) else leaf)
        shown = ", ".join(
            f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, Array) else repr(leaf)
            for leaf in leaves(tree)
        )
        found.append(Call(name, tree, f"{name}, sample {number} ({shown})"))
    return found


def is_public(name: str) -> bool:
    """Whether users can call the op by its name."""
    return not name.startswith("_") and (
        bool(OPS[name].method) or hasattr(torch, name) or hasattr(functional, name)
    )


def methods(call: Call) -> list[Call]:
    """The same call by each name that the op has as a method."""
    if not call.tree[0] or not isinstance(call.tree[0][0], Array):
        return []
    return [
        call._replace(method=m, text=f"{call.text}, as {m}")
        for m in OPS[call.name].method
        if hasattr(Tensor, m)
    ]


def in_place(call: Call, outs: Sequence[Array]) -> list[Call]:
    """The same call in place, where the result has shape and dtype of the first argument."""
    first = call.tree[0][0] if call.tree[0] else None
    if not OPS[call.name].inplace or not isinstance(first, Array):
        return []
    if (first.shape, first.dtype) != (outs[0].shape, outs[0].dtype):
        return []
    return [call._replace(method=f"{m}_", text=f"{call.text}, as {m}_") for m in OPS[call.name].method]


def is_real(array: Any) -> bool:
    return array.dtype.kind == "f"


def direction(*key: int, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Numbers from 0.5 to 1.5 with random signs: the same for the same key."""
    rng = np.random.default_rng((*key, *shape))
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice((-1, 1), shape)).astype(dtype)
