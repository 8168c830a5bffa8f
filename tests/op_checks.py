"""How an op of the table is checked: by a reference, by finite differences to second order, and for any cuts.

The checkers raise AssertionError that names the op and the sample. `test_ops.py` calls them for all of the table,
`test_planted.py` for ops that were made wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from references import REFERENCES

import distgrad as torch
from distgrad import ops
from distgrad.graph import Value
from distgrad.ops.table import OPS
from distgrad.session import door
from distgrad.sharding import Cut, Sharding
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

for _module in pkgutil.iter_modules(ops.__path__):
    importlib.import_module(f"{ops.__name__}.{_module.name}")

Array = np.ndarray
Cutter = Callable[[int, tuple[int, ...]], Sharding]  # from an operand's number and shape

STEP = 1e-6  # of finite differences
FIRST, SECOND = {"rtol": 1e-6, "atol": 1e-7}, {"rtol": 1e-5, "atol": 1e-6}
COARSE, ROUGH = 1e-2, {"rtol": 2e-3, "atol": 2e-4}  # where a result is float32 whatever the operands are
CUT = {"rtol": 1e-10, "atol": 1e-11}  # between cuts, which change the order of additions

# Arguments that have no derivative although the result depends on them; nor do they in torch.
NO_DERIVATIVE = {
    ("nll_loss_forward", "weight"),
    ("binary_cross_entropy", "weight"),
    ("binary_cross_entropy_with_logits", "weight"),
    ("binary_cross_entropy_with_logits", "pos_weight"),
}


# Cuts.
def points_at(size: int, *points: int) -> Cut:
    return Cut.at(size, sorted({0: 0}) + [min(p, size) for p in points] + [size])


def whole(number: int, shape: tuple[int, ...]) -> Sharding:
    return Sharding.whole(shape)


def even(number: int, shape: tuple[int, ...]) -> Sharding:
    """Pieces of one length along dimension 0."""
    return _cut(shape, {0: lambda n: Cut.even(n, max(1, n // 2))})


def uneven(number: int, shape: tuple[int, ...]) -> Sharding:
    """One element, none, and the rest along dimension 0."""
    return _cut(shape, {0: lambda n: points_at(n, 1, 1)})


def last(number: int, shape: tuple[int, ...]) -> Sharding:
    """Cut along the last dimension."""
    return _cut(shape, {len(shape) - 1: lambda n: points_at(n, max(1, n // 3))})


def grid(number: int, shape: tuple[int, ...]) -> Sharding:
    """Cut along all dimensions, with empty shards at an end."""
    return _cut(shape, dict.fromkeys(range(len(shape)), lambda n: points_at(n, n // 2, n)))


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
    """One call of an op, with arrays in place of tensors; `text` says which."""

    name: str
    tree: Any
    text: str

    def arrays(self) -> list[Array]:
        return arrays_of(self.tree)

    def with_arrays(self, arrays: Sequence[Any]) -> Call:
        return self._replace(tree=replaced(self.tree, iter(arrays)))

    def argument(self, number: int) -> str:
        """The name of the argument that has array `number`."""
        args, keywords = self.tree
        names = [
            name for name, item in zip(OPS[self.name].parameters, args, strict=False) for _ in arrays_of(item)
        ]
        return [*names, *(name for name, item in keywords.items() for _ in arrays_of(item))][number]

    def run(self, tensors: Sequence[Tensor]) -> list[Any]:
        args, keywords = replaced(self.tree, iter(tensors))
        return leaves(OPS[self.name].function(*args, **keywords))

    def reference(self, arrays: Sequence[Array]) -> list[Array]:
        args, keywords = replaced(self.tree, iter(arrays))
        with np.errstate(all="ignore"):
            return [np.asarray(out) for out in leaves(REFERENCES[self.name](*args, **keywords))]


def leaves(tree: Any) -> list[Any]:
    """What stands in tuples, lists and dicts, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree]


def arrays_of(tree: Any) -> list[Array]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Array)]


def replaced(tree: Any, new: Iterator[Any]) -> Any:
    """The tree with the next of `new` in place of each array."""
    if isinstance(tree, dict):
        return {key: replaced(item, new) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)([replaced(item, new) for item in tree])
    return next(new) if isinstance(tree, Array) else tree


def _arrays(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _arrays(item) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)([_arrays(item) for item in tree])
    return tree.detach().numpy() if isinstance(tree, Tensor) else tree


def calls(name: str) -> list[Call]:
    """The samples of an op."""
    found = []
    for number, (args, keywords) in enumerate(OPS[name].examples()):
        if not all(isinstance(key, str) for key in keywords):
            args, keywords = (*args, keywords), {}
        tree = (_arrays(args), _arrays(keywords))
        shown = ", ".join(
            f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, Array) else repr(leaf)
            for leaf in leaves(tree)
        )
        found.append(Call(name, tree, f"{name}, sample {number} ({shown})"))
    return found


