"""How an op of the table is checked: by a reference, by finite differences to second order, and for any cuts.

The checkers raise AssertionError that names the op and the sample. `test_ops.py` calls them for all of the table,
`test_planted.py` for ops that were made wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from op_calls import Array, Call, Cutter, direction, is_public, is_real, leaves

import distgrad as torch
from distgrad.dtype import float64
from distgrad.graph import Value
from distgrad.tensor import Tensor

STEP = 1e-6  # of finite differences
FIRST, SECOND = {"rtol": 1e-6, "atol": 1e-7}, {"rtol": 1e-5, "atol": 1e-6}
COARSE, ROUGH = 1e-2, {"rtol": 5e-4, "atol": 1e-4}  # where a result is float32 whatever the operands are
CUT = {"rtol": 1e-10, "atol": 1e-11}  # between cuts, which change the order of additions

# Arguments that have no derivative although the result depends on them; nor do they in torch.
NO_DERIVATIVE = {
    ("nll_loss_forward", "weight"),
    ("binary_cross_entropy", "weight"),
    ("binary_cross_entropy_with_logits", "weight"),
    ("binary_cross_entropy_with_logits", "pos_weight"),
    ("_normalize_by", "mean"),
    ("_normalize_by", "variance"),
    *((f"_{name}", argument) for name in ("gamma_quantile", "gamma_slope") for argument in ("shape", "u")),
    *((f"_{name}", argument) for name in ("beta_quantile", "beta_slope") for argument in ("a", "b", "u")),
    *(("_poisson_quantile", argument) for argument in ("rate", "u")),
    *(("_binomial_quantile", argument) for argument in ("n", "p", "u")),
}

# Ops of which further results do not require grad, as in torch: what backward needs, or ranks and singular values.
SAVED_RESULTS = {"_standardize", "_lstsq"}
# These read one triangle of a matrix, and their gradient is that of symmetric ones: the same plus its transpose.
SYMMETRIC = ("_cholesky", "cholesky", "linalg_eigh", "eigvalsh")
# As in torch, that of eigenvectors is not symmetric itself: the second derivative is tested in test_decompositions.py.
SECOND_ELSEWHERE = ("linalg_eigh", "eigvalsh")
# A first derivative that is itself to be differentiated is written out in other steps.
WRITTEN_OUT = ("_gru", "_lstm", "_rnn")


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
            assert made.sharding == cut(number, array.shape)
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
            lost += 0.0 if call.name in SAVED_RESULTS else missed
        where = f"{call.text}: gradient of {call.argument(i)}"
        assert lost < 1e-6, f"{where}: a result depends on it, but does not require grad"
        got = outcome.first[i]
        assert got is None or got.dtype == array.dtype, f"{where} is {got.dtype}"
        got = np.zeros_like(array) if got is None else got
        if call.name in SYMMETRIC:
            got, want = got + got.mT, want + want.mT
        np.testing.assert_allclose(got, want, **tolerance, err_msg=where)


def check_second(call: Call, outcome: Outcome) -> None:
    """For f = Σ <v, output> the gradient of <u, f'> is the derivative of f' along u, and for v that of the output."""
    if not outcome.second or call.name in SECOND_ELSEWHERE:
        return
    arrays = call.arrays()
    by = [None if g is None else direction(2, i, shape=g.shape) for i, g in enumerate(outcome.first)]
    if call.name in SYMMETRIC:
        by = [None if u is None else (u + u.mT) / 2 for u in by]
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


def check_alone(call: Call, outcome: Outcome) -> None:
    """The gradient of each operand is the same when it alone requires one."""
    some = [i for i, g in enumerate(outcome.first) if g is not None]
    for i in some if len(some) > 1 else ():
        (alone,) = outcomes([call], second=False, only=i)
        for j, (got, want) in enumerate(zip(alone.first, outcome.first, strict=True)):
            if j == i:
                near = {"rtol": 1e-10, "atol": 1e-12} if call.name in WRITTEN_OUT else {"rtol": 0, "atol": 0}
                np.testing.assert_allclose(got, want, **near, err_msg=f"{call.text}: gradient {i} alone")
            else:
                assert got is None, f"{call.text}: a gradient for {j}, which does not require one"


def check_view(call: Call, cut: Cutter | None) -> None:
    """The elements that the view shows, in the view's base, change with it and hide the base's gradient."""
    base, *rest = call.arrays()
    shown = call.reference([np.arange(base.size).reshape(base.shape), *rest])[0]
    x = Tensor(Value.known(base))
    x = x if cut is None else x.reshard(cut(0, base.shape)).detach()
    y = x.requires_grad_().clone()
    view = call.run([y])[0]
    assert view._base is y, f"{call.text}: no view"
    view.fill_(7.0)
    want, weights = base.copy(), direction(3, shape=base.shape)
    want.reshape(-1)[shown], slope = 7.0, weights.copy()
    slope.reshape(-1)[shown] = 0
    (y * Tensor(Value.known(weights))).sum().backward()
    np.testing.assert_array_equal(_array(y), want, err_msg=f"{call.text}: written through the view")
    np.testing.assert_array_equal(_array(x._grad), slope, err_msg=f"{call.text}: gradient of the base")


# Other dtypes, and no elements.
def narrow(array: Array | None) -> Array | None:
    return array.astype(np.float32) if array is not None and array.dtype == np.float64 else array


def as_float32(call: Call) -> Call:
    return call.with_arrays([narrow(a) for a in call.arrays()])._replace(text=f"{call.text}, as float32")


def _tells_float64(call: Call) -> bool:
    return any(leaf is float64 for leaf in leaves(call.tree))


def check_float32(call: Call, got: Outcome, want: Outcome) -> None:
    """What is float64 for float64 is float32 for float32, derivatives as well, and about the same."""
    if not _tells_float64(call):
        want = Outcome(*(part if part is want.tracked else [narrow(a) for a in part] for part in want))
    check_alike(call, got, want, rtol=2e-4, atol=2e-4)


def as_integers(call: Call) -> Call | None:
    """The call with int64 in place of float64; what was above 0 stays so."""
    arrays = call.arrays()
    if not any(is_real(a) for a in arrays):
        return None

    def rounded(a: Array) -> Array:
        return np.asarray(np.ceil(a) if a.size and a.min() > 0 else np.rint(3 * a)).astype(np.int64)

    return call.with_arrays([rounded(a) if is_real(a) else a for a in arrays])._replace(
        text=f"{call.text}, as int64"
    )


REFUSED = (RuntimeError, TypeError, IndexError, ValueError)


def attempt(call: Call, cut: Cutter | None = None) -> Outcome | type[Exception]:
    """What the call gives, or the exception that it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return outcomes([call], cut)[0]
        except REFUSED as error:
            return type(error)


