"""`out=`: the result of an op, written into a tensor that the caller gives, by torch's rules."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from distgrad import session
from distgrad.callsites import call_site
from distgrad.dtype import OF_NUMPY, castable
from distgrad.ops.helpers import cast, title
from distgrad.ops.inplace import INFERENCE, OVERLAP, PARTIAL, write
from distgrad.record import grad_mode
from distgrad.storage import Storage, Untracked
from distgrad.tensor import C_NAMES, Tensor

WITHOUT = {  # ops that take no `out` in torch, beside those whose results are views
    *(
        "argsort",
        "celu",
        "clone",
        "constant_pad_nd",
        "count_nonzero",
        "diag_embed",
        "embedding",
        "flip",
        "index_fill",
    ),
    *(
        "isfinite",
        "isinf",
        "isnan",
        "isreal",
        "masked_fill",
        "masked_scatter",
        "relu",
        "roll",
        "selu",
        "trace",
    ),
}
COMPOSITES = {  # functions of other ops that do
    *(
        "addbmm",
        "addmm",
        "addmv",
        "addr",
        "baddbmm",
        "cholesky",
        "cholesky_inverse",
        "cholesky_solve",
        "column_stack",
    ),
    *(
        "diag",
        "dstack",
        "hstack",
        "inner",
        "masked_select",
        "matmul",
        "max",
        "min",
        "nanmean",
        "nonzero",
        "norm",
    ),
    *("outer", "take_along_dim", "tensordot", "vdot", "vstack", "where"),
}


def with_out(body: Callable[..., Any]) -> Callable[..., Any]:
    """A function of other ops that takes `out=` too."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None) if kwargs else None
        return body(*args, **kwargs) if out is None else into(body.__name__, body, args, kwargs, out)

    return call


def into(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> Any:
    """Call an op and put its results into `out`, a tensor or as many as there are results; gives `out`."""
    outs = out if isinstance(out, (tuple, list)) else (out,)
    operands = [item for item in _flat([*args, *kwargs.values()]) if isinstance(item, Tensor)]
    for one in outs:
        _check(name, one, operands)
    if grad_mode.enabled and any(t.requires_grad for t in (*operands, *outs)):
        raise RuntimeError(
            f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad."
        )
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        result = function(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(outs):
            raise TypeError(
                f"{name}() received an invalid combination of arguments: {len(outs)} tensors as out="
            )
        with session.called(name):
            values = [_fitting(one, found, len(outs)) for one, found in zip(outs, results, strict=True)]
            for one, value in zip(outs, values, strict=True):
                _put(name, one, value)
    finally:
        grad_mode.enabled = before
    if not isinstance(result, tuple):
        return outs[0]
    make = getattr(result, "_make", tuple)  # a named tuple's
    return make(outs)


def _flat(items: list[Any]) -> list[Any]:
    return [one for item in items for one in (item if isinstance(item, (tuple, list)) else (item,))]


def _check(name: str, out: Any, operands: list[Tensor]) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
    if type(out._versions) is Untracked and not grad_mode.inference:
        raise RuntimeError(INFERENCE)
    if out._view is not None and out._view.layout.overlaps:
        raise RuntimeError(OVERLAP)
    for item in operands:
        if item is not out and item._storage is out._storage and out._layout.meets(item._layout):
            same = item._layout == out._layout and item.shape == out.shape
            if not same:
                raise RuntimeError(PARTIAL)


def _fitting(out: Tensor, found: Tensor, count: int) -> Any:
    """The result with the dtype of `out`; torch's errors before anything has changed."""
    value, target = found._value, out._avals.dtype
    if value.dtype == target:
        return value
    if count > 1:
        want, got = (C_NAMES.get(OF_NUMPY[d].name, OF_NUMPY[d].name) for d in (value.dtype, target))
        raise RuntimeError(f"Expected out tensor to have dtype {want}, but got {got} instead")
    if not castable(value.dtype, target):
        raise RuntimeError(
            f"result type {title(value.dtype)} can't be cast to the desired output type {title(target)}"
        )
    return cast(value, target)


def _put(name: str, out: Tensor, value: Any) -> None:
    if out._avals.shape == value.shape:
        write(out, value, call_site(name))
        return
    if out._view is not None:
        raise NotImplementedError(
            f"{name}(): out= is a view of shape {list(out.shape)} and cannot be resized to {list(value.shape)}"
        )
    if out.numel():
        warnings.warn(
            f"An output with one or more elements was resized since it had shape {list(out.shape)}, which does not "
            f"match the required output shape {list(value.shape)}. This behavior is deprecated, and in a future "
            "PyTorch release outputs will not be resized unless they have zero elements. You can explicitly reuse an "
            "out tensor t by resizing it, inplace, to zero elements with t.resize_(0).",
            stacklevel=5,
        )
    out._storage = Storage(value)
    out._counter.number += 1
    out._counter.changed = call_site(name)
