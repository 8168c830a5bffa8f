"""Functions for images: columns of windows and back, resampling, sampling on a grid, pixels and channels shuffled."""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.nn.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from distgrad.ops.base import Tensor, call
from distgrad.ops.convolution_arguments import spatial
from distgrad.ops.helpers import title
from distgrad.ops.vision import (
    _col2im,
    _im2col,
    _resampled,
    channel_shuffle,
    known,
    native_channel_shuffle,
    pixel_shuffle,
    pixel_unshuffle,
)

__all__ = [
    "affine_grid",
    "channel_shuffle",
    "fold",
    "grid_sample",
    "interpolate",
    "native_channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]


# Windows as columns.
def _windows(kernel_size: Any, dilation: Any, padding: Any, stride: Any, output_size: Any = (1, 1)) -> Any:
    given = {"output_size": output_size, "kernel_size": kernel_size, "dilation": dilation}
    given |= {"padding": padding, "stride": stride}
    found: dict[str, Any] = {name: spatial(value, 2) for name, value in given.items()}
    for name, value in found.items():
        if value is None:
            raise RuntimeError(f"It is expected {name} equals to 2, but got size {len(given[name])}")
    size, kernel, apart, around, step = found.values()
    words = {"kernel size": ("kernel", kernel), "stride": ("stride", step), "dilation": ("dilation", apart)}
    for name, (short, (h, w)) in words.items():
        if min(h, w) <= 0:
            raise RuntimeError(
                f"{name} should be greater than zero, but got {short}_height: {h} {short}_width: {w}"
            )
    if min(around) < 0:
        raise RuntimeError(
            f"padding should be non-negative, but got pad_height: {around[0]} pad_width: {around[1]}"
        )
    return (kernel, step, around, apart), size


def _number(length: Sequence[int], windows: Any) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(length, *windows, strict=True)
    )


def _floats(name: str, input: Tensor) -> None:
    if not input.is_floating_point():
        raise NotImplementedError(f"\"{name}\" not implemented for '{input.dtype.title}'")


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """(N, C, H, W) or (C, H, W) to (N, C * K * L, windows): each window of K by L pixels as a column."""
    windows, _ = _windows(kernel_size, dilation, padding, stride)
    shape = list(input.shape)
    if input.dim() not in (3, 4) or 0 in shape[input.dim() - 3 :]:
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input, "
            f"but got: {shape}"
        )
    size = _number(shape[-2:], windows)
    if min(size) < 1:
        kernel, _, around, apart = windows
        raise RuntimeError(
            f"Given input with spatial size ({shape[-2]}, {shape[-1]}), kernel_size={kernel}, dilation={apart}, "
            f"padding={around}, calculated shape of the array of sliding blocks as {size}, but its components must be "
            "at least one."
        )
    _floats("im2col_out_cpu", input)
    if input.dim() == 4:
        return _im2col(input, windows, size)
    return call("squeeze", _im2col(call("unsqueeze", input, 0), windows, size), 0)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """(N, C * K * L, windows) to (N, C, H, W): the elements of the columns, added where `unfold` reads them."""
    windows, size = _windows(kernel_size, dilation, padding, stride, output_size)
    shape, (kernel, step, around, apart) = list(input.shape), windows
    if input.dim() not in (2, 3) or 0 in shape[input.dim() - 2 :]:
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for "
            f"input, but got: {shape}"
        )
    first = input.dim() - 2
    if shape[first] % math.prod(kernel):
        raise RuntimeError(
            f"Expected size of input's dimension {first} to be divisible by the product of kernel_size, but got "
            f"input.size({first})={shape[first]} and kernel_size={kernel}."
        )
    number = _number(size, windows)
    if math.prod(number) != shape[first + 1] or min(number) < 1:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={apart}, padding={around}, stride={step}, "
            f"expected size of input's dimension {first + 1} to match the calculated number of sliding blocks "
            f"{number[0]} * {number[1]} = {math.prod(number)}, but got input.size({first + 1})={shape[first + 1]}."
        )
    _floats("col2im_out_cpu", input)
    if input.dim() == 3:
        return _col2im(input, windows, number, size)
    return call("squeeze", _col2im(call("unsqueeze", input, 0), windows, number, size), 0)


# Resampling: positions and weights of the elements that make up one element, along one dimension.
Taps = tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
MODES = "nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact"
SMOOTH = {"linear": 1, "bilinear": 2, "trilinear": 3}


