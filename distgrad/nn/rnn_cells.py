"""Single steps of recurrent layers as layers: RNNCell, LSTMCell and GRUCell."""

from __future__ import annotations

import math
from typing import Any

from distgrad.nn import init
from distgrad.nn.functional.recurrent import gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.ops.making import empty
from distgrad.tensor import Tensor

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share: inputs (N, input_size) or (input_size,), states (N, hidden_size) or (hidden_size,)."""

    __constants__: tuple[str, ...] = ("input_size", "hidden_size", "bias")
    nonlinearity = "tanh"
    bias_ih: Any
    bias_hh: Any

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        gates = num_chunks * hidden_size
        for name, shape in (("weight_ih", (gates, input_size)), ("weight_hh", (gates, hidden_size))):
            self.register_parameter(name, Parameter(empty(shape, device=device, dtype=dtype)))
        for name in ("bias_ih", "bias_hh"):
            made = Parameter(empty((gates,), device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniformly from ±1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        shown = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            shown += f", bias={self.bias}"
        return shown if self.nonlinearity == "tanh" else f"{shown}, nonlinearity={self.nonlinearity}"

    def _given(self, input: Tensor, hx: tuple[Tensor, ...] | None, states: int) -> tuple[Any, ...]:
        title = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{title}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for i, s in enumerate(hx or ()):
            if s.dim() not in (1, 2):
                name = f"hx[{i}]" if states == 2 else "hidden"
                raise ValueError(f"{title}: Expected {name} to be 1D or 2D, got {s.dim()}D instead")
        if input.dim() == 1:
            input, hx = input.unsqueeze(0), None if hx is None else tuple(s.unsqueeze(0) for s in hx)
        if hx is None:
            hx = (input.new_zeros(input.shape[0], self.hidden_size),) * states
        return input, hx, (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class RNNCell(RNNCellBase):
    """One step of an `RNN`."""

    __constants__ = ("input_size", "hidden_size", "bias", "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next h."""
        cells = {"tanh": rnn_tanh_cell, "relu": rnn_relu_cell}
        if self.nonlinearity not in cells:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        x, (h,), weights = self._given(input, None if hx is None else (hx,), 1)
        out = cells[self.nonlinearity](x, h, *weights)
        return out if input.dim() == 2 else out.squeeze(0)


class LSTMCell(RNNCellBase):
    """One step of an `LSTM`."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        x, state, weights = self._given(input, hx, 2)
        h, c = lstm_cell(x, state, *weights)
        return (h, c) if input.dim() == 2 else (h.squeeze(0), c.squeeze(0))


class GRUCell(RNNCellBase):
    """One step of a `GRU`."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next h."""
        x, (h,), weights = self._given(input, None if hx is None else (hx,), 1)
        out = gru_cell(x, h, *weights)
        return out if input.dim() == 2 else out.squeeze(0)
