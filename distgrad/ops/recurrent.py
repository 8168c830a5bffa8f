"""Recurrent layers: one direction of one layer over whole sequences, as one node with one for its gradient.

`x` (N, T, gates) are the products with the inputs, `h` and `c` (N, width) the states before the first step, `w` the
weights of the state, transposed. `primitives/recurrent.py` has the kernels, which keep what their derivative needs.
Where the derivative is itself to be differentiated, forward and backward are written out step by step, in ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.base import Tensor, call, composite, op, reduce
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import zeros_like
from distgrad.ops.pointwise import tanh
from distgrad.ops.regrouping import compact
from distgrad.ops.samples import real
from distgrad.ops.special import sigmoid
from distgrad.record import grad_mode

__all__: list[str] = []


# The layers, as the table has them: those with one gate, three and four.
@composite(
    method=False,
    samples=lambda: [
        (real(2, 3, 2), real(2, 2, seed=1), real(2, 2, seed=2)),
        (real(2, 3, 2), real(2, 2, seed=1), real(2, 2, seed=2), True, True),
    ],
)
def _rnn(x: Tensor, h: Tensor, w: Tensor, relu: bool = False, reverse: bool = False) -> Tensor:
    """h = tanh(x + h w), or relu for tanh, after each step: (N, T, width)."""
    states: Tensor = _layer([x, h, w], "rnn", reverse, relu)[0]
    return states


@composite(
    method=False,
    samples=lambda: [
        (real(2, 3, 6), real(2, 2, seed=1), real(2, 6, seed=2)),
        (real(2, 2, 6), real(2, 2, seed=1), real(2, 6, seed=2), real(6, seed=3), True),
    ],
)
def _gru(x: Tensor, h: Tensor, w: Tensor, bias: Tensor | None = None, reverse: bool = False) -> Tensor:
    """h = n + z (h - n), n = tanh(x_n + r (h w_n + b_n)), with r and z = sigmoid(x + h w + b) (Cho et al. 2014)."""
    states: Tensor = _layer([x, h, w] if bias is None else [x, h, w, bias], "gru", reverse)[0]
    return states


@composite(
    method=False,
    samples=lambda: [
        (real(2, 3, 8), real(2, 2, seed=1), real(2, 2, seed=2), real(2, 8, seed=3)),
        (real(2, 2, 8), real(2, 1, seed=1), real(2, 2, seed=2), real(1, 8, seed=3), real(2, 1, seed=4), True),
    ],
)
def _lstm(
    x: Tensor, h: Tensor, c: Tensor, w: Tensor, projection: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """h after each step, and the last c: c = s(f) c + s(i) tanh(g), h = s(o) tanh(c), s the sigmoid (Hochreiter 1997).

    The gates i, f, g, o are x + h w. With a `projection` h is multiplied by that.
    """
    states, last = _layer([x, h, c, w] if projection is None else [x, h, c, w, projection], "lstm", reverse)
    return states, last


def _layer(operands: list[Tensor], mode: str, reverse: bool, relu: bool = False) -> Any:
    return _recurrent(operands, _run(operands, mode, reverse, relu), mode, reverse, relu)


def _attrs(mode: str, reverse: bool, relu: bool) -> dict[str, bool]:
    return {"reverse": reverse, "relu": relu} if mode == "rnn" else {"reverse": reverse}


@op(method=False, listed=False)
def _run(operands: Sequence[Value], mode: str, reverse: bool, relu: bool) -> tuple[Value, ...]:
    """The states after each step and what else the derivative needs; without a gradient."""
    return tuple(session.emit_all(mode, *operands, **_attrs(mode, reverse, relu)))


@op(
    name="RecurrentBackward0",
    multi=True,
    operands=lambda g, operands, kept, mode, reverse, relu: _gradients(
        g, operands, kept, mode, reverse, relu
    ),
    method=False,
    listed=False,
)
def _recurrent(
    operands: Sequence[Value], kept: Sequence[Value], mode: str, reverse: bool, relu: bool
) -> tuple[Value, ...]:
    """The states after each step, of an LSTM also the last c, with their gradient. `kept` is what `_run` gave."""
    if mode != "lstm":
        return (kept[0],)
    cells = kept[1]
    last = _steps(cells, 0 if reverse else cells.shape[1] - 1, 1)
    return kept[0], session.emit("squeeze_dims", last, dims=(1,))


def _steps(x: Value, first: int, count: int) -> Value:
    n, _, width = x.shape
    return compact(session.part(x, ((0, n, 1), (first, count, 1), (0, width, 1))))


def _gradients(
    g: list[Any], operands: list[Tensor], kept: list[Tensor], mode: str, reverse: bool, relu: bool
) -> Any:
    likes = (kept[0], operands[2]) if mode == "lstm" else (kept[0],)
    pairs = zip_longest(g, likes)  # of the last outputs there may be no gradients
    given = [zeros_like(like) if one is None else one for one, like in pairs]
    if grad_mode.enabled:
        written = {"rnn": _rnn_written, "gru": _gru_written, "lstm": _lstm_written}[mode]
        return written(given, operands, reverse, relu)
    return _run_back(given, operands, kept, mode, reverse, relu)


@op(method=False, listed=False)
def _run_back(
    g: Sequence[Value], operands: Sequence[Value], kept: Sequence[Value], mode: str, reverse: bool, relu: bool
) -> tuple[Value, ...]:
    """The gradients of all operands."""
    how = _attrs(mode, reverse, relu)
    if mode == "rnn":
        x, h = session.emit_all("rnn_backward", g[0], operands[2], kept[0], **how)
        return x, h, _product(_before(kept[0], operands[1], reverse), x)
    if mode == "gru":
        x, a, h = session.emit_all("gru_backward", g[0], operands[1], operands[2], *kept, **how)
        found = x, h, _product(_before(kept[0], operands[1], reverse), a)
        return (*found, reduce("sum", a, (0, 1), dtype=_name(a))) if len(operands) > 3 else found
    states, cells, gates = kept
    _, before, c0, w, *projection = operands
    x, h, c, *total = session.emit_all("lstm_backward", *g, c0, w, cells, gates, *projection, **how)
    weights = [_product(_before(states, before, reverse), x)]
    if projection:
        n, steps, width = cells.shape
        opened = compact(session.part(gates, ((0, n, 1), (0, steps, 1), (3 * width, width, 1))))
        shown = session.emit("multiply", opened, session.emit("tanh", cells))
        weights.append(_product(shown, total[0]))
    return x, h, c, *weights


def _name(x: Value) -> str:
    return str(x.dtype)


def _product(states: Value, g: Value) -> Value:
    """The gradient of weights that the states of all steps were multiplied by."""
    return session.emit("contract", states, g, subscripts="ntp,ntg->pg")


def _before(states: Value, first: Value, reverse: bool) -> Value:
    """The state before each step."""
    start, rest = session.emit("expand_dims", first, dims=(1,)), states.shape[1] - 1
    if not rest:
        return start
    parts = (_steps(states, 1, rest), start) if reverse else (start, _steps(states, 0, rest))
    return session.emit("cat", *parts, dim=1, sizes=tuple(p.shape[1] for p in parts))


# Written out in ops: each step forward, then each step back. They give the gradients of all operands.
def _order(x: Tensor, reverse: bool) -> list[int]:
    steps = list(range(x.shape[1]))
    return steps[::-1] if reverse else steps


def _stacked(rows: list[Tensor], reverse: bool) -> Tensor:
    """Rows from the last step to the first."""
    return stack(rows if reverse else rows[::-1], 1)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = call("mm", a, b)
    return found


def _rnn_written(g: list[Tensor], operands: list[Tensor], reverse: bool, relu: bool) -> list[Tensor]:
    x, h, w = operands
    steps = []
    for t in _order(x, reverse):
        a = x[:, t] + _mm(h, w)
        new = call("relu", a) if relu else tanh(a)
        steps.append((t, h, new))
        h = new
    back, rows, of_h, of_w = w.t(), [], zeros_like(h), zeros_like(w)
    for t, before, new in reversed(steps):
        of_h = of_h + g[0][:, t]
        row = of_h * ((new > 0).to(of_h.dtype) if relu else 1 - new * new)
        of_w, of_h = of_w + _mm(before.t(), row), _mm(row, back)
        rows.append(row)
    return [_stacked(rows, reverse), of_h, of_w]


def _gru_written(g: list[Tensor], operands: list[Tensor], reverse: bool, relu: bool) -> list[Tensor]:
    x, h, w, *bias = operands
    width = h.shape[1]
    steps = []
    for t in _order(x, reverse):
        a = _mm(h, w) + bias[0] if bias else _mm(h, w)
        r, z = call("chunk", sigmoid(x[:, t, : 2 * width] + a[:, : 2 * width]), 2, 1)
        inner = a[:, 2 * width :]
        n = tanh(x[:, t, 2 * width :] + r * inner)
        steps.append((t, h, r, z, n, inner))
        h = n + z * (h - n)
    back, rows, of_h, of_w = w.t(), [], zeros_like(h), zeros_like(w)
    of_b = [zeros_like(b) for b in bias]
    for t, before, r, z, n, inner in reversed(steps):
        of_h = of_h + g[0][:, t]
        of_n = of_h * (1 - z) * (1 - n * n)
        both = cat([of_n * inner * r * (1 - r), of_h * (before - n) * z * (1 - z)], 1)
        row, of_a = cat([both, of_n], 1), cat([both, of_n * r], 1)
        of_w, of_h = of_w + _mm(before.t(), of_a), of_h * z + _mm(of_a, back)
        of_b = [b + of_a.sum(0) for b in of_b]
        rows.append(row)
    return [_stacked(rows, reverse), of_h, of_w, *of_b]


def _lstm_written(g: list[Tensor], operands: list[Tensor], reverse: bool, relu: bool) -> list[Tensor]:
    x, h, c, w, *projection = operands
    steps = []
    for t in _order(x, reverse):
        i, f, z, o = call("chunk", x[:, t] + _mm(h, w), 4, 1)
        i, f, z, o = sigmoid(i), sigmoid(f), tanh(z), sigmoid(o)
        new = f * c + i * z
        shown = tanh(new)
        steps.append((t, h, c, i, f, z, o, shown))
        h, c = o * shown, new
        h = _mm(h, projection[0]) if projection else h
    back, rows, of_h, of_c, of_w = w.t(), [], zeros_like(h), g[1], zeros_like(w)
    of_r = [zeros_like(r) for r in projection]
    for t, before, c, i, f, z, o, shown in reversed(steps):
        of_h = of_h + g[0][:, t]
        of_r = [r + _mm((o * shown).t(), of_h) for r in of_r]
        of_m = _mm(of_h, projection[0].t()) if projection else of_h
        of_c = of_c + of_m * o * (1 - shown * shown)
        gates = [
            of_c * z * i * (1 - i),
            of_c * c * f * (1 - f),
            of_c * i * (1 - z * z),
            of_m * shown * o * (1 - o),
        ]
        row = cat(gates, 1)
        of_w, of_h, of_c = of_w + _mm(before.t(), row), _mm(row, back), of_c * f
        rows.append(row)
    return [_stacked(rows, reverse), of_h, of_c, of_w, *of_r]
