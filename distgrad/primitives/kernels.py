"""Kernels of single elements that NumPy does not have as they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from distgrad.primitives.base import DTYPES

Out = np.ndarray | None


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
    if 2 <= n <= 4:
        square = np.multiply(x, x, out=out)
        return square if n == 2 else np.multiply(square, x if n == 3 else square, out=out)
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


def power_code(b: Any, x: Any, n: int) -> Any:
    """How a compiled loop does the same."""
    if n == 0:
        return b.like(x, 1)
    made = x
    for bit in f"{n:b}"[1:]:
        made = b.multiply(made, made)
        made = b.multiply(made, x) if bit == "1" else made
    return made


def round_decimals(x: np.ndarray, decimals: int, out: Out = None) -> np.ndarray:
    """Rounded to so many decimals, half to even; a negative number rounds before the decimal point."""
    scale, back = (np.multiply, np.divide) if decimals >= 0 else (np.divide, np.multiply)
    factor = 10.0 ** abs(decimals)
    out = scale(x, factor, out=np.empty_like(x) if out is None else out)
    np.rint(out, out=out)
    return back(out, factor, out=out)


def rounding_code(b: Any, x: Any, decimals: int) -> Any:
    """How a compiled loop does the same."""
    scale, back = (b.multiply, b.divide) if decimals >= 0 else (b.divide, b.multiply)
    factor = b.like(x, 10.0 ** abs(decimals))
    return back(b.rint(scale(x, factor)), factor)


def power(a: np.ndarray, b: np.ndarray, out: Out = None) -> np.ndarray:
    """a**b; for integers with b < 0 the reciprocal cut off to an integer, as in torch: 0 unless a is 1 or -1."""
    if b.dtype.kind == "f" or not (below := b < 0).any():
        return np.power(a, b, out=out)
    unit = np.where(np.absolute(a) == 1, np.where(b % 2 == 0, a * a, a), 0)
    return copy(np.where(below, unit, np.power(a, np.where(below, 0, b))), out)


def checked(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    """A division of integers by zero raises as torch does."""

    def kernel(a: np.ndarray, b: np.ndarray, out: Out = None) -> np.ndarray:
        if b.dtype.kind == "i" and a.size and not b.all():
            raise RuntimeError("ZeroDivisionError")
        return ufunc(a, b, out=out)

    return kernel


def packed(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
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
        out = np.empty(np.broadcast_shapes(cond.shape, a.shape, b.shape), a.dtype)
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
