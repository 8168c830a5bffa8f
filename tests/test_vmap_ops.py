"""Every op of the table in `vmap`, beside a loop over the samples: values, gradients of each sample, and their sum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from op_calls import Cutter, mixed, uneven

import distgrad
from distgrad.ops.table import OPS
from distgrad.session import door
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

B = 3
DYNAMIC = {  # how much comes out depends on the elements: refused
    "_choose",
    "_masked_select",
    "_nonzero",
    "_nonzero_tuple",
    "_unchoose",
    "allclose",
    "argwhere",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "one_hot",
}
TENSOR_OPS = sorted(set(OPS) - DYNAMIC)
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
Call = Callable[..., tuple[Tensor, ...]]


def tensors_in(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    return [t for part in item for t in tensors_in(part)] if isinstance(item, (tuple, list)) else []


def replaced(item: Any, new: Iterator[Tensor]) -> Any:
    if isinstance(item, Tensor):
        return next(new)
    if isinstance(item, (tuple, list)) and tensors_in(item):
        return type(item)(replaced(part, new) for part in item)
    return item


def variant(t: Tensor, k: int) -> Tensor:
    return t.detach() * (1 + k / 16) if t.is_floating_point() else t.detach()


def called(name: str, args: Any, keywords: dict[str, Any]) -> Call:
    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(OPS[name].function(*replaced(args, iter(tensors)), **keywords)))

    return call


def total(call: Call) -> Callable[..., Tensor]:
    def weighted(*tensors: Tensor) -> Tensor:
        zero = distgrad.tensor(0.0, dtype=distgrad.float64)
        return sum(((out * 1.5).sum() for out in call(*tensors) if out.is_floating_point()), zero)

    return weighted


def check(
    call: Call, tensors: Sequence[Tensor], batched: Sequence[bool], gradients: bool, cut: Cutter | None = None
) -> None:
    """`cut` says how the operands that `vmap` gets are cut; else as they come."""
    dims = tuple(0 if flag else None for flag in batched)

    def sample(k: int) -> list[Tensor]:
        return [variant(t, k) if flag else t.detach() for t, flag in zip(tensors, batched, strict=True)]

    try:
        loop = [call(*sample(k)) for k in range(B)]
    except RuntimeError:  # another sample is not allowed
        return
    stacked = [
        distgrad.stack([variant(t, k) for k in range(B)]) if flag else t.detach()
        for t, flag in zip(tensors, batched, strict=True)
    ]
    if cut is not None:
        stacked = [t.reshard(cut(i, tuple(t.shape))) for i, t in enumerate(stacked)]
    outs = distgrad.vmap(call, in_dims=dims)(*stacked)
    for i, out in enumerate(outs):
        np.testing.assert_allclose(out.numpy(), np.stack([one[i].numpy() for one in loop]), **CLOSE)
    wanted = tuple(i for i, t in enumerate(tensors) if t.is_floating_point() and t.numel())
    if not gradients or not wanted or not any(out.is_floating_point() for out in outs):
        return
    func, one = distgrad.func, total(call)
    each = func.grad(one, argnums=wanted)
    expected = [
        np.stack([g.numpy() for g in gs]) for gs in zip(*(each(*sample(k)) for k in range(B)), strict=True)
    ]
    for g, e in zip(distgrad.vmap(each, in_dims=dims)(*stacked), expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e, **CLOSE)
    together = func.grad(lambda *ts: distgrad.vmap(one, in_dims=dims)(*ts).sum(), argnums=wanted)(*stacked)
    for i, g, e in zip(wanted, together, expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e if batched[i] else e.sum(0), **CLOSE)


def choices(tensors: Sequence[Tensor]) -> list[list[bool]]:
    """All floats batched, the first tensor alone, and the last."""
    n = len(tensors)
    floats = [t.is_floating_point() for t in tensors]
    found = [floats if any(floats) else [True] * n]
    if n > 1:
        found += [[i == 0 for i in range(n)], [i == n - 1 for i in range(n)]]
    return found


def check_op(name: str, most: int, gradients: bool = True, cut: Cutter | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for args, keywords in OPS[name].examples()[:most]:
            tensors = tensors_in(args)
            for batched in choices(tensors) if tensors else ():
                check(called(name, args, keywords), tensors, batched, gradients, cut)


@pytest.mark.parametrize("name", TENSOR_OPS)
def test_op(name: str) -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker))
    try:
        check_op(name, 1)
    finally:
        door.shutdown()


def on_workers(name: str, cut: Cutter) -> None:
    door.shutdown()
    door.attach(InProcess(3, Worker), inline_bytes=0, shard_bytes=40)
    try:
        check_op(name, 1, cut=cut)
    finally:
        door.shutdown()


@pytest.mark.parametrize("name", TENSOR_OPS[::32])
def test_op_on_workers(name: str) -> None:
    on_workers(name, uneven)


@pytest.mark.sweep
@pytest.mark.parametrize("name", TENSOR_OPS)
def test_op_on_workers_in_other_cuts(name: str) -> None:
    on_workers(name, mixed)


@pytest.mark.parametrize("name", sorted(DYNAMIC))
def test_what_depends_on_elements_is_refused(name: str) -> None:
    args, keywords = OPS[name].examples()[0]
    tensors = tensors_in(args)
    stacked = [distgrad.stack([t.detach()] * B) for t in tensors]
    with pytest.raises(RuntimeError, match="vmap: "):
        distgrad.vmap(called(name, args, keywords))(*stacked)