def _taps(places: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Taps:
    return tuple(
        (tuple(p.astype(int).tolist()), tuple(w.astype(float).tolist()))
        for p, w in zip(places, weights, strict=True)
    )


def _nearest(n: int, t: int, step: float, exact: bool) -> Taps:
    i = np.arange(t, dtype=np.float32) + np.float32(0.5 * exact)
    return _taps([np.minimum(np.floor(i * np.float32(step)), n - 1)], [np.ones(t)])


def _step(n: int, t: int, scale: float | None, aligned: bool) -> float:
    """How far apart neighbours of the result are."""
    if aligned:
        return (n - 1) / (t - 1) if t > 1 else 0.0
    return 1 / scale if scale else n / t


def _linear(n: int, t: int, step: float, aligned: bool) -> Taps:
    at = np.arange(t) * step if aligned else np.maximum((np.arange(t) + 0.5) * step - 0.5, 0)
    low = np.minimum(np.floor(at), n - 1)
    return _taps([low, np.minimum(low + 1, n - 1)], [1 - (at - low), at - low])


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """The convolution kernel of cubic interpolation (Keys, 1981)."""

    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return weight


def _bicubic(n: int, t: int, step: float, aligned: bool) -> Taps:
    at = np.arange(t) * step if aligned else (np.arange(t) + 0.5) * step - 0.5
    low = np.floor(at)
    offsets = [low + j for j in (-1, 0, 1, 2)]
    return _taps([np.clip(o, 0, n - 1) for o in offsets], [_cubic(-0.75)(at - o) for o in offsets])


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, lambda x: np.maximum(1 - np.abs(x), 0)),
    "bicubic": (2, _cubic(-0.5)),
    "lanczos": (3, _lanczos),
}


def _smoothed(n: int, t: int, step: float, mode: str) -> Taps:
    """Filters as wide as the elements of the result are apart, so that nothing is left out; their weights sum to 1."""
    reach, weight = FILTERS[mode]
    wide = max(step, 1.0)
    centre = step * (np.arange(t) + 0.5)
    low = np.maximum((centre - reach * wide + 0.5).astype(int), 0)
    high = np.minimum((centre + reach * wide + 0.5).astype(int), n)
    offsets = [low + j for j in range(int((high - low).max()))]
    weights = [np.where(o < high, weight((o - centre + 0.5) / wide), 0) for o in offsets]
    total = sum(weights)
    return _taps([np.minimum(o, n - 1) for o in offsets], [w / total for w in weights])


def _sizes(
    input: Tensor, size: Any, scale_factor: Any, recompute: bool | None
) -> tuple[list[int], list[float | None]]:
    """The lengths of the result, and the scales where these and not the lengths say how far apart elements are."""
    lengths = list(input.shape[2:])
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    given = scale_factor if size is None else size
    several = list(given) if isinstance(given, (tuple, list)) else [given] * len(lengths)
    if len(several) != len(lengths):
        what, short, shown = (
            ("output", "o", f"output size of {given}")
            if size is not None
            else ("scale_factor", "s", f"scale_factor of shape {given}")
        )
        last = "output size in" if size is not None else "scale_factor in"
        raise ValueError(
            f"Input and {what} must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {lengths} and {shown}. Please provide input tensor in (N, C, d1, d2, ...,dK) format and {last} "
            f"({short}1, {short}2, ...,{short}K) format."
        )
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        for n in several:
            if not hasattr(n, "__index__"):
                raise TypeError(
                    "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, int, int], but got "
                    f"size with types {[type(x) for x in several]}"
                )
        return [operator.index(n) for n in several], [None] * len(lengths)
    made = [math.floor(n * float(s)) for n, s in zip(lengths, several, strict=True)]
    return made, [None if recompute else float(s) for s in several]


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """(N, C, ...) at another resolution, given as `size` or as `scale_factor`, for one to three spatial dimensions.

    Modes: "nearest" and "nearest-exact", "linear" (3D input), "bilinear" and "bicubic" (4D), "trilinear" (5D), "area"
    (means of windows). With `align_corners` the outermost elements keep their places. With `antialias` filters widen
    as the image shrinks ("bilinear", "bicubic", "lanczos").
    """
    if mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
                "trilinear"
            )
    else:
        align_corners = bool(align_corners)
    recompute = bool(recompute_scale_factor) or (mode == "area" and size is None)
    sizes, scales = _sizes(input, size, scale_factor, recompute)
    n = input.dim() - 2
    if antialias and not (mode in FILTERS and n == 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as input"
        )
    _check_mode(input, mode, bool(align_corners), antialias)
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[n - 1](input, sizes)
    _check_images(input, sizes, mode)
    taps = tuple(
        _along(length, t, scale, mode, bool(align_corners), antialias)
        for length, t, scale in zip(input.shape[2:], sizes, scales, strict=True)
    )
    word = {"nearest-exact": "NearestExact"}.get(mode, mode.capitalize())
    node = f"Upsample{word}{n}D{'Aa' * antialias}Backward0"
    return _resampled(input, tuple(range(2, n + 2)), taps, node)


