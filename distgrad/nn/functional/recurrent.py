"""Recurrent cells, and a cell run along sequences.

The products with the inputs of all steps are one product; a step then costs the product with the state, which adds to
it, and the element-wise rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distgrad.nn.functional.products import linear
from distgrad.ops.activations import relu
from distgrad.ops.base import Tensor, call
from distgrad.ops.joining import cat, stack
from distgrad.ops.linear import addmm
from distgrad.ops.pointwise import tanh
from distgrad.ops.special import sigmoid

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


# Steps: from the product with the inputs (N, gates), the state before and the weights to the state after.
Step = Callable[[Tensor, State, Weights], State]


def tanh_step(x: Tensor, state: State, weights: Weights) -> State:
    """h = tanh(x + W h)."""
    return (tanh(addmm(x, state[0], weights.hidden)),)


def relu_step(x: Tensor, state: State, weights: Weights) -> State:
    """h = relu(x + W h)."""
    return (relu(addmm(x, state[0], weights.hidden)),)


def lstm_step(x: Tensor, state: State, weights: Weights) -> State:
    """c = s(f) c + s(i) tanh(g), h = s(o) tanh(c) with s the sigmoid and i, f, g, o = x + W h (Hochreiter 1997)."""
    h, c = state
    i, f, g, o = call("chunk", addmm(x, h, weights.hidden), 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h if weights.projection is None else call("mm", h, weights.projection)), c


def gru_step(x: Tensor, state: State, weights: Weights) -> State:
    """h = n + z (h - n) with n = tanh(x_n + r (W_n h + b_n)), r and z = sigmoid(x + W h + b) (Cho et al. 2014)."""
    (h,) = state
    bias = weights.hidden_bias
    inner = call("mm", h, weights.hidden) if bias is None else addmm(bias, h, weights.hidden)
    width = h.shape[1]
    xs, hs = (call("split", part, [2 * width, width], 1) for part in (x, inner))
    r, z = call("chunk", sigmoid(xs[0] + hs[0]), 2, 1)
    n = tanh(xs[1] + r * hs[1])
    return (n + z * (h - n),)


STEPS: dict[str, Step] = {
    "RNN_TANH": tanh_step,
    "RNN_RELU": relu_step,
    "LSTM": lstm_step,
    "GRU": gru_step,
}


def input_products(mode: str, inputs: Tensor, weights: Weights) -> Tensor:
    """The part of the gates that comes from the inputs: (..., input) to (..., gates)."""
    bias = weights.inner_bias
    if bias is not None and mode != "GRU":  # whose second bias is inside of a product with r
        bias = bias + weights.hidden_bias
    return linear(inputs, weights.inner, bias)


def run_steps(
    mode: str, products: Sequence[Tensor], initial: State, weights: Weights
) -> tuple[list[Tensor], State]:
    """The h after each step, and the last state of each row.

    Step t has products[t] with (N_t, gates). Where the number of rows falls, the last ones have ended; where it rises,
    further rows of `initial` begin.
    """
    step = STEPS[mode]
    count = products[0].shape[0]
    state = initial if initial[0].shape[0] == count else tuple(s[:count] for s in initial)
    ended: list[State] = []
    outputs = []
    for x in products:
        rows = x.shape[0]
        if rows < count:
            ended.append(tuple(s[rows:] for s in state))
            state = tuple(s[:rows] for s in state)
        elif rows > count:
            state = tuple(cat((s, more[count:rows])) for s, more in zip(state, initial, strict=True))
        count = rows
        state = step(x, state, weights)
        outputs.append(state[0])
    if ended:
        state = tuple(cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return outputs, state


def run_layer(
    mode: str, inputs: Tensor, sizes: Sequence[int] | None, initial: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    """One direction of one layer: inputs (N, T, input), or packed (sum of `sizes`, input), to outputs alike."""
    products = input_products(mode, inputs, weights)
    steps = call("unbind", products, 1) if sizes is None else call("split", products, list(sizes), 0)
    outputs, last = run_steps(mode, steps[::-1] if backwards else steps, initial, weights)
    outputs = outputs[::-1] if backwards else outputs
    return (stack(outputs, 1) if sizes is None else cat(outputs, 0)), last


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
    return STEPS[mode](input_products(mode, input, weights), state, weights)


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