def check_integers(call: Call, got: Outcome | type[Exception]) -> None:
    """Integers are refused, or give what the reference gives for them: as int64, bool, or the default float32."""
    if not isinstance(got, Outcome):
        return
    wanted = call.reference(call.arrays())
    for out, want in zip(got.outs, wanted, strict=True):
        small = ("int32",) if want.dtype == "int32" else ()  # numbers of offsets
        assert out.dtype in ("int64", "bool", "float64" if _tells_float64(call) else "float32", *small), (
            f"{call.text}: {out.dtype}"
        )
        assert out.shape == want.shape, f"{call.text}: shape {out.shape}, the reference has {want.shape}"
        np.testing.assert_allclose(out, want, rtol=2e-6, atol=2e-6, err_msg=call.text)


def emptied(call: Call) -> Call | None:
    """The call with no rows, where all operands have as many."""
    arrays = call.arrays()
    if not is_public(call.name) or not arrays or not all(a.ndim for a in arrays):
        return None
    if len({(a.ndim, len(a)) for a in arrays}) > 1:
        return None
    return call.with_arrays([a[:0] for a in arrays])._replace(text=f"{call.text}, empty")


def check_empty(call: Call, got: Outcome | type[Exception]) -> None:
    """Refused exactly where the reference has no answer; else shapes and dtypes are the same."""
    try:
        call.reference(call.arrays())
    except (ValueError, IndexError, ZeroDivisionError):
        assert not isinstance(got, Outcome), f"{call.text}: the reference refuses this"
        return
    assert isinstance(got, Outcome), f"{call.text}: {got}"
    check_results(call, got.outs)
    for array, g in zip(call.arrays(), got.first, strict=True):
        assert g is None or (g.shape, g.dtype) == (array.shape, array.dtype), f"{call.text}: gradient {g}"