def _along(n: int, t: int, scale: float | None, mode: str, aligned: bool, antialias: bool) -> Taps:
    step = _step(n, t, scale, aligned)
    if antialias:
        return _smoothed(n, t, step, mode)
    if mode in SMOOTH:
        return _linear(n, t, step, aligned)
    return (
        _bicubic(n, t, step, aligned) if mode == "bicubic" else _nearest(n, t, step, mode == "nearest-exact")
    )


def _check_mode(input: Tensor, mode: str, aligned: bool, antialias: bool) -> None:
    n = input.dim() - 2
    if n in (1, 2, 3):
        if mode in ("nearest", "nearest-exact", "area") or SMOOTH.get(mode) == n:
            return
        if mode in SMOOTH:
            raise NotImplementedError(f"Got {n + 2}D input, but {mode} mode needs {SMOOTH[mode] + 2}D input")
        if n == 2 and mode == "bicubic":
            return
        if n == 2 and mode == "lanczos":
            if aligned:
                raise ValueError("Lanczos mode does not support align_corners=True")
            if not antialias:
                raise ValueError("Lanczos mode requires antialias=True")
            return
    raise NotImplementedError(
        f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {n + 2}D) for the modes: {MODES} (got {mode})"
    )


def _check_images(input: Tensor, sizes: list[int], mode: str) -> None:
    n = input.dim() - 2
    if 0 in input.shape[1:] and 0 not in input.shape[2:]:
        raise RuntimeError(
            f"Non-empty {n + 2}D data tensor expected but got a tensor with sizes {list(input.shape)}"
        )
    if min(*input.shape[2:], *sizes) <= 0:
        letters = "DHW"[-n:]
        given, made = (
            ", ".join(f"{c}: {m}" for c, m in zip(letters, what, strict=True))
            for what in (input.shape[2:], sizes)
        )
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input ({given}) and output ({made})"
        )
    _floats(f"upsample_{mode.replace('-', '_')}{n}d", input)


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
) -> Tensor:
    """`interpolate` by its old name."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode "nearest"."""
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor)


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode "bilinear" and aligned corners."""
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "bilinear", True)


# Sampling at given places. Coordinates go from -1 to 1 from one end to the other.
def _check_grid(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(
            f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', but got: "
            f"'{padding_mode}'"
        )
    both = f"input with sizes {list(input.shape)} and grid with sizes {list(grid.shape)}"
    if input.shape[0] != grid.shape[0]:
        raise RuntimeError(f"grid_sampler(): expected grid and input to have same batch size, but got {both}")
    if grid.shape[-1] != input.dim() - 2:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {input.dim() - 2} in last dimension, but got grid with sizes "
            f"{list(grid.shape)}"
        )
    if input.dim() not in (4, 5) or input.dim() != grid.dim():
        raise RuntimeError(
            f"grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got {both}"
        )
    for d in range(2, input.dim()):
        if not input.shape[d]:
            raise RuntimeError(
                "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
                f"{list(input.shape)} with dimension {d} being empty"
            )
    if input.dim() == 5 and mode == "bicubic":
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    if input.dtype != grid.dtype:
        kinds = (title(x._avals.dtype) for x in (input, grid))
        raise RuntimeError("expected scalar type {} but found {}".format(*kinds))


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """The values of images (N, C, H, W) at the places (x, y) of a grid (N, h, w, 2), -1 to 1: (N, C, h, w).

    The same with a dimension more: (N, C, D, H, W) at (x, y, z). Between pixels values are interpolated by `mode`, and
    outside they are "zeros", those of the "border", or mirrored ("reflection"). The ends are the middles of the
    outermost pixels with `align_corners`, else their outer edges.
    """
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            "specify align_corners=True if the old behavior is desired. See the documentation of grid_sample for "
            "details.",
            stacklevel=2,
        )
    _check_grid(input, grid, mode, padding_mode)
    lengths = tuple(input.shape[2:])
    axes = [_pixels(grid[..., len(lengths) - 1 - d], n, bool(align_corners)) for d, n in enumerate(lengths)]
    if mode != "bicubic":
        axes = [
            _inside(at, n, padding_mode, bool(align_corners)) for at, n in zip(axes, lengths, strict=True)
        ]
    choices = [_neighbours(at, mode) for at in axes]
    flat = call("reshape", input, (*input.shape[:2], -1))
    total: Any = None
    for chosen in itertools.product(*choices):
        place: Any = 0
        weight: Any = None
        valid: Any = None
        for (at, share), n in zip(chosen, lengths, strict=True):
            if mode == "bicubic":
                at = _inside(at, n, padding_mode, bool(align_corners))
            here = (at >= 0) & (at <= n - 1)
            valid = here if valid is None else valid & here
            weight = share if weight is None else weight * share if share is not None else weight
            place = place * n + at.nan_to_num(0.0).clamp(0, n - 1).long()
        part = _read(flat, place, valid if padding_mode == "zeros" else None, weight)
        total = part if total is None else total + part
    return total.reshape(*input.shape[:2], *grid.shape[1:-1])


def _pixels(at: Tensor, n: int, aligned: bool) -> Tensor:
    """From -1 .. 1 to 0 .. n - 1."""
    return (at + 1) * ((n - 1) / 2) if aligned else ((at + 1) * n - 1) / 2


def _inside(at: Tensor, n: int, padding_mode: str, aligned: bool) -> Tensor:
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        at = _mirrored(at, 0.0, n - 1.0) if aligned else _mirrored(at, -0.5, n - 0.5)
    return at.clamp(0, n - 1)


def _mirrored(at: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    if span <= 0:
        return at * 0
    away = (at - low).abs()
    turns = (away / span).floor().detach()
    rest = away - turns * span
    return call("where", turns.remainder(2) == 0, rest + low, high - rest)


def _neighbours(at: Tensor, mode: str) -> list[tuple[Tensor, Tensor | None]]:
    """Pixels along one dimension that count, each with its weight."""
    if mode == "nearest":
        return [(at.detach().round(), None)]
    low = at.detach().floor()
    if mode == "bilinear":
        return [(low, low + 1 - at), (low + 1, at - low)]
    return [(low + j, _cubic_weight(at - (low + j), j)) for j in (-1, 0, 1, 2)]


def _cubic_weight(x: Tensor, j: int) -> Tensor:
    """`_cubic(-0.75)` of the distance to neighbour j, in ops."""
    a, x = -0.75, -x if j > 0 else x
    return ((a + 2) * x - (a + 3)) * x * x + 1 if j in (0, 1) else ((x - 5) * x + 8) * x * a - 4 * a


def _read(flat: Tensor, place: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """(N, C, places): the elements, 0 where they are not valid, times weights."""
    n, c = flat.shape[:2]
    index = place.reshape(n, 1, -1).expand(n, c, -1)
    found = call("gather", flat, -1, index)
    if valid is not None:
        found = call("where", valid.reshape(n, 1, -1), found, found.new_zeros(()))
    return found if weight is None else found * weight.reshape(n, 1, -1)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places (N, H, W, 2) that `theta` (N, 2, 3) maps the pixels of images of `size` to; (N, 3, 4) for volumes."""
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            "specify align_corners=True if the old behavior is desired. See the documentation of grid_sample for "
            "details.",
            stacklevel=2,
        )
    if not theta.is_floating_point():
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    size = tuple(size)
    n = len(size) - 2
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. Got size "
            f"{size}."
        )
    if theta.dim() != 3 or tuple(theta.shape[1:]) != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {size}. Got {theta.shape}."
        )
    if min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {size}")
    points = []
    for length in size[2:]:
        ends = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
        points.append(ends if align_corners else ends * ((length - 1) / length))
    mesh = np.meshgrid(*points, indexing="ij")
    base = np.stack([*(m.ravel() for m in mesh[::-1]), np.ones(mesh[0].size)], -1)
    rows = known(base.astype(theta._avals.dtype)).unsqueeze(0).expand(size[0], -1, -1)
    return call("bmm", rows, theta.transpose(1, 2)).reshape(size[0], *size[2:], n)
