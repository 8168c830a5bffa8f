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

from distgrad.primitives.base import (
    DTYPES,
    Attrs,
    Aval,
    Labels,
    Primitive,
    Shape,
    ShapeRule,
    Trait,
    expect,
    primitive,
)
from distgrad.primitives.batching import Batch

Out = np.ndarray | None


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


# Kernels that NumPy does not have as they are needed.


def negative(x: np.ndarray, out: Out = None) -> np.ndarray:
    """-x. NumPy 2.4.6's own is wrong where x and `out` have gaps (strides of 4 elements of 4 bytes, or of 8 of 8)."""
    return np.multiply(x, -1, out=out)


def sign(x: np.ndarray, out: Out = None) -> np.ndarray:
    """-1, 0 or 1; 0 for nan, as in torch; a bool is its own sign."""
    if x.dtype.kind == "b":
        return copy(x, out)
    out = np.sign(x, out=np.empty_like(x) if out is None else out)
    if x.dtype.kind == "f":
        np.copyto(out, 0, where=np.isnan(x))
    return out


def rsqrt(x: np.ndarray, out: Out = None) -> np.ndarray:
    """1 / sqrt(x)."""
    return np.reciprocal(np.sqrt(x, out=out), out=out)


def sigmoid(x: np.ndarray, out: Out = None) -> np.ndarray:
    """1 / (1 + exp(-x)). Four passes in the cache cost 0.7 ns an element, scipy's expit 2.7 (float32, AVX-512)."""
    out = negative(x, out=np.empty_like(x) if out is None else out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.reciprocal(out, out=out)


def softplus(x: np.ndarray, beta: float, threshold: float, out: Out = None) -> np.ndarray:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold.

    Softplus lies above x (below it for a negative beta), so clipping at the threshold and a maximum with x select
    without a mask.
    """
    out = np.multiply(x, beta, out=np.empty_like(x) if out is None else out)
    np.minimum(out, threshold, out=out)
    np.exp(out, out=out)
    np.log1p(out, out=out)
    np.divide(out, beta, out=out)
    return (np.maximum if beta > 0 else np.minimum)(out, x, out=out)


def log_sigmoid(x: np.ndarray, out: Out = None) -> np.ndarray:
    """-log1p(exp(-x)); x itself, which is that to the last bit, below -80, since exp(-x) overflows soon after.

    To look whether there is such an x costs a third of what a minimum with a number does.
    """
    out = negative(x, out=np.empty_like(x) if out is None else out)
    np.exp(out, out=out)
    np.log1p(out, out=out)
    negative(out, out=out)
    if not np.minimum.reduce(x, axis=None, initial=0) >= -80:  # it may be nan
        np.copyto(out, x, where=x < -80)
    return out


def lgamma(x: np.ndarray, out: Out = None) -> np.ndarray:
    """log |gamma(x)|; infinite at -inf, where SciPy has -inf."""
    out = special.gammaln(x, out=np.empty_like(x) if out is None else out)
    np.copyto(out, np.inf, where=x == -np.inf)
    return out


def relu(x: np.ndarray, out: Out = None) -> np.ndarray:
    """max(x, 0); nan stays nan. A maximum with a number takes NumPy four times as long as to clip."""
    return np.clip(x, 0, np.inf, out=out) if x.dtype.kind == "f" else np.maximum(x, 0, out=out)


def copy(x: np.ndarray, out: Out = None) -> np.ndarray:
    """The same elements in other memory."""
    if out is None:
        return np.array(x)
    np.copyto(out, x)
    return out


def cast(x: np.ndarray, dtype: str, out: Out = None) -> np.ndarray:
    """The elements as another dtype: floats are cut off towards 0 to become integers, bool is `x != 0`."""
    if out is None:
        return x.astype(DTYPES[dtype])
    np.copyto(out, x, casting="unsafe")
    return out


def integer_power(x: np.ndarray, n: int, out: Out = None) -> np.ndarray:
    """x**n by squaring, from the highest bit of n: a*a, (a*a)*a, (a*a)*(a*a) for n = 2, 3, 4, as torch rounds."""
    if n == 2:
        return np.multiply(x, x, out=out)
    out = np.empty_like(x) if out is None else out
    if n < 2:
        np.copyto(out, x if n else 1)
        return out
    base = x
    for bit in f"{n:b}"[1:]:
        np.multiply(base, base, out=out)
        if bit == "1":
            np.multiply(out, x, out=out)
        base = out
    return out


def round_decimals(x: np.ndarray, decimals: int, out: Out = None) -> np.ndarray:
    """Rounded to so many decimals, half to even; a negative number rounds before the decimal point."""
    scale, back = (np.multiply, np.divide) if decimals >= 0 else (np.divide, np.multiply)
    factor = 10.0 ** abs(decimals)
    out = scale(x, factor, out=np.empty_like(x) if out is None else out)
    np.rint(out, out=out)
    return back(out, factor, out=out)


def power(a: np.ndarray, b: np.ndarray, out: Out = None) -> np.ndarray:
    """a**b; for integers with b < 0 the reciprocal cut off to an integer, as in torch: 0 unless a is 1 or -1."""
    if b.dtype.kind == "f" or not (below := b < 0).any():
        return np.power(a, b, out=out)
    unit = np.where(np.absolute(a) == 1, np.where(b % 2 == 0, a * a, a), 0)
    return copy(np.where(below, unit, np.power(a, np.where(below, 0, b))), out)


def _checked(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    def kernel(a: np.ndarray, b: np.ndarray, out: Out = None) -> np.ndarray:
        if b.dtype.kind == "i" and a.size and not b.all():
            raise RuntimeError("ZeroDivisionError")
        return ufunc(a, b, out=out)

    return kernel


def _packed(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    """NumPy 2.4.6 writes wrong results where `out` has gaps (isnan, isinf, isfinite from 16 elements on)."""

    def kernel(x: np.ndarray, out: Out = None) -> np.ndarray:
        return ufunc(x, out=out) if out is None or out.flags.c_contiguous else copy(ufunc(x), out)

    return kernel


def where(cond: np.ndarray, a: np.ndarray, b: np.ndarray, out: Out = None) -> np.ndarray:
    """a where cond, else b: with masks of bits, 0.3 ns an element. `np.where` takes 4 where the truth is at random.

    Beside the scalar 0, as in the gradient of relu, one pass over the other operand is enough.
    """
    if a.dtype.kind == "b":
        return copy(np.where(cond, a, b), out) if out is not None else np.where(cond, a, b)
    if out is None:
        out = np.empty(broadcast_shape(cond.shape, a.shape, b.shape), a.dtype)
    bits = np.dtype(f"i{a.itemsize}")
    picked, one, other = out.view(bits), a.view(bits), b.view(bits)
    for zero, kept, true in ((other, one, True), (one, other, False)):
        if not zero.shape and not zero:
            # A mask of bytes is cast on the way, in the cache; one that is repeated is better cast once.
            wide = np.int8 if cond.shape == out.shape else bits
            np.bitwise_and(kept, np.negative((cond == true).view(np.int8), dtype=wide), out=picked)
            return out
    mask = cond.astype(bits)
    np.negative(mask, out=mask)
    np.bitwise_xor(one, other, out=picked)
    np.bitwise_and(picked, mask, out=picked)
    np.bitwise_xor(picked, other, out=picked)
    return out


def declare(
    kernels: Mapping[str, Callable[..., Any]],
    shape: ShapeRule = SAME,
    flops: float = 1.0,
    traits: Collection[Trait] = (),
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


declare({"negative": negative}, traits={"over", "exact"})
declare(_named("absolute sqrt reciprocal floor ceil rint trunc"))
declare(_named("square"), traits={"exact"})
declare({"sign": sign, "copy": copy})
declare({"rsqrt": rsqrt, "relu": relu}, traits={"over"})
declare(_named("exp expm1 log log1p log2 log10 sin cos tan arctan sinh cosh tanh"), flops=10)
declare(_named("arcsin arccos arcsinh arccosh arctanh"), flops=20)
declare({"sigmoid": sigmoid}, flops=20, traits={"over"})
declare({"log_sigmoid": log_sigmoid}, flops=20)
declare({"erf": special.erf, "erfc": special.erfc, "lgamma": lgamma, "digamma": special.psi}, flops=50)
declare({"logical_not": np.logical_not}, BOOL)
declare({name: _packed(f) for name, f in _named("isnan isinf isfinite").items()}, BOOL)
declare({"cast": cast}, elementwise("dtype"), traits={"exact"}, dtype="dtype")
declare({"softplus": softplus}, flops=30, beta="float", threshold="float")
declare({"integer_power": integer_power}, _raised, traits={"exact"}, n="int")
declare({"round_decimals": round_decimals}, flops=3, decimals="int")

declare(_named("add subtract multiply divide maximum minimum"), traits={"exact"})
declare(_named("bitwise_and bitwise_or bitwise_xor left_shift right_shift"))
declare({"power": power, "arctan2": np.arctan2, "hypot": np.hypot}, flops=20)
declare({name: _checked(f) for name, f in _named("remainder floor_divide fmod").items()}, flops=10)
declare(
    _named("equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor"), BOOL
)
declare({"where": where}, _chosen)
