"""Positions that are data: cases of the primitives. For `take` and `gather` x is once smaller than the result."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cases import case, integers, normal

for _n in (3, 20):
    _idx = integers(_n, low=-6, high=6)
    case("take", lambda x, i: x[i], normal(6, 5), _idx, dim=0, size=6, wrap=True)
    case("take", lambda x, i: x[:, i], normal(4, 6, 3), abs(_idx) % 6, dim=1, size=6, wrap=False)
    case(
        "gather",
        lambda x, i: np.take_along_axis(x, i, 1),
        normal(4, 8, 3),
        integers(4, _n, 3, low=0, high=8),
        dim=1,
        size=8,
    )
case(
    "gather",
    lambda x, i: np.take_along_axis(x, i, 0),
    normal(8, 3),
    integers(5, 3, low=0, high=8),
    dim=0,
    size=8,
)


def added(idx: np.ndarray, src: np.ndarray, dim: int, size: int) -> np.ndarray:
    out = np.zeros((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype)
    for at in np.ndindex(*src.shape):
        out[(*at[:dim], idx[at] if idx.ndim == src.ndim else idx[at[dim]], *at[dim + 1 :])] += src[at]
    return out


def combined(ufunc: np.ufunc, start: float) -> Any:
    def each(idx: np.ndarray, src: np.ndarray, dim: int) -> np.ndarray:
        out = np.full((*src.shape[:dim], 3, *src.shape[dim + 1 :]), start, src.dtype)
        for at in np.ndindex(*src.shape):
            there = (*at[:dim], idx[at], *at[dim + 1 :])
            out[there] = ufunc(out[there], src[at])
        return out

    return each


for _dim, (_name, _function) in itertools.product(
    (0, 1, 2),
    (
        ("scatter_multiply", combined(np.multiply, 1)),
        ("scatter_maximum", combined(np.maximum, -np.inf)),
        ("scatter_minimum", combined(np.minimum, np.inf)),
    ),
):
    _idx = integers(9, 4, 5, low=0, high=3)
    case(_name, lambda i, s, d=_dim, f=_function: f(i, s, d), _idx, normal(9, 4, 5), dim=_dim, size=3)


for _dim, _make in itertools.product((0, 1, 2), (normal, integers)):
    _shape = (9, 4, 5)
    _idx = integers(*_shape, low=0, high=3)
    case("scatter_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
    _idx = integers(_shape[_dim], low=-3, high=3)
    case("index_add", lambda i, s, d=_dim: added(i, s, d, 3), _idx, _make(*_shape), dim=_dim, size=3)
    _idx = integers(_shape[_dim], low=-13, high=13)  # a result larger than what is added
    case("index_add", lambda i, s, d=_dim: added(i, s, d, 13), _idx, _make(*_shape), dim=_dim, size=13)
case("index_add", lambda i, s: added(i, s, 0, 4), integers(9, low=0, high=4), normal(9), dim=0, size=4)
for _wrap in (True, False):
    case(
        "add_taken",
        lambda i, s, x, w: added(i, w * x[s], 0, 4),
        integers(9, low=-4, high=4),
        integers(9, low=-6 * _wrap, high=6),
        normal(6, 3),
        normal(9, 1),
        size=4,
        wrap=_wrap,
    )
case(
    "add_taken",
    lambda i, s, x: added(i, x[s], 0, 4),
    integers(9, low=-4, high=4),
    integers(9, low=0, high=6),
    normal(6, 3),
    size=4,
    wrap=True,
)


def put(base: np.ndarray, idx: np.ndarray, src: np.ndarray, dim: int) -> np.ndarray:
    out = base.copy()
    for at in np.ndindex(*src.shape):
        out[(*at[:dim], idx[at] if idx.ndim == src.ndim else idx[at[dim]], *at[dim + 1 :])] = src[at]
    return out


case(
    "scatter",
    lambda b, i, s: put(b, i, s, 1),
    normal(4, 6, 3),
    integers(4, 9, 3, low=0, high=6),
    normal(4, 9, 3),
    dim=1,
    size=6,
)
for _shape, _dim in (((8, 5), 1), ((5, 8), 0), ((4, 3, 5), 1)):
    _one = tuple(1 if d == _dim else n for d, n in enumerate(_shape))
    _idx = integers(*_one, low=0, high=_shape[_dim])
    case(
        "scatter_zeros",
        lambda b, i, s, d=_dim: put(b, i, s, d),
        np.zeros(_shape, np.float32),
        _idx,
        normal(*_one),
        dim=_dim,
        size=_shape[_dim],
    )
    case(
        "scatter_subtract",
        lambda x, w, i, s, d=_dim: put(np.zeros_like(x), i, s, d) - x * w,
        normal(*_shape),
        normal(*_one),
        _idx,
        normal(*_one),
        dim=_dim,
        size=_shape[_dim],
    )
case(
    "index_put",
    lambda b, i, s: put(b, i, s, 0),
    normal(6, 4),
    integers(9, low=-6, high=6),
    normal(9, 4),
    size=6,
)
