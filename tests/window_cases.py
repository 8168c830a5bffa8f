"""Convolutions and windows: cases of the primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from cases import case, integers, normal


# Convolutions, as loops over all offsets.
def windows(x: np.ndarray, k: Any, size: Any, stride: Any, padding: Any, dilation: Any) -> np.ndarray:
    """What one offset reads: a view of x between enough zeros."""
    n, far = len(size), 20
    wide = np.pad(x, [(0, 0)] * (x.ndim - n) + [(far, far)] * n)
    first = [far + i * d - p for i, d, p in zip(k, dilation, padding, strict=True)]
    return wide[(..., *(slice(a, a + t * s, s) for a, t, s in zip(first, size, stride, strict=True)))]


def convolved(x: np.ndarray, w: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    g = "g" * (x.ndim == len(size) + 3)
    return sum(
        np.einsum(f"n{g}c...,{g}oc->n{g}o...", windows(x, k, size, **how), w[(..., *k)])
        for k in np.ndindex(*w.shape[-len(size) :])
    )


def convolved_input(y: np.ndarray, w: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    """The transposed of `convolved`, column by column."""
    x = np.zeros((*y.shape[: -len(size) - 1], w.shape[-len(size) - 1], *size))
    for at in np.ndindex(x.shape[1:]):
        one = np.zeros((1, *x.shape[1:]))
        one[(0, *at)] = 1
        x[(slice(None), *at)] = (
            (convolved(one, w, y.shape[-len(size) :], **how) * y).reshape(len(y), -1).sum(1)
        )
    return x


def convolved_weight(x: np.ndarray, y: np.ndarray, size: Any, **how: Any) -> np.ndarray:
    g, n = "g" * (x.ndim == len(size) + 3), len(size)
    t = "xyz"[:n]
    w = np.zeros((*x.shape[1 : -n - 1], y.shape[-n - 1], x.shape[-n - 1], *size))
    for k in np.ndindex(*size):
        w[(..., *k)] = np.einsum(f"n{g}c{t},n{g}o{t}->{g}oc", windows(x, k, y.shape[-n:], **how), y)
    return w


for _x, _w, _size, _how in (
    ((3, 2, 5), (4, 2, 3), (4,), ((2,), (2,), (1,))),
    ((2, 3, 4, 5), (2, 3, 2, 3), (3, 3), ((1, 1), (0, 0), (1, 1))),
    ((2, 3, 2, 4, 3), (3, 2, 2, 2, 2), (3, 2), ((1, 2), (1, 0), (2, 1))),
    ((2, 2, 2, 3, 2), (3, 2, 1, 2, 2), (2, 4, 1), ((1, 1, 1), (0, 1, 0), (1, 1, 1))),
    ((3, 4, 3, 5), (2, 4, 1, 1), (3, 5), ((1, 1), (0, 0), (1, 1))),
    ((3, 1, 3, 5), (2, 1, 1, 3), (3, 5), ((1, 1), (0, 1), (1, 1))),
    ((3, 2, 1, 5, 4), (2, 1, 1, 2, 2), (2, 4), ((2, 1), (0, 1), (1, 2))),
):  # fmt: skip
    _n = len(_size)
    _attrs = dict(zip(("stride", "padding", "dilation"), _how, strict=True))
    _y = (*_x[: -_n - 1], _w[-_n - 2], *_size)
    for _make in (normal, integers):
        for _name, _want, _a, _b, _made in (
            ("convolve", convolved, _x, _w, _size),
            ("convolve_input", convolved_input, _y, _w, _x[-_n:]),
            ("convolve_weight", convolved_weight, _x, _y, _w[-_n:]),
        ):
            _all = {**_attrs, "size": _made}
            case(_name, partial(_want, **_all), _make(*_a), _make(*_b), **_all)


# Windows: all that an offset reads, with a number where there is nothing.
def offsets(x: np.ndarray, kernel: Any, size: Any, outside: Any, **how: Any) -> np.ndarray:
    n, far = len(size), 20
    wide = np.pad(x, [(0, 0)] * (x.ndim - n) + [(far, far)] * n, constant_values=outside)
    shift = {**how, "padding": tuple(p - far for p in how["padding"])}
    inner = [wide]
    found = []
    for k in np.ndindex(*kernel):
        first = [i * d - p for i, d, p in zip(k, how["dilation"], shift["padding"], strict=True)]
        at = (slice(a, a + t * s, s) for a, t, s in zip(first, size, how["stride"], strict=True))
        found.append(inner[0][(..., *at)])
    return np.stack(found)


def transposed(linear: Callable[..., np.ndarray], lead: int) -> Callable[..., np.ndarray]:
    """The transposed of a linear function of the first operand, column by column."""

    def turned(y: np.ndarray, *more: np.ndarray, kernel: Any, size: Any, **how: Any) -> np.ndarray:
        x = np.zeros((*y.shape[:lead], *size))
        windows = y.shape[-len(size) :]
        for at in np.ndindex(*size):
            one = np.zeros_like(x)
            one[(..., *at)] = 1
            made = linear(one, *more, kernel=kernel, size=windows, **how) * y
            x[(..., *at)] = made.reshape(*y.shape[:lead], -1).sum(-1)
        return x

    return turned


def window_sum(x: np.ndarray, **how: Any) -> np.ndarray:
    return offsets(x, outside=0, **how).sum(0)


def window_pick(x: np.ndarray, which: np.ndarray, **how: Any) -> np.ndarray:
    return np.take_along_axis(offsets(x, outside=0, **how), which[None].astype(int), 0)[0]


def window_gather(x: np.ndarray, kernel: Any, **how: Any) -> np.ndarray:
    found = offsets(x, kernel, outside=0, **how)
    lead = found.shape[1 : found.ndim - len(kernel)]
    return np.moveaxis(found, 0, len(lead)).reshape(*lead, *kernel, *how["size"])


for _x, _kernel, _size, _how in (
    ((3, 2, 7), (3,), (4,), ((2,), (1,), (1,))),
    ((2, 3, 4, 5), (2, 3), (4, 2), ((1, 2), (1, 0), (1, 1))),
    ((3, 4, 6), (2, 2), (2, 3), ((2, 2), (0, 1), (1, 2))),
    ((2, 3, 3, 4), (2, 2, 2), (4, 2, 2), ((1, 1, 2), (1, 0, 0), (1, 1, 1))),
):
    _all = {**dict(zip(("stride", "padding", "dilation"), _how, strict=True)), "kernel": _kernel}
    _lead, _y = _x[: len(_x) - len(_kernel)], (*_x[: len(_x) - len(_kernel)], *_size)
    for _make in (normal, integers):
        _low = -np.inf if _make is normal else np.iinfo("int64").min
        _scatter = transposed(window_gather, len(_lead))
        _which = offsets(_make(*_x), size=_size, outside=_low, **_all).argmax(0).astype("int32")
        for _name, _want, _arrays, _made in (
            ("window_sum", window_sum, [_make(*_x)], _size),
            ("window_spread", transposed(window_sum, len(_lead)), [_make(*_y)], _x[len(_lead) :]),
            ("window_max", lambda x, o=_low, **how: offsets(x, outside=o, **how).max(0), [_make(*_x)], _size),
            ("window_argmax", lambda x, o=_low, **how: offsets(x, outside=o, **how).argmax(0), [_make(*_x)], _size),
            ("window_pick", window_pick, [_make(*_x), _which], _size),
            ("window_place", transposed(window_pick, len(_lead)), [_make(*_y), _which], _x[len(_lead) :]),
            ("window_gather", window_gather, [_make(*_x)], _size),
            ("window_scatter", _scatter, [_make(*_lead, *_kernel, *_size)], _x[len(_lead) :]),
        ):  # fmt: skip
            _attrs = {**_all, "size": _made}
            case(_name, partial(_want, **_attrs), *_arrays, **_attrs)
