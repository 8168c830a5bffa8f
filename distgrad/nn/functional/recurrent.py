"""Recurrent cells, and a cell run along sequences.

The products with the inputs of all steps are one product; what then goes from step to step is one op
(`ops/recurrent.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from distgrad.nn.functional.products import linear
from distgrad.ops.base import Tensor, call
from distgrad.ops.joining import cat
from distgrad.ops.recurrent import _gru, _lstm, _rnn

__all__ = ["gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"]

State = tuple[Tensor, ...]  # h, or h and c


class Weights(NamedTuple):
    """Those of one direction of one layer. `hidden` is the weight transposed: (H, gates)."""

    inner: Tensor
    hidden: Tensor
    inner_bias: Tensor | None
    hidden_bias: Tensor | None
    projection: Tensor | None = None  # transposed

    @classmethod
    def of(
        cls, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None, w_hr: Tensor | None = None
    ) -> Weights:
        """From torch's parameters."""
        return cls(w_ih, w_hh.t(), b_ih, b_hh, None if w_hr is None else w_hr.t())


def input_products(mode: str, inputs: Tensor, weights: Weights) -> Tensor:
    """The part of the gates that comes from the inputs: (..., input) to (..., gates)."""
    bias = weights.inner_bias
    if bias is not None and mode != "GRU":  # whose second bias is inside of a product with r
        bias = bias + weights.hidden_bias
    return linear(inputs, weights.inner, bias)


# What runs along sequences, for each mode: from the products with the inputs (N, T, gates), the states before and the
# weights to all h and the last state.
def _run(
    mode: str, products: Tensor, state: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    if mode == "LSTM":
        h, c = state
        states, last = _lstm(products, h, c, weights.hidden, weights.projection, backwards)
        return states, (_last(states, backwards), last)
    (h,) = state
    if mode == "GRU":
        states = _gru(products, h, weights.hidden, weights.hidden_bias, backwards)
    else:
        states = _rnn(products, h, weights.hidden, mode == "RNN_RELU", backwards)
    return states, (_last(states, backwards),)


def _last(states: Tensor, backwards: bool) -> Tensor:
    found: Tensor = call("select", states, 1, 0 if backwards else -1)
    return found


def _run_packed(
    mode: str, products: Tensor, sizes: Sequence[int], state: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    """The h of each row, and the last state of each sequence: all steps with the same number of rows at once.

    Where that number falls, the last sequences have ended; where it rises, further rows of the initial state begin.
    """
    runs = [(rows, len(list(steps))) for rows, steps in groupby(sizes)]
    parts = list(zip(runs, call("split", products, [rows * steps for rows, steps in runs], 0), strict=True))
    initial, count = state, parts[-1 if backwards else 0][0][0]
    state = tuple(s[:count] for s in initial)
    ended: list[State] = []
    outputs = []
    for (rows, steps), part in reversed(parts) if backwards else parts:
        if rows < count:
            ended.append(tuple(s[rows:] for s in state))
            state = tuple(s[:rows] for s in state)
        elif rows > count:
            state = tuple(cat((s, more[count:rows])) for s, more in zip(state, initial, strict=True))
        count = rows
        out, state = _run(mode, part.reshape(steps, rows, -1).transpose(0, 1), state, weights, backwards)
        outputs.append(out.transpose(0, 1).reshape(steps * rows, -1))
    if ended:
        state = tuple(cat(last) for last in zip(state, *reversed(ended), strict=True))
    return cat(outputs[::-1] if backwards else outputs), state


def run_layer(
    mode: str, inputs: Tensor, sizes: Sequence[int] | None, initial: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    """One direction of one layer: inputs (N, T, input), or packed (sum of `sizes`, input), to outputs alike."""
    products = input_products(mode, inputs, weights)
    if sizes is not None:
        return _run_packed(mode, products, sizes, initial, weights, backwards)
    if not products.shape[1]:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    return _run(mode, products, initial, weights, backwards)


# Cells by themselves.
def _cell(mode: str, input: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any) -> State:
    weights = Weights.of(w_ih, w_hh, b_ih, b_hh)
    width = w_hh.shape[1]
    if input.shape[1] != w_ih.shape[1]:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input.shape[1]} expected {w_ih.shape[1]}"
        )
    for s in state:
        if s.shape[1] != width:
            raise RuntimeError(f"hidden0 has inconsistent hidden_size: got {s.shape[1]}, expected {width}")
        if s.shape[0] != input.shape[0]:
            raise RuntimeError(
                f"Input batch size {input.shape[0]} doesn't match hidden0 batch size {s.shape[0]}"
            )
    products = input_products(mode, input, weights)
    return _run(mode, products.unsqueeze(1), state, weights, False)[1]


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """tanh(w_ih @ input + b_ih + w_hh @ hx + b_hh): (N, input) and (N, H) to (N, H)."""
    return _cell("RNN_TANH", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """`rnn_tanh_cell` with relu for tanh."""
    return _cell("RNN_RELU", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU: (N, input) and (N, H) to (N, H)."""
    return _cell("GRU", input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: (N, input), and h and c (N, H), to h and c."""
    h, c = _cell("LSTM", input, tuple(hx), w_ih, w_hh, b_ih, b_hh)
    return h, c
