"""Element by element: arithmetic, functions of one variable, comparisons, logic, casts.

Results have the shape that the operands broadcast to. The operands of a kernel have equal dtypes already: the ops
insert `cast`. Integer division by zero raises as torch does; floating-point events give inf and nan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from distgrad.compiler import maths
from distgrad.compiler.maths import bits, division
from distgrad.primitives.base import (
    DTYPES,
    Attrs,
    Aval,
    Labels,
    Lower,
    Primitive,
    Shape,
    ShapeRule,
    Trait,
    expect,
    primitive,
)
from distgrad.primitives.batching import Batch
from distgrad.primitives.kernels import (
    cast,
    checked,
    copy,
    integer_power,
    lgamma,
    log_sigmoid,
    negative,
    packed,
    power,
    power_code,
    relu,
    round_decimals,
    rounding_code,
    rsqrt,
    sigmoid,
    sign,
    softplus,
    where,
)


# Shapes and labels.
@lru_cache(maxsize=4096)
def broadcast_shape(*shapes: Shape) -> Shape:
    """The shape that `shapes` broadcast to; raises RuntimeError with torch's text where they do not."""
    result: list[int] = []
    for shape in shapes:
        result = [1] * (len(shape) - len(result)) + result
        first = len(result) - len(shape)
        for d in range(len(result) - 1, first - 1, -1):  # the last that does not fit is told of
            n = shape[d - first]
            if n != result[d] and n != 1 and result[d] != 1:
                raise RuntimeError(
                    f"The size of tensor a ({result[d]}) must match the size of tensor b ({n}) "
                    f"at non-singleton dimension {d}"
                )
            result[d] = n if result[d] == 1 else result[d]
    return tuple(result)


@lru_cache(maxsize=4096)
def _aligned(*shapes: Shape) -> Labels:
    out = broadcast_shape(*shapes)
    ins = tuple(
        tuple(i if n == out[i] else None for i, n in enumerate(shape, len(out) - len(shape)))
        for shape in shapes
    )
    return Labels(ins, (tuple(range(len(out))),))


def aligned(avals: Sequence[Aval], attrs: Attrs) -> Labels:
    """Label i for dimension i of the result; operands align to the right, None where they are broadcast."""
    return _aligned(*[a.shape for a in avals])


def line_up(
    batch: Batch, made: Primitive, xs: Sequence[Any], flags: Sequence[bool], attrs: Attrs
) -> Sequence[Any]:
    """The batching rule: operands align to the right, so those with few dimensions get ones behind the batch."""
    shapes = [x.shape[flag:] for x, flag in zip(xs, flags, strict=True)]
    n = len(broadcast_shape(*shapes))
    ins = [
        batch.emit("expand_dims", x, dims=tuple(range(1, 1 + n - len(shape))))
        if flag and len(shape) < n
        else x
        for x, flag, shape in zip(xs, flags, shapes, strict=True)
    ]
    return batch.apply(made.name, ins, attrs)


