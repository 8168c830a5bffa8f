"""Forward mode for every op of the table: <g, J t> is <Jᵀ g, t>, out of place and in place, for all ways to cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from op_calls import CUTS, Call, Cutter, calls, direction, in_place, is_real, methods, workers

import distgrad as torch
from distgrad.autograd import forward_ad
from distgrad.graph import Value
from distgrad.ops.table import OPS
from distgrad.tensor import Tensor

EACH = pytest.mark.parametrize("name", sorted(OPS))


def tensor(array: np.ndarray, cut: Cutter | None, number: int) -> Tensor:
    made = Tensor(Value.known(np.asarray(array)))
    return made if cut is None else made.reshard(cut(number, array.shape)).detach()


def duals(call: Call, cut: Cutter | None) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Leaves for the call's arrays, tangents of those that are real, and the duals of both."""
    leaves, tangents, made = [], [], []
    for i, array in enumerate(call.arrays()):
        x = tensor(array, cut, i)
        if is_real(array):
            t = tensor(direction(5, i, shape=array.shape, dtype=array.dtype), cut, i)
            leaves.append(x.requires_grad_())
            tangents.append(t)
            x = forward_ad.make_dual(x, t)
        made.append(x)
    return leaves, tangents, made


def products(call: Call, cut: Cutter | None) -> tuple[list[Tensor], list[Tensor]]:
    """Terms of <g, J t> and of <Jᵀ g, t>, both from one run of the op."""
    leaves, tangents, inputs = duals(call, cut)
    outs = [out for out in call.run(inputs) if isinstance(out, Tensor)]
    roots, gs, forward = [], [], []
    for i, out in enumerate(outs):
        primal, tangent = forward_ad.unpack_dual(out)
        assert (tangent is not None) == (primal.requires_grad and bool(leaves)), f"{call.text}: output {i}"
        if tangent is not None:
            assert (tangent.shape, tangent.dtype) == (primal.shape, primal.dtype), call.text
            g = tensor(direction(6, i, shape=tuple(out.shape), dtype=out._avals.dtype), None, i)
            roots.append(primal)
            gs.append(g)
            forward.append((g * tangent).sum().detach())
    found = torch.autograd.grad(roots, leaves, gs, allow_unused=True) if roots and leaves else ()
    return forward, [(g * t).sum() for g, t in zip(found, tangents, strict=False) if g is not None]


def total(terms: Sequence[Tensor]) -> float:
    return sum(float(term) for term in terms)


def check(batch: Sequence[Call], cut: Cutter | None = None) -> None:
    with forward_ad.dual_level():
        pairs = [products(call, cut) for call in batch]
    for call, (forward, reverse) in zip(batch, pairs, strict=True):
        tolerance = 1e-4 if any(a.dtype == np.float32 for a in call.arrays()) else 1e-6
        np.testing.assert_allclose(
            total(forward), total(reverse), rtol=tolerance, atol=1e-9, err_msg=call.text
        )


@pytest.fixture(autouse=True)
def small_work_in_the_driver() -> Iterator[None]:
    with workers(inline_bytes=1 << 16):
        yield


@EACH
def test_in_the_driver(name: str) -> None:
    check(calls(name))


@pytest.mark.sweep
@pytest.mark.parametrize("cut", ["uneven", "mixed"])
@pytest.mark.parametrize("part", range(16))
def test_cuts(part: int, cut: str) -> None:
    names = [name for name in sorted(OPS)[part::16] if OPS[name].formulas or OPS[name].composite]
    with workers(shard_bytes=32):
        check([call for name in names for call in calls(name)], CUTS[cut])


@pytest.mark.filterwarnings("ignore:index_reduce")  # which warns, as torch does
@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.inplace))
def test_in_place(name: str) -> None:
    batch = calls(name)
    outs = [
        [out.detach().numpy() for out in call.run([tensor(a, None, 0) for a in call.arrays()])]
        for call in batch
    ]
    changed = [other for call, out in zip(batch, outs, strict=True) for other in in_place(call, out)]
    check(changed)
    check([other for call in batch for other in methods(call)])