def is_real(array: Any) -> bool:
    return array.dtype.kind == "f"


def direction(*key: int, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Numbers from 0.5 to 1.5 with random signs: the same for the same key."""
    rng = np.random.default_rng((*key, *shape))
    return (rng.uniform(0.5, 1.5, shape) * rng.choice((-1, 1), shape)).astype(dtype)


# What distgrad gives.
class Outcome(NamedTuple):
    """Results and derivatives of one call, as arrays.

    `tracked` says which outputs require grad. With v a direction for each of them and f = Σ <v, output>: `first` is
    the gradient of f for each tensor, None for one without; `second` the gradient of Σ <u, first>, with u a direction
    for each tensor, for each tensor and then for each v.
    """

    outs: list[Array]
    tracked: list[bool]
    first: list[Array | None]
    second: list[Array | None]


def cotangents(outs: Sequence[Any], tracked: Sequence[bool]) -> list[Array]:
    return [
        direction(1, i, shape=tuple(o.shape), dtype=o.dtype if isinstance(o, Array) else o._avals.dtype)
        for i, (o, t) in enumerate(zip(outs, tracked, strict=True))
        if t
    ]


def outcomes(
    batch: Sequence[Call], cut: Cutter | None = None, second: bool = True, only: int | None = None
) -> list[Outcome]:
    """Run the calls and differentiate them, all in one. Of each call's tensors `only` one may require grad.

    With `cut` all operands and cotangents are cut so; and the gradient of each operand must be.
    """

    def tensor(number: int, array: Array, tracked: bool) -> Tensor:
        made = Tensor(Value.known(array))
        if cut is not None:
            made = made.reshard(cut(number, array.shape)).detach()
        return made.requires_grad_() if tracked and is_real(array) else made

    runs = []
    for call in batch:
        inputs = [tensor(i, a, only in (None, i)) for i, a in enumerate(call.arrays())]
        outs = call.run(inputs)
        tracked = [isinstance(out, Tensor) and out.requires_grad for out in outs]
        seeds = [tensor(9 + i, v, second) for i, v in enumerate(cotangents(outs, tracked))]
        runs.append((inputs, outs, tracked, seeds))
    roots = [out for _, outs, tracked, _ in runs for out, t in zip(outs, tracked, strict=True) if t]
    if roots:
        torch.autograd.backward(roots, [v for *_, seeds in runs for v in seeds], create_graph=second)
    first = [[x._grad for x in inputs] for inputs, *_ in runs]
    for (inputs, *_), grads, call in zip(runs, first, batch, strict=True):
        for x, g in zip(inputs, grads, strict=True):
            assert g is None or cut is None or g.sharding == x.sharding, (
                f"{call.text}: its gradient is cut otherwise"
            )
    twice = (
        _second(first, [(*inputs, *seeds) for inputs, _, _, seeds in runs], tensor)
        if second
        else [[]] * len(runs)
    )
    for inputs, *_ in runs:
        for x in inputs:
            x._grad = None  # from which its graph leads back to it
    return [
        Outcome([_array(o) for o in outs], tracked, [_array(g) for g in grads], [_array(h) for h in more])
        for (_, outs, tracked, _), grads, more in zip(runs, first, twice, strict=True)
    ]


def _second(first: Any, variables: Any, tensor: Callable[..., Tensor]) -> list[list[Tensor | None]]:
    """The gradients of Σ <u, first>."""
    pairs = [
        (g, tensor(i, direction(2, i, shape=tuple(g.shape), dtype=g._avals.dtype), False))
        for grads in first
        for i, g in enumerate(grads)
        if g is not None and g.requires_grad
    ]
    wanted = [x for xs in variables for x in xs if x.requires_grad]
    found: dict[int, Tensor] = {}
    if pairs:
        roots, directions = zip(*pairs, strict=True)
        grads = torch.autograd.grad(roots, wanted, directions, allow_unused=True)
        found = {id(x): g for x, g in zip(wanted, grads, strict=True)}
    return [[found.get(id(x)) for x in xs] for xs in variables]


def _array(x: Any) -> Any:
    return x.detach().numpy() if isinstance(x, Tensor) else None if x is None else np.asarray(x)


# What it should give.
def check_results(call: Call, outs: Sequence[Array]) -> None:
    """Values, shapes and dtypes are those of the reference."""
    wanted = call.reference(call.arrays())
    assert len(outs) == len(wanted), f"{call.text}: {len(outs)} results, the reference has {len(wanted)}"
    for got, want in zip(outs, wanted, strict=True):
        assert got.shape == want.shape, f"{call.text}: shape {got.shape}, the reference has {want.shape}"
        assert got.dtype == want.dtype, f"{call.text}: {got.dtype}, the reference has {want.dtype}"
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12, err_msg=call.text)


def moved(arrays: Sequence[Array], by: Sequence[Array | None], step: float) -> list[Array]:
    return [a if d is None else np.asarray(a + step * d) for a, d in zip(arrays, by, strict=True)]


def steps(outcome: Outcome, step: float, tolerance: dict[str, float]) -> tuple[float, dict[str, float]]:
    return (COARSE, ROUGH) if any(out.dtype == np.float32 for out in outcome.outs) else (step, tolerance)


def check_first(call: Call, outcome: Outcome) -> None:
    """The gradients are the central differences of the reference; and what has none does not depend on its input."""
    arrays = call.arrays()
    step, tolerance = steps(outcome, STEP, FIRST)
    seeds = iter(cotangents(outcome.outs, outcome.tracked))
    seeds = [next(seeds) if t else None for t in outcome.tracked]

    def along(by: list[Array | None]) -> tuple[float, float]:
        """The derivative of what requires grad, and of what does not."""
        ahead, back = (call.reference(moved(arrays, by, h)) for h in (step, -step))
        parts = [
            ((a - b) / (2 * step) * (1 if v is None else v)).sum() if is_real(a) else 0.0
            for a, b, v in zip(ahead, back, seeds, strict=True)
        ]
        pairs = list(zip(parts, outcome.tracked, strict=True))
        return sum(p for p, t in pairs if t), sum(abs(p) for p, t in pairs if not t)

    for i, array in enumerate(arrays):
        if not is_real(array) or (call.name, call.argument(i)) in NO_DERIVATIVE:
            continue
        want, lost = np.zeros_like(array), 0.0
        for at in np.ndindex(array.shape):
            one = np.zeros_like(array)
            one[at] = 1
            want[at], missed = along([one if j == i else None for j in range(len(arrays))])
            lost += missed
        where = f"{call.text}: gradient of {call.argument(i)}"
        assert lost < 1e-6, f"{where}: a result depends on it, but does not require grad"
        got = outcome.first[i]
        assert got is None or got.dtype == array.dtype, f"{where} is {got.dtype}"
        np.testing.assert_allclose(
            np.zeros_like(array) if got is None else got, want, **tolerance, err_msg=where
        )


def check_second(call: Call, outcome: Outcome) -> None:
    """For f = Σ <v, output> the gradient of <u, f'> is the derivative of f' along u, and for v that of the output."""
    if not outcome.second:
        return
    arrays = call.arrays()
    by = [None if g is None else direction(2, i, shape=g.shape) for i, g in enumerate(outcome.first)]
    step, tolerance = steps(outcome, 10 * STEP, SECOND)
    ahead, back = (call.with_arrays(moved(arrays, by, h)) for h in (step, -step))
    slopes = [outcome.first for outcome in outcomes([ahead, back], second=False)]
    values = [
        [out for out, t in zip(c.reference(c.arrays()), outcome.tracked, strict=True) if t]
        for c in (ahead, back)
    ]
    pairs = [*zip(*slopes, strict=True), *zip(*values, strict=True)]
    for i, (got, (a, b)) in enumerate(zip(outcome.second, pairs, strict=True)):
        where = call.argument(i) if i < len(arrays) else f"the gradient of result {i - len(arrays)}"
        if (call.name, where) in NO_DERIVATIVE:  # though the gradients of others may depend on it
            continue
        want = np.zeros(()) if a is None else (a - b) / (2 * step)
        got = np.zeros_like(want) if got is None else got
        np.testing.assert_allclose(
            got, want, **tolerance, err_msg=f"{call.text}: second derivative, for {where}"
        )


def check_alike(call: Call, got: Outcome, want: Outcome, **tolerance: float) -> None:
    """Results and derivatives of both orders are the same, but for rounding."""
    assert got.tracked == want.tracked, call.text
    for what, some, others in zip(("result", "", "first", "second derivative"), got, want, strict=True):
        for i, (a, b) in enumerate(zip(some, others, strict=True) if what else ()):
            where = f"{call.text}: {what} {i}"
            assert (a is None) == (b is None), f"{where}: {a} and {b}"
            if a is not None:
                assert (a.dtype, a.shape) == (b.dtype, b.shape), (
                    f"{where}: {a.dtype}{a.shape}, {b.dtype}{b.shape}"
                )
                np.testing.assert_allclose(a, b, **tolerance, err_msg=where)
