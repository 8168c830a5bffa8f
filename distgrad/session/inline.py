"""Kernels run in the driver, on whole arrays."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.graph import Company, Result, Spec, Value, whole
from distgrad.primitives import Place, Primitive
from distgrad.session.signature import here
from distgrad.sharding import Region
from distgrad.worker.pool import Pool

FEED = 64 << 10  # bytes of a known array that may travel inside a call; a larger one is uploaded
KEPT = 100_000  # distinct calls that are remembered
READ = 4  # an operand may be this much larger than what is made
POOLED = (
    64 << 10
)  # bytes from which memory is kept: the C library hands larger pieces back, and new pages are dear
SPARE = 64 << 20  # bytes that wait for reuse

_known: dict[Any, tuple[tuple[Spec, ...], float, bool, bool]] = {}
_pool = Pool(SPARE)
_lines: dict[Any, Company] = {}  # of what is made of nothing large, by the user's lines


class _Quiet(threading.local):
    """`run(f, ...)` calls f where NumPy gives no warnings: a context, entered ten times faster than `np.errstate`."""

    run: Callable[..., Any]

    def __init__(self) -> None:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


_quiet = _Quiet()


def small(
    primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any], limit: int, workers: bool
) -> Sequence[Value] | None:
    """The results, computed now; None if an operand is not known or the work is not small.

    It is small if the results take at most `limit` bytes, and no operand more than `READ` times that.
    What is cut stays on the workers, also once it was fetched: looking at a tensor changes nothing. So does what
    is too large for a call, once it or what it is worked with had to go there: it would go again at each step.
    That is so while there are `workers`.
    """
    arrays, specs = [], []
    for value in inputs:
        result = value.result
        array = result.array
        if array is None:
            return None
        arrays.append(array)
        specs.append(result.spec)
    key = (primitive, *specs, *attrs.items()) if attrs else (primitive, *specs)
    outs, size, plain, travels = _known.get(key) or _signature(key, primitive, specs, attrs)
    if size > limit:
        return None
    if not plain:
        company = None if travels else _company([value.result for value in inputs])
        if workers and company is not None and company.far:
            return None
        made = apply(primitive, arrays, outs, attrs)
        results = [Result(out, array) for out, array in zip(outs, made, strict=True)]
        for result in results:
            result.company = company
        return [Value(result) for result in results]
    made = _quiet.run(primitive.kernel, *arrays, **attrs)
    return (Value(Result(outs[0], made if type(made) is np.ndarray else np.asarray(made))),)


def _company(results: Sequence[Result]) -> Company:
    """The company of what is made of these; without any that is large, of what the user's line made before."""
    company = None
    for result in results:
        if result.spec.nbytes > FEED:
            mine = result.company = result.company or Company()
            company = mine.all() if company is None else company.join(mine)
    if company is None:
        if len(_lines) >= KEPT:
            _lines.clear()
        company = _lines.setdefault(here(), Company()).all()
    return company


def _signature(
    key: Any, primitive: Primitive, specs: Sequence[Spec], attrs: dict[str, Any]
) -> tuple[tuple[Spec, ...], float, bool, bool]:
    """What the results are, the least limit that allows them, whether the kernel needs nothing but the operands and
    its result no company, and whether the results may travel inside calls.

    No limit allows what is cut.
    """
    outs = tuple(whole(o.shape, o.dtype) for o in primitive.shape([s.aval for s in specs], attrs))
    cuts = attrs.get("cuts")
    cut = any(s.sharding.count > 1 for s in specs) or (cuts is not None and cuts.count > 1)
    largest = max((s.nbytes for s in specs), default=0)
    size = math.inf if cut else max(sum(o.nbytes for o in outs), largest / READ)
    travels = all(out.nbytes <= FEED for out in outs)
    plain = len(outs) == 1 and travels and not primitive.placed and not _is_pooled(primitive, outs[0])
    if len(_known) >= KEPT:
        _known.clear()
    found = _known[key] = outs, size, plain, travels
    return found


def apply(
    primitive: Primitive, arrays: Sequence[np.ndarray], outs: Sequence[Spec], attrs: dict[str, Any]
) -> tuple[np.ndarray, ...]:
    """The arrays of the results `outs`."""
    if primitive.placed:
        at = Place(tuple(_all(a.shape) for a in arrays), tuple(_all(out.aval.shape) for out in outs))
        attrs = {**attrs, "at": at}
    if _is_pooled(primitive, outs[0]):
        attrs = {**attrs, "out": _pool.take(outs[0].aval.shape, outs[0].aval.dtype)}
    made = _quiet.run(primitive.kernel, *arrays, **attrs)
    if isinstance(made, tuple):
        return tuple(np.asarray(m) for m in made)
    return (np.asarray(made),)


def _is_pooled(primitive: Primitive, out: Spec) -> bool:
    """Whether the kernel writes into memory from the pool; one that may give a view is not asked to."""
    return primitive.into and not primitive.view and out.nbytes >= POOLED


def _all(shape: tuple[int, ...]) -> Region:
    return tuple((0, n) for n in shape)
