"""Convolutions and transposed convolutions of one, two and three spatial dimensions as layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.nn import functional as F
from distgrad.nn import init
from distgrad.nn.arguments import each
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.ops.making import empty
from distgrad.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvNd(Module):
    """What all have: sizes, weight (O, C / groups, *kernel) or, transposed, (C, O / groups, *kernel), bias (O,)."""

    dims: int
    transposed = False
    weight: Any
    bias: Any

    def _set_up(
        self,
        in_channels: int,
        out_channels: int,
        sizes: dict[str, Any],
        groups: int,
        bias: bool,
        padding_mode: str,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        for name, value in sizes.items():
            setattr(self, name, value if isinstance(value, str) else each(value, self.dims))
        self.groups, self.padding_mode = groups, padding_mode
        self.transposed = type(self).transposed
        self._check()
        self._reversed_padding_repeated_twice = self._around()
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter(empty((first, second // groups, *self.kernel_size), **options))
        if bias:
            self.bias = Parameter(empty(out_channels, **options))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def _check(self) -> None:
        if self.groups <= 0:
            raise ValueError("groups must be a positive integer")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"{name} must be divisible by groups")
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                names = {"valid", "same"}
                raise ValueError(f"Invalid padding string {self.padding!r}, should be one of {names}")
            if self.padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        modes = {"zeros", "reflect", "replicate", "circular"}
        if self.padding_mode not in modes:
            raise ValueError(
                f"padding_mode must be one of {modes}, but got padding_mode='{self.padding_mode}'"
            )

    def _around(self) -> list[int]:
        """The padding as `functional.pad` takes it."""
        if self.padding == "valid":
            return [0, 0] * self.dims
        if self.padding != "same":
            return [p for p in reversed(self.padding) for _ in range(2)]
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return [end for r in reversed(reach) for end in (r // 2, r - r // 2)]

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniformly from ±1/sqrt(products for each element of the result)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        """The sizes that are not the usual ones."""
        zeros, ones = (0,) * self.dims, (1,) * self.dims
        shown = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        usual = {"padding": zeros, "dilation": ones, "output_padding": zeros, "groups": 1}
        shown += [f"{name}={getattr(self, name)}" for name, v in usual.items() if getattr(self, name) != v]
        if self.bias is None:
            shown.append("bias=False")
        if self.padding_mode != "zeros":
            shown.append(f"padding_mode={self.padding_mode}")
        return ", ".join(shown)


class _Conv(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        sizes["output_padding"] = 0
        options = {"device": device, "dtype": dtype}
        self._set_up(in_channels, out_channels, sizes, groups, bias, padding_mode, options)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, self.padding_mode), 0
        return function(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return self._conv_forward(input, self.weight, self.bias)


class Conv1d(_Conv):
    """(N, C, L) or (C, L) to (N, O, L') or (O, L'): `functional.conv1d`, with padding of any mode."""

    dims = 1


class Conv2d(_Conv):
    """(N, C, H, W) or (C, H, W) to (N, O, H', W') or (O, H', W'): `functional.conv2d`, with padding of any mode."""

    dims = 2


class Conv3d(_Conv):
    """(N, C, D, H, W) or (C, D, H, W): `functional.conv3d`, with padding of any mode."""

    dims = 3


class _ConvTranspose(_ConvNd):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        sizes["output_padding"] = output_padding
        options = {"device": device, "dtype": dtype}
        self._set_up(in_channels, out_channels, sizes, groups, bias, padding_mode, options)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """See the class. `output_size` chooses among the sizes that `stride` makes the same."""
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        extra = self._output_padding(input, output_size)
        args = (self.stride, self.padding, extra, self.groups, self.dilation)
        return function(input, self.weight, self.bias, *args)

    def _output_padding(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        if output_size is None:
            return self.output_padding
        n, wanted = self.dims, tuple(output_size)
        first = input.dim() - n
        if len(wanted) == input.dim():
            wanted = wanted[first:]
        if len(wanted) != n:
            raise ValueError(
                f"ConvTranspose{n}D: for {input.dim()}D input, output_size must have {n} or {input.dim()} elements "
                f"(got {len(wanted)})"
            )
        each_dim = zip(
            input.shape[first:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
        )
        least = [(t - 1) * s - 2 * p + d * (k - 1) + 1 for t, s, p, d, k in each_dim]
        most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
        if any(not low <= w <= high for low, w, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to {most} "
                f"(for an input of {input.size()[first:]})"
            )
        return tuple(w - low for w, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTranspose):
    """(N, C, L) or (C, L): `functional.conv_transpose1d`."""

    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """(N, C, H, W) or (C, H, W): `functional.conv_transpose2d`."""

    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """(N, C, D, H, W) or (C, D, H, W): `functional.conv_transpose3d`."""

    dims = 3
