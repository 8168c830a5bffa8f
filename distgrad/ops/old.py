"""Names that torch keeps for older programs: `range`, `lu`, `Tensor.new`."""

from __future__ import annotations

import warnings
from typing import Any

from distgrad import session
from distgrad.dtype import BOOL, Size, default_numpy, dtype_of
from distgrad.ops.base import Tensor, attach
from distgrad.ops.declaration import named_tuple
from distgrad.ops.lu import lu_factor_ex, lu_solve
from distgrad.ops.making import _line, _steps, empty, finished, number, tensor
from distgrad.warned import warn_once

__all__ = ["lu", "range"]

RANGE = (
    "torch.range is deprecated and will be removed in a future release because its behavior is inconsistent with "
    "Python's range builtin. Instead, use torch.arange, which produces values in [start, end)."
)
LU = (
    "torch.lu is deprecated in favor of torch.linalg.lu_factor / torch.linalg.lu_factor_ex and will be removed in a "
    "future PyTorch release.\nLU, pivots = torch.lu(A, compute_pivots)\nshould be replaced with\nLU, pivots = "
    "torch.linalg.lu_factor(A, compute_pivots)\nand\nLU, pivots, info = torch.lu(A, compute_pivots, get_infos=True)\n"
    "should be replaced with\nLU, pivots, info = torch.linalg.lu_factor_ex(A, compute_pivots)"
)


def range(
    start: Any,
    end: Any,
    step: Any = 1,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    sharding: Any = None,
) -> Tensor:
    """start, start + step, ... up to `end`, which is one of them if a step meets it; floats unless `dtype` is given."""
    warnings.warn(RANGE, stacklevel=2)
    names = (("start", start), ("end", end), ("step", step))
    first, last, apart = [number("range", name, i, x) for i, (name, x) in enumerate(names, 1)]
    numpy_dtype = default_numpy() if dtype is None else dtype_of(dtype).numpy
    if numpy_dtype == BOOL:
        raise NotImplementedError("\"range_cpu\" not implemented for 'Bool'")
    _steps(first, last, apart, numpy_dtype)
    n = int((last - first) / apart) + 1
    if numpy_dtype.kind == "i":
        first, apart = int(first), int(apart)
    with session.called("range"):
        return finished(_line(n, first, apart, numpy_dtype, sharding), requires_grad, device)


_with_info = named_tuple("_lu_with_info", ("LU", "pivots", "info"))


def lu(A: Tensor, pivot: bool = True, get_infos: bool = False, out: Any = None) -> Any:
    """(LU, pivots) of `linalg.lu_factor_ex`, with info behind if `get_infos`: a zero on the diagonal is no error."""
    warn_once(LU)
    made = _with_info(list(lu_factor_ex(A, pivot=pivot)))
    if out is not None:
        for given, found in zip(out, made, strict=False):
            given.data = found
        return out
    return made if get_infos else (made.LU, made.pivots)


def _lu_method(self: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """(LU, pivots) or (LU, pivots, info), as `torch.lu`."""
    return tuple(lu(self, pivot, get_infos))


def _new(self: Tensor, *data: Any, device: Any = None) -> Tensor:
    """A tensor of this one's dtype: of a shape, as `x.new(2, 3)`, or with the numbers of a list, array or tensor."""
    if len(data) == 1 and not isinstance(data[0], (int, Size)):
        return tensor(data[0], dtype=self.dtype, device=device)
    return empty(*(data or (0,)), dtype=self.dtype, device=device)


attach(lu=_lu_method, lu_solve=lu_solve, new=_new)
