"""Pooling layers; each is the function of `nn.functional` with that name, where the formulas are."""

from __future__ import annotations

from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.arguments import each
from distgrad.nn.module import Module
from distgrad.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _Pool(Module):
    """A layer that calls the function of its own name with what its attributes say."""

    function: Any

    def _shown(self, *names: str) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class MaxPool1d(_Pool):
    """The largest element of each window."""

    function = staticmethod(F.max_pool1d)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """See the function."""
        args = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return self.function(input, *args, self.return_indices)

    def extra_repr(self) -> str:
        """The windows."""
        return self._shown("kernel_size", "stride", "padding", "dilation", "ceil_mode")


class MaxPool2d(MaxPool1d):
    """The same in two dimensions."""

    function = staticmethod(F.max_pool2d)


class MaxPool3d(MaxPool1d):
    """The same in three dimensions."""

    function = staticmethod(F.max_pool3d)


class MaxUnpool1d(_Pool):
    """The inverse of `MaxPool1d` at the positions that this gave; zeros elsewhere."""

    function = staticmethod(F.max_unpool1d)
    dims = 1

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        self.kernel_size = each(kernel_size, self.dims)
        self.stride = each(kernel_size if stride is None else stride, self.dims)
        self.padding = each(padding, self.dims)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """See the function."""
        made: Tensor = self.function(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        return made

    def extra_repr(self) -> str:
        """The windows."""
        return self._shown("kernel_size", "stride", "padding")


class MaxUnpool2d(MaxUnpool1d):
    """The same in two dimensions."""

    function = staticmethod(F.max_unpool2d)
    dims = 2


class MaxUnpool3d(MaxUnpool1d):
    """The same in three dimensions."""

    function = staticmethod(F.max_unpool3d)
    dims = 3


class AvgPool1d(_Pool):
    """The mean of each window."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self.kernel_size = each(kernel_size, 1)
        self.stride = each(kernel_size if stride is None else stride, 1)
        self.padding = each(padding, 1)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """See the function."""
        args = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return F.avg_pool1d(input, *args)

    def extra_repr(self) -> str:
        """The windows."""
        return self._shown("kernel_size", "stride", "padding")


class AvgPool2d(_Pool):
    """The mean of each window."""

    function = staticmethod(F.avg_pool2d)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """See the function."""
        args = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        made: Tensor = self.function(input, *args, self.divisor_override)
        return made

    def extra_repr(self) -> str:
        """The windows."""
        return self._shown("kernel_size", "stride", "padding")


class AvgPool3d(AvgPool2d):
    """The same in three dimensions."""

    function = staticmethod(F.avg_pool3d)


class LPPool1d(_Pool):
    """(sum of x**p) ** (1/p) of each window, with p = `norm_type`."""

    function = staticmethod(F.lp_pool1d)

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """See the function."""
        made: Tensor = self.function(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )
        return made

    def extra_repr(self) -> str:
        """The norm and the windows."""
        return self._shown("norm_type", "kernel_size", "stride", "ceil_mode")


class LPPool2d(LPPool1d):
    """The same in two dimensions."""

    function = staticmethod(F.lp_pool2d)


class LPPool3d(LPPool1d):
    """The same in three dimensions."""

    function = staticmethod(F.lp_pool3d)


class AdaptiveAvgPool1d(_Pool):
    """The means of windows that cover the input: so many along each dimension as `output_size` says."""

    function = staticmethod(F.adaptive_avg_pool1d)

    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """See the function."""
        made: Tensor = self.function(input, self.output_size)
        return made

    def extra_repr(self) -> str:
        """The size."""
        return self._shown("output_size")


class AdaptiveAvgPool2d(AdaptiveAvgPool1d):
    """The same in two dimensions."""

    function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(AdaptiveAvgPool1d):
    """The same in three dimensions."""

    function = staticmethod(F.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_Pool):
    """The maxima of windows that cover the input: so many along each dimension as `output_size` says."""

    function = staticmethod(F.adaptive_max_pool1d)

    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        """See the function."""
        return self.function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """The size."""
        return self._shown("output_size")


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """The same in two dimensions."""

    function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(AdaptiveMaxPool1d):
    """The same in three dimensions."""

    function = staticmethod(F.adaptive_max_pool3d)


class FractionalMaxPool2d(Module):
    """Maxima of windows that a random number spaces: so many as `output_size` or `output_ratio` says."""

    function = staticmethod(F.fractional_max_pool2d)
    dims = 2

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ):
        super().__init__()
        self.kernel_size, self.return_indices = each(kernel_size, self.dims), return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else each(output_size, self.dims)
        self.output_ratio = None if output_ratio is None else each(output_ratio, self.dims)
        if output_size is None and output_ratio is None:
            name = type(self).__name__
            raise ValueError(f"{name} requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError("only one of output_size and output_ratio may be specified")
        if self.output_ratio is not None and not all(0 < r < 1 for r in self.output_ratio):
            raise ValueError(f"output_ratio must be between 0 and 1 (got {output_ratio})")

    def forward(self, input: Tensor) -> Any:
        """See the function."""
        sizes = (self.output_size, self.output_ratio)
        return self.function(input, self.kernel_size, *sizes, self.return_indices, self._random_samples)


class FractionalMaxPool3d(FractionalMaxPool2d):
    """The same in three dimensions."""

    function = staticmethod(F.fractional_max_pool3d)
    dims = 3
