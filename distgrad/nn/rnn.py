"""Recurrent layers: RNN, LSTM and GRU."""

from __future__ import annotations

import math
import warnings
from typing import Any

from distgrad.nn import init
from distgrad.nn.functional.dropping import dropout as drop
from distgrad.nn.functional.recurrent import State, Weights, run_layer
from distgrad.nn.module import Module
from distgrad.nn.packing import PackedSequence
from distgrad.nn.parameter import Parameter
from distgrad.ops.base import call
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import empty
from distgrad.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class RNNBase(Module):
    """What RNN, LSTM and GRU share.

    Input is (T, N, input_size), with `batch_first` (N, T, input_size), or (T, input_size), or a `PackedSequence`. The
    output holds the last layer's h of each step, both directions beside each other; then come the last states
    (layers * directions, N, hidden_size). Parameters are drawn uniformly from ±1/sqrt(hidden_size).
    """

    __constants__ = (
        "mode",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    )

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        _check(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = float(dropout), bidirectional, proj_size
        self._all_weights: list[list[str]] = []
        gates, out = GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * (1 + bidirectional)
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, width), "weight_hh": (gates, out)}
                if bias:
                    shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
                if proj_size:
                    shapes |= {"weight_hr": (proj_size, hidden_size)}
                names = [f"{name}_l{layer}{suffix}" for name in shapes]
                for name, shape in zip(names, shapes.values(), strict=True):
                    self.register_parameter(name, Parameter(empty(shape, device=device, dtype=dtype)))
                self._all_weights.append(names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing: it is for a device that there is not."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        usual["bidirectional"] = False
        other = [
            f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *other])

    # What is given is brought to (N, T, input_size), or packed, and back.
    def _run(self, input: Any, hx: Any, title: str) -> tuple[Any, State]:
        packed = isinstance(input, PackedSequence)
        if packed:
            rows, sizes, batched = input.data, [int(n) for n in input.batch_sizes.tolist()], True
            self._check_input(rows, 2)
            count = sizes[0]
        else:
            if input.dim() not in (2, 3):
                tensor = " tensor" if title == "RNN" else ""
                raise ValueError(
                    f"{title}: Expected input to be 2D or 3D, got {input.dim()}D{tensor} instead"
                )
            batched, sizes = input.dim() == 3, None
            rows = input.unsqueeze(0) if not batched else input if self.batch_first else input.transpose(0, 1)
            self._check_input(rows, 3)
            count = rows.shape[0]
        state = self._state(rows, hx, count, batched)
        order = input.sorted_indices if packed else None
        if order is not None and hx is not None:
            state = tuple(call("index_select", s, 1, order) for s in state)
        out, last = self._layers(rows, sizes, state)
        if packed:
            if order is not None:
                last = tuple(call("index_select", s, 1, input.unsorted_indices) for s in last)
            return PackedSequence(out, input.batch_sizes, order, input.unsorted_indices), last
        if not batched:
            return out.squeeze(0), tuple(s.squeeze(1) for s in last)
        return (out if self.batch_first else out.transpose(0, 1)), last

    def _check_input(self, rows: Tensor, ndim: int) -> None:
        wanted = getattr(self, self._all_weights[0][0]).dtype
        if rows.dtype != wanted:
            raise ValueError(
                f"RNN input dtype ({rows.dtype}) does not match weight dtype ({wanted}). Convert input: "
                f"input.to({wanted}), or convert model: model.to({rows.dtype})"
            )
        if rows.dim() != ndim:
            raise RuntimeError(f"input must have {ndim} dimensions, got {rows.dim()}")
        if rows.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {rows.shape[-1]}"
            )

    def _state(self, rows: Tensor, hx: Any, count: int, batched: bool) -> State:
        layers = self.num_layers * (1 + self.bidirectional)
        widths = [self.proj_size or self.hidden_size]
        if self.mode == "LSTM":
            widths.append(self.hidden_size)
        if hx is None:
            return tuple(rows.new_zeros(layers, count, width) for width in widths)
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        ndim = 3 if batched else 2
        if any(s.dim() != ndim for s in given):
            title = f"For {'batched' if batched else 'unbatched'} {ndim}-D input,"
            if self.mode == "LSTM":
                dims = ", ".join(f"{s.dim()}-D" for s in given)
                raise RuntimeError(f"{title} hx and cx should also be {ndim}-D but got ({dims}) tensors")
            raise RuntimeError(f"{title} hx should also be {ndim}-D but got {given[0].dim()}-D tensor")
        given = given if batched else tuple(s.unsqueeze(1) for s in given)
        for i, (s, width) in enumerate(zip(given, widths, strict=True)):
            if tuple(s.shape) != (layers, count, width):
                name = f"hidden[{i}]" if self.mode == "LSTM" else "hidden"
                raise RuntimeError(f"Expected {name} size {(layers, count, width)}, got {list(s.shape)}")
        return given

    def _layers(self, x: Tensor, sizes: list[int] | None, state: State) -> tuple[Tensor, State]:
        directions = 1 + self.bidirectional
        last = []
        for layer in range(self.num_layers):
            outputs = []
            for at in range(layer * directions, (layer + 1) * directions):
                weights = self._weights(at)
                initial = tuple(s[at] for s in state)
                out, end = run_layer(self.mode, x, sizes, initial, weights, backwards=at % directions == 1)
                outputs.append(out)
                last.append(end)
            x = outputs[0] if directions == 1 else cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = drop(x, self.dropout, self.training)
        return x, tuple(stack(parts, 0) for parts in zip(*last, strict=True))

    def _weights(self, at: int) -> Weights:
        given = [getattr(self, name) for name in self._all_weights[at]]
        projection = given.pop() if self.proj_size else None
        biases = given[2:] if self.bias else (None, None)
        return Weights.of(given[0], given[1], biases[0], biases[1], projection)


def _check(
    mode: str, input_size: Any, hidden_size: Any, layers: int, bias: Any, first: Any, dropout: Any, proj: int
) -> None:
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
        )
    if dropout > 0 and layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={layers}",
            stacklevel=4,
        )
    for name, value, kind in (
        ("bias", bias, bool),
        ("batch_first", first, bool),
        ("input_size", input_size, int),
        ("hidden_size", hidden_size, int),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", layers)):
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")
    if mode not in GATES:
        raise ValueError(f"Unrecognized RNN mode: {mode}")


class RNN(RNNBase):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with `nonlinearity="relu"`."""

    def __init__(self, *args: Any, **kwargs: Any):
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            self.nonlinearity = args[3]
            args = args[:3] + args[4:]
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        modes = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}
        if self.nonlinearity not in modes:
            raise ValueError(f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(modes[self.nonlinearity], *args, **kwargs)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Output and last h; see `RNNBase`."""
        out, (h,) = self._run(input, hx, "RNN")
        return out, h


class LSTM(RNNBase):
    """c = s(f) c + s(i) tanh(g), h = s(o) tanh(c), s the sigmoid, with gates i, f, g, o.

    With `proj_size` h is W_hr times that.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Output, and last h and c; see `RNNBase`."""
        out, (h, c) = self._run(input, hx, "LSTM")
        return out, (h, c)


class GRU(RNNBase):
    """h = (1 - z) n + z h with n = tanh(x_n + r (W_n h + b_n)); gates in the order r, z, n."""

    def __init__(self, *args: Any, **kwargs: Any):
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Output and last h; see `RNNBase`."""
        out, (h,) = self._run(input, hx, "GRU")
        return out, h
