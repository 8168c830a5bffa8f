"""What a specialist writes by hand with Numba: value and gradient in one pass, two threads, no fast-math.

exp, tanh, log, sin, cos and erf are written out, from published polynomials, so that LLVM makes vectors of them: Numba
calls libm for each element. Sums keep LANES partial sums, which become a vector too.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import njit, prange

float32, int32 = np.float32, np.int32
THREADS, LANES = 2, 32
numba.set_num_threads(THREADS)
Array = np.ndarray

small = njit(forceinline=True, error_model="numpy")
loop = njit(parallel=True, error_model="numpy")
ONE = float32(1)


# Functions of one float32. Each costs some ten multiply-adds, and errs by a few units in the last place.


@small
def exp(x: Any) -> Any:
    """Cephes' expf: x = n log 2 + r, and a polynomial of degree 6 in r."""
    x = min(max(x, float32(-87)), float32(88))
    n = np.floor(x * float32(1.44269504) + float32(0.5))
    r = x - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(0.5)
    return (p * r * r + r + ONE) * int32((int32(n) + int32(127)) << int32(23)).view(np.float32)


@small
def tanh(x: Any) -> Any:
    """As a quotient of polynomials, as Eigen and XLA have it."""
    x = min(max(x, float32(-7.9)), float32(7.9))
    s = x * x
    p = float32(-2.76076847742355e-16)
    p = p * s + float32(2.00018790482477e-13)
    p = p * s + float32(-8.60467152213735e-11)
    p = p * s + float32(5.12229709037114e-08)
    p = p * s + float32(1.48572235717979e-05)
    p = p * s + float32(6.37261928875436e-04)
    p = p * s + float32(4.89352455891786e-03)
    q = float32(1.19825839466702e-06)
    q = q * s + float32(1.18534705686654e-04)
    q = q * s + float32(2.26843463243900e-03)
    q = q * s + float32(4.89352518554385e-03)
    return x * p / q


@small
def log(x: Any) -> Any:
    """Cephes' logf, for positive x that is no denormal."""
    bits = float32(x).view(np.int32) - int32(0x3F3504F3)
    n = float32(bits >> int32(23))
    m = int32((bits & int32(0x007FFFFF)) + int32(0x3F3504F3)).view(np.float32) - ONE
    p = float32(7.0376836292e-2)
    p = p * m + float32(-1.1514610310e-1)
    p = p * m + float32(1.1676998740e-1)
    p = p * m + float32(-1.2420140846e-1)
    p = p * m + float32(1.4249322787e-1)
    p = p * m + float32(-1.6668057665e-1)
    p = p * m + float32(2.0000714765e-1)
    p = p * m + float32(-2.4999993993e-1)
    p = p * m + float32(3.3333331174e-1)
    s = m * m
    return m + p * m * s - float32(0.5) * s + n * float32(0.69314718)


@small
def sin_cos(x: Any) -> Any:
    """Of |x| below some thousand: x = n pi/2 + r, and Cephes' polynomials in r."""
    n = np.floor(x * float32(0.636619772) + float32(0.5))
    r = x - n * float32(1.5703125) - n * float32(4.837512969970703e-4) - n * float32(7.549789948768648e-8)
    s = r * r
    a = (
        (float32(-1.9515295891e-4) * s + float32(8.3321608736e-3)) * s + float32(-1.6666654611e-1)
    ) * s * r + r
    b = ((float32(2.443315711e-5) * s + float32(-1.388731625e-3)) * s + float32(4.166664568e-2)) * s * s
    b = b - float32(0.5) * s + ONE
    k = int32(n)
    odd = (k & int32(1)) != int32(0)
    sine = b if odd else a
    cosine = a if odd else b
    sine = -sine if (k & int32(2)) != int32(0) else sine
    cosine = -cosine if ((k + int32(1)) & int32(2)) != int32(0) else cosine
    return sine, cosine


@small
def below(z: Any, half_square: Any) -> Any:
    """The normal distribution function, by Abramowitz and Stegun 7.1.26; `half_square` is exp(-z**2 / 2)."""
    t = ONE / (ONE + float32(0.3275911 * math.sqrt(0.5)) * abs(z))
    p = float32(1.061405429)
    p = p * t + float32(-1.453152027)
    p = p * t + float32(1.421413741)
    p = p * t + float32(-0.284496736)
    p = p * t + float32(0.254829592)
    tail = float32(0.5) * p * t * half_square
    return ONE - tail if z > float32(0) else tail


# Element by element. A block is what a lane's sum stays exact enough for.

BLOCK = 1 << 14


