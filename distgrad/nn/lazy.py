"""Layers that learn their sizes from the first input: LazyLinear, LazyConv1d, LazyBatchNorm1d and their kin.

Until then their parameters hold nothing (`UninitializedParameter`). The first call gives these their shapes, draws
their values, and makes the layer one of the plain class.
"""

from __future__ import annotations

import itertools
from typing import Any

from distgrad.dtype import int64
from distgrad.nn.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from distgrad.nn.linear import Linear
from distgrad.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from distgrad.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from distgrad.ops.making import tensor
from distgrad.record import no_grad
from distgrad.tensor import Tensor

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
]


class LazyModuleMixin:
    """For a layer that finds its sizes in the first input: a subclass says how, in `initialize_parameters`."""

    cls_to_become: type[Any] | None = None
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    register_forward_pre_hook: Any
    _register_load_state_dict_pre_hook: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)

    def _lazy_load_hook(self, state_dict: Any, prefix: str, *_: Any) -> None:
        """What is loaded gives the parameters their shapes."""
        for name, own in itertools.chain(self._parameters.items(), self._buffers.items()):
            found = state_dict.get(prefix + name)
            if is_lazy(own) and found is not None and not is_lazy(found):
                with no_grad():
                    own.materialize(found.shape)

    def _load_one(self, name: str, key: str, target: Any, *rest: Any) -> None:
        if not is_lazy(target):  # else what is loaded has no contents either
            super()._load_one(name, key, target, *rest)  # type: ignore[misc]

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """For a subclass: give the parameters their shapes, from the arguments of `forward`."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer has no shape yet."""
        return any(map(is_lazy, (*self._parameters.values(), *self._buffers.values())))

    def _infer_parameters(self, module: Any, args: Any, kwargs: Any = None) -> None:
        module.initialize_parameters(*args, **(kwargs or {}))
        if module.has_uninitialized_params():
            raise RuntimeError(f"module {type(self).__name__} has not been fully initialized")
        for name in ("_initialize_hook", "_load_hook"):
            getattr(module, name).remove()
            delattr(module, name)
        if module.cls_to_become is not None:
            module.__class__ = module.cls_to_become


class _Sized(LazyModuleMixin):
    """One of these layers: `size` names the attribute that is 0 until the first input."""

    size: str

    def reset_parameters(self) -> None:
        """As the plain layer, once there are any."""
        if not self.has_uninitialized_params() and getattr(self, self.size):
            super().reset_parameters()  # type: ignore[misc]


class LazyLinear(_Sized, Linear):
    """A `Linear` whose `in_features` are those of its first input."""

    cls_to_become = Linear
    size = "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(0, 0, False)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_features = out_features
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def initialize_parameters(self, input: Tensor) -> None:
        """Shapes from the last dimension of `input`."""
        features = input.shape[-1]
        if self.has_uninitialized_params():
            self.in_features = features
            with no_grad():
                self.weight.materialize((self.out_features, features))
                if self.bias is not None:
                    self.bias.materialize((self.out_features,))
            self.reset_parameters()
        elif not self.in_features:  # loaded
            if features != self.weight.shape[-1]:
                raise AssertionError(
                    f"The in_features inferred from input: {features} is not equal to in_features from "
                    f"self.weight: {self.weight.shape[-1]}"
                )
            self.in_features = features


class _LazyConv(_Sized):
    """A convolution whose `in_channels` are those of its first input."""

    size = "in_channels"
    dims: int
    groups: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    transposed: bool
    weight: Any
    bias: Any

    def _make_lazy(self, out_channels: int, bias: bool, device: Any, dtype: Any) -> None:
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_channels = out_channels
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Shapes from the channels of `input`, which may have a batch or not."""
        if not self.has_uninitialized_params():
            return
        alone = self.dims + 1
        if input.dim() not in (alone, alone + 1):
            raise RuntimeError(
                f"Expected {alone}D (unbatched) or {alone + 1}D (batched) input to {type(self).__name__}, but got "
                f"input of size: {input.shape}"
            )
        self.in_channels = input.shape[input.dim() - alone]
        if self.in_channels % self.groups:
            raise ValueError("in_channels must be divisible by groups")
        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        self.weight.materialize((first, second // self.groups, *self.kernel_size))
        if self.bias is not None:
            self.bias.materialize((self.out_channels,))
        self.reset_parameters()


class _Lazy(_LazyConv):
    def __init__(
        self,
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
        sizes = (kernel_size, stride, padding, dilation, groups)
        super().__init__(0, 0, *sizes, False, padding_mode, device, dtype)
        self._make_lazy(out_channels, bias, device, dtype)


class _LazyTranspose(_LazyConv):
    def __init__(
        self,
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
        sizes = (kernel_size, stride, padding, output_padding, groups)
        super().__init__(0, 0, *sizes, False, dilation, padding_mode, device, dtype)
        self._make_lazy(out_channels, bias, device, dtype)


class _LazyNorm(_Sized):
    """A normalisation whose `num_features` are the channels, dimension 1, of its first input."""

    size = "num_features"
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        super().__init__(0, eps, momentum, False, False, device, dtype, bias=False)
        self.affine, self.track_running_stats = affine, track_running_stats
        where = {"device": device, "dtype": dtype}
        if affine:
            self.weight = UninitializedParameter(**where)
            if bias:
                self.bias = UninitializedParameter(**where)
        if track_running_stats:
            self.running_mean, self.running_var = UninitializedBuffer(**where), UninitializedBuffer(**where)
            self.num_batches_tracked = tensor(0, dtype=int64, device=device)

    def initialize_parameters(self, input: Tensor) -> None:
        """Shapes from dimension 1 of `input`."""
        if self.has_uninitialized_params():
            self.num_features = input.shape[1]
            for made in (self.weight, self.bias, self.running_mean, self.running_var):
                if is_lazy(made):
                    made.materialize((self.num_features,))
            self.reset_parameters()


def _lazy(kind: type, plain: type) -> Any:
    text = f"A `{plain.__name__}` that finds its number of channels in its first input."
    name = f"Lazy{plain.__name__}"
    return type(name, (kind, plain), {"__doc__": text, "__module__": __name__, "cls_to_become": plain})


LazyConv1d, LazyConv2d, LazyConv3d = (_lazy(_Lazy, plain) for plain in (Conv1d, Conv2d, Conv3d))
LazyConvTranspose1d, LazyConvTranspose2d, LazyConvTranspose3d = (
    _lazy(_LazyTranspose, plain) for plain in (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
)
LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d = (
    _lazy(_LazyNorm, plain) for plain in (BatchNorm1d, BatchNorm2d, BatchNorm3d)
)
LazyInstanceNorm1d, LazyInstanceNorm2d, LazyInstanceNorm3d = (
    _lazy(_LazyNorm, plain) for plain in (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)
)
