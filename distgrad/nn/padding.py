"""Layers that pad: each is `functional.pad` with its mode, for inputs with or without a dimension for samples."""

from __future__ import annotations

from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.arguments import each
from distgrad.nn.module import Module
from distgrad.tensor import Tensor

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(Module):
    """`padding`: one number, or (before, after) for each spatial dimension, the last first."""

    dims = 1
    mode = "constant"

    def __init__(self, padding: Any):
        super().__init__()
        self.padding = each(padding, 2 * self.dims)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """The padding."""
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """`value` before and after the last dimension."""

    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """Padding and value."""
        return f"padding={self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """`value` around the last two dimensions."""

    dims = 2


class ConstantPad3d(ConstantPad1d):
    """`value` around the last three dimensions."""

    dims = 3


class ZeroPad1d(_Pad):
    """Zeros before and after the last dimension."""

    def __init__(self, padding: Any):
        super().__init__(padding)
        self.value = 0.0


class ZeroPad2d(ZeroPad1d):
    """Zeros around the last two dimensions."""

    dims = 2


class ZeroPad3d(ZeroPad1d):
    """Zeros around the last three dimensions."""

    dims = 3


class ReflectionPad1d(_Pad):
    """The elements next to the ends of the last dimension, mirrored."""

    mode = "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """The same for the last two dimensions."""

    dims = 2


class ReflectionPad3d(ReflectionPad1d):
    """The same for the last three dimensions."""

    dims = 3


class ReplicationPad1d(_Pad):
    """The elements at the ends of the last dimension, repeated."""

    mode = "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The same for the last two dimensions."""

    dims = 2


class ReplicationPad3d(ReplicationPad1d):
    """The same for the last three dimensions."""

    dims = 3


class CircularPad1d(_Pad):
    """The elements of the other end of the last dimension."""

    mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        n = self.dims
        if input.dim() not in (n + 1, n + 2):
            raise ValueError(f"expected {n + 1}D or {n + 2}D input (got {input.dim()}D input)")
        return super().forward(input)


class CircularPad2d(CircularPad1d):
    """The same for the last two dimensions."""

    dims = 2


class CircularPad3d(CircularPad1d):
    """The same for the last three dimensions."""

    dims = 3