@loop
def poly(a: Array, b: Array, ga: Array, gb: Array) -> float:
    loss = 0.0
    for block in prange(len(a) // BLOCK):
        lanes = np.zeros(LANES, np.float32)
        for start in range(block * BLOCK, (block + 1) * BLOCK, LANES):
            for k in range(LANES):
                x, y = a[start + k], b[start + k]
                lanes[k] += float32(3) * x * x * x - y * y
                ga[start + k] = float32(9) * x * x
                gb[start + k] = float32(-2) * y
        loss += lanes.sum()
    return loss


@loop
def chain(x: Array, gx: Array) -> float:
    loss = 0.0
    for block in prange(len(x) // BLOCK):
        lanes, y, g = np.zeros(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        for start in range(block * BLOCK, (block + 1) * BLOCK, LANES):
            for k in range(LANES):
                y[k], g[k] = x[start + k], ONE
            for _ in range(10):
                for k in range(LANES):
                    y[k] = tanh(float32(1.01) * y[k] + float32(0.1))
                    g[k] *= float32(1.01) * (ONE - y[k] * y[k])
            for k in range(LANES):
                lanes[k] += y[k]
                gx[start + k] = g[k]
        loss += lanes.sum()
    return loss


@loop
def kepler(mean: Array, e: Array, ge: Array) -> float:
    """Tangents go along with the five steps: there is one input to differentiate by."""
    loss = 0.0
    for block in prange(len(e) // BLOCK):
        lanes, at, slope = (
            np.zeros(LANES, np.float32),
            np.empty(LANES, np.float32),
            np.empty(LANES, np.float32),
        )
        for start in range(block * BLOCK, (block + 1) * BLOCK, LANES):
            for k in range(LANES):
                at[k], slope[k] = mean[start + k], float32(0)
            for _ in range(5):
                for k in range(LANES):
                    c = e[start + k]
                    sine, cosine = sin_cos(at[k])
                    fa = ONE - c * cosine
                    step = (at[k] - c * sine - mean[start + k]) / fa
                    slope[k] -= (fa * slope[k] - sine - step * (c * sine * slope[k] - cosine)) / fa
                    at[k] -= step
            for k in range(LANES):
                lanes[k] += at[k] * at[k]
                ge[start + k] = float32(2) * at[k] * slope[k]
        loss += lanes.sum()
    return loss


@loop
def rosenbrock(x: Array, gx: Array) -> float:
    loss, last = 0.0, len(x) - 1
    gx[0] = float32(-400) * x[0] * (x[1] - x[0] * x[0]) - float32(2) * (ONE - x[0])
    gx[last] = float32(200) * (x[last] - x[last - 1] * x[last - 1])
    loss += float32(100) * (x[1] - x[0] * x[0]) ** 2 + (ONE - x[0]) ** 2
    for block in prange((last - 1 + BLOCK - 1) // BLOCK):
        lanes = np.zeros(LANES, np.float32)
        first, end = 1 + block * BLOCK, min(1 + (block + 1) * BLOCK, last)
        whole = first + (end - first) // LANES * LANES
        for start in range(first, whole, LANES):
            for k in range(LANES):
                i = start + k
                left, here = x[i - 1], x[i]
                r, s = x[i + 1] - here * here, ONE - here
                lanes[k] += float32(100) * r * r + s * s
                gx[i] = float32(200) * (here - left * left) - float32(400) * here * r - float32(2) * s
        for i in range(whole, end):
            r, s = x[i + 1] - x[i] * x[i], ONE - x[i]
            lanes[0] += float32(100) * r * r + s * s
            gx[i] = float32(200) * (x[i] - x[i - 1] * x[i - 1]) - float32(400) * x[i] * r - float32(2) * s
        loss += lanes.sum()
    return loss


# Row by row, in one part for each thread, with gradients of its own of what all rows share.

WIDTH = 16  # of a row's partial sums, which divides the length of all rows here


@small
def total(x: Array) -> Any:
    """In halves, as a tree."""
    for half in (8, 4, 2, 1):
        for k in range(half):
            x[k] += x[half + k]
    return x[0]


@loop
def logistic(x: Array, y: Array, w: Array, grads: Array) -> float:
    """Blocks of rows that stay in the cache: all z, then what is made of them, then the gradient."""
    loss, rows = 0.0, len(x) // THREADS
    for part in prange(THREADS):
        own, lanes = np.zeros(x.shape[1], np.float32), np.empty(WIDTH, np.float32)
        z, d = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        for first in range(part * rows, (part + 1) * rows, LANES):
            for r in range(LANES):
                lanes[:] = float32(0)
                for start in range(0, x.shape[1], WIDTH):
                    for k in range(WIDTH):
                        lanes[k] += x[first + r, start + k] * w[start + k]
                z[r] = total(lanes)
            for r in range(LANES):
                e = exp(-abs(z[r]))
                d[r] = (ONE if z[r] >= float32(0) else e) / (ONE + e) - y[first + r]
                z[r] = (z[r] if z[r] > float32(0) else float32(0)) - y[first + r] * z[r] + log(ONE + e)
            loss += z.sum()
            for r in range(LANES):
                for k in range(x.shape[1]):
                    own[k] += d[r] * x[first + r, k]
        grads[part] = own
    return loss


@loop
def logsumexp(x: Array, gx: Array) -> float:
    loss, rows, n = 0.0, len(x) // THREADS, x.shape[1]
    for part in prange(THREADS):
        lanes = np.empty(WIDTH, np.float32)
        for i in range(part * rows, (part + 1) * rows):
            lanes[:] = x[i, :WIDTH]
            for start in range(WIDTH, n, WIDTH):
                for k in range(WIDTH):
                    one = x[i, start + k]
                    lanes[k] = one if one > lanes[k] else lanes[k]
            top = lanes.max()
            lanes[:] = float32(0)
            for k in range(n):
                gx[i, k] = exp(x[i, k] - top)
            for start in range(0, n, WIDTH):
                for k in range(WIDTH):
                    lanes[k] += gx[i, start + k]
            whole = total(lanes)
            scale = ONE / whole
            for k in range(n):
                gx[i, k] *= scale
            loss += top + log(whole)
    return loss


@loop
def entropy(z: Array, y: Array) -> float:
    """Cross-entropy of the rows of logits, over which its gradient is written."""
    loss, n = 0.0, z.shape[1]
    for i in prange(len(z)):
        row, picked = z[i], z[i, y[i]]
        top, whole = row.max(), float32(0)
        for k in range(n):
            row[k] = exp(row[k] - top)
        for k in range(n):
            whole += row[k]
        scale = ONE / whole
        for k in range(n):
            row[k] *= scale
        row[y[i]] -= ONE
        loss += top + log(whole) - picked
    return loss


@loop
def norm_gelu(x: Array, w: Array, b: Array, gx: Array, gw: Array, gb: Array) -> float:
    loss, rows, n = 0.0, len(x) // THREADS, x.shape[1]
    for part in prange(THREADS):
        own_w, own_b = np.zeros(n, np.float32), np.zeros(n, np.float32)
        scaled, gs, ys = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
        sums = np.empty((3, WIDTH), np.float32)
        for i in range(part * rows, (part + 1) * rows):
            sums[:] = float32(0)
            for start in range(0, n, WIDTH):
                for k in range(WIDTH):
                    sums[0, k] += x[i, start + k]
            mean = total(sums[0]) / float32(n)
            for start in range(0, n, WIDTH):
                for k in range(WIDTH):
                    off = x[i, start + k] - mean
                    sums[1, k] += off * off
            scale = ONE / np.sqrt(total(sums[1]) / float32(n) + float32(1e-5))
            # Loops of few arrays: of many LLVM does not find out that they lie apart, and makes no vectors.
            for j in range(n):
                scaled[j] = (x[i, j] - mean) * scale
            for j in range(n):
                gs[j] = scaled[j] * w[j] + b[j]
            for j in range(n):
                ys[j] = exp(float32(-0.5) * gs[j] * gs[j])
            for j in range(n):
                z, e = gs[j], ys[j]
                p = below(z, e)
                ys[j], gs[j] = z * p, p + z * e * float32(0.3989422804)
            for j in range(n):
                ys[j] = float32(2) * (x[i, j] + ys[j])
                gs[j] *= ys[j]
            for j in range(n):
                own_b[j] += gs[j]
                own_w[j] += gs[j] * scaled[j]
            for j in range(n):
                gs[j] *= w[j]
            sums[:] = float32(0)
            for start in range(0, n, WIDTH):
                for k in range(WIDTH):
                    sums[0, k] += ys[start + k] * ys[start + k]
                    sums[1, k] += gs[start + k]
                    sums[2, k] += gs[start + k] * scaled[start + k]
            loss += float32(0.25) * total(sums[0])
            mean_g, mean_s = total(sums[1]) / float32(n), total(sums[2]) / float32(n)
            for j in range(n):
                gx[i, j] = ys[j] + scale * (gs[j] - mean_g - scaled[j] * mean_s)
        gw[part], gb[part] = own_w, own_b
    return loss