def elementwise(dtype: str = "last") -> ShapeRule:
    """The broadcast shape, with the `"last"` operand's dtype, the dtype named here or that of the attr `"dtype"`."""

    def rule(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        found = avals[-1].dtype if dtype == "last" else DTYPES[attrs["dtype"] if dtype == "dtype" else dtype]
        return (Aval(broadcast_shape(*[a.shape for a in avals]), found),)

    return rule


SAME, BOOL = elementwise(), elementwise("bool")


@lru_cache(maxsize=4096)
def _given(kernel: Callable[..., Any], dtypes: tuple[np.dtype, ...], attrs: tuple[Any, ...]) -> Any:
    """The dtype that a kernel gives for operands of these: tried on no elements."""
    return kernel(*[np.empty(0, dtype) for dtype in dtypes], **dict(attrs)).dtype


def _checked_rule(kernel: Callable[..., Any], rule: ShapeRule) -> ShapeRule:
    """`rule`, for dtypes of which the kernel gives the dtype that the rule says; the number of operands is its own."""

    def checked(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        (out,) = rule(avals, attrs)
        dtypes = tuple([a.dtype for a in avals])
        given = _given(kernel, dtypes, tuple(attrs.items()))
        expect(given == out.dtype, "of {} comes {}, not {}", dtypes, given, out.dtype)
        return (out,)

    return checked


def as_builder(kinds: str, light: bool = False) -> Callable[[str], Lower]:
    """Lowered to the builder's method that has the primitive's name."""
    return lambda name: Lower(lambda b, *xs: getattr(b, name)(*xs), kinds, light)


def of_maths(name: str) -> Lower:
    """Lowered to the function of `compiler.maths` that has the primitive's name."""
    return Lower(getattr(maths, name))


def declare(
    kernels: Mapping[str, Callable[..., Any]],
    shape: ShapeRule = SAME,
    flops: float = 1.0,
    traits: Collection[Trait] = (),
    lower: Lower | Callable[[str], Lower] | None = None,
    **attrs: str,
) -> None:
    """Declare kernels of one kind, by name, that take `out=`; a ufunc may write over an operand."""
    for name, kernel in kernels.items():
        more: set[Trait] = {"into", "over"} if isinstance(kernel, np.ufunc) else {"into"}
        rule = _checked_rule(kernel, shape)
        primitive(
            name,
            kernel,
            rule,
            labels=aligned,
            batch=line_up,
            attrs=attrs,
            traits=more.union(traits),
            flops=flops,
            lower=lower if lower is None or isinstance(lower, Lower) else lower(name),
        )


def _chosen(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    cond, a, b = avals
    expect(
        cond.dtype.kind == "b" and a.dtype == b.dtype, f"a choice by {cond.dtype} of {a.dtype} and {b.dtype}"
    )
    return SAME(avals, attrs)


def _raised(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
    expect(attrs["n"] >= 0, "{} is below 0", attrs["n"])
    return SAME(avals, attrs)


def _named(names: str, module: Any = np) -> dict[str, np.ufunc]:
    return {name: getattr(module, name) for name in names.split()}


FLOAT, NUMBER, ANY = "f", "fi", "fib"  # kinds of dtypes
declare({"negative": negative}, traits={"over", "exact"}, lower=as_builder(NUMBER, light=True))
declare(_named("absolute"), lower=as_builder(NUMBER, light=True))
declare(_named("sqrt reciprocal floor ceil rint trunc"), lower=as_builder(FLOAT))
declare(_named("square"), traits={"exact"}, lower=Lower(lambda b, x: b.multiply(x, x), NUMBER, light=True))
declare({"sign": sign}, lower=as_builder(NUMBER))
declare({"copy": copy}, lower=Lower(lambda b, x: x, ANY, light=True))
declare({"rsqrt": rsqrt}, traits={"over"}, lower=Lower(lambda b, x: b.reciprocal(b.sqrt(x))))
declare(
    {"relu": relu}, traits={"over"}, lower=Lower(lambda b, x: b.maximum(x, b.like(x, 0)), NUMBER, light=True)
)
declare(_named("exp expm1 log log1p log2 log10 tanh sin cos tan arctan sinh cosh"), flops=10, lower=of_maths)
declare(_named("arcsin arccos arcsinh arccosh arctanh"), flops=20, lower=of_maths)
declare({"sigmoid": sigmoid}, flops=20, traits={"over"}, lower=of_maths)
declare({"log_sigmoid": log_sigmoid}, flops=20, lower=of_maths)
declare({"erf": special.erf, "erfc": special.erfc}, flops=50, lower=of_maths)
declare({"lgamma": lgamma, "digamma": special.psi}, flops=50)
declare({"logical_not": np.logical_not}, BOOL, lower=Lower(lambda b, x: b.logical_not(b.truth(x)), ANY))
declare({"isnan": packed(np.isnan)}, BOOL, lower=as_builder(FLOAT))
declare({"isinf": packed(np.isinf)}, BOOL, lower=as_builder(FLOAT))
declare({"isfinite": packed(np.isfinite)}, BOOL, lower=as_builder(FLOAT))
declare(
    {"cast": cast},
    elementwise("dtype"),
    traits={"exact"},
    lower=Lower(lambda b, x, dtype: b.cast(x, dtype), ANY),
    dtype="dtype",
)
declare({"softplus": softplus}, flops=30, lower=of_maths, beta="float", threshold="float")
declare({"integer_power": integer_power}, _raised, traits={"exact"}, lower=Lower(power_code, NUMBER), n="int")
declare({"round_decimals": round_decimals}, flops=3, lower=Lower(rounding_code), decimals="int")

declare(_named("add multiply"), traits={"exact"}, lower=as_builder(ANY, light=True))
declare(_named("subtract"), traits={"exact"}, lower=as_builder(NUMBER, light=True))
declare(_named("divide"), traits={"exact"}, lower=as_builder(FLOAT))
declare(_named("maximum minimum"), traits={"exact"}, lower=as_builder(ANY, light=True))
declare(
    _named("bitwise_and bitwise_or bitwise_xor"),
    lower=lambda name: as_builder("ib", light=True)(name.replace("bitwise", "logical")),
)
declare(_named("left_shift right_shift"), lower=lambda name: Lower(getattr(bits, name), "i"))
declare({"power": power}, flops=20, lower=of_maths)
declare({"arctan2": np.arctan2, "hypot": np.hypot}, flops=20, lower=of_maths)
declare(
    {name: checked(f) for name, f in _named("remainder floor_divide fmod").items()},
    flops=10,
    lower=lambda name: Lower(getattr(division, name)),
)
declare(
    _named("equal not_equal less less_equal greater greater_equal"), BOOL, lower=as_builder(ANY, light=True)
)
declare(
    {"logical_and": np.logical_and},
    BOOL,
    lower=Lower(lambda b, x, y: b.logical_and(b.truth(x), b.truth(y)), ANY),
)
declare(
    {"logical_or": np.logical_or},
    BOOL,
    lower=Lower(lambda b, x, y: b.logical_or(b.truth(x), b.truth(y)), ANY),
)
declare(
    {"logical_xor": np.logical_xor},
    BOOL,
    lower=Lower(lambda b, x, y: b.logical_xor(b.truth(x), b.truth(y)), ANY),
)
declare({"where": where}, _chosen, lower=Lower(lambda b, cond, x, y: b.select(cond, x, y), ANY, light=True))
