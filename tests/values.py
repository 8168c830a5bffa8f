"""Values on workers that can be looked into, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recorder import Recorder

from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.graph import Value

Start = Callable[..., Recorder]
Cuts = Any
WORKERS = (1, 2, 3, 5)
emit = session.emit


def put(array: Any, cuts: Cuts = None) -> Value:
    """The array on the workers; cut as a user writes it, or (None) whole."""
    array = np.asarray(array)
    return session.constant(array, None if cuts is None else sharding_of(array.shape, cuts))


def known(x: Any) -> Value:
    return Value.known(np.asarray(x))


def total(x: Value, dims: tuple[int, ...] = (0,), keepdim: bool = False) -> Value:
    return emit("sum", x, dims=dims, keepdim=keepdim, dtype=x.dtype.name)


def numbers(*shape: int) -> np.ndarray:
    """Different numbers in no order."""
    return np.random.default_rng(3).permutation(np.prod(shape)).reshape(shape) / 8.0


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


RNG = np.random.default_rng(0)
X = RNG.standard_normal((37, 6)).astype(np.float32)
G = RNG.standard_normal((37, 5)).astype(np.float32)
W = RNG.standard_normal((6, 5)).astype(np.float32)
B = RNG.standard_normal(5).astype(np.float32)
IDX = np.array([5, 1, 36, 0, 5])
CUTS: dict[str, Cuts] = {
    "whole": None,
    "even": 4,
    "uneven, with empty shards": [0, 0, 1, 1, 20, 30, 37],
    "last": {1: [2, 2, 3]},
    "both": {0: 10, 1: 2},
}


def softmax(x: np.ndarray, dim: int) -> np.ndarray:
    e = np.exp(x - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


def changed(x: np.ndarray, at: Any, values: Any, how: Any = None) -> np.ndarray:
    x = x.copy()
    if how is None:
        x[at] = values
    else:
        how.at(x, at, values)
    return x


def work(cut_x: Cuts, cut_g: Cuts) -> dict[str, tuple[Value, np.ndarray]]:
    """Values of every kind, from operands that are cut as told."""
    x, g, w, b = put(X, cut_x), put(G, cut_g), put(W), known(B)
    h = emit("add", emit("contract", x, w, subscripts="mk,kn->mn"), b)
    q = emit("multiply", emit("tanh", h), g)
    t = emit("permute", x, dims=(1, 0))
    idx = known(IDX)
    taken = emit("take", x, idx, dim=0, size=37, wrap=True)
    part = emit("slice", x, slices=((3, 10, 3), (1, 4, 1)))
    rows = [emit("slice", x, slices=((i, 36, 1), (0, 6, 1))) for i in (0, 1)]
    values, order = session.emit_all("sort", x, dim=0, descending=False)
    xw, Q, P = X @ W + B, np.tanh(X @ W + B) * G, X[3:33:3, 1:5]
    return {
        "h": (h, xw),
        "q": (q, Q),
        "weights' gradient": (emit("contract", x, q, subscripts="mk,mn->kn"), X.T @ Q),
        "sum of all": (total(q, (0, 1)), Q.sum()),
        "sum of columns": (total(q), Q.sum(0)),
        "sum of rows": (total(q, (1,), True), Q.sum(1, keepdims=True)),
        "divided by a sum": (emit("divide", q, total(q, (0,), True)), Q / Q.sum(0)),
        "softmax 1": (emit("softmax", x, dim=1), softmax(X, 1)),
        "softmax 0": (emit("softmax", x, dim=0), softmax(X, 0)),
        "amax": (emit("amax", x, dims=(0,), keepdim=False), X.max(0)),
        "transposed": (t, X.T),
        "of a transposed": (emit("contract", t, x, subscripts="km,mn->kn"), X.T @ X),
        "outer": (emit("contract", x, t, subscripts="mk,kn->mn"), X @ X.T),
        "reshaped": (emit("reshape", emit("reshape", x, shape=(222,)), shape=(6, 37)), X.reshape(6, 37)),
        "slice": (part, P),
        "differences": (emit("subtract", rows[1], rows[0]), X[1:] - X[:-1]),
        "cat 1": (emit("cat", x, g, dim=1, sizes=(6, 5)), np.concatenate([X, G], 1)),
        "cat 0": (emit("cat", q, g, q, dim=0, sizes=(37, 37, 37)), np.concatenate([Q, G, Q])),
        "put": (
            emit("slice_put", x, part, parts=(((0, 10, 2), (2, 4, 1)),)),
            changed(X, (slice(0, 20, 2), slice(2, 6)), P),
        ),
        "flipped": (emit("flip", x, dims=(0,)), X[::-1]),
        "cumsum": (emit("cumsum", x, dim=0, dtype="float32"), X.cumsum(0)),
        "sorted": (values, np.sort(X, 0)),
        "order": (order, np.argsort(X, 0, kind="stable")),
        "taken": (taken, X[IDX]),
        "added": (
            emit("index_add", idx, taken, dim=0, size=37),
            changed(np.zeros_like(X), IDX, X[IDX], np.add),
        ),
        "resharded": (emit("reshard", x, cuts=sharding_of((37, 6), {0: [7, 9], 1: 3})), X),
        "expanded": (
            emit("expand", known(np.float32([[2]])), shape=(37, 6), cuts=x.sharding),
            np.full_like(X, 2),
        ),
        "chosen": (
            emit("where", emit("greater", x, known(np.float32(0))), x, known(np.float32(-1))),
            np.where(X > 0, X, np.float32(-1)),
        ),
        "empty": (emit("slice", x, slices=((4, 0, 1), (0, 6, 1))), X[4:4]),
        "sum of nothing": (total(emit("slice", x, slices=((4, 0, 1), (0, 6, 1)))), np.zeros(6, "f4")),
    }


def train(cuts: Cuts, steps: int) -> list[np.ndarray]:
    """Logistic regression by gradient descent: weights, bias and the losses."""
    x, y = (
        put(X, cuts),
        put((X[:, :1] > 0.3).astype(np.float32), cuts if isinstance(cuts, int | list) else None),
    )
    w, b, rate = put(W[:, :1]), put(np.zeros(1, np.float32)), known(np.float32(0.1))
    losses = []
    for _ in range(steps):
        p = emit("sigmoid", emit("add", emit("contract", x, w, subscripts="mk,kn->mn"), b))
        d = emit("subtract", p, y)
        losses.append(total(emit("square", d), (0, 1)))
        w = emit("subtract", w, emit("multiply", rate, emit("contract", x, d, subscripts="mk,mn->kn")))
        b = emit("subtract", b, emit("multiply", rate, total(d)))
        session.flush()
    return [session.fetch(v) for v in (w, b, *losses)]
