"""Kernels run in the driver, on whole arrays."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad import checks
from distgrad.caching import Cache
from distgrad.compiler import switch
from distgrad.graph import Colocation, LazyConstant, Result, Spec, Value, whole
from distgrad.primitives import Place, Primitive
from distgrad.session.driver import MEDIUM, own, waits_as
from distgrad.session.placement import HERE, LAZY, Facts, Where, decide, fits_call
from distgrad.session.signature import Signature, here
from distgrad.sharding import everything
from distgrad.worker.pool import Pool

KEPT = 32 << 20  # bytes of what is known of distinct calls
POOLED = 64 << 10  # bytes from which memory is kept: the C library gives it back, and new pages are dear
SPARE = 64 << 20  # bytes that wait for reuse


class _Known(NamedTuple):
    """What is worked out once for each distinct call."""

    outs: tuple[Spec, ...]
    where: Where  # where it runs if the driver has its operands, and none of them had to go to the workers
    alone: bool  # the kernel gives one result, and needs nothing but the operands
    pooled: bool  # the result is written into memory from the pool
    travels: bool  # the results may travel inside calls
    medium: bool  # they are so large that the call had better wait for others
    waiting: Signature | None  # its signature if it can wait
    facts: Facts


_known: Cache[Any, _Known] = Cache(KEPT, lambda key, _: 600 + 80 * len(key), shared=True)
_pool = Pool(SPARE)


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
    """The results, computed now, or lazy; None if an operand is not known, or `decide` says that it runs elsewhere."""
    specs: list[Spec] = []
    arrays: list[Any] = []
    any_lazy = pending = False
    for value in inputs:
        result = value.result
        array = result.array
        if array is None:
            waits = result.lazy
            if result.driver is not None or result.array is not None:  # another thread may give it one now
                pending = True
            elif waits is None or not waits.near or (waits.base is not None and "view" in primitive.traits):
                return None
            any_lazy = True
        specs.append(result.spec)
        arrays.append(array)
    key = (primitive, limit, *specs, *attrs.items()) if attrs else (primitive, limit, *specs)
    known = _known.get(key) or _look(key, primitive, specs, attrs, limit)
    outs, where, alone, pooled, travels, medium, waiting, facts = known
    if where is not HERE:
        if where is not LAZY:
            return None
        value = Value(Result(outs[0]))
        value.result.becomes_lazy(LazyConstant(primitive, tuple(inputs), attrs, here(primitive)))
        return (value,)
    colocation = None
    if not travels:
        colocation = _colocation([value.result for value in inputs])
        if colocation.remote and decide(facts._replace(workers=workers, remote=True)) is not HERE:
            return None
    if (pending or medium) and waiting is not None and workers and switch.on():
        value = _recorded(primitive, inputs, attrs, waiting)
        value.result.colocation = colocation
        return (value,)
    if any_lazy:
        arrays = [computed_here(value.result) for value in inputs]
    if alone:
        if pooled:
            out = _pool.take(outs[0].aval.shape, outs[0].aval.dtype)
            made = _quiet.run(primitive.kernel, *arrays, out=out, **attrs)
        else:
            made = _quiet.run(primitive.kernel, *arrays, **attrs)
        array = made if type(made) is np.ndarray else np.asarray(made)
        if checks.ENABLED:
            _check(primitive, (array,), outs)
        result = Result(outs[0], array)
        result.colocation = colocation
        return (Value(result),)
    several = run_kernel(primitive, arrays, outs, attrs)
    values = [Value(Result(out, array)) for out, array in zip(outs, several, strict=True)]
    for value in values:
        value.result.colocation = colocation
    return values


def computed_here(result: Result) -> np.ndarray:
    """The array of a result that is known or lazy, which is computed now, here in the driver."""
    work = result.driver
    if work is not None:
        work.run()
    if result.array is None:
        lazy = result.lazy
        assert lazy is not None
        inputs, attrs = lazy.call()
        arrays = [computed_here(value.result) for value in inputs]
        (array,) = run_kernel(lazy.primitive, arrays, [result.spec], attrs)
        result.becomes_known(array)
        return array
    return result.array


def _recorded(primitive: Primitive, inputs: Sequence[Value], attrs: dict[str, Any], made: Signature) -> Value:
    """The result of a call that waits for others."""
    mine = own.pending
    for value in inputs:
        if not mine.reads(value.result):
            computed_here(value.result)
    return mine.record(primitive, inputs, attrs, made)


def is_remote(result: Result) -> bool:
    """Whether what it is colocated with had to go to the workers."""
    return result.colocation is not None and result.colocation.root().remote


def _colocation(results: Sequence[Result]) -> Colocation:
    """The group of what is made of these."""
    colocation = None
    for result in results:
        if not fits_call(result.spec.nbytes):
            if result.colocation is None:
                result.colocation = colocation or Colocation()
            elif colocation is not None:
                result.colocation = colocation.join(result.colocation)
            colocation = result.colocation
    return Colocation() if colocation is None else colocation.root()


def _look(key: Any, primitive: Primitive, specs: Sequence[Spec], attrs: dict[str, Any], limit: int) -> _Known:
    found = _known.again(key)
    if found is not None:
        return found
    outs = tuple(whole(o.shape, o.dtype) for o in primitive.shape([s.aval for s in specs], attrs))
    cuts = attrs.get("cuts")
    cut = any(s.sharding.count > 1 for s in specs) or (cuts is not None and cuts.count > 1)
    largest = max((s.nbytes for s in specs), default=0)
    travels = all(fits_call(out.nbytes) for out in outs)
    alone = len(outs) == 1 and "placed" not in primitive.traits
    constant = not travels and "lazy" in primitive.traits and fits_call(largest)
    facts = Facts(limit, nbytes=max(sum(o.nbytes for o in outs), largest), cut=cut, constant=constant)
    pooled = alone and _is_pooled(primitive, outs[0])
    medium = any(out.nbytes > MEDIUM for out in outs) and "view" not in primitive.traits
    waiting = None if cut else waits_as(primitive, specs, attrs)
    return _known.keep(key, _Known(outs, decide(facts), alone, pooled, travels, medium, waiting, facts))


def run_kernel(
    primitive: Primitive, arrays: Sequence[np.ndarray], outs: Sequence[Spec], attrs: dict[str, Any]
) -> tuple[np.ndarray, ...]:
    """The arrays of the results `outs`."""
    if "placed" in primitive.traits:
        shapes = tuple(a.shape for a in arrays)
        at = Place(tuple(map(everything, shapes)), tuple(everything(out.aval.shape) for out in outs), shapes)
        attrs = {**attrs, "at": at}
    if len(outs) > 1 and "into" in primitive.traits:
        attrs = {**attrs, "out": tuple([_pool.take(out.aval.shape, out.aval.dtype) for out in outs])}
    elif _is_pooled(primitive, outs[0]):
        attrs = {**attrs, "out": _pool.take(outs[0].aval.shape, outs[0].aval.dtype)}
    made = _quiet.run(primitive.kernel, *arrays, **attrs)
    results = tuple([np.asarray(m) for m in made]) if isinstance(made, tuple) else (np.asarray(made),)
    if checks.ENABLED:
        _check(primitive, results, outs)
    return results


def _check(primitive: Primitive, made: Sequence[np.ndarray], outs: Sequence[Spec]) -> None:
    shapes, dtypes = [out.aval.shape for out in outs], [out.aval.dtype for out in outs]
    checks.check_results(primitive.name, made, shapes, dtypes)


def _is_pooled(primitive: Primitive, out: Spec) -> bool:
    """Whether the kernel writes into memory from the pool; one that may give a view is not asked to."""
    return "into" in primitive.traits and "view" not in primitive.traits and out.nbytes >= POOLED
